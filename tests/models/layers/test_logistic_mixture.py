"""Mixtures of logistics as monotone maps: the formula itself, and an inverse that holds for any parameters."""

from __future__ import annotations

import pytest
import torch

from models.layers.logistic_mixture import SLOPE, MixtureCDF


def parameters(transform: MixtureCDF, rows: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(rows, transform.per_cell, generator=generator, dtype=torch.float64)


def test_it_is_the_logit_of_the_mixtures_cdf() -> None:
    transform = MixtureCDF(2)
    x = torch.tensor([[-1.5], [0.0], [0.7], [4.0]], dtype=torch.float64)
    scale, shift, weights, means, widths = 0.3, -0.2, [0.4, -0.1], [0.5, 1.0], [-0.6, 0.2]
    raw = torch.tensor([[scale, shift, *weights, *means, *widths]], dtype=torch.float64).expand(4, -1)
    pi = torch.softmax(torch.tensor(weights, dtype=torch.float64), 0)
    places = torch.tensor(means, dtype=torch.float64) + torch.tensor(transform.spread, dtype=torch.float64)
    cdf = (pi * torch.sigmoid((x - places) * torch.exp(-torch.tensor(widths, dtype=torch.float64)))).sum(-1)
    a = 2 * torch.tanh(torch.tensor(scale / 2, dtype=torch.float64))
    expected = torch.exp(a) * (torch.logit(cdf) + SLOPE * x[:, 0]) + shift
    torch.testing.assert_close(transform(x, raw)[0][:, 0], expected)


@pytest.mark.parametrize("scale", [0.5, 3.0, 10.0])
@pytest.mark.parametrize("components", [1, 4, 8])
def test_the_inverse_finds_the_way_back(components: int, scale: float) -> None:
    transform = MixtureCDF(components)
    raw = parameters(transform, 2000, scale)
    for reach in (1.0, 30.0, 1e6):
        x = reach * torch.randn(2000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        z, log_slope = transform(x, raw)
        assert torch.isfinite(log_slope).all()
        assert float((transform.inverse(z, raw) - x).abs().max()) < 1e-6 * reach


def test_wild_parameters_give_finite_values_and_gradients() -> None:
    transform = MixtureCDF(4)
    raw = parameters(transform, 500, 50.0).to(torch.float32).requires_grad_()
    x = (100 * torch.randn(500, 1, generator=torch.Generator().manual_seed(1))).requires_grad_()
    z, log_slope = transform(x, raw)
    (z.sum() + log_slope.sum()).backward()
    for value in (z, log_slope, transform.inverse(z, raw), x.grad, raw.grad):
        assert value is not None
        assert torch.isfinite(value).all()


def test_components_start_apart() -> None:
    transform = MixtureCDF(3)
    raw = torch.zeros(50, transform.per_cell, requires_grad=True)
    z, _ = transform(torch.linspace(-2, 3, 50)[:, None], raw)
    z.sum().backward()
    assert raw.grad is not None
    means = raw.grad.sum(0)[5:8]
    assert len(set(means.tolist())) == 3
