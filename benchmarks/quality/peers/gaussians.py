"""Closed-form and EM references on rows ``(n, D)``: one Gaussian, and a mixture chosen on valid."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

Floats = NDArray[np.float64]
COMPONENTS = (5, 15, 40)
FLOORS = (1e-4, 1e-2)
MOST_ROWS = 15_000
RIDGE = 1e-9


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance) by maximum likelihood."""

    mean: Floats
    covariance: Floats

    @classmethod
    def fit(cls, x: Floats) -> Gaussian:
        covariance = np.atleast_2d(np.cov(x, rowvar=False, bias=True))
        return cls(x.mean(0), covariance + RIDGE * np.eye(len(covariance)))

    def log_prob(self, x: Floats) -> Floats:
        """Nats ``(n,)``."""
        return _log_normal(x - self.mean, self.covariance)

    def conditional(self, x: Floats, hidden: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Return ``x`` with hidden cells at E[x_A | x_B], and log p(x_A | x_B) at the values that ``x`` holds."""
        filled, log_prob = x.copy(), np.zeros(len(x))
        for row, hide in enumerate(hidden):
            if not hide.any():
                continue
            a, b = np.flatnonzero(hide), np.flatnonzero(~hide)
            cross, own = self.covariance[np.ix_(a, b)], self.covariance[np.ix_(a, a)]
            gain = cho_solve(cho_factor(self.covariance[np.ix_(b, b)]), cross.T).T if len(b) else cross
            mean = self.mean[a] + gain @ (x[row, b] - self.mean[b])
            log_prob[row] = _log_normal((x[row, a] - mean)[None], own - gain @ cross.T)[0]
            filled[row, a] = mean
        return filled, log_prob


def mixture(
    train: Floats,
    valid: Floats,
    *,
    seed: int,
    components: tuple[int, ...] = COMPONENTS,
    floors: tuple[float, ...] = FLOORS,
) -> tuple[GaussianMixture, str]:
    """Return the mixture of full Gaussians that is best on ``valid``, and what was chosen.

    Tried are these numbers of components with these floors of the variances, on at most 15,000 rows.
    """
    rows = train[np.random.default_rng(seed).permutation(len(train))[:MOST_ROWS]]
    best, chosen, said = -np.inf, None, ""
    for count, floor in itertools.product(components, floors):
        if len(rows) < 10 * count:
            continue
        model = GaussianMixture(count, reg_covar=floor, random_state=seed, max_iter=50)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            score = float(model.fit(rows).score(valid))
        if score > best:
            best, chosen, said = score, model, f"{count} components, floor {floor:g}, chosen on valid"
    assert chosen is not None
    return chosen, said


def _log_normal(difference: Floats, covariance: Floats) -> Floats:
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, difference.T)
    constant = len(covariance) * np.log(2 * np.pi) + 2 * np.log(np.diag(factor)).sum()
    return -0.5 * ((white**2).sum(0) + constant)
