"""Rational-quadratic splines: identity at the start and beyond the bound, smooth where both meet, never NaN."""

from __future__ import annotations

import pytest
import torch

from models.layers.elementwise import Marginal
from models.layers.splines import RationalQuadratic

BOUND = 3.0


def raw_of(spline: RationalQuadratic, rows: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(rows, spline.per_cell, generator=generator, dtype=torch.float64)


def test_no_parameters_are_the_identity() -> None:
    spline = RationalQuadratic(8, BOUND)
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)[:, None]
    z, log_slope = spline(x, torch.zeros(101, spline.per_cell, dtype=torch.float64))
    torch.testing.assert_close(z, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)


def test_beyond_the_bound_nothing_moves() -> None:
    spline = RationalQuadratic(4, BOUND)
    x = torch.tensor([[-1e12], [-BOUND], [BOUND], [7.0]], dtype=torch.float64)
    raw = raw_of(spline, 4, 2.0)
    z, log_slope = spline(x, raw)
    assert torch.equal(z, x)
    assert not log_slope.any()
    assert torch.equal(spline.inverse(x, raw), x)


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_a_spline_rises_and_joins_the_identity(scale: float) -> None:
    spline = RationalQuadratic(5, BOUND)
    x = torch.linspace(-BOUND, BOUND, 2001, dtype=torch.float64)[:, None]
    z, log_slope = spline(x, raw_of(spline, 1, scale).expand(2001, -1))
    assert (z.diff(dim=0) > 0).all()
    assert torch.isfinite(log_slope).all()
    torch.testing.assert_close(z[[0, -1]], x[[0, -1]], atol=1e-9, rtol=0)
    inner = z[1:-1]
    assert float(inner.abs().max()) < BOUND


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wild_parameters_give_finite_values_and_gradients(dtype: torch.dtype) -> None:
    spline = RationalQuadratic(8, BOUND)
    raw = raw_of(spline, 500, 50.0).to(dtype).requires_grad_()
    x = (4 * torch.randn(500, 1, generator=torch.Generator().manual_seed(1))).to(dtype).requires_grad_()
    z, log_slope = spline(x, raw)
    (z.sum() + log_slope.sum()).backward()
    for value in (z, log_slope, spline.inverse(z, raw), x.grad, raw.grad):
        assert value is not None
        assert torch.isfinite(value).all()


def test_each_channel_may_have_a_spline_of_its_own() -> None:
    layer = Marginal(2, RationalQuadratic(4, BOUND)).double()
    with torch.no_grad():
        layer.raw[: layer.transform.per_cell] = raw_of(layer.transform, 1, 1.0)[0]  # type: ignore[arg-type]
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].expand(9, 2)
    z, _ = layer(x)
    assert not torch.allclose(z[:, 0], x[:, 0])
    torch.testing.assert_close(z[:, 1], x[:, 1])


def test_the_first_rows_make_channels_normal_from_the_start() -> None:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    skewed = torch.stack([torch.exp(0.7 * normal[:, 0]), normal[:, 1].sign() + 0.1 * normal[:, 0]], 1)
    rows = (skewed - skewed.mean(0)) / skewed.std(0)
    marginal = Marginal(2, RationalQuadratic(16, BOUND)).double()
    marginal.initialise(rows)
    with torch.no_grad():
        z, log_det = marginal(rows)
    torch.testing.assert_close(marginal.inverse(z), rows, atol=1e-6, rtol=0)
    levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    expected = torch.special.ndtri(levels)[:, None].expand(-1, 2)
    torch.testing.assert_close(torch.quantile(z, levels, dim=0), expected, atol=0.1, rtol=0)
    gain = log_det + 0.5 * (rows**2 - z**2).sum(1)
    assert float(gain.mean()) > 0.5


def test_a_still_channel_stays_and_a_moved_map_does_not_start_anew() -> None:
    generator = torch.Generator().manual_seed(4)
    rows = torch.rand(1000, 2, generator=generator) ** 3
    rows[:, 1] = 0.3
    marginal = Marginal(2, RationalQuadratic(8, BOUND))
    marginal.initialise(rows)
    first, second = marginal.raw.detach().clone().reshape(2, -1)
    assert first.any()
    assert not second.any()
    marginal.initialise(rows**2)
    assert torch.equal(marginal.raw.detach().reshape(2, -1)[0], first)
