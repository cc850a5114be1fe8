"""Which rows a step sees, and how they become tensors.

Rows are visited in a seeded pseudo-random order per epoch, computed on demand by a Feistel network with
cycle-walking (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains"): constant memory for any number of
rows. A step's batch is the same global rows whatever the number of processes; each takes its slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.data import DataProfile, DataSpec, Part
from models.family import Batch, hash_words

_ROUNDS = 6


class RowsLike(Protocol):
    """Features ``x`` and labels ``y`` as `contracts.data` lays them out."""

    @property
    def x(self) -> NDArray[np.generic]: ...
    @property
    def y(self) -> NDArray[np.int64] | None: ...


class Reader(Protocol):
    """What training asks of a dataset (`store.datasets.DatasetReader`)."""

    @property
    def spec(self) -> DataSpec: ...
    def count(self, part: Part | None = None) -> int: ...
    def read(self, part: Part | None, indices: NDArray[np.int64] | slice) -> RowsLike: ...
    def profile(self) -> DataProfile: ...


def permute(index: NDArray[np.int64], count: int, key: int) -> NDArray[np.int64]:
    """Return where a keyed permutation of ``range(count)`` sends each ``index``, vectorised."""
    half = np.uint64(max(1, math.ceil(max(1, count - 1).bit_length() / 2)))
    mask = np.uint64((1 << int(half)) - 1)
    keys = [np.uint64(hash_words(key, turn)) for turn in range(_ROUNDS)]
    value = np.asarray(index, dtype=np.uint64).copy()
    todo = np.ones(value.shape, dtype=bool)
    while todo.any():
        left, right = value[todo] >> half, value[todo] & mask
        for turn in keys:
            mixed = (right ^ turn) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(32))) & mask)
        value[todo] = (left << half) | right
        todo = value >= count  # out of range: apply the cipher again until inside
    return value.astype(np.int64)


@dataclass(frozen=True)
class RowOrder:
    """The endless sequence of train rows: epoch after epoch, each in its own order."""

    rows: int
    seed: int

    def take(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the row indices at positions ``start`` to ``stop`` of the sequence."""
        positions = np.arange(start, stop, dtype=np.int64)
        epochs = positions // self.rows
        taken = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            taken[here] = permute(positions[here] % self.rows, self.rows, hash_words(self.seed, int(epoch)))
        return taken


def share(total: int, rank: int, world: int) -> slice:
    """Return the rows of a global batch of ``total`` that process ``rank`` of ``world`` takes."""
    return slice(rank * total // world, (rank + 1) * total // world)


def to_batch(rows: RowsLike, device: torch.device | str = "cpu") -> Batch:
    """Return rows as tensors on ``device``: x in the dtype of the data, y and the tokens of captions int64."""
    x = torch.from_numpy(_writable(rows.x)).to(device)
    y = None if rows.y is None else torch.from_numpy(_writable(rows.y)).to(device)
    tokens = getattr(rows, "tokens", None)
    return Batch(x, y, None if tokens is None else torch.from_numpy(_writable(tokens)).to(device))


def _writable(array: NDArray[np.generic]) -> NDArray[np.generic]:
    # torch warns about arrays it must not write to, and memory-mapped ones are such
    return array if array.flags.writeable and array.flags.c_contiguous else array.copy()


@dataclass(frozen=True)
class Pass:
    """Passes over the rows of a part as batches on a device; can be iterated repeatedly, the same each time.

    The order is a keyed permutation, so that the first batches of a sorted dataset are no biased sample. ``limit``
    caps the rows; ``batch_rows`` are the most rows of a batch; ``complete`` fills the
    missing cells of the batch at a place.
    """

    reader: Reader
    part: Part
    batch_rows: int
    key: int = 0
    device: torch.device | str = "cpu"
    limit: int | None = None
    complete: Callable[[Batch, int], Batch] | None = None

    @property
    def rows(self) -> int:
        count = self.reader.count(self.part)
        return count if self.limit is None else min(count, self.limit)

    def __iter__(self) -> Iterator[Batch]:
        count = self.reader.count(self.part)
        for start in range(0, self.rows, self.batch_rows):
            places = np.arange(start, min(self.rows, start + self.batch_rows), dtype=np.int64)
            batch = to_batch(self.reader.read(self.part, permute(places, count, self.key)), self.device)
            yield batch if self.complete is None else self.complete(batch, start // self.batch_rows)
