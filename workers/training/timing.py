"""The timed warm-up that turns a budget in seconds into steps, leaving the family as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from models.family import Family, LossStage, PlayersStage, Stage
from workers.training.budget import timed_steps
from workers.training.gradient import GradientRun
from workers.training.weights import load_weights

_SKIPPED = 3  # first steps allocate, compile and touch cold pages
_LEAST_STEPS = 5
_COLD_SECONDS = 0.5


def time_budget(
    seconds: float,
    family: Family[Any],
    stages: Sequence[Stage],
    make_run: Callable[[LossStage | PlayersStage, int], GradientRun],
    *,
    start: Callable[[Stage], None] | None,
    rows: int,
) -> int:
    """Return the total steps that take about ``seconds``, this warm-up included.

    ``start`` initialises a stage from data before it is timed. Weights and buffers are put back afterwards.
    """
    began = time.monotonic()
    gradient = [(i, s) for i, s in enumerate(stages) if isinstance(s, LossStage | PlayersStage)]
    saved = {name: t.detach().clone() for name, t in family.state_dict().items()}
    # a twentieth of the budget, at least a moment and at most some seconds, over all stages
    allowed = min(5.0, max(0.2, 0.05 * seconds)) / len(gradient)
    step_cost = evaluation_cost = 0.0
    whole = sum(stage.share for stage in stages)
    batch_rows, held_out_rows, starting = 1, 0, 0.0
    for index, stage in gradient:
        stage.module.train()
        before = time.monotonic()
        if start is not None:
            start(stage)
            starting += time.monotonic() - before
        run = make_run(stage, index)
        per_step = _per_step(run, allowed)
        weight = stage.share / whole
        step_cost += weight * per_step
        evaluation_cost += weight * _per_evaluation(run)
        batch_rows, held_out_rows = run.batch_rows, run.held_out_rows
    load_weights(family, saved, refit_buffers=True)
    left = seconds - (time.monotonic() - began) - starting
    return timed_steps(
        max(left, 0.1 * seconds),
        step_cost,
        evaluation_cost,
        rows=rows,
        batch_rows=batch_rows,
        held_out_rows=held_out_rows,
    )


def _per_step(run: GradientRun, allowed_seconds: float) -> float:
    for step in range(_SKIPPED):
        run.advance(step)
    began, steps = time.monotonic(), 0
    while steps < _LEAST_STEPS or time.monotonic() - began < allowed_seconds:
        run.advance(_SKIPPED + steps)
        steps += 1
    run.check()
    return (time.monotonic() - began) / steps


def _per_evaluation(run: GradientRun) -> float:
    spent = _COLD_SECONDS
    for _ in range(2):  # the first one touches cold pages; where that does not matter it is not repeated
        began = time.monotonic()
        run.score(0)
        spent = time.monotonic() - began
        if spent > _COLD_SECONDS:
            break
    return spent
