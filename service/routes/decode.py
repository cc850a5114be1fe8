"""POST /decode: vectors of the model's space to rows."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from contracts.artifact import Verb
from service.answers import Answer, check_cells
from service.calls import Call, serve
from service.documentation import verb_body, verb_responses
from service.inputs import parse_vectors
from service.schemas.answers import DecodeResponse
from service.schemas.verbs import DecodeRequest

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
    vectors = parse_vectors(call.request.vectors, manifest.latent_dimensions, call.gateway.limits)
    check_cells(len(vectors) * manifest.data.cells, call.gateway.settings.max_cells, "vectors")
    labels = call.labels(call.request.given, len(vectors))
    with call.program() as program:
        rows = program.decode(call.moved(vectors.x, call.request.directions), given=labels)
    return Answer(
        facts=call.facts(space=manifest.space, directions=call.request.directions),
        arrays={"rows": rows},
        main="rows",
        spec=manifest.data,
        rows=frozenset({"rows"}),
        format=call.request.format,
        across=call.request.across,
    )
