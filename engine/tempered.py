"""Draws from a density that is far from its proposal: tempering, with moves that keep the proposal.

A proposal is a map of standard normals v to a draw x(v) with weight w = p / q. From v ~ N(0, I) the targets

    π_t ∝ q w^{β_t},   0 = β_0 < … < β_T = 1

are passed one after the other: reweight by w^{β_t - β_{t-1}}, each step as large as leaves half of the effective
sample size; resample; move. A move v' = √(1-ρ²) v + ρ ξ keeps N(0, I), hence q, so it is accepted with
min(1, (w' / w)^{β_t}). The product of the mean weights estimates ∫ p without bias. Where the first step reaches β = 1
this is plain importance sampling, at its cost.

P. Del Moral, A. Doucet and A. Jasra, "Sequential Monte Carlo samplers", 2006; R. Neal, "Annealed importance sampling",
2001; moves: S. Cotter, G. Roberts, A. Stuart and D. White, "MCMC methods for functions", 2013 (arXiv:1202.0709).

Shapes: ``b`` rows, ``K`` draws of each, ``m`` normals of a draw, ``n`` numbers of x. Every row goes its own way, with
noise of its own key: what it answers does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine import noise

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Evaluate = Callable[[Index, Floats], tuple[Floats, Floats]]

KEPT = 0.5
"""Share of the effective sample size that a step leaves."""
SMALLEST_MOVE, LARGEST_MOVE = 0.02, 1.0


@dataclass(frozen=True)
class Cloud:
    """Weighted draws: ``x`` (b, K, n) under ``weights`` (b, K) that add up to one; ``log_mass`` (b,) estimates log ∫ p
    with ``standard_error`` (b,); ``size`` (b,) counts draws, equal ones once (Kish)."""

    x: Floats
    weights: Floats
    log_mass: Floats
    standard_error: Floats
    size: Floats


def temper(
    evaluate: Evaluate, keys: noise.Keys, seed: int, *, draws: int, normals: int, steps: int, moves: int
) -> Cloud:
    """``evaluate(rows (r,), v (r, K, m))`` answers x (r, K, n) and log w (r, K). At most ``steps`` temperatures, each
    with ``moves`` moves of every draw."""
    cloud = _Particles(evaluate, keys, seed, draws, normals)
    rows = np.arange(len(keys))
    for step in range(steps):
        arrived = cloud.reweight(rows, last=step == steps - 1)
        if step == 0:
            # Where the proposal is good its draws are independent, and better left alone.
            rows, arrived = rows[~arrived], arrived[~arrived]
        if not len(rows):
            break
        cloud.resample(rows, step)
        for move in range(moves):
            cloud.move(rows, 1 + step * moves + move)
        rows = rows[~arrived]
    return cloud.finish()


class _Particles:
    def __init__(self, evaluate: Evaluate, keys: noise.Keys, seed: int, draws: int, normals: int) -> None:
        self.evaluate, self.keys, self.seed, self.draws, self.normals = evaluate, keys, seed, draws, normals
        rows = len(keys)
        self.v = self._normals(np.arange(rows), 0)
        self.x, self.log_w = evaluate(np.arange(rows), self.v)
        self.beta, self.reach = np.zeros(rows), np.full(rows, 0.5)
        self.weights = np.full((rows, draws), 1 / draws)
        self.log_mass, self.variance = np.zeros(rows), np.zeros(rows)
        # Which draws are copies of one another.
        self.names = np.tile(np.arange(draws), (rows, 1))
        self.fresh = draws

    def _normals(self, rows: Index, turn: int) -> Floats:
        r, k = np.divmod(np.arange(len(rows) * self.draws), self.draws)
        drawn = noise.normal(self.seed, self.keys[rows][r], "temper.move", (self.normals,), turn * self.draws + k)
        return drawn.reshape(len(rows), self.draws, self.normals)

    def reweight(self, rows: Index, *, last: bool) -> NDArray[np.bool_]:
        """Raise β of ``rows``; return which of them are at 1 now."""
        log_w, beta = self.log_w[rows], self.beta[rows]
        rise = 1 - beta if last else _rise(log_w, 1 - beta, KEPT * self.draws)
        scaled = rise[:, None] * log_w
        top = scaled.max(axis=1)
        alive = np.isfinite(top)
        w = np.exp(np.where(alive[:, None], scaled - np.where(alive, top, 0.0)[:, None], 0.0))
        mean = w.mean(axis=1)
        self.log_mass[rows] += np.where(alive, np.log(mean) + np.where(alive, top, 0.0), -np.inf)
        spread = w.var(axis=1, ddof=1) if self.draws > 1 else np.full(len(rows), np.nan)
        self.variance[rows] += spread / (self.draws * mean**2)
        self.weights[rows] = w / w.sum(axis=1, keepdims=True)
        # A row that no draw gives any weight stays as it is.
        arrived: NDArray[np.bool_] = ~alive | (rise >= 1 - beta)
        self.beta[rows] = np.where(arrived, 1.0, beta + rise)
        return arrived

    def resample(self, rows: Index, step: int) -> None:
        """Systematic resampling: one uniform for a row."""
        start = noise.uniform(self.seed, self.keys[rows], "temper.resample", (), step)
        points = (start[:, None] + np.arange(self.draws)) / self.draws
        cumulative = np.cumsum(self.weights[rows], axis=1)
        cumulative /= cumulative[:, -1:]
        picked = np.stack([np.searchsorted(c, p, side="right") for c, p in zip(cumulative, points, strict=True)])
        picked = np.minimum(picked, self.draws - 1)
        self.v[rows] = np.take_along_axis(self.v[rows], picked[..., None], axis=1)
        self.x[rows] = np.take_along_axis(self.x[rows], picked[..., None], axis=1)
        self.log_w[rows] = np.take_along_axis(self.log_w[rows], picked, axis=1)
        self.names[rows] = np.take_along_axis(self.names[rows], picked, axis=1)
        self.weights[rows] = 1 / self.draws

    def move(self, rows: Index, turn: int) -> None:
        reach = self.reach[rows][:, None, None]
        v = np.sqrt(1 - reach**2) * self.v[rows] + reach * self._normals(rows, turn)
        x, log_w = self.evaluate(rows, v)
        r, k = np.divmod(np.arange(len(rows) * self.draws), self.draws)
        u = noise.uniform(self.seed, self.keys[rows][r], "temper.accept", (), turn * self.draws + k)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = self.beta[rows][:, None] * (log_w - self.log_w[rows])
            accepted = np.log(u).reshape(ratio.shape) < ratio
        self.v[rows] = np.where(accepted[..., None], v, self.v[rows])
        self.x[rows] = np.where(accepted[..., None], x, self.x[rows])
        self.log_w[rows] = np.where(accepted, log_w, self.log_w[rows])
        self.names[rows] = np.where(accepted, self.fresh + np.arange(self.draws), self.names[rows])
        self.fresh += self.draws
        # Moves that are nearly always refused are shortened, and the other way round; each row for itself.
        rate = accepted.mean(axis=1)
        factor = np.where(rate < 0.15, 0.5, np.where(rate < 0.25, 0.8, np.where(rate > 0.5, 1.5, 1.0)))
        self.reach[rows] = np.clip(self.reach[rows] * factor, SMALLEST_MOVE, LARGEST_MOVE)

    def finish(self) -> Cloud:
        size = np.empty(len(self.keys))
        for row, (names, weights) in enumerate(zip(self.names, self.weights, strict=True)):
            _, place = np.unique(names, return_inverse=True)
            size[row] = 1 / np.square(np.bincount(place, weights)).sum()
        return Cloud(self.x, self.weights, self.log_mass, np.sqrt(self.variance), size)


def _rise(log_w: Floats, most: Floats, size: float) -> Floats:
    """The largest rise of β, up to ``most`` (r,), that leaves an effective sample size of ``size``."""
    top = log_w.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        log_w = np.where(np.isfinite(top), log_w - top, 0.0)

    def enough(rise: Floats) -> NDArray[np.bool_]:
        w = np.exp(rise[:, None] * log_w)
        answer: NDArray[np.bool_] = w.sum(axis=1) ** 2 >= size * np.square(w).sum(axis=1)
        return answer

    low, high = np.zeros(len(log_w)), most.copy()
    whole = enough(high)
    for _ in range(30):
        middle = 0.5 * (low + high)
        good = enough(middle)
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    # A step must rise, even where many draws have no weight at all.
    return np.where(whole, most, np.maximum(low, 1e-3 * most))
