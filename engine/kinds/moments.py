"""Weighted means, deviations and votes of draws that arrive in pieces, so that memory stays bounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.data import ColumnType, DataSpec

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


class Moments:
    """Sums over weighted draws of ``rows`` rows in the data's own units.

    A categorical cell has no mean: the code with the most weight is answered in its place.
    """

    def __init__(self, spec: DataSpec, rows: int) -> None:
        self._spec = spec
        self._first = np.zeros((rows, spec.cells))
        self._draws_first = np.zeros((rows, spec.cells))
        self._second = np.zeros((rows, spec.cells))
        categorical = [] if spec.image else [c.type is ColumnType.CATEGORICAL for c in spec.features]
        self._categorical: Index = np.flatnonzero(categorical).astype(np.int64)
        widths = [len(spec.features[cell].categories or ()) for cell in self._categorical]
        self._votes = [np.zeros((rows, max(1, width))) for width in widths]

    def add(
        self,
        rows: Index,
        weights: Floats,
        draws: Floats,
        expected: Floats | None = None,
        deviation: Floats | None = None,
    ) -> None:
        """Add draws ``(m, cells)`` of ``rows`` (m,), which must not decrease, under ``weights`` (m,).

        ``expected`` (m, cells): their means where known, which vary less than the draws themselves; with the
        ``deviation`` (m, cells) of each around its mean the squares vary less too (law of total variance).
        """
        codes, spread = draws, np.zeros(())
        if expected is not None and deviation is not None:
            numbers = np.setdiff1d(np.arange(draws.shape[1]), self._categorical)
            spread = np.zeros_like(draws)
            spread[:, numbers] = deviation[:, numbers]
            draws = draws.copy()
            draws[:, numbers] = expected[:, numbers]
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 1))
        named = rows[starts]
        column = weights[:, None]
        self._first[named] += np.add.reduceat(column * (draws if expected is None else expected), starts)
        self._draws_first[named] += np.add.reduceat(column * draws, starts)
        with np.errstate(over="ignore"):
            self._second[named] += np.add.reduceat(column * (np.square(draws) + np.square(spread)), starts)
        for cell, votes in zip(self._categorical, self._votes, strict=True):
            chosen = np.clip(codes[:, cell], 0, votes.shape[1] - 1).astype(np.int64)
            np.add.at(votes, (rows, chosen), weights)

    def mean(self) -> Floats:
        """Return ``(rows, cells)``, within the bounds of the data; the mode for categories."""
        low, high = self._spec.bounds
        mean = np.clip(self._first, low, high)
        for cell, votes in zip(self._categorical, self._votes, strict=True):
            mean[:, cell] = votes.argmax(axis=1)
        return mean

    def probability(self) -> Floats:
        """Return how probable the answered category or truth value is, ``(rows, cells)``; other cells hold 1."""
        probability = np.ones_like(self._first)
        for cell, votes in zip(self._categorical, self._votes, strict=True):
            probability[:, cell] = votes.max(axis=1)
        boolean = [] if self._spec.image else [c.type is ColumnType.BOOLEAN for c in self._spec.features]
        for cell in np.flatnonzero(boolean):
            probability[:, cell] = np.maximum(self._first[:, cell], 1.0 - self._first[:, cell])
        return np.clip(probability, 0.0, 1.0)

    def std(self) -> Floats:
        """Return the deviation of the draws, ``(rows, cells)``."""
        with np.errstate(over="ignore", invalid="ignore"):
            variance = self._second - np.square(self._draws_first)
        # Values whose squares overflow leave nothing to tell.
        return np.sqrt(np.maximum(np.where(np.isfinite(variance), variance, 0.0), 0.0))
