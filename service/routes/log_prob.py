"""POST /log_prob: how probable rows are under the model, in nats."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from engine.answers import LogProb, Order
from engine.cache import CacheCounts
from service.answers import Answer
from service.calls import Call, serve
from service.documentation import verb_body, verb_responses
from service.inputs import ParsedRows, check_rows_limit
from service.prompts import prompted
from service.schemas.answers import LogProbResponse
from service.schemas.texts import TextLogProbResponse
from service.schemas.verbs import LogProbRequest
from service.texts import is_text, score_texts

router = APIRouter(tags=["verbs"])

KINDS = tuple(AnswerKind)
ORDERS: tuple[Order | None, ...] = (None, *get_args(Order))


@router.post(
    "/log_prob",
    operation_id="logProb",
    summary="Log-density or log-probability of rows",
    openapi_extra=verb_body(LogProbRequest),
    responses=verb_responses(LogProbResponse, texts=TextLogProbResponse),
)
async def log_prob(request: Request) -> Response:
    """Answer log p(x) of each row; of a row with hidden cells, the marginal of its shown ones."""
    return await serve(request, Verb.LOG_PROB, LogProbRequest, _log_prob)


def _log_prob(call: Call[LogProbRequest]) -> Answer:
    if is_text(call):
        return score_texts(call)
    asked = call.request
    rows = call.rows(asked.inputs, mask=asked.mask, hideable=True)
    if asked.samples is not None:
        check_rows_limit(asked.samples, call.gateway.settings.max_monte_carlo_samples, "samples")
    score = _score(call, rows, call.labels(asked.given, len(rows)))
    arrays: dict[str, NDArray[np.generic]] = {
        "log_prob": score.values,
        "bits_per_dim": bits_per_dim(score.values, rows),
    }
    if score.standard_error is not None:
        arrays["standard_error"] = score.standard_error
    return Answer(
        facts=call.facts(
            unit="nats",
            measure=score.measure,
            kind=score.kind,
            **({} if score.order is None else {"order": score.order}),
            samples=score.samples,
            zero_density=np.flatnonzero(np.isneginf(score.values)),
            seed=asked.seed,
            cache=call.cache_facts(),
        ),
        arrays=arrays,
        main="log_prob",
    )


def bits_per_dim(values: NDArray[np.float64], rows: ParsedRows) -> NDArray[np.float64]:
    """-log p / (ln 2 · shown cells), NaN where nothing is shown; ``values`` (B,) in nats."""
    cells = math.prod(rows.x.shape[1:])
    shown = np.full(len(rows), cells, dtype=np.float64)
    if rows.hidden is not None:
        shown -= rows.hidden.reshape(len(rows), -1).sum(axis=1)
    bits: NDArray[np.float64] = np.divide(-values, math.log(2) * shown, out=np.full(len(rows), np.nan), where=shown > 0)
    return bits


def _score(call: Call[LogProbRequest], rows: ParsedRows, labels: NDArray[np.int64] | None) -> LogProb:
    asked = call.request
    if rows.hidden is not None or (asked.given is not None and asked.given.text is not None):
        # What is answered about a row with hidden cells, or given a text, depends on these too; it is not kept.
        with call.program() as plain:
            program = prompted(plain, call, asked.given, len(rows))
            score = program.log_prob(rows.x, hidden=rows.hidden, seed=asked.seed, samples=asked.samples, given=labels)
        call.counted(Verb.LOG_PROB, CacheCounts(bypass=len(rows)))
        return score

    def compute(x: NDArray[np.generic], y: NDArray[np.int64] | None = None) -> tuple[NDArray[np.generic], ...]:
        with call.program() as program:
            found = program.log_prob(x, seed=asked.seed, samples=asked.samples, given=y)
        error = np.full(len(x), np.nan) if found.standard_error is None else found.standard_error
        # These are the same for all complete rows of a model; they travel with each row in the cache.
        facts = [KINDS.index(found.kind), found.samples or 0, ORDERS.index(found.order)]
        return found.values, error, np.tile(np.array(facts, dtype=np.int64), (len(x), 1))

    values, error, facts = call.cached(
        Verb.LOG_PROB, {"seed": asked.seed, "samples": asked.samples}, rows, labels, compute
    )
    kind, samples, order = (int(each) for each in facts[0].tolist())
    return LogProb(
        values=values.astype(np.float64),
        kind=KINDS[kind],
        measure=call.version.manifest.measure,
        samples=samples or None,
        standard_error=error.astype(np.float64) if samples else None,
        order=ORDERS[order],
    )
