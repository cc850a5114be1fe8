"""Tables made fit for reading a density off them, the same for every model.

Constant columns are dropped, and of columns correlated beyond |r| = 0.98 the later ones. In a column whose values
repeat (one value holds half a percent of the rows, or the distinct values are fewer than half the rows) a continuous
density could grow without bound; it gets uniform noise as wide as the smallest gap between its values, and at least as
a hundredth of its deviation. The rows are put into parts 80 / 10 / 10 by a seeded permutation and standardised by the
train rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.data import Parts
from contracts.data import Part

Floats = NDArray[np.float64]

CORRELATION = 0.98
COMMON_SHARE = 0.005
LEAST_WIDTH = 0.01


def prepare(x: Floats, *, seed: int = 0) -> Parts:
    """Return the parts of a table ``(n, D)``, standardised."""
    generator = np.random.default_rng(seed)
    x = x[generator.permutation(len(x))]
    x = dequantise(x[:, kept_columns(x)], generator)
    cut = round(0.8 * len(x)), round(0.9 * len(x))
    mean, std = x[: cut[0]].mean(0), x[: cut[0]].std(0)
    x = (x - mean) / std
    return {Part.TRAIN: x[: cut[0]], Part.VALID: x[cut[0] : cut[1]], Part.TEST: x[cut[1] :]}


def kept_columns(x: Floats) -> list[int]:
    """Return the columns that are not constant and no near-copy of an earlier one."""
    varying = np.flatnonzero(x.std(0) > 1e-12 * (1 + np.abs(x).max(0)))
    correlation = np.abs(np.atleast_2d(np.corrcoef(x[:, varying], rowvar=False)))
    kept: list[int] = []
    for column in range(len(varying)):
        if not kept or correlation[column, kept].max() <= CORRELATION:
            kept.append(column)
    return [int(varying[column]) for column in kept]


def dequantise(x: Floats, generator: np.random.Generator) -> Floats:
    """Return ``x`` with uniform noise in the columns whose values repeat."""
    spread = x.copy()
    for column in range(x.shape[1]):
        values, counts = np.unique(x[:, column], return_counts=True)
        if counts.max() >= COMMON_SHARE * len(x) or 2 * len(values) < len(x):
            width = max(float(np.diff(values).min()), LEAST_WIDTH * float(x[:, column].std()))
            spread[:, column] += width * generator.random(len(x))
    return spread
