"""POST /interpolate: rows on the way from one to another, through the model's space."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request, Response

from contracts.artifact import Verb
from engine.interpolation import Mode, interpolate
from service.answers import Answer, check_cells
from service.calls import Call, serve
from service.documentation import verb_body, verb_responses
from service.resolver import check_verb
from service.routes.encode import encodings
from service.schemas.answers import InterpolateResponse
from service.schemas.verbs import InterpolateRequest
from service.tensors import wrong

router = APIRouter(tags=["verbs"])


@router.post(
    "/interpolate",
    operation_id="interpolate",
    summary="Rows between two rows",
    openapi_extra=verb_body(InterpolateRequest),
    responses=verb_responses(InterpolateResponse, pictures=True),
)
async def interpolation(request: Request) -> Response:
    """Encode `a` and `b`, walk from one to the other and decode each step; a PNG has a line for each pair."""
    return await serve(request, Verb.ENCODE, InterpolateRequest, _interpolate, pictures=True)


def _interpolate(call: Call[InterpolateRequest]) -> Answer:
    asked, manifest = call.request, call.version.manifest
    check_verb(call.version, Verb.DECODE)
    a, b = call.rows(asked.a, location="a"), call.rows(asked.b, location="b")
    if len(a) != len(b):
        raise wrong("b", f"has {len(b)} rows and `a` has {len(a)}; give as many, the first goes with the first")
    pairs, steps, length = len(a), asked.steps, manifest.latent_dimensions or 0
    check_cells(pairs * steps * (manifest.data.cells + length), call.gateway.settings.max_cells, "rows or steps")
    labels = call.labels(asked.given, pairs)
    start, end = encodings(call, a, labels).vectors, encodings(call, b, labels).vectors
    vectors = interpolate(start, end, steps, Mode(asked.mode))
    with call.program() as program:
        rows = program.decode(
            vectors.reshape(pairs * steps, -1), given=None if labels is None else np.repeat(labels, steps)
        )
    return Answer(
        facts=call.facts(space=manifest.space, mode=asked.mode, steps=steps, cache=call.cache_facts()),
        arrays={"rows": rows.reshape(pairs, steps, *rows.shape[1:]), "vectors": vectors},
        main="rows",
        spec=manifest.data,
        rows=frozenset({"rows"}),
        vectors=frozenset({"vectors"}),
        format=asked.format,
    )
