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
    """Vectors ``(B, L)`` floating; ``log_scale`` (B, L) is the log of their posterior's standard deviation.

    ``codes`` int64 ``(B, N)``, where the vectors are those of codes: the numbers of the codes, the top level's first.
    """

    vectors: NDArray[np.floating]
    log_scale: NDArray[np.floating] | None = None
    codes: NDArray[np.int64] | None = None


Order = Literal["raster", "shown_first"]


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
    text: TextSizes | None = None
    """Of texts: how long each is."""
    order: Order | None = None
    """Of autoregressive models over cells: the order under which the answer is exact, the cells' own or that with the
    shown cells before the hidden ones."""


@dataclass(frozen=True)
class TextSizes:
    """``tokens`` (B,) that were scored, the end ⊥ of a document included; ``bytes`` (B,) of UTF-8; ``windows`` (B,):
    1 where every token was conditioned on all before it, else how many windows of ``context`` tokens slid over the
    text by ``stride``."""

    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    windows: NDArray[np.int64]
    context: int
    stride: int


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """Characters that continue text ``index`` of a stream; the last piece of a text says why it ends: the model drew
    the end ⊥ (stop), or the limit was reached (length). ``tokens`` were drawn for the text so far."""

    index: int
    text: str
    tokens: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Generated:
    """Drawn texts, n of them: ``texts`` whole, ``drawn`` only what was drawn, ``tokens`` (n,) drawn, ⊥ included, and
    their ``log_prob`` (n,) given what was known, in nats, exact."""

    texts: list[str]
    drawn: list[str]
    tokens: NDArray[np.int64]
    finish_reasons: list[FinishReason]
    log_prob: Floats


@dataclass(frozen=True)
class Prediction:
    """The hidden cells given the shown ones; shown cells are as they were given.

    ``mean`` (B, *row) float64 in the data's own units, for a category its most probable code; ``draws``
    (B, draws, *row) of the data's dtype; ``std`` (B, *row). ``log_prob`` (B,) is log p(hidden | shown) in nats
    at ``log_prob_at``: the given inputs, or the mean put on the grid of discrete cells.
    ``effective_sample_size`` (B,) tells how many of ``samples`` weighted draws count. ``probability`` (B, *row) is that
    of the answered category or truth value, 1 where it was shown, NaN in cells that are numbers; None where it is not
    known.
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
    probability: Floats | None = None


@dataclass(frozen=True)
class Completed:
    """One draw per row from p(hidden cells | shown cells): ``rows`` (B, *row) of the data's dtype, whole.

    ``effective_sample_size`` (B,) tells how many of ``samples`` weighted draws count, where any were needed.
    """

    rows: NDArray[np.generic]
    kind: AnswerKind
    effective_sample_size: Floats | None = None
    samples: int | None = None
