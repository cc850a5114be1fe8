"""POST /predict: hidden cells of rows given the shown ones."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from contracts.artifact import Verb
from service.answers import Answer, check_cells
from service.calls import Call, serve
from service.documentation import verb_body, verb_responses
from service.inputs import check_rows_limit
from service.pairs import match
from service.prompts import prompted
from service.schemas.answers import CaptionPredictResponse, PredictResponse
from service.schemas.texts import TextPredictResponse
from service.schemas.verbs import PredictRequest
from service.tensors import wrong
from service.texts import is_text, predict_texts, refuse_text_fields

router = APIRouter(tags=["verbs"])


@router.post(
    "/predict",
    operation_id="predict",
    summary="Hidden cells given the shown ones",
    openapi_extra=verb_body(PredictRequest),
    responses=verb_responses(
        PredictResponse, pictures=True, texts=TextPredictResponse, captions=CaptionPredictResponse
    ),
)
async def predict(request: Request) -> Response:
    """Answer the mean, draws and spread of hidden cells, and their conditional log-density.

    With `captions` a model of pictures and captions answers how probable each of these is for each picture.
    """
    return await serve(request, Verb.PREDICT, PredictRequest, _predict, pictures=True)


def _predict(call: Call[PredictRequest]) -> Answer:
    if call.request.captions is not None:
        return match(call)
    if is_text(call):
        return predict_texts(call)
    refuse_text_fields(call.request)
    asked, manifest, settings = call.request, call.version.manifest, call.gateway.settings
    rows = call.rows(asked.inputs, mask=asked.mask, hideable=True, scored=asked.score_inputs)
    if rows.hidden is None:
        raise wrong("inputs", "hides no cell; send null in the cells to predict, or a mask")
    check_rows_limit(asked.draws, settings.max_draws, "draws")
    if asked.samples is not None:
        check_rows_limit(asked.samples, settings.max_monte_carlo_samples, "samples")
    if asked.picture == "draws" and not asked.draws:
        raise wrong("draws", "is 0, and `picture` asks for them; ask for at least one")
    draws = max(1, asked.draws)
    check_cells(len(rows) * (draws + 2) * manifest.data.cells, settings.max_cells, "rows or draws")
    labels = call.labels(asked.given, len(rows))
    with call.program() as plain:
        program = prompted(plain, call, asked.given, len(rows))
        found = program.predict(
            rows.x,
            rows.hidden,
            seed=asked.seed,
            draws=draws,
            samples=asked.samples,
            given=labels,
            score_inputs=asked.score_inputs,
        )
    arrays: dict[str, NDArray[np.generic]] = {"mean": found.mean, "std": found.std}
    if asked.draws:
        arrays["draws"] = found.draws
    written = asked.format or rows.form
    if found.probability is not None and written != "base64":
        arrays["probability"] = found.probability
    arrays["log_prob"] = found.log_prob
    for name in ("standard_error", "effective_sample_size"):
        values = getattr(found, name)
        if values is not None:
            arrays[name] = values
    return Answer(
        facts=call.facts(
            log_prob_at=found.log_prob_at,
            unit="nats",
            measure=manifest.measure,
            kind=found.kind,
            samples=found.samples,
            zero_density=np.flatnonzero(np.isneginf(found.log_prob)),
            seed=asked.seed,
        ),
        arrays=arrays,
        main=asked.picture,
        spec=manifest.data,
        rows=frozenset({"mean", "draws"}),
        spreads=frozenset({"std", "probability"}),
        format=written,
    )
