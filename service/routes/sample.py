"""POST /sample: new rows from the model."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request, Response

from contracts.artifact import Verb
from service.answers import Answer, check_cells
from service.calls import Call, serve
from service.documentation import verb_body, verb_responses
from service.inputs import check_rows_limit
from service.schemas.answers import SampleResponse
from service.schemas.verbs import LARGEST_EXACT_SEED, SampleRequest

router = APIRouter(tags=["verbs"])


@router.post(
    "/sample",
    operation_id="sample",
    summary="New rows",
    openapi_extra=verb_body(SampleRequest),
    responses=verb_responses(SampleResponse, pictures=True),
)
async def sample(request: Request) -> Response:
    """Draw `n` rows; row i depends on the seed and i alone, so more rows never change earlier ones."""
    return await serve(request, Verb.SAMPLE, SampleRequest, _sample, pictures=True)


def _sample(call: Call[SampleRequest]) -> Answer:
    asked, spec, settings = call.request, call.version.manifest.data, call.gateway.settings
    check_rows_limit(asked.n, settings.max_samples, "n")
    check_cells(asked.n * spec.cells, settings.max_cells, "rows")
    seed = secrets.randbelow(LARGEST_EXACT_SEED) if asked.seed is None else asked.seed
    labels = call.labels(asked.given, asked.n)
    with call.program() as program:
        rows = program.sample(asked.n, seed=seed, temperature=asked.temperature, given=labels)
    return Answer(
        facts=call.facts(seed=seed, temperature=asked.temperature),
        arrays={"rows": rows},
        main="rows",
        spec=spec,
        rows=frozenset({"rows"}),
        format=asked.format,
    )
