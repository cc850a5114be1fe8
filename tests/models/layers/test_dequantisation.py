"""q(u | x): its density is that of the map from normals, and it starts near uniform."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from models.layers.dequantisation import VariationalDequantiser

TABLE = DataSpec(
    modality="table",
    columns=(
        Column(name="a", type=ColumnType.INTEGER, minimum=0, maximum=9),
        Column(name="b", type=ColumnType.REAL),
        Column(name="c", type=ColumnType.BOOLEAN),
        Column(name="d", type=ColumnType.CATEGORICAL, categories=("x", "y", "z")),
    ),
)
IMAGE = DataSpec(modality="image", image=ImageShape(height=4, width=4, channels=3))


def rows(spec: DataSpec, count: int) -> torch.Tensor:
    generator = np.random.default_rng(0)
    flat = generator.integers(0, 2, size=(count, spec.cells)).astype(np.float64)
    flat[:, ~spec.discrete] = generator.normal(size=(count, int((~spec.discrete).sum())))
    return torch.from_numpy(flat.reshape(count, *spec.row_shape).astype(spec.dtype))


def make(spec: DataSpec, amount: float) -> VariationalDequantiser:
    ones = np.ones(spec.cells)
    profile = DataProfile(100, 0.5 * ones, ones, 0 * ones, ones)
    torch.manual_seed(0)
    layer = VariationalDequantiser(spec, profile, convolutional=spec.image is not None, width=8, depth=1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(amount * torch.randn(parameter.shape))
    return layer.double().eval()


@pytest.mark.parametrize("spec", [TABLE, IMAGE], ids=["table", "image"])
def test_the_density_is_that_of_the_map(spec: DataSpec) -> None:
    layer, x = make(spec, 0.3), rows(spec, 3)
    count = int(spec.discrete.sum())
    eps = torch.randn(3, count, dtype=torch.float64)
    u, log_q = layer(x, eps)
    assert u.shape == (3, spec.cells)
    assert ((u >= 0) & (u < 1)).all()
    assert not u[:, ~torch.from_numpy(spec.discrete)].any()

    def one(noise: torch.Tensor) -> torch.Tensor:
        return layer(x[1:2], noise[None])[0][0, torch.from_numpy(spec.discrete)]

    jacobian = torch.autograd.functional.jacobian(one, eps[1])
    base = -0.5 * (eps[1] ** 2).sum() - 0.5 * count * math.log(2 * math.pi)
    expected = base - torch.linalg.slogdet(jacobian)[1]
    assert log_q[1].item() == pytest.approx(expected.item(), abs=1e-8)


def test_it_starts_near_uniform() -> None:
    layer = make(TABLE, 0.0)
    with torch.no_grad():
        u, log_q = layer(rows(TABLE, 4000), torch.randn(4000, 3, dtype=torch.float64))
    assert float(log_q.abs().mean()) < 0.01
    assert float(u[:, 0].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(u[:, 0].var()) == pytest.approx(1 / 12, rel=0.05)


def test_noise_far_out_stays_within_the_bin() -> None:
    u, log_q = make(TABLE, 0.0)(rows(TABLE, 2), torch.full((2, 3), 60.0, dtype=torch.float64))
    assert (u < 1).all()
    assert torch.isfinite(log_q).all()
