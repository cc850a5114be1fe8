"""Rows as programs take them: checked, with neutral values in hidden cells and a key for their noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind
from contracts.data import DataSpec
from contracts.errors import InvalidInput
from engine import noise

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Checked rows: ``x`` (B, *row) with neutral values in hidden cells, ``shown`` (B, *row), labels ``y`` (B,)
    or None, and the ``keys`` (B,) of their noise."""

    x: NDArray[np.generic]
    shown: Mask
    y: Index | None
    keys: noise.Keys

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Index) -> Rows:
        return Rows(self.x[rows], self.shown[rows], None if self.y is None else self.y[rows], self.keys[rows])

    @property
    def hidden(self) -> Mask:
        """Flattened mask ``(B, cells)``, True = hidden."""
        flat: Mask = ~self.shown.reshape(len(self), -1)
        return flat

    @property
    def cells(self) -> Floats:
        """The features flattened, ``(B, cells)``."""
        return self.x.reshape(len(self), -1).astype(np.float64)


@dataclass(frozen=True)
class Score:
    """log p of rows, ``values`` (B,) nats, before it becomes an answer."""

    values: Floats
    kind: AnswerKind
    samples: int | None = None
    standard_error: Floats | None = None


@dataclass(frozen=True)
class Imputation:
    """What a kind knows of hidden cells: ``mean`` and ``std`` (B, cells) in the data's own units, ``draws``
    (B, draws, cells) not yet on the grid."""

    mean: Floats
    std: Floats
    draws: Floats
    kind: AnswerKind
    effective_sample_size: Floats | None = None
    samples: int | None = None
    score: Score | None = None
    """log p(shown cells), where it is a by-product."""
    probability: Floats | None = None
    """Of the category or truth value that ``mean`` tells, (B, cells), where it is known; other cells are not read."""


def check_rows(spec: DataSpec, x: NDArray[np.generic], hidden: Mask | None, y: Index | None) -> Rows:
    """Check ``x`` (B, *row) and ``hidden`` of the same shape; ``y`` (B,) are labels that were checked before.

    Raises InvalidInput naming what is wrong. Whole numbers and bounds are checked where ``x`` has not the data's
    dtype; else `DataSpec.check` is for whoever parsed the rows.
    """
    x = np.asarray(x)
    if x.ndim == 0 or x.shape[1:] != spec.row_shape:
        raise InvalidInput(f"rows must have the shape {spec.row_shape}, got {x.shape[1:]}")
    if len(x) == 0:
        raise InvalidInput("at least one row is needed, got none")
    if hidden is not None and (hidden.shape != x.shape or hidden.dtype != np.bool_):
        raise InvalidInput(f"the mask of hidden cells must be boolean of the shape {x.shape}, got {hidden.shape}")
    shown = np.ones(x.shape, dtype=bool) if hidden is None else ~hidden
    if x.dtype != spec.dtype or (x.dtype.kind == "f" and not np.isfinite(x[shown]).all()):
        spec.check(_as_numbers(x), hidden)
    low, high = spec.bounds
    neutral = np.clip(0.0, low, high).reshape(spec.row_shape)
    filled = np.where(shown, x, neutral).astype(spec.dtype)
    extra = (shown,) if y is None else (shown, y)
    return Rows(filled, shown, y, noise.row_digests(filled, *extra))


def check_labels(categories: tuple[str, ...] | None, given: Index | None, rows: int) -> Index | None:
    """Check label codes for a model conditional on ``categories``: ``(rows,)``, or one for all.

    Returns ``(rows,)``, None where the model takes no labels. Raises InvalidInput naming what is wrong.
    """
    if categories is None:
        if given is not None:
            raise InvalidInput("this model takes no `given`: it was not trained on a condition")
        return None
    if given is None:
        raise InvalidInput(f"this model is conditional; say `given: {{label}}`, one of {', '.join(categories[:20])}")
    codes = np.asarray(given)
    if codes.dtype.kind not in "iu" or (codes.ndim and codes.shape != (rows,) and codes.shape != (1,)):
        raise InvalidInput(f"`given` must hold one label code or one for each of the {rows} rows")
    if codes.size and (codes.min() < 0 or codes.max() >= len(categories)):
        raise InvalidInput(f"`given` must hold label codes in 0..{len(categories) - 1}")
    return np.ascontiguousarray(np.broadcast_to(codes.astype(np.int64), (rows,)))


def _as_numbers(x: NDArray[np.generic]) -> Floats:
    try:
        return x.astype(np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(f"rows must be numbers, got an array of {x.dtype}") from None
