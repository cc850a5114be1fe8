"""The importance-weighted bound as an objective, with gradients that do not vanish as the bound tightens.

    L_K = log 1/K Σ_k w_k,   w_k = p(x | z_k) (p(z_k) / q(z_k | x))^β,   z_k = z(eps_k) ~ q

Y. Burda, R. Grosse and R. Salakhutdinov, "Importance weighted autoencoders", 2016 (arXiv:1509.00519), at β = 1. The
gradient of q's parameters goes through z alone (G. Tucker, D. Lawson, S. Gu and C. J. Maddison, "Doubly reparameterized
gradient estimators for Monte Carlo objectives", 2019, arXiv:1810.04152): with normalised weights v_k and q's parameters
held fixed in w, the chain ∂log w_k/∂z_k · ∂z_k/∂φ is weighted by v_k² in place of v_k, in general by
v_k (1 - β + β v_k).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def importance_bound(log_w: Tensor) -> Tensor:
    """Return L_K ``(B,)`` of log-weights ``(B, K)``, nats."""
    return torch.logsumexp(log_w, 1) - math.log(log_w.shape[1])


def importance_objective(z: Tensor, log_w: Tensor, beta: float) -> Tensor:
    """Return -L_K averaged over rows, a scalar with the gradient above.

    ``z`` ``(B, K, L)`` is what ``log_w`` ``(B, K)`` was computed from, by a q whose own density is detached.
    """
    bound = importance_bound(log_w.detach())
    weights = torch.softmax(log_w.detach(), 1)
    if z.requires_grad:
        factor = (1 - beta + beta * weights).unsqueeze(-1).to(z.dtype)
        z.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
    surrogate = (weights * log_w).sum(1).mean()
    return -(bound.mean() + surrogate - surrogate.detach())


def score_draws(score: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor, at_once: int) -> tuple[Tensor, Tensor]:
    """Return ``score(z)``, two tensors ``(B, K)`` of ``z`` ``(B, K, L)``, in memory for ``at_once`` draws and B more.

    Beyond that many, activations are not kept but computed again for the gradient.
    """
    parts = torch.split(z, max(1, at_once // len(z)), 1)
    if len(parts) == 1:
        return score(z)
    first, second = zip(*(checkpoint(score, part, use_reentrant=False) for part in parts), strict=True)
    return torch.cat(first, 1), torch.cat(second, 1)
