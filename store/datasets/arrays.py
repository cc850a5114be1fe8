"""The canonical form of a dataset on disk: arrays written in one pass, in chunks, and mapped when read.

==================== =================================================================
spec.json            the `DataSpec`
x.npy                float64 ``(N, D)`` or uint8 ``(N, H, W, C)`` (not for text)
y.npy                int64 ``(N,)`` label codes, -1 where a declared-missing label is empty
split.npy            uint8 ``(N,)``: 0 train, 1 valid, 2 test
<strings>.bytes.npy  uint8, the UTF-8 of captions, ids or text, one after another
<strings>.ends.npy   int64 ``(N,)``: where each string ends
profile.npz          mean, std, minimum, maximum per cell of the train rows
==================== =================================================================

Files are appended to with plain writes: a full disk is then an error of the write, whereas in a
memory map it would be a signal that ends the process.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from contracts.data import DataProfile

PROFILE_CHUNK_BYTES = 4 << 20


class ArrayWriter:
    """Appends rows to a ``.npy`` file whose length is not known before."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._row_shape = row_shape
        self._dtype = np.dtype(dtype)
        self._rows = 0
        self._file = path.open("wb", buffering=1 << 20)
        self._file.write(self._header())

    def append(self, rows: NDArray[Any]) -> None:
        """Add ``(n, *row_shape)`` rows of the file's dtype."""
        assert (rows.dtype, rows.shape[1:]) == (self._dtype, self._row_shape), (rows.dtype, rows.shape)
        self._file.write(np.ascontiguousarray(rows).data if rows.size else b"")
        self._rows += len(rows)

    def close(self) -> None:
        """Write the true length into the header (NumPy pads it so that its size stays the same)."""
        if self._file.closed:
            return
        try:
            self._file.seek(0)
            self._file.write(self._header())
        finally:
            self._file.close()

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _header(self) -> bytes:
        buffer = io.BytesIO()
        description = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()


class StringsWriter:
    """Appends strings as UTF-8 bytes and ends."""

    def __init__(self, folder: Path, name: str) -> None:
        self._bytes = ArrayWriter(folder / f"{name}.bytes.npy", (), np.uint8)
        self._ends = ArrayWriter(folder / f"{name}.ends.npy", (), np.int64)
        self._end = 0

    def append(self, strings: Sequence[str]) -> None:
        encoded = [string.encode() for string in strings]
        ends = np.cumsum([len(each) for each in encoded], dtype=np.int64) + self._end
        self._bytes.append(np.frombuffer(b"".join(encoded), dtype=np.uint8))
        self._ends.append(ends)
        self._end = int(ends[-1]) if len(ends) else self._end

    def close(self) -> None:
        self._bytes.close()
        self._ends.close()


class Strings:
    """Mapped strings, read by row."""

    def __init__(self, folder: Path, name: str) -> None:
        self._bytes = np.load(folder / f"{name}.bytes.npy", mmap_mode="r")
        self._ends = np.load(folder / f"{name}.ends.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    def read(self, rows: NDArray[np.int64]) -> list[str]:
        ends = self._ends[rows]
        begins = np.where(rows == 0, 0, self._ends[np.maximum(rows - 1, 0)])
        return [bytes(self._bytes[begin:end]).decode() for begin, end in zip(begins, ends, strict=True)]


def profile_rows(path: Path, chosen: NDArray[np.bool_]) -> DataProfile:
    """Mean, standard deviation, minimum and maximum per cell of the chosen rows, in one pass over ``x.npy``.

    Chunks are merged by the pairwise update of Chan, Golub and LeVeque (1979), which does not cancel.
    NaN cells (declared missing) are left out; a cell without any value has the profile 0, 0, 0, 0.
    """
    x = np.load(path, mmap_mode="r")
    cells = int(np.prod(x.shape[1:], dtype=np.int64))
    count, mean, moment = np.zeros(cells), np.zeros(cells), np.zeros(cells)
    minimum, maximum = np.full(cells, np.inf), np.full(cells, -np.inf)
    for chunk in _chunks(path, x, chosen, cells):
        known = ~np.isnan(chunk)
        n = known.sum(axis=0).astype(np.float64)
        total = count + n
        filled = np.where(known, chunk, 0.0)
        chunk_mean = filled.sum(axis=0) / np.maximum(n, 1)
        deviation = np.where(known, chunk - chunk_mean, 0.0)
        delta = np.where(n > 0, chunk_mean - mean, 0.0)
        weight = n / np.maximum(total, 1)
        moment += (deviation * deviation).sum(axis=0) + delta * delta * count * weight
        mean += delta * weight
        count = total
        minimum = np.minimum(minimum, np.where(known, chunk, np.inf).min(axis=0))
        maximum = np.maximum(maximum, np.where(known, chunk, -np.inf).max(axis=0))
    empty = count == 0
    minimum[empty], maximum[empty] = 0.0, 0.0
    std = np.sqrt(moment / np.maximum(count, 1))
    return DataProfile(rows=int(chosen.sum()), mean=mean, std=std, minimum=minimum, maximum=maximum)


def save_profile(path: Path, profile: DataProfile) -> None:
    with path.open("wb") as file:
        np.savez(
            file,
            rows=profile.rows,
            mean=profile.mean,
            std=profile.std,
            minimum=profile.minimum,
            maximum=profile.maximum,
        )


def load_profile(path: Path) -> DataProfile:
    with np.load(path, allow_pickle=False) as saved:
        return DataProfile(
            rows=int(saved["rows"]),
            mean=saved["mean"],
            std=saved["std"],
            minimum=saved["minimum"],
            maximum=saved["maximum"],
        )


def _chunks(path: Path, x: NDArray[Any], chosen: NDArray[np.bool_], cells: int) -> Iterator[NDArray[np.float64]]:
    """The chosen rows in pieces, read plainly: mapped pages would count as memory of the process."""
    rows = max(1, PROFILE_CHUNK_BYTES // (8 * max(cells, 1)))
    with path.open("rb") as file:
        file.seek(path.stat().st_size - x.size * x.itemsize)
        for start in range(0, len(x), rows):
            mask = chosen[start : start + rows]
            block = np.fromfile(file, dtype=x.dtype, count=len(mask) * cells).reshape(len(mask), cells)
            if mask.any():
                yield block[mask].astype(np.float64)
