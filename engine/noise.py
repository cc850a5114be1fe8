"""Noise as a function: the draw for (seed, row key, input, draw, cell), whatever else is in the batch.

Philox 4x32-10 turns a 128-bit counter under a 64-bit key into 128 random bits, without state. Here

    key      = 64 bits of blake2b(seed, name of the input)
    counter  = (block, draw, low and high half of the row key)

and each block gives two numbers: uniforms of 53 bits in [0, 1), or two normals by Box-Muller.

John K. Salmon, Mark A. Moraes, Ron O. Dror, David E. Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# Blocks computed at a time: the four words and their products stay in the second-level cache.
_CHUNK = 1 << 14

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def philox(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Return Philox 4x32-10 of ``counter`` (4, n), 32-bit words held in uint64, under a key of two 32-bit words."""
    c0, c1, c2, c3 = (np.array(word, dtype=np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0)
        c2 = (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3))


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def row_digests(x: NDArray[np.generic], *extra: NDArray[np.generic]) -> Keys:
    """Return a 64-bit key ``(B,)`` of each row's bytes, of ``x`` and the row-aligned ``extra`` arrays together.

    Equal rows have equal keys in whatever batch they stand: -0.0 counts as 0.0 and every NaN as the same.
    Good for noise; not made to resist someone who looks for collisions.
    """
    total = np.zeros(len(x), dtype=np.uint64)
    position = 1
    for array in (x, *extra):
        words = _words(array)
        salts = np.arange(position, position + words.shape[1], dtype=np.uint64) * _GOLDEN
        # A sum of mixed words, each salted by its place, needs no loop over the row.
        total += _mix(words + salts).sum(axis=1, dtype=np.uint64)
        position += words.shape[1] + 1
    return _mix(total + np.uint64(position * int(_GOLDEN) & 0xFFFFFFFFFFFFFFFF))


def _words(array: NDArray[np.generic]) -> NDArray[np.uint64]:
    """The rows as 64-bit words ``(B, W)``, padded with zero bytes."""
    rows = np.ascontiguousarray(array).reshape(len(array), math.prod(array.shape[1:]))
    if np.issubdtype(rows.dtype, np.floating):
        rows = rows + rows.dtype.type(0)
        rows = np.where(np.isnan(rows), rows.dtype.type(np.nan), rows)
    raw = rows.view(np.uint8) if rows.size else np.zeros((len(array), 0), dtype=np.uint8)
    short = -raw.shape[1] % 8
    if short:
        raw = np.concatenate((raw, np.zeros((len(raw), short), dtype=np.uint8)), axis=1)
    return np.ascontiguousarray(raw).view(np.uint64) if raw.size else np.zeros((len(array), 0), dtype=np.uint64)


def uniform(
    seed: int, keys: Keys, name: str, shape: tuple[int, ...], draw: int | NDArray[np.integer] = 0
) -> NDArray[np.float64]:
    """Return U[0, 1) of 53 bits, ``(B, *shape)``.

    ``keys`` (B,) names the rows, ``name`` the input; ``draw`` below 2**32 numbers repeated draws of the same
    rows, one for all or one per row ``(B,)``.
    """
    first, second = _pairs(seed, keys, name, shape, draw, normals=False)
    return _interleave(first, second, shape)


def normal(
    seed: int, keys: Keys, name: str, shape: tuple[int, ...], draw: int | NDArray[np.integer] = 0
) -> NDArray[np.float64]:
    """Return N(0, 1), ``(B, *shape)``; arguments as for `uniform`."""
    first, second = _pairs(seed, keys, name, shape, draw, normals=True)
    return _interleave(first, second, shape)


def _pairs(
    seed: int, keys: Keys, name: str, shape: tuple[int, ...], draw: int | NDArray[np.integer], *, normals: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two numbers of each block, ``(B, blocks)`` each."""
    size = math.prod(shape)
    blocks = -(-size // 2)
    keys = np.ascontiguousarray(keys, dtype=np.uint64)
    draws = np.broadcast_to(np.asarray(draw, dtype=np.uint64), keys.shape)
    digest = hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=8).digest()
    key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little"))
    total = len(keys) * blocks
    first, second = np.empty(total), np.empty(total)
    for start in range(0, total, _CHUNK):
        index = np.arange(start, min(start + _CHUNK, total), dtype=np.uint64)
        row, block = np.divmod(index, np.uint64(max(blocks, 1)))
        rows = keys[row]
        words = philox(np.stack((block, draws[row], rows & _LOW, rows >> _SHIFT)), key)
        one, two = _fraction(words[0], words[1]), _fraction(words[2], words[3])
        if normals:
            # 1 - u lies in (0, 1], so that the logarithm is finite.
            radius = np.sqrt(-2.0 * np.log(1.0 - one))
            angle = (2.0 * np.pi) * two
            one, two = radius * np.cos(angle), radius * np.sin(angle)
        first[start : start + len(index)], second[start : start + len(index)] = one, two
    return first.reshape(len(keys), blocks), second.reshape(len(keys), blocks)


def _fraction(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.float64]:
    bits = ((high >> np.uint64(5)) << np.uint64(26)) | (low >> np.uint64(6))
    return bits.astype(np.float64) * 2.0**-53


def _interleave(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    both = np.stack((first, second), axis=-1).reshape(len(first), 2 * first.shape[1])
    return np.ascontiguousarray(both[:, : math.prod(shape)]).reshape(len(first), *shape)


def cast(noise: NDArray[np.float64], dtype: str) -> NDArray[np.floating]:
    """Narrow noise to a graph's dtype; a uniform below 1 stays below 1."""
    narrow = noise.astype(dtype)
    if narrow.dtype != np.float64:
        one = narrow.dtype.type(1)
        np.copyto(narrow, np.nextafter(one, narrow.dtype.type(0)), where=(narrow == one) & (noise < 1.0))
    return narrow
