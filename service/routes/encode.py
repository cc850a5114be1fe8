"""POST /encode: rows to vectors of the model's space."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from contracts.artifact import Verb
from engine.answers import Encoding
from engine.kinds import Program
from engine.kinds.codes import CodesProgram
from service.answers import Answer
from service.calls import Call, R, serve
from service.documentation import verb_body, verb_responses
from service.inputs import ParsedRows
from service.pairs import given_texts, text_encodings
from service.schemas.answers import EncodeResponse
from service.schemas.verbs import EncodeRequest
from service.tensors import wrong

router = APIRouter(tags=["verbs"])


@router.post(
    "/encode",
    operation_id="encode",
    summary="Rows to vectors",
    openapi_extra=verb_body(EncodeRequest),
    responses=verb_responses(EncodeResponse),
)
async def encode(request: Request) -> Response:
    """Answer one vector per row, in the space that the answer names."""
    return await serve(request, Verb.ENCODE, EncodeRequest, _encode)


def _encode(call: Call[EncodeRequest]) -> Answer:
    if (texts := given_texts(call.request.inputs, "inputs")) is not None:
        return _texts(call, texts)
    rows = call.rows(call.request.inputs)
    if call.request.codes:
        return _codes(call, rows)
    encoding = encodings(call, rows, call.labels(call.request.given, len(rows)))
    vectors = call.moved(encoding.vectors, call.request.directions)
    arrays: dict[str, NDArray[np.generic]] = {"vectors": vectors}
    if encoding.log_scale is not None:
        arrays["log_scale"] = encoding.log_scale
    return Answer(
        facts=call.facts(
            space=call.version.manifest.space,
            dimensions=vectors.shape[1],
            groups=call.version.manifest.latent_groups,
            directions=call.request.directions,
            cache=call.cache_facts(),
        ),
        arrays=arrays,
        main="vectors",
        vectors=frozenset({"vectors", "log_scale"}),
        format=call.request.format,
    )


def _texts(call: Call[EncodeRequest], texts: list[str]) -> Answer:
    """Vectors of texts, in the space of the pictures."""
    asked = call.request
    if asked.codes or asked.given is not None:
        raise wrong("inputs", "are texts, which have neither codes nor labels; leave `codes` and `given` out")
    vectors = call.moved(text_encodings(call, texts, "inputs").vectors, asked.directions)
    return Answer(
        facts=call.facts(
            space=call.version.manifest.space,
            dimensions=vectors.shape[1],
            directions=asked.directions,
            cache=call.cache_facts(),
        ),
        arrays={"vectors": vectors},
        main="vectors",
        vectors=frozenset({"vectors"}),
        format=asked.format,
    )


def _codes(call: Call[EncodeRequest], rows: ParsedRows) -> Answer:
    """The numbers of the codes themselves."""
    if call.request.directions:
        raise wrong("directions", "move vectors, and `codes` asks for whole numbers; leave one of them out")

    def compute(x: NDArray[np.generic], y: NDArray[np.int64] | None = None) -> tuple[NDArray[np.generic], ...]:
        with call.program() as program:
            found = coded(program, call.version.reference).encode(x, given=y)
        assert found.codes is not None
        return (found.codes,)

    with call.program() as program:
        book = coded(program, call.version.reference)
        about = {"grids": book.grids, "codebook_size": book.codebook_size}
    labels = call.labels(call.request.given, len(rows))
    (codes,) = call.cached(Verb.ENCODE, {"codes": True}, rows, labels, compute)
    return Answer(
        facts=call.facts(
            space=call.version.manifest.space, dimensions=codes.shape[1], **about, cache=call.cache_facts()
        ),
        arrays={"codes": codes},
        main="codes",
        vectors=frozenset({"codes"}),
        format=call.request.format,
    )


def coded(program: Program, reference: str) -> CodesProgram:
    """The program of a model that has codes. Raises InvalidInput for others."""
    if not isinstance(program, CodesProgram):
        raise wrong("codes", f"{reference} has no codes; leave it out to work with vectors")
    return program


def encodings(call: Call[R], rows: ParsedRows, labels: NDArray[np.int64] | None) -> Encoding:
    """Encode rows through the cache."""

    def compute(x: NDArray[np.generic], y: NDArray[np.int64] | None = None) -> tuple[NDArray[np.generic], ...]:
        with call.program() as program:
            found = program.encode(x, given=y)
        return (found.vectors,) if found.log_scale is None else (found.vectors, found.log_scale)

    vectors, *scales = call.cached(Verb.ENCODE, {}, rows, labels, compute)
    return Encoding(_floating(vectors), _floating(scales[0]) if scales else None)


def _floating(array: NDArray[np.generic]) -> NDArray[np.floating]:
    assert np.issubdtype(array.dtype, np.floating)
    return array  # type: ignore[return-value]
