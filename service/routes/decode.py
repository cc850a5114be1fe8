"""POST /decode: vectors of the model's space, or codes, to rows."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from contracts.artifact import Verb
from service.answers import Answer, check_cells
from service.calls import Call, serve
from service.documentation import verb_body, verb_responses
from service.inputs import parse_vectors
from service.routes.encode import coded
from service.schemas.answers import DecodeResponse
from service.schemas.verbs import DecodeRequest
from service.tensors import wrong

router = APIRouter(tags=["verbs"])


@router.post(
    "/decode",
    operation_id="decode",
    summary="Vectors to rows",
    openapi_extra=verb_body(DecodeRequest),
    responses=verb_responses(DecodeResponse, pictures=True),
)
async def decode(request: Request) -> Response:
    """Answer the expected row of each vector, in the data's own units."""
    return await serve(request, Verb.DECODE, DecodeRequest, _decode, pictures=True)


def _decode(call: Call[DecodeRequest]) -> Answer:
    manifest = call.version.manifest
    if call.request.codes is not None:
        return _decode_codes(call)
    vectors = parse_vectors(call.request.vectors, manifest.latent_dimensions, call.gateway.limits)
    check_cells(len(vectors) * manifest.data.cells, call.gateway.settings.max_cells, "vectors")
    labels = call.labels(call.request.given, len(vectors))
    with call.program() as program:
        rows = program.decode(call.moved(vectors.x, call.request.directions), given=labels)
    return _answer(call, rows)


def _decode_codes(call: Call[DecodeRequest]) -> Answer:
    """Rows of the numbers of codes."""
    if call.request.directions:
        raise wrong("directions", "move vectors, and `codes` are whole numbers; send `vectors`")
    with call.program() as program:
        book = coded(program, call.version.reference)
        codes = parse_vectors(call.request.codes, book.sites, call.gateway.limits, location="codes")
        check_cells(len(codes) * book.spec.cells, call.gateway.settings.max_cells, "codes")
        return _answer(call, book.decode_codes(codes.x, given=call.labels(call.request.given, len(codes))))


def _answer(call: Call[DecodeRequest], rows: NDArray[np.float64]) -> Answer:
    manifest = call.version.manifest
    return Answer(
        facts=call.facts(space=manifest.space, directions=call.request.directions),
        arrays={"rows": rows},
        main="rows",
        spec=manifest.data,
        rows=frozenset({"rows"}),
        format=call.request.format,
        across=call.request.across,
    )
