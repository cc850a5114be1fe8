"""How many importance-weighted draws count.

    ESS = (Σ w)² / Σ w²                                                        (Kish 1965)

It lies between 1 (one draw has all the weight) and K (all weigh the same).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from contracts.errors import InvalidInput
from metrics.arrays import Floats


def effective_sample_size(log_weights: ArrayLike, axis: int = 0) -> Floats:
    """Return the effective sample size over ``axis``; 0 where every weight is zero."""
    w = np.asarray(log_weights, dtype=np.float64)
    if w.ndim == 0 or w.shape[axis] == 0:
        raise InvalidInput("`log_weights` must hold at least one weight along the axis")
    if np.isnan(w).any() or np.isposinf(w).any():
        raise InvalidInput("`log_weights` must be finite or -inf")
    with np.errstate(invalid="ignore"):
        size = np.exp(2 * logsumexp(w, axis=axis) - logsumexp(2 * w, axis=axis))
    counted: Floats = np.nan_to_num(np.asarray(size), nan=0.0)
    return counted
