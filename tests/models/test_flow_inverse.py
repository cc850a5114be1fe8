"""Exported flows give back what they were given, ten deviations out and on data with heavy tails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contracts.data import Column, ColumnType, DataProfile, DataSpec
from contracts.families import FlowConfig
from engine.model import open_session
from engine.options import SessionOptions
from models import build
from models.family import Batch, LossStage, Noise
from models.flow import Flow
from workers.export import export

CELLS = 4
SPEC = DataSpec(
    modality="table", columns=tuple(Column(name=f"x{index}", type=ColumnType.REAL) for index in range(CELLS))
)
COUPLINGS = {
    "affine": {"coupling": "affine"},
    "spline": {"coupling": "spline"},
    "mixture_cdf": {"coupling": "mixture_cdf", "layers": 2, "components": 4},
}


def correlated(rng: np.random.Generator) -> NDArray[np.float64]:
    x = rng.normal(size=(400, CELLS))
    x[:, 1:] += x[:, :-1] ** 2
    return 1e3 + x * np.array([1e-3, 1.0, 50.0, 1e4])


def heavy(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.standard_cauchy(size=(400, CELLS))


DATA: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {"correlated": correlated, "heavy": heavy}


def trained(x: NDArray[np.float64], knobs: dict[str, object]) -> Flow:
    profile = DataProfile(len(x), x.mean(0), x.std(0), x.min(0), x.max(0))
    torch.manual_seed(0)
    config = FlowConfig.model_validate({"family": "flow", "layers": 3, "width": 32, "dropout": 0.0, **knobs})
    model = build(config, SPEC, profile)
    assert isinstance(model, Flow)
    stage, batch = model.stages()[0], Batch(torch.from_numpy(x))
    assert isinstance(stage, LossStage)
    stage.start([batch])
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(60):
        optimiser.zero_grad()
        loss = stage.loss(batch, Noise(0, 0, step, rows=slice(0, len(x)), total=len(x)), step / 60).objective
        assert torch.isfinite(loss)
        loss.backward()
        optimiser.step()
    return model.eval()


def far_rows(x: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Train rows, rows with one cell ten deviations out, and rows with every cell up to ten out."""
    mean, std = x.mean(0), x.std(0)
    one = x[:40].copy()
    one[np.arange(40), np.arange(40) % CELLS] = (mean + rng.choice([-10, 10], size=(40, 1)) * std)[
        np.arange(40), np.arange(40) % CELLS
    ]
    every = mean + std * rng.uniform(-10, 10, size=(40, CELLS))
    corners = mean + std * rng.choice([-10.0, 10.0], size=(16, CELLS))
    return np.concatenate([x, one, every, corners])


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_onnx_gives_back_rows_ten_deviations_out(coupling: str, data: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = DATA[data](rng)
    graphs = export(trained(x, COUPLINGS[coupling]), tmp_path)
    forward, inverse = (open_session(tmp_path / graphs[name].file, SessionOptions()) for name in ("forward", "inverse"))
    rows = far_rows(x, rng)
    z, log_prob = forward.run(["z", "log_prob"], {"x": rows})
    assert np.isfinite(z).all()
    assert np.isfinite(log_prob).all()
    (back,) = inverse.run(["x"], {"z": z})
    assert (np.abs(back - rows) / x.std(0)).max() < 1e-3
    drawn = rng.normal(size=(500, CELLS)) * rng.choice([1.0, 10.0], size=(500, 1))
    (generated,) = inverse.run(["x"], {"z": drawn})
    assert np.isfinite(generated).all()
