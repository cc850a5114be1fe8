"""Groups of arrays (NPY, NPZ, IDX): features with one value per row beside them, as a table or as images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import Role
from contracts.errors import InvalidInput
from store.datasets import splits
from store.datasets.content import CHUNK_ROWS, Content
from store.datasets.overrides import Overrides
from store.datasets.tables import SplitBy, understand

CHUNK_CELLS = 1 << 22


@dataclass
class Group:
    """``features (n, …)`` and ``columns`` of n values each, all of one part."""

    features: NDArray[Any]
    name: str
    part: int = splits.OPEN
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)


def understand_groups(groups: list[Group], overrides: Overrides) -> Content:
    """Images where the features have three axes or more (or the overrides say so), else a table."""
    first = groups[0]
    for group in groups[1:]:
        if group.features.shape[1:] != first.features.shape[1:] or group.columns.keys() != first.columns.keys():
            raise InvalidInput("the parts hold arrays of different names or shapes")
    strings = first.features.dtype.kind in "US"
    image = overrides.modality == "image" or (overrides.modality is None and first.features.ndim >= 3)
    if image:
        from store.datasets.images import understand_arrays

        return understand_arrays(groups, overrides)
    if strings and first.features.ndim > 2:
        raise InvalidInput(f"features have the shape {first.features.shape}; strings are read as columns only")
    return understand(ArraySource(groups), overrides)


class ArraySource:
    """Two-dimensional features as columns ``x0, x1, …`` and the values beside them as columns of their names."""

    textual = False

    def __init__(self, groups: list[Group]) -> None:
        self._groups = groups
        first = groups[0]
        self._width = math.prod(first.features.shape[1:])
        # More columns than this are refused by `understand`; their names need not all be made for that.
        features = [f"x{index}" for index in range(min(self._width, 1 << 20))]
        self.names = [*features, *first.columns]
        self.roles = dict(first.roles)
        self.split_by: SplitBy = "hash" if all(group.part == splits.OPEN for group in groups) else "given"

    def batches(self) -> Iterator[tuple[Any, int]]:
        import pyarrow as pa

        step = max(1, min(CHUNK_ROWS, CHUNK_CELLS // max(self._width, 1)))
        for group in self._groups:
            for start in range(0, len(group.features), step):
                rows = slice(start, start + step)
                block = np.asarray(group.features[rows]).reshape(-1, self._width)
                columns = [arrow(block[:, index]) for index in range(self._width)]
                columns += [arrow(np.asarray(values[rows])) for values in group.columns.values()]
                yield pa.RecordBatch.from_arrays(columns, names=self.names), group.part


def arrow(values: NDArray[Any]) -> Any:
    """A NumPy column as an Arrow array of a simple type."""
    import pyarrow as pa

    kind = values.dtype.kind
    if kind == "S":
        try:
            return pa.array([value.decode() for value in values.tolist()], pa.string())
        except UnicodeDecodeError as error:
            raise InvalidInput("an array of bytes holds values that are not UTF-8 text") from error
    if kind == "U":
        try:
            return pa.array(values.tolist(), pa.string())
        except (UnicodeError, ValueError) as error:
            raise InvalidInput("an array of strings holds values that are no Unicode text") from error
    if kind == "f":
        return pa.array(values.astype(np.float64))
    return pa.array(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("="), copy=False))
