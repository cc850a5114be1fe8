"""Reading a dataset: arrays mapped into memory, rows by part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import DataProfile, DataSpec, Part
from contracts.errors import InvalidInput
from store.catalogue.records import Dataset
from store.datasets.arrays import Strings, load_profile
from store.datasets.splits import PARTS

Features = NDArray[Any] | list[str]


@dataclass(frozen=True)
class Rows:
    """Rows in memory: ``x`` as in `contracts.data`, ``y`` int64 ``(B,)``, strings as lists of length B."""

    x: Any
    y: NDArray[np.int64] | None = None
    captions: list[str] | None = None
    ids: list[str] | None = None

    def __len__(self) -> int:
        return len(self.x)


class DatasetReader:
    """An open dataset; every process may map the same files."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self.dataset = dataset
        self.spec: DataSpec = dataset.spec
        self._folder = folder
        self._split = np.load(folder / "split.npy", mmap_mode="r")
        self._x = None if self.spec.modality == "text" else np.load(folder / "x.npy", mmap_mode="r")
        self._texts = Strings(folder, "text") if self.spec.modality == "text" else None
        self._y = np.load(folder / "y.npy", mmap_mode="r") if (folder / "y.npy").exists() else None
        self._captions = Strings(folder, "captions") if (folder / "captions.ends.npy").exists() else None
        self._ids = Strings(folder, "ids") if (folder / "ids.ends.npy").exists() else None
        self._members: dict[Part, NDArray[np.int64]] = {}

    def count(self, part: Part | None = None) -> int:
        """Rows of a part, or of the whole."""
        return len(self._split) if part is None else len(self._rows_of(part))

    def read(self, part: Part | None, indices: NDArray[np.int64] | slice) -> Rows:
        """Rows by their place within the part (None: within the whole), in the order asked for."""
        total = self.count(part)
        if isinstance(indices, slice):
            places = np.arange(*indices.indices(total), dtype=np.int64)
        else:
            places = np.asarray(indices, dtype=np.int64)
            if places.size and (places.min() < 0 or places.max() >= total):
                raise InvalidInput(f"row numbers must lie in 0..{total - 1}")
        rows = places if part is None else self._rows_of(part)[places]
        return Rows(
            x=self._features(rows),
            y=None if self._y is None else np.array(self._take(self._y, rows)),
            captions=None if self._captions is None else self._captions.read(rows),
            ids=None if self._ids is None else self._ids.read(rows),
        )

    def batches(self, part: Part | None, rows: int) -> Iterator[Rows]:
        """The part in order, ``rows`` at a time (the last batch may be shorter)."""
        for start in range(0, self.count(part), rows):
            yield self.read(part, slice(start, start + rows))

    def labels(self, part: Part | None = None) -> NDArray[np.int64] | None:
        """Label codes of a part, or of the whole, without reading the rows; None where there are none."""
        if self._y is None:
            return None
        return np.array(self._y if part is None else self._y[self._rows_of(part)])

    def profile(self) -> DataProfile:
        """Statistics of the train rows per cell; a text has no cells, and only its rows are counted."""
        if self._x is None:
            return DataProfile(self.count(Part.TRAIN), *(np.empty(0) for _ in range(4)))
        return load_profile(self._folder / "profile.npz")

    def _rows_of(self, part: Part) -> NDArray[np.int64]:
        if part not in self._members:
            self._members[part] = np.flatnonzero(self._split == PARTS.index(part))
        return self._members[part]

    def _features(self, rows: NDArray[np.int64]) -> Features:
        if self._texts is not None:
            return self._texts.read(rows)
        assert self._x is not None
        return self._take(self._x, rows)

    @staticmethod
    def _take(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of the rows; a run of neighbours is read as a slice."""
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            return np.array(array[int(rows[0]) : int(rows[-1]) + 1])
        return np.array(array[rows])
