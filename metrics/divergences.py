"""Divergences between two sample sets x ~ P and y ~ Q, and between two densities.

    KL(P ‖ Q)   plug-in E_P[h] and Donsker-Varadhan E_P[h] - log E_Q[e^h], h the log-ratio of a classifier that is
                trained on one half and read on the other. Overfitting biases the first up and the second down, so
                the pair is a bracket (Sugiyama, Suzuki & Kanamori 2012; Donsker & Varadhan 1983).
    TV(P, Q)    ≥ 2 · accuracy - 1 of any classifier on held-out rows (Lopez-Paz & Oquab 2017, arXiv:1610.06545),
                with the Clopper-Pearson interval of the accuracy.
    MMD²        unbiased U-statistic with a Gaussian kernel exp(-‖x - y‖² / 2s²), s² half the median squared
                distance, p-value by permutation (Gretton et al. 2012).

Everything is in nats where it has a unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from contracts.errors import InvalidInput
from metrics.arrays import Floats, pair, values

QUADRATIC_CELLS = 64
"""Up to so many cells the default classifier sees squares and products."""


class Classifier(Protocol):
    """A classifier of two classes in the manner of scikit-learn."""

    def fit(self, x: Floats, y: NDArray[np.int64]) -> Any: ...

    def decision_function(self, x: Floats) -> Floats:
        """Log-odds of class 1, ``(n,)``."""
        ...


@dataclass(frozen=True)
class KLBracket:
    """``plug_in`` and ``donsker_varadhan`` estimates of KL(P ‖ Q), nats, with the standard error of each."""

    plug_in: float
    plug_in_error: float
    donsker_varadhan: float
    donsker_varadhan_error: float


@dataclass(frozen=True)
class TotalVariation:
    """A lower bound of TV(P, Q) in [0, 1], its 95 % interval, and p of "no difference" (one-sided binomial)."""

    lower_bound: float
    interval: tuple[float, float]
    p_value: float
    accuracy: float


@dataclass(frozen=True)
class MMD:
    """Unbiased MMD² (may be slightly negative), p of "no difference", and the kernel's s²."""

    squared: float
    p_value: float
    bandwidth_squared: float


def kl_bracket(x: ArrayLike, y: ArrayLike, *, seed: int = 0, classifier: Classifier | None = None) -> KLBracket:
    """Bracket KL(P ‖ Q) from samples ``x (n, …)`` of P and ``y (m, …)`` of Q.

    Raises InvalidInput for sets of unequal width or fewer than 8 rows.
    """
    train, (held_x, held_y) = _halves(*pair(x, y, at_least=8), seed)
    model = _fitted(classifier, *train)
    offset = math.log(len(train[0]) / len(train[1]))
    on_p, on_q = model.decision_function(held_x) - offset, model.decision_function(held_y) - offset
    plug_in = float(on_p.mean())
    error = float(on_p.std(ddof=1) / math.sqrt(len(on_p)))
    log_mean = float(logsumexp(on_q) - math.log(len(on_q)))
    relative = np.exp(on_q - log_mean)
    second = float(relative.std(ddof=1) / math.sqrt(len(on_q)))
    return KLBracket(plug_in, error, plug_in - log_mean, math.hypot(error, second))


def total_variation(
    x: ArrayLike, y: ArrayLike, *, seed: int = 0, classifier: Classifier | None = None
) -> TotalVariation:
    """Bound TV(P, Q) from below by a classifier two-sample test on equally many rows of each set.

    Raises InvalidInput for sets of unequal width or fewer than 8 rows.
    """
    first, second = pair(x, y, at_least=8)
    size = min(len(first), len(second))
    generator = np.random.default_rng(seed)
    first, second = (a[generator.permutation(len(a))[:size]] for a in (first, second))
    train, (held_x, held_y) = _halves(first, second, seed)
    model = _fitted(classifier, *train)
    correct = int((model.decision_function(held_x) > 0).sum() + (model.decision_function(held_y) <= 0).sum())
    test = binomtest(correct, len(held_x) + len(held_y), 0.5, alternative="greater")
    interval = binomtest(correct, len(held_x) + len(held_y)).proportion_ci(0.95)
    accuracy = correct / (len(held_x) + len(held_y))
    low, high = (float(np.clip(2 * bound - 1, 0, 1)) for bound in (interval.low, interval.high))
    return TotalVariation(max(0.0, 2 * accuracy - 1), (low, high), float(test.pvalue), accuracy)


def mmd(
    x: ArrayLike, y: ArrayLike, *, bandwidth_squared: float | None = None, permutations: int = 199, seed: int = 0
) -> MMD:
    """Return the unbiased MMD² of two sample sets with its permutation p-value.

    Memory grows with the square of the rows; ``bandwidth_squared`` None is the median heuristic. Raises InvalidInput
    for sets of unequal width, fewer than 2 rows, or a bandwidth that is not positive.
    """
    first, second = pair(x, y, at_least=2)
    pooled = np.concatenate([first, second])
    squares = (pooled**2).sum(1)
    distance = np.maximum(squares[:, None] + squares[None] - 2 * pooled @ pooled.T, 0)
    if bandwidth_squared is None:
        median = float(np.median(distance[np.triu_indices(len(pooled), 1)]))
        bandwidth_squared = median / 2 or 1.0
    if not bandwidth_squared > 0:
        raise InvalidInput(f"the kernel's bandwidth must be positive, got {bandwidth_squared}")
    kernel = np.exp(-distance / (2 * bandwidth_squared))
    np.fill_diagonal(kernel, 0)
    members = np.zeros((len(pooled), permutations + 1))
    members[: len(first), 0] = 1
    generator = np.random.default_rng(seed)
    for column in range(1, permutations + 1):
        members[generator.permutation(len(pooled))[: len(first)], column] = 1
    statistics = _mmd_squared(kernel, members)
    as_large = int((statistics[1:] >= statistics[0]).sum())
    return MMD(float(statistics[0]), (as_large + 1) / (permutations + 1), float(bandwidth_squared))


def kl_from_densities(log_p: ArrayLike, log_q: ArrayLike) -> tuple[float, float]:
    """Return E_P[log p - log q] and its standard error, nats, from both log-densities at draws of P, ``(n,)``.

    For models with an exact density this beats any estimate from samples alone. Infinite where Q gives a draw no
    density. Raises InvalidInput for unequal lengths or where P itself gives a draw no density.
    """
    first, second = values("log_p", log_p), values("log_q", log_q)
    if first.shape != second.shape:
        raise InvalidInput(f"both densities are needed at the same draws, got {len(first)} and {len(second)}")
    if not np.isfinite(first).all():
        raise InvalidInput("`log_p` must be finite: the draws are its own")
    if np.isneginf(second).any():
        return math.inf, math.nan
    ratio = first - second
    return float(ratio.mean()), float(ratio.std(ddof=1) / math.sqrt(len(ratio))) if len(ratio) > 1 else math.nan


def _mmd_squared(kernel: Floats, members: Floats) -> Floats:
    """The U-statistic for each column of ``members`` ``(n + m, columns)``: 1 = in the first set."""
    n = members[:, 0].sum()
    m = len(kernel) - n
    through = kernel @ members
    within = (members * through).sum(0)
    across = through.sum(0) - within
    rest = kernel.sum() - within - 2 * across
    statistic: Floats = within / (n * (n - 1)) + rest / (m * (m - 1)) - 2 * across / (n * m)
    return statistic


def _halves(x: Floats, y: Floats, seed: int) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    generator = np.random.default_rng(seed)
    x, y = x[generator.permutation(len(x))], y[generator.permutation(len(y))]
    return (x[: len(x) // 2], y[: len(y) // 2]), (x[len(x) // 2 :], y[len(y) // 2 :])


def _fitted(classifier: Classifier | None, x: Floats, y: Floats) -> Classifier:
    if classifier is None:
        steps: list[Any] = [StandardScaler()]
        if x.shape[1] <= QUADRATIC_CELLS:
            steps += [PolynomialFeatures(2, include_bias=False), StandardScaler()]
        classifier = make_pipeline(*steps, LogisticRegression(C=1.0, max_iter=2000))
    target = np.concatenate([np.ones(len(x), dtype=np.int64), np.zeros(len(y), dtype=np.int64)])
    classifier.fit(np.concatenate([x, y]), target)
    return classifier
