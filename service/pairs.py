"""Models of pictures and texts: texts where rows may stand, and which caption fits a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from contracts.artifact import Verb
from engine.answers import Encoding
from engine.kinds import Program
from engine.kinds.pair import PairProgram
from service.answers import Answer, check_cells
from service.calls import Call, R
from service.inputs import ParsedRows
from service.schemas.inputs import TextInputs
from service.schemas.verbs import PredictRequest
from service.tensors import wrong

# What has no meaning where captions are matched.
UNUSED = ("mask", "given", "samples", "temperature", "max_tokens", "top_k", "top_p", "format")


def given_texts(source: object, location: str) -> list[str] | None:
    """The texts of ``{"texts": [...]}``, None where rows stand there."""
    if not isinstance(source, Mapping) or "texts" not in source:
        return None
    try:
        return TextInputs.model_validate(source).texts
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise wrong(f"{location}.{place}", first["msg"]) from None


def paired(program: Program, call: Call[Any], location: str) -> PairProgram:
    """The program of a model of pictures and texts. Raises InvalidInput for others."""
    if not isinstance(program, PairProgram):
        raise wrong(location, f"{call.version.reference} reads no captions or texts beside rows; send rows")
    return program


def text_encodings(call: Call[R], texts: list[str], location: str) -> Encoding:
    """Vectors of texts, through the cache."""
    with call.program() as program:
        tokens = paired(program, call, location).tokens(texts)

    def compute(x: NDArray[np.generic]) -> tuple[NDArray[np.generic], ...]:
        with call.program() as program:
            return (paired(program, call, location).encode_tokens(x).vectors,)

    (vectors,) = call.cached(Verb.ENCODE, {"texts": True}, ParsedRows(tokens, None, "numbers"), None, compute)
    assert np.issubdtype(vectors.dtype, np.floating)
    return Encoding(vectors)  # type: ignore[arg-type]


def match(call: Call[PredictRequest]) -> Answer:
    """Which of the captions fits each picture."""
    asked = call.request
    assert asked.captions is not None
    for name in UNUSED:
        if getattr(asked, name) is not None:
            raise wrong(name, "has no meaning beside `captions`; leave it out")
    if len(set(asked.captions)) < len(asked.captions):
        raise wrong("captions", "holds a caption twice; each must be said once")
    rows = call.rows(asked.inputs)
    check_cells(len(rows) * len(asked.captions), call.gateway.settings.max_cells, "pictures or captions")
    with call.program() as program:
        found = paired(program, call, "captions").match(rows.x, asked.captions)
    best = found.log_prob.argmax(axis=1)
    return Answer(
        facts=call.facts(
            captions=asked.captions,
            best=[asked.captions[index] for index in best],
            scale=found.scale,
            unit="nats",
        ),
        arrays={"probabilities": np.exp(found.log_prob), "log_prob": found.log_prob},
        main="probabilities",
    )
