"""Schedule, averages, guard, early stopping, budget: the small laws of training."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from contracts.jobs import Budget
from workers.training.budget import FILL, counted_steps, evaluation_interval, stage_steps, timed_steps
from workers.training.divergence import FiniteGuard, TrainingDiverged
from workers.training.ema import AveragedWeights
from workers.training.schedule import warmup_cosine
from workers.training.stopping import EarlyStopping


@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.5))
def test_schedule_rises_then_falls(steps: int, warmup: float) -> None:
    rates = [warmup_cosine(step, steps, warmup) for step in range(steps)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_schedule_without_warmup_starts_at_the_peak() -> None:
    assert warmup_cosine(0, 100, 0.0) == 1
    assert warmup_cosine(50, 100, 0.0) == pytest.approx(0.505)


def test_average_follows_the_formula_and_swaps_back() -> None:
    module = nn.Linear(1, 1, bias=False)
    averaged = AveragedWeights(module, decay=0.9)
    shadow = module.weight.item()
    for step in range(1, 200):
        with torch.no_grad():
            module.weight.fill_(float(step))
        averaged.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        shadow = decay * shadow + (1 - decay) * step
    with averaged.applied():
        assert module.weight.item() == pytest.approx(shadow, rel=1e-5)
    assert module.weight.item() == 199


def test_average_without_decay_is_the_last_weights() -> None:
    module = nn.Linear(2, 2)
    averaged = AveragedWeights(module, decay=0.0)
    with torch.no_grad():
        module.weight.fill_(3.0)
    averaged.update(1)
    assert torch.equal(averaged.shadow["weight"], module.weight)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_guard_names_step_and_term(value: float) -> None:
    guard = FiniteGuard("prior", every=4)
    for step in range(3):
        guard.watch(step, {"rate": torch.tensor(1.0), "distortion": torch.tensor(2.0 if step < 1 else value)})
    with pytest.raises(TrainingDiverged, match=r"`distortion` became .* at step 1 of stage `prior`"):
        guard.flush()


def test_guard_keeps_the_latest_terms() -> None:
    guard = FiniteGuard("train")
    guard.watch(0, {"rate": torch.tensor(1.5)})
    assert guard.latest == {"rate": 1.5}


def test_early_stopping_waits_for_patience() -> None:
    stopping = EarlyStopping(patience=2)
    assert [stopping.observe(step, score) for step, score in enumerate([3.0, 2.0, 2.0, 2.5])] == [
        True,
        True,
        False,
        False,
    ]
    assert stopping.exhausted
    assert (stopping.best, stopping.best_step) == (2.0, 1)


def test_budget_in_steps_epochs_and_by_size() -> None:
    assert counted_steps(Budget(steps=7), 1000, 10) == 7
    assert counted_steps(Budget(epochs=2.5), 1000, 100) == 25
    assert counted_steps(Budget(seconds=10), 1000, 100) is None
    assert counted_steps(Budget(), 100, 100) == 2_000
    assert counted_steps(Budget(), 1437, 128) == 4_491
    assert counted_steps(Budget(), 10**7, 128) == 20_000


@given(
    seconds=st.floats(1, 1e5),
    step=st.floats(1e-4, 1),
    evaluation=st.floats(0, 10),
    rows=st.integers(1, 10**6),
    held_out=st.integers(0, 4096),
)
def test_timed_steps_fit_the_seconds(seconds: float, step: float, evaluation: float, rows: int, held_out: int) -> None:
    steps = timed_steps(seconds, step, evaluation, rows=rows, batch_rows=128, held_out_rows=held_out)
    interval = evaluation_interval(steps, rows, 128, held_out)
    assert steps >= 1
    assert steps == 1 or steps * step + steps // interval * evaluation <= seconds
    without_evaluations = timed_steps(seconds, step, 0.0, rows=rows, batch_rows=128, held_out_rows=held_out)
    assert steps <= without_evaluations
    assert without_evaluations >= int(FILL * seconds / step) - 1  # rounding


@given(
    steps=st.integers(1, 10**6), rows=st.integers(1, 10**7), batch=st.integers(1, 1024), held_out=st.integers(0, 4096)
)
def test_evaluations_are_neither_rare_nor_a_burden(steps: int, rows: int, batch: int, held_out: int) -> None:
    interval = evaluation_interval(steps, rows, batch, held_out)
    assert 1 <= interval <= steps
    assert steps / interval <= 200 + 1
    bearable = 2 * math.ceil(held_out / batch)
    assert interval >= min(steps, bearable)
    assert interval <= max(math.ceil(steps / 40), bearable, 1)


def test_stages_share_the_steps() -> None:
    assert stage_steps(100, [3, 1]) == [75, 25]
    assert stage_steps(1, [0.5, 0.5]) == [1, 1]
