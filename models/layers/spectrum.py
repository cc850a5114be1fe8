"""Eigenvalues and eigenvectors of a covariance, and what they say of a Gaussian of low rank plus noise.

With eigenvalues l_1 ≥ … ≥ l_D, the likelihood of N(mu, W Wᵀ + sigma² I) with q columns in W is greatest where the first
q axes are kept and sigma² is the mean of the other eigenvalues (Tipping & Bishop 1999, "Probabilistic principal
component analysis", Journal of the Royal Statistical Society B 61(3)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def principal_axes(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues ``(D,)``, descending and floored, and eigenvectors ``(D, D)`` in columns."""
    eigenvalues, basis = torch.linalg.eigh(covariance)
    eigenvalues, basis = eigenvalues.flip(0), basis.flip(1)
    # A fixed sign makes the same data give the same latents, whatever the LAPACK.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * torch.where(largest < 0, -1.0, 1.0)
    return eigenvalues.clamp_min(max(1e-12, 1e-13 * float(eigenvalues[0]))), basis


def low_rank(covariance: Tensor, components: int | None) -> Tensor:
    """Return the ``components`` first axes of ``covariance`` plus isotropic noise; None: ``covariance`` as it is."""
    if components is None or components >= len(covariance) - 1:
        return covariance
    eigenvalues, basis = torch.linalg.eigh(covariance)
    eigenvalues[:-components] = eigenvalues[:-components].mean()
    lower: Tensor = (basis * eigenvalues) @ basis.T
    return lower


def likelihood_by_components(eigenvalues: Tensor, spread: Tensor) -> Tensor:
    """Return the mean log-likelihood in nats for q = 1 … max(1, D-1) components.

    ``eigenvalues`` ``(D,)`` descending, of the train covariance; ``spread`` ``(D,)`` mean squares of the
    scored rows along each eigenvector. With the tail mean sigma²(q), the log-density is a sum over the axes.
    """
    cells = len(eigenvalues)
    q = torch.arange(1, max(2, cells), dtype=torch.float64)
    index = q.long()
    kept = (eigenvalues.log() + spread / eigenvalues).cumsum(0)[index - 1]
    left = (cells - q).clamp_min(1)
    noise = (eigenvalues.sum() - eigenvalues.cumsum(0)[index - 1]).clamp_min(0) / left
    noise = torch.maximum(noise, eigenvalues[-1])
    tail = (spread.sum() - spread.cumsum(0)[index - 1]).clamp_min(0)
    return -0.5 * (cells * math.log(2 * math.pi) + kept + (cells - q) * noise.log() + tail / noise)
