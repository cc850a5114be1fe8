"""The Gaussian formulas against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtri

from models.layers.gaussian import log_normal, normal_quantile, rate


def test_quantile_agrees_with_scipy_over_the_whole_range() -> None:
    u = np.concatenate([np.logspace(-11, -1, 400), np.linspace(0.02, 0.98, 400), 1 - np.logspace(-10, -1, 400)])
    assert np.allclose(normal_quantile(torch.tensor(u)).numpy(), ndtri(u), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantile_is_finite_at_both_ends(dtype: torch.dtype) -> None:
    ends = normal_quantile(torch.tensor([0.0, 1.0], dtype=dtype))
    assert torch.isfinite(ends).all()
    assert ends[0] < -4
    assert ends[1] > 4


def test_log_normal_and_rate_agree_with_scipy_and_quadrature() -> None:
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    log_scale = torch.tensor(0.3, dtype=torch.float64)
    expected = stats.norm(0.5, np.exp(0.3)).logpdf(x.numpy())
    assert np.allclose(log_normal(x, 0.5, log_scale).numpy(), expected)
    grid = torch.linspace(-15, 15, 20001, dtype=torch.float64)
    log_q = log_normal(grid, 0.5, log_scale)
    log_p = log_normal(grid, 0.0, torch.zeros((), dtype=torch.float64))
    quadrature = torch.trapezoid(torch.exp(log_q) * (log_q - log_p), grid)
    assert torch.allclose(rate(torch.tensor(0.5, dtype=torch.float64), log_scale), quadrature, atol=1e-8)
