"""An update whose gradient is out of all proportion is left out, and counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from contracts.families import GradientConfig
from models.family import Batch, LossStage, Noise, Terms
from workers.training.gradient import GradientRun

SPIKE = 3
STEPS = 10


class Line(LossStage):
    """A regression whose loss is a million times as large at one step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(64, 1)

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        error = (self.module(batch.x.flatten(1).float() / 16) - 1).square().mean()
        return Terms(error * (1e6 if round(progress * STEPS) == SPIKE else 1.0), {})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        raise AssertionError("nothing is held out here")


def started(reader: Any, **knobs: Any) -> tuple[GradientRun, nn.Module]:
    stage = Line()
    config = GradientConfig(family="line", batch_size=32, **knobs)
    fabric = Fabric(accelerator="cpu", devices=1)
    return GradientRun(stage, 0, reader, config, seed=1, steps=STEPS, fabric=fabric), stage.module


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def test_a_spike_leaves_the_weights_as_they_are_and_is_counted(reader: Any) -> None:
    run, module = started(reader, gradient_skip=1000.0)
    for step in range(STEPS):
        before = weights(module)
        run.advance(step)
        assert torch.equal(weights(module), before) == (step == SPIKE)
        assert run.skipped == run.terms["skipped_updates"] == (step >= SPIKE)
    assert run.terms["gradient_norm"] < 1000


def test_what_follows_is_as_if_the_spike_had_not_been(reader: Any) -> None:
    """Neither the moments of the optimiser nor its count of steps see an update that was left out."""
    (skipping, module), (other, same) = started(reader, gradient_skip=1000.0), started(reader)
    for step in range(STEPS):
        skipping.advance(step)
        if step != SPIKE:
            other.advance(step)
    assert torch.equal(weights(module), weights(same))


@pytest.mark.parametrize("knobs", [{}, {"gradient_skip": 0.0}, {"gradient_skip": 1e9}])
def test_without_a_threshold_in_reach_every_update_is_taken(reader: Any, knobs: dict[str, float]) -> None:
    run, module = started(reader, **knobs)
    for step in range(STEPS):
        before = weights(module)
        run.advance(step)
        assert not torch.equal(weights(module), before)
    assert run.skipped == 0
    assert ("skipped_updates" in run.terms) == bool(knobs.get("gradient_skip"))
