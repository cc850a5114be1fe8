"""What programs answer: arrays with a leading batch dimension ``B``, each saying what its numbers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind
from contracts.data import Measure

Floats = NDArray[np.float64]

_STRENGTH = {AnswerKind.ESTIMATE: 0, AnswerKind.LOWER_BOUND: 1, AnswerKind.EXACT: 2}


def weakest(*kinds: AnswerKind) -> AnswerKind:
    """Return what may be said of all: estimate before lower_bound before exact."""
    return min(kinds, key=_STRENGTH.__getitem__, default=AnswerKind.EXACT)


@dataclass(frozen=True)
class Encoding:
    """Vectors ``(B, L)`` floating; ``log_scale`` (B, L) is the log of their posterior's standard deviation."""

    vectors: NDArray[np.floating]
    log_scale: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class LogProb:
    """``values`` (B,) in nats, -inf where the density is zero.

    ``samples`` and ``standard_error`` (B,), in nats, are None where the answer is exact; NaN where an error
    cannot be told (one sample, or zero density).
    """

    values: Floats
    kind: AnswerKind
    measure: Measure
    samples: int | None = None
    standard_error: Floats | None = None


@dataclass(frozen=True)
class Prediction:
    """The hidden cells given the shown ones; shown cells are as they were given.

    ``mean`` (B, *row) float64 in the data's own units, for a category its most probable code; ``draws``
    (B, draws, *row) of the data's dtype; ``std`` (B, *row). ``log_prob`` (B,) is log p(hidden | shown) in nats
    at ``log_prob_at``: the given inputs, or the mean put on the grid of discrete cells.
    ``effective_sample_size`` (B,) tells how many of ``samples`` weighted draws count.
    """

    mean: Floats
    draws: NDArray[np.generic]
    std: Floats
    log_prob: Floats
    log_prob_at: Literal["inputs", "mean"]
    kind: AnswerKind
    effective_sample_size: Floats | None = None
    samples: int | None = None
    standard_error: Floats | None = None
