"""Mixture of full-covariance Gaussians fitted on rows, as constants for the engine's programs.

    p(x) = Σ_k exp(w_k) N(x; m_k, L_k L_kᵀ)

Expectation-maximisation by scikit-learn, deterministic: fixed seed, bounded rows and work. Cells are
standardised for the fit, so that the ridge on the covariances means the same in every unit.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from contracts.errors import InvalidInput

RIDGE = 1e-2
"""Added to each variance, as a share of the cell's variance: a proposal must not be too narrow."""
WORK = 1e9
"""Multiplications that one fit may take per pass over the rows, in round figures."""


def fit_mixture(
    x: Tensor, candidates: Sequence[int] = (1, 2, 4, 7, 10), *, seed: int = 0, ridge: float = RIDGE
) -> dict[str, Tensor]:
    """Return ``log_weights (K,)``, ``means (K, n)``, ``cholesky (K, n, n)`` float64 on the CPU.

    ``x``: ``(B, n)``. K is the candidate with the best mean log-density on a fifth of the rows that
    the fit does not see; the winner is fitted again on all of them. Raises InvalidInput without rows.
    """
    rows = x.detach().cpu().to(torch.float64).numpy()
    if len(rows) == 0:
        raise InvalidInput("a mixture needs at least one row")
    mean, std = rows.mean(0), rows.std(0)
    std = np.where(std > 1e-9 * np.maximum(1.0, np.abs(mean)), std, 1.0)
    scaled = (rows - mean) / std
    cells = scaled.shape[1]
    # Each component needs a few rows of its own, and each pass costs rows · cells² per component.
    largest = max(1, min(len(rows) // 20, int(WORK / (len(rows) * cells**2))))
    usable = [count for count in candidates if count <= largest] or [1]
    order = np.random.default_rng(seed).permutation(len(scaled))
    check, seen = scaled[order[: len(order) // 5]], scaled[order[len(order) // 5 :]]
    best = usable[0]
    if len(usable) > 1:
        best = max(usable, key=lambda count: float(_fit(seen, count, seed, ridge).score(check)))
    chosen = _fit(scaled, best, seed, ridge)
    return {
        "log_weights": torch.from_numpy(np.log(np.maximum(chosen.weights_, 1e-300))),
        "means": torch.from_numpy(chosen.means_ * std + mean),
        "cholesky": torch.from_numpy(np.linalg.cholesky(chosen.covariances_) * std[:, None]),
    }


def _fit(rows: NDArray[np.float64], components: int, seed: int, ridge: float) -> GaussianMixture:
    # One row has no spread; twice the same row has none either, and the ridge speaks.
    rows = rows if len(rows) > 1 else np.repeat(rows, 2, axis=0)
    mixture = GaussianMixture(components, reg_covar=ridge, random_state=seed, max_iter=50)
    with warnings.catch_warnings():
        # Not having converged is no fault in a proposal.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(rows)
