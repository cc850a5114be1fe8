"""The importance-weighted objective: its value is the bound's, and its gradient is that of the bound's expectation."""

import math

import pytest
import torch
from torch import Tensor

from models.layers.gaussian import log_normal
from models.layers.importance import importance_bound, importance_objective

VALUE = 1.5
"""One observation of x ~ N(z, 1), z ~ N(0, 1): the posterior is N(VALUE / 2, 1 / 2)."""


def log_weights(z: Tensor, mean: Tensor, log_scale: Tensor, beta: float) -> Tensor:
    """``z`` ``(B, K, 1)``; log w ``(B, K)``."""
    zero = torch.zeros_like(z)
    log_p = log_normal(zero + VALUE, z, zero)
    return (log_p + beta * (log_normal(z, 0.0, zero) - log_normal(z, mean, log_scale))).sum(-1)


def gradients(rows: int, draws: int, beta: float, mean: float, log_scale: float, *, doubly: bool) -> Tensor:
    """Gradients of the mean and the log-scale of q."""
    torch.manual_seed(0)
    parameters = torch.tensor([mean, log_scale], dtype=torch.float64, requires_grad=True)
    eps = torch.randn(rows, draws, 1, dtype=torch.float64)
    z = parameters[0] + parameters[1].exp() * eps
    if doubly:
        fixed = parameters.detach()
        importance_objective(z, log_weights(z, fixed[0], fixed[1], beta), beta).backward()
    else:
        (-importance_bound(log_weights(z, parameters[0], parameters[1], beta)).mean()).backward()
    assert parameters.grad is not None
    return parameters.grad


@pytest.mark.parametrize("beta", [0.3, 1.0])
@pytest.mark.parametrize("draws", [1, 4])
def test_the_gradient_has_the_expectation_of_the_plain_one(draws: int, beta: float) -> None:
    doubly = gradients(200_000, draws, beta, 0.2, -0.1, doubly=True)
    plain = gradients(200_000, draws, beta, 0.2, -0.1, doubly=False)
    torch.testing.assert_close(doubly, plain, rtol=0, atol=0.015)


def test_the_gradient_vanishes_at_the_exact_posterior() -> None:
    exact = gradients(16, 3, 1.0, VALUE / 2, 0.5 * math.log(0.5), doubly=True)
    assert exact.abs().max() < 1e-12
    assert gradients(16, 3, 1.0, VALUE / 2, 0.5 * math.log(0.5), doubly=False).abs().max() > 1e-3


def test_the_value_is_the_negative_bound() -> None:
    torch.manual_seed(1)
    z = torch.randn(5, 7, 1, requires_grad=True)
    log_w = log_weights(z, torch.tensor(0.0), torch.tensor(0.0), 1.0)
    assert torch.allclose(importance_objective(z, log_w, 1.0), -importance_bound(log_w).mean())


def test_equal_weights_are_their_own_mean() -> None:
    assert torch.allclose(importance_bound(torch.full((3, 10), -4.0)), torch.tensor(-4.0))
