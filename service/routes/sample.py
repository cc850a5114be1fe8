"""POST /sample: new rows from the model."""

from __future__ import annotations

import secrets

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from contracts.artifact import Verb
from engine.kinds.codes import CodesProgram
from service.answers import Answer, check_cells
from service.calls import Call, serve
from service.conditions import given_rows
from service.documentation import verb_body, verb_responses
from service.inputs import check_rows_limit
from service.prompts import OWN, is_prompted, sample_prompted
from service.resolver import check_verb
from service.schemas.answers import SampleResponse
from service.schemas.inputs import Row
from service.schemas.texts import TextSampleResponse
from service.schemas.verbs import LARGEST_EXACT_SEED, SampleRequest
from service.tensors import wrong
from service.texts import is_text, refuse_text_fields, sample_texts, stream_texts

router = APIRouter(tags=["verbs"])


@router.post(
    "/sample",
    operation_id="sample",
    summary="New rows",
    openapi_extra=verb_body(SampleRequest),
    responses=verb_responses(SampleResponse, pictures=True, texts=TextSampleResponse, streams=True),
)
async def sample(request: Request) -> Response:
    """Draw `n` rows; row i depends on the seed, i and what it is given alone, so more rows never change earlier ones.

    Given cells are never met by rejection: the others come from the model's conditional, as /predict draws them.

    A model of pictures after texts draws those of `given.text`; with `candidates` it answers the best of so many.

    A model of texts answers texts; with `stream: true`, or `Accept: text/event-stream`, as server-sent events:
    `text` {index, text} for each piece as it comes, and `done` {model, seed, finish_reasons, tokens} at the end.
    """
    return await serve(request, Verb.SAMPLE, SampleRequest, _sample, pictures=True, streams=stream_texts)


def _sample(call: Call[SampleRequest]) -> Answer:
    if is_text(call):
        return sample_texts(call)
    if not is_prompted(call):
        refuse_text_fields(call.request)
        for name in OWN:
            if getattr(call.request, name) is not None:
                raise wrong(name, "is for models that draw pictures after texts; leave it out")
    asked, spec, settings = call.request, call.version.manifest.data, call.gateway.settings
    check_rows_limit(asked.n, settings.max_samples, "n")
    check_cells(asked.n * spec.cells, settings.max_cells, "rows")
    seed = secrets.randbelow(LARGEST_EXACT_SEED) if asked.seed is None else asked.seed
    if is_prompted(call):
        return sample_prompted(call, seed)
    labels = call.labels(asked.given, asked.n)
    if asked.given is not None and asked.given.row is not None:
        return _complete(call, asked.given.row, seed, labels)
    with call.program() as program:
        if asked.expected is not None:
            if not isinstance(program, CodesProgram):
                raise wrong("expected", f"{call.version.reference} has no codes; leave it out")
            program = program.expecting(asked.expected)
        rows = program.sample(asked.n, seed=seed, temperature=asked.temperature, given=labels)
    return Answer(
        facts=call.facts(seed=seed, temperature=asked.temperature),
        arrays={"rows": rows},
        main="rows",
        spec=spec,
        rows=frozenset({"rows"}),
        format=asked.format,
    )


def _complete(call: Call[SampleRequest], row: Row | list[Row], seed: int, labels: NDArray[np.int64] | None) -> Answer:
    """Rows drawn given some of their cells."""
    asked, spec = call.request, call.version.manifest.data
    check_verb(call.version, Verb.PREDICT)
    if asked.temperature != 1.0:
        raise wrong("temperature", "scales the prior, and rows given cells come from the posterior; leave it at 1")
    x, hidden = given_rows(spec, row, asked.n)
    with call.program() as program:
        found = program.complete(x, hidden, seed=seed, given=labels)
    arrays: dict[str, NDArray[np.generic]] = {"rows": found.rows}
    if found.effective_sample_size is not None:
        arrays["effective_sample_size"] = found.effective_sample_size
    return Answer(
        facts=call.facts(seed=seed, temperature=asked.temperature, kind=found.kind, samples=found.samples),
        arrays=arrays,
        main="rows",
        spec=spec,
        rows=frozenset({"rows"}),
        format=asked.format,
    )
