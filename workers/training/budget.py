"""How many steps a job takes.

* ``steps``: that many. ``epochs``: ceil(epochs · rows / batch).
* ``seconds``: a timed warm-up on a copy of the state gives the cost of a step and of an evaluation; the number
  that fits, less a reserve for checkpoints and the end of stages, is planned once and stored in the job's row
  before step 1. A resumed attempt reads it from there.
* nothing: 400 epochs, but at least 2,000 and at most 20,000 steps; early stopping ends most runs before. On data
  of some thousand rows and a small network that is about a minute or two of one CPU core.
"""

from __future__ import annotations

import math

from contracts.jobs import Budget

DEFAULT_EPOCHS = 400
DEFAULT_STEPS_LOW, DEFAULT_STEPS_HIGH = 2_000, 20_000
# share of a budget in seconds that steps may fill: the rest is checkpoints, start() and finish() of stages
FILL = 0.93
HELD_OUT_ROWS = 4096


def counted_steps(budget: Budget, rows: int, batch_rows: int) -> int | None:
    """Return the steps of a budget in steps, epochs or by the size of the data; None where it is in seconds."""
    if budget.steps is not None:
        return budget.steps
    if budget.epochs is not None:
        return max(1, math.ceil(budget.epochs * rows / batch_rows))
    if budget.seconds is not None:
        return None
    by_size = math.ceil(DEFAULT_EPOCHS * rows / batch_rows)
    return min(DEFAULT_STEPS_HIGH, max(DEFAULT_STEPS_LOW, by_size))


def timed_steps(
    seconds: float, step_seconds: float, evaluation_seconds: float, *, rows: int, batch_rows: int, held_out_rows: int
) -> int:
    """Return the steps that fit into ``seconds``, counting the evaluations between them; at least 1.

    ``step_seconds`` is the mean over stages by their share, ``evaluation_seconds`` one held-out pass.
    """
    budget = FILL * seconds

    def cost(steps: int) -> float:
        interval = evaluation_interval(steps, rows, batch_rows, held_out_rows)
        return steps * step_seconds + steps // interval * evaluation_seconds

    # `fits` always does (or is 1); the cost is not quite monotonic in the steps, so what counts is what was checked
    fits, beyond = 1, max(1, int(budget / step_seconds)) + 1
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if cost(middle) <= budget:
            fits = middle
        else:
            beyond = middle
    return fits


def evaluation_interval(steps: int, rows: int, batch_rows: int, held_out_rows: int) -> int:
    """Return how many steps lie between two held-out evaluations.

    About one evaluation per epoch, but between 40 and 200 per stage, and never so often that they take much of the
    time: scoring a batch costs about a third of training on it, so two batches are trained for each one scored.
    """
    epoch = math.ceil(rows / batch_rows)
    often, seldom = math.ceil(steps / 200), math.ceil(steps / 40)
    bearable = 2 * math.ceil(held_out_rows / batch_rows)
    return max(1, min(steps, max(min(max(epoch, often), seldom), bearable)))


def stage_steps(total: int, shares: list[float]) -> list[int]:
    """Split ``total`` steps over stages by their shares; each gets at least one."""
    whole = sum(shares)
    return [max(1, round(total * part / whole)) for part in shares]
