"""Texts longer than a model's context, through windows that slide by half of it.

    p(s_1 … s_n | s_0) = Π_t p(s_t | s_{a(t)} … s_{t-1}),   a(t) = the start of the first window that holds s_t

Window k starts at k·⌊C/2⌋ and sees C tokens, so each token beyond the first window is conditioned on at least
⌈C/2⌉ tokens before it. Texts that fit are conditioned on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """``tokens`` (T,) seen, ``targets`` (T,) that follow each; those from ``first`` on are new in this window."""

    row: int
    tokens: Index
    targets: Index
    first: int


def stride_of(context: int) -> int:
    return context // 2


def first_window(known: int, context: int) -> int:
    """Return where the window starts that predicts the token after ``known`` ones."""
    stride = stride_of(context)
    return stride * max(0, -(-(known - context) // stride))


def sliding(row: int, sequence: Index, context: int) -> Iterator[Window]:
    """Yield the windows of a ``sequence`` (n + 1,), whose n tokens after the first are each predicted once."""
    start, done = 0, 0
    while done < len(sequence) - 1:
        stop = min(start + context, len(sequence) - 1)
        yield Window(row, sequence[start:stop], sequence[start + 1 : stop + 1], done - start)
        start, done = start + stride_of(context), stop


def apart(row: int, sequence: Index, context: int) -> Iterator[Window]:
    """Yield windows of a ``sequence`` (n,) that do not overlap, each with all of its tokens new."""
    for start in range(0, len(sequence), context):
        piece = sequence[start : start + context]
        yield Window(row, piece, piece, 0)


def padded_length(length: int, context: int) -> int:
    """Return the length to which a window is padded: few different ones, so that windows share their batches."""
    padded = context
    while padded // 2 >= max(length, 16):
        padded //= 2
    return padded
