"""What the metrics demand of their arrays, said once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts.errors import InvalidInput

Floats = NDArray[np.float64]


def rows(name: str, x: ArrayLike) -> Floats:
    """Return ``x`` as finite float64 ``(n, d)``, each row flattened. Raises InvalidInput naming the argument."""
    array = np.asarray(x, dtype=np.float64)
    if array.ndim == 0 or len(array) == 0:
        raise InvalidInput(f"`{name}` must hold at least one row")
    if not np.isfinite(array).all():
        raise InvalidInput(f"`{name}` holds NaN or infinite cells; drop or fill these rows first")
    return array.reshape(len(array), -1)


def pair(x: ArrayLike, y: ArrayLike, *, at_least: int) -> tuple[Floats, Floats]:
    """Return two sample sets of equal width. Raises InvalidInput where either has fewer than ``at_least`` rows."""
    first, second = rows("x", x), rows("y", y)
    if first.shape[1] != second.shape[1]:
        raise InvalidInput(f"both sample sets need rows of one width, got {first.shape[1]} and {second.shape[1]} cells")
    if min(len(first), len(second)) < at_least:
        raise InvalidInput(f"at least {at_least} rows are needed in each set, got {len(first)} and {len(second)}")
    return first, second


def values(name: str, x: ArrayLike) -> Floats:
    """Return ``x`` as float64 ``(n,)`` without NaN; ±inf may stand. Raises InvalidInput naming the argument."""
    array = np.asarray(x, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise InvalidInput(f"`{name}` must be a vector with at least one value, got shape {array.shape}")
    if np.isnan(array).any():
        raise InvalidInput(f"`{name}` holds NaN at row {int(np.argmax(np.isnan(array)))}")
    return array


def labels(name: str, y: ArrayLike, n: int) -> NDArray[np.int64]:
    """Return ``y`` as int64 ``(n,)`` class codes. Raises InvalidInput naming the argument."""
    array: NDArray[Any] = np.asarray(y)
    if array.shape != (n,) or not np.issubdtype(array.dtype, np.integer):
        raise InvalidInput(f"`{name}` must be {n} whole numbers, one per row, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)
