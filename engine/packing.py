"""Answers of single rows as bytes: a header that names dtypes and shapes, then the rows' raw bytes.

Rows of one answer share their layout, so many are packed and unpacked by a few array operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.generic], ...]

_END = b"\n"
_KINDS = frozenset("biuf")


def pack(arrays: Arrays) -> list[bytes]:
    """Return each row of ``arrays`` (each ``(B, …)``) as bytes."""
    header = ";".join(f"{a.dtype.str}:{','.join(map(str, a.shape[1:]))}" for a in arrays).encode() + _END
    flat = [np.ascontiguousarray(a).reshape(len(a), math.prod(a.shape[1:])).view(np.uint8) for a in arrays]
    rows = np.concatenate(flat, axis=1)
    body, size = rows.tobytes(), rows.shape[1]
    return [header + body[row * size : (row + 1) * size] for row in range(len(rows))]


def unpack(values: Sequence[bytes]) -> Arrays:
    """Return the arrays of rows that `pack` made. Raises ValueError if they are damaged or differ in layout."""
    header, end, _ = values[0].partition(_END)
    fields, size = _layout(header)
    skip = len(header) + len(end)
    if not end or any(len(value) != skip + size or not value.startswith(header) for value in values):
        raise ValueError("rows differ in layout")
    rows = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), skip + size)[:, skip:]
    arrays, start = [], 0
    for dtype, shape in fields:
        stop = start + dtype.itemsize * math.prod(shape)
        arrays.append(np.ascontiguousarray(rows[:, start:stop]).view(dtype).reshape(len(values), *shape))
        start = stop
    return tuple(arrays)


@lru_cache(maxsize=256)
def _layout(header: bytes) -> tuple[tuple[tuple[np.dtype[np.generic], tuple[int, ...]], ...], int]:
    fields = []
    for part in header.decode().split(";"):
        name, _, shape = part.partition(":")
        if name[1:2] not in _KINDS:
            raise ValueError(f"`{part}` names no layout of numbers")
        fields.append((_dtype(name), tuple(int(size) for size in shape.split(",") if size)))
    return tuple(fields), sum(dtype.itemsize * math.prod(shape) for dtype, shape in fields)


def _dtype(name: str) -> np.dtype[np.generic]:
    try:
        return np.dtype(name)
    except TypeError as error:
        raise ValueError(str(error)) from error
