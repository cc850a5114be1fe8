"""A model that is a mixture of Gaussians over its cells: marginals and conditionals in closed form.

Continuous cells are exact. A discrete cell v stands for v + u with u uniform on [0, 1): where one is shown, the
density is averaged over draws of u (a lower bound), and the conditional is the mixture over those draws, weighted by
the density of what they make of the shown cells. Where one is hidden, moments of the whole number follow from those
of the dequantised one by Sheppard's corrections: mean − 1/2, variance − 1/12.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind
from contracts.data import ColumnType, DataSpec
from engine import noise
from engine.answers import weakest
from engine.conditional import Conditional, Mixture, Pattern, group_patterns
from engine.kinds.rows import Imputation, Rows, Score
from engine.kinds.weights import effective_sample_size, log_mean_exp, normalise, resample

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


class ExactGaussian:
    """The closed forms of ``mixture`` (over all cells of a row) for data of ``spec``."""

    def __init__(self, mixture: Mixture, spec: DataSpec, element_budget: int) -> None:
        self.mixture = mixture
        self.spec = spec
        self._discrete = spec.discrete
        self._step = max(1, element_budget // max(1, spec.cells))
        features = () if spec.image else spec.features
        self._categorical = np.zeros(spec.cells, dtype=bool)
        self._categorical[: len(features)] = [column.type is ColumnType.CATEGORICAL for column in features]

    def score(self, rows: Rows, seed: int, samples: int) -> Score:
        """Return log p(shown cells), ``samples`` draws of u per row where a discrete cell is shown."""
        values, error = np.empty(len(rows)), np.zeros(len(rows))
        cells, sampled = rows.cells, False
        for index, hidden in group_patterns(rows.hidden):
            pattern = self.mixture.pattern(hidden)
            if not self._discrete[pattern.shown].any():
                values[index] = pattern.log_marginal(cells[index])
                continue
            sampled = True
            for block in self._blocks(index, samples):
                mean = log_mean_exp(self._spread(pattern, rows, block, seed, samples)[1])
                values[block], error[block] = mean.values, mean.standard_error
        if not sampled:
            return Score(values, AnswerKind.EXACT)
        return Score(values, AnswerKind.LOWER_BOUND, samples, error)

    def impute(self, rows: Rows, seed: int, draws: int, samples: int) -> Imputation:
        """Return moments and ``draws`` of the hidden cells."""
        count, n = len(rows), self.spec.cells
        mean, variance = np.zeros((count, n)), np.zeros((count, n))
        drawn, size = np.zeros((count, draws, n)), np.full(count, float(samples))
        kinds, sampled = [], False
        for index, hidden in group_patterns(rows.hidden):
            pattern = self.mixture.pattern(hidden)
            touched = self._discrete[hidden].any() or self._discrete[~hidden].any()
            kinds.append(AnswerKind.ESTIMATE if touched and hidden.any() else AnswerKind.EXACT)
            spread = samples if self._discrete[pattern.shown].any() and hidden.any() else 1
            sampled |= spread > 1
            for block in self._blocks(index, max(spread, draws)):
                if spread == 1:
                    given, weights = pattern.condition(rows.cells[block]), np.ones((len(block), 1))
                else:
                    given, log_w = self._spread(pattern, rows, block, seed, spread, moments=True)
                    weights = normalise(log_w)
                    size[block] = effective_sample_size(weights)
                at = np.ix_(block, pattern.hidden)
                mean[at], variance[at] = _mix(given, weights)
                drawn[np.ix_(block, np.arange(draws), pattern.hidden)] = self._draw(
                    pattern, given, weights, rows.keys[block], seed, draws
                )
        return Imputation(
            mean=self._undo_spread(mean),
            std=np.sqrt(np.maximum(variance - self._discrete / 12.0, 0.0)),
            draws=drawn,
            kind=weakest(*kinds),
            effective_sample_size=size if sampled else None,
            samples=samples if sampled else None,
            probability=self._probability(mean, variance),
        )

    def _blocks(self, index: Index, per_row: int) -> list[Index]:
        step = max(1, self._step // max(1, per_row))
        return [index[start : start + step] for start in range(0, len(index), step)]

    def _spread(
        self, pattern: Pattern, rows: Rows, block: Index, seed: int, samples: int, *, moments: bool = False
    ) -> tuple[Conditional, Floats]:
        """Condition on ``samples`` draws of u per row; the weights are log p(shown + u), ``(b, samples)``."""
        r, k = np.divmod(np.arange(len(block) * samples), samples)
        u = noise.uniform(seed, rows.keys[block][r], "gaussian.u", (self.spec.cells,), k)
        cells = rows.cells[block][r] + u * self._discrete
        given = pattern.condition(cells, means=moments)
        return given, given.log_marginal.reshape(len(block), samples)

    def _draw(
        self, pattern: Pattern, given: Conditional, weights: Floats, keys: noise.Keys, seed: int, draws: int
    ) -> Floats:
        """Draw (b, draws, h): one of the row's conditionals by weight, then from it."""
        rows, samples = weights.shape
        picked = resample(weights, noise.uniform(seed, keys, "gaussian.pick", (draws,)))
        chosen = given.take((np.arange(rows)[:, None] * samples + picked).reshape(-1))
        r, j = np.divmod(np.arange(rows * draws), draws)
        component = noise.uniform(seed, keys[r], "gaussian.component", (), j)
        normals = noise.normal(seed, keys[r], "gaussian.cells", (self.spec.cells,), j)[:, pattern.hidden]
        return chosen.draw(component, normals).reshape(rows, draws, len(pattern.hidden))

    def _probability(self, mean: Floats, variance: Floats) -> Floats:
        """Of the discrete values that dequantised ``mean`` (B, n) falls to, by a Gaussian of these moments; a cell's
        first and last value take its tails, as they do for draws."""
        from scipy.special import ndtr

        low, high = self.spec.bounds
        value = np.clip(np.floor(mean), low, high)
        std = np.sqrt(np.maximum(variance, 1e-300))
        above = np.where(value >= high, 1.0, ndtr((value + 1.0 - mean) / std))
        below = np.where(value <= low, 0.0, ndtr((value - mean) / std))
        probability: Floats = above - below
        return probability

    def _undo_spread(self, mean: Floats) -> Floats:
        low, high = self.spec.bounds
        whole = np.clip(mean - 0.5 * self._discrete, low, high)
        whole[:, self._categorical] = np.clip(np.floor(mean), low, high)[:, self._categorical]
        return np.where(self._discrete, whole, mean)


def _mix(given: Conditional, weights: Floats) -> tuple[Floats, Floats]:
    """Mean and variance (b, h) of each row's conditionals, weighted by ``weights`` (b, K)."""
    means = given.mean()
    shape = (*weights.shape, means.shape[1])
    means, variances = means.reshape(shape), given.variance().reshape(shape)
    mean: Floats = np.einsum("bk,bkh->bh", weights, means)
    second = variances + np.square(means - mean[:, None])
    variance: Floats = np.einsum("bk,bkh->bh", weights, second)
    return mean, variance
