"""Directions in a space of vectors along which one thing grows, say from a straight face to a smile.

From the vectors of rows that have it (positive, z⁺) and of rows that have not (negative, z⁻):

    mean_difference   v ∝ z̄⁺ - z̄⁻                          (Larsen et al. 2016, "Autoencoding beyond pixels using a
                                                             learned similarity metric", arXiv:1512.09300)
    linear_probe      v ∝ w of P(positive | z) = σ(w·z + b)  (Alain & Bengio 2016, "Understanding intermediate layers
                                                             using linear classifier probes", arXiv:1610.01644)

``|v| = 1``, and ``v·z + bias > 0`` where z is taken for positive. A step along v is measured in ``scale``, the
standard deviation of the projections v·z when both sides weigh the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts.errors import InvalidInput
from metrics.arrays import Floats, rows

HELD_OUT_SHARE = 0.2
# With fewer rows on a side, a fifth of them is less than one row.
LEAST_ROWS_TO_HOLD_OUT = 5
# Sides whose means differ by less than rounding have no direction between them.
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Direction:
    """``vector`` (L,) of length 1.

    ``distance``: between the means of the two sides along the vector, in the space's own units; ``scale``, in the same
    units: the standard deviation of the projections, each side weighing half, so ``distance / scale`` ≤ 2.
    ``accuracy``: share of the ``held_out`` (positive, negative) rows that the probe tells right; None where it has
    none, or is no probe.
    """

    vector: Floats
    bias: float
    scale: float
    distance: float
    accuracy: float | None = None
    held_out: tuple[int, int] = (0, 0)


def mean_difference(positive: ArrayLike, negative: ArrayLike) -> Direction:
    """Return the direction from the mean of ``negative`` (n, L) to that of ``positive`` (m, L).

    The bias puts the border half-way. Raises InvalidInput for fewer than 2 rows a side and for equal means.
    """
    z_positive, z_negative = _sides(positive, negative)
    up, down = z_positive.mean(axis=0), z_negative.mean(axis=0)
    vector = _unit(up - down, z_positive, z_negative, "the two sides have the same mean")
    return _measured(vector, float(-vector @ (up + down) / 2), z_positive, z_negative)


def linear_probe(positive: ArrayLike, negative: ArrayLike, *, seed: int = 0) -> Direction:
    """Return the direction of a logistic regression that tells ``positive`` (m, L) from ``negative`` (n, L).

    A fifth of each side, drawn with ``seed``, is held out and the accuracy measured on it; with fewer than 5 rows on
    a side nothing is. The vectors are divided by one common scale, so that the penalty (L2, C = 1) depends neither on
    the units of the space nor on its axes. Raises InvalidInput for fewer than 2 rows a side and where nothing is told
    apart.
    """
    from sklearn.linear_model import LogisticRegression

    z_positive, z_negative = _sides(positive, negative)
    train_positive, test_positive, train_negative, test_negative = _split(z_positive, z_negative, seed)
    z = np.concatenate([train_positive, train_negative])
    told = np.repeat([1, 0], [len(train_positive), len(train_negative)])
    centre, spread = z.mean(axis=0), float(np.sqrt(z.var(axis=0).mean()))
    if spread <= _SMALLEST * float(np.abs(z).max()):
        raise InvalidInput("all vectors are the same, so no direction tells the two sides apart; choose other rows")
    probe = LogisticRegression(max_iter=1000).fit((z - centre) / spread, told)
    w = probe.coef_[0] / spread
    vector = _unit(w, z_positive, z_negative, "the probe tells the two sides apart nowhere")
    bias = (float(probe.intercept_[0]) - float(w @ centre)) / float(np.linalg.norm(w))
    held_out = (len(test_positive), len(test_negative))
    accuracy = None
    if sum(held_out):
        right = (test_positive @ vector + bias > 0).sum() + (test_negative @ vector + bias <= 0).sum()
        accuracy = float(right / sum(held_out))
    return _measured(vector, bias, z_positive, z_negative, accuracy, held_out)


def _sides(positive: ArrayLike, negative: ArrayLike) -> tuple[Floats, Floats]:
    up, down = rows("positive", positive), rows("negative", negative)
    if up.shape[1] != down.shape[1]:
        raise InvalidInput(f"both sides need vectors of one length, got {up.shape[1]} and {down.shape[1]}")
    if min(len(up), len(down)) < 2:
        raise InvalidInput(f"at least 2 rows are needed on each side, got {len(up)} and {len(down)}")
    return up, down


def _split(positive: Floats, negative: Floats, seed: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Train and test rows of each side: the same share of both is held out, or nothing at all."""
    sides = (positive, negative)
    share = HELD_OUT_SHARE if min(map(len, sides)) >= LEAST_ROWS_TO_HOLD_OUT else 0.0
    random = np.random.default_rng(seed)
    parts = []
    for z in sides:
        order: NDArray[np.int64] = random.permutation(len(z))
        held = int(share * len(z))
        parts += [z[np.sort(order[held:])], z[np.sort(order[:held])]]
    return parts[0], parts[1], parts[2], parts[3]


def _unit(vector: Floats, positive: Floats, negative: Floats, lack: str) -> Floats:
    length, largest = float(np.linalg.norm(vector)), max(float(np.abs(z).max()) for z in (positive, negative))
    if not np.isfinite(length) or length <= _SMALLEST * max(1.0, largest):
        raise InvalidInput(f"{lack}, so there is no direction between them; choose rows that differ in what you seek")
    unit: Floats = vector / length
    return unit


def _measured(
    vector: Floats,
    bias: float,
    positive: Floats,
    negative: Floats,
    accuracy: float | None = None,
    held_out: tuple[int, int] = (0, 0),
) -> Direction:
    up, down = positive @ vector, negative @ vector
    distance = float(up.mean() - down.mean())
    scale = float(np.sqrt((up.var() + down.var()) / 2 + (distance / 2) ** 2))
    return Direction(vector, bias, scale, distance, accuracy, held_out)
