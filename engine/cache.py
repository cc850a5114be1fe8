"""Answers that were given before: row digest × space × verb × parameters, in process and then in Redis.

Only deterministic answers may be cached, which the caller decides. Keys are 128 bits of blake2b, so that nobody
can look for a row which collides with another's. Each tier is asked only where that is expected to be cheaper than to
compute (`engine.costs`): beside a small encoder, a round trip to Redis costs more than the answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.costs import CostGate
from engine.packing import Arrays, pack, unpack
from engine.tiers import LocalTier, RedisTier


@dataclass(frozen=True)
class CacheCounts:
    """Rows found, not found, and not looked for: because it would not pay, or Redis is away."""

    hit: int = 0
    miss: int = 0
    bypass: int = 0

    def __add__(self, other: CacheCounts) -> CacheCounts:
        return CacheCounts(self.hit + other.hit, self.miss + other.miss, self.bypass + other.bypass)


class AnswerCache:
    """Two tiers before a computation. Thread-safe; trouble with Redis is a bypass, never an error."""

    def __init__(self, *, local_bytes: int, redis_url: str | None) -> None:
        """``local_bytes``: room of the in-process tier, 0 = none; ``redis_url``: None = no shared tier."""
        self._local = LocalTier(local_bytes) if local_bytes > 0 else None
        self._redis = RedisTier(redis_url) if redis_url else None
        self._local_gate, self._redis_gate = CostGate(), CostGate()
        self._totals = CacheCounts()
        self._lock = threading.Lock()

    @property
    def totals(self) -> CacheCounts:
        """Rows counted since the start."""
        return self._totals

    def ping(self) -> bool:
        """Whether the shared tier answers, or there is none."""
        return self._redis is None or self._redis.ping()

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()

    def through(
        self,
        space: str,
        verb: str,
        parameters: Mapping[str, object],
        x: NDArray[np.generic],
        compute: Callable[..., Arrays],
        *,
        extra: Sequence[NDArray[np.generic]] = (),
    ) -> tuple[Arrays, CacheCounts]:
        """Return the answers of rows ``x`` (B, …), from the cache or by ``compute(x, *extra)`` of the rest.

        ``compute`` answers arrays with one row for each row it got, which must be functions of (space, verb,
        parameters, row, row of each ``extra``) alone: ``extra`` holds row-aligned arrays such as masks or labels.
        """
        rows = len(x)
        kind = (space, verb)
        if rows == 0 or not self._worth_it(kind, x, extra):
            return self._count(self._timed(kind, compute, x, extra), CacheCounts(bypass=rows))
        started = time.perf_counter()
        keys = row_keys(space, verb, parameters, x, *extra)
        found: list[bytes | None] = [None] * rows
        if self._local is not None:
            found = self._local.get(keys)
            hits = sum(value is not None for value in found)
            self._local_gate.looked_up((*kind, rows.bit_length()), time.perf_counter() - started, rows, hits)
        missing = [index for index, value in enumerate(found) if value is None]
        asked = bool(missing) and self._ask_redis(kind, keys, found, missing)
        missing = [index for index, value in enumerate(found) if value is None]
        answers, lost = self._assemble(kind, x, compute, extra, keys, found, missing, to_redis=asked)
        missed = len(missing) + lost
        # Where there is a shared tier that was not asked, its part of the cache was passed by.
        passed = self._redis is not None and not asked
        counts = CacheCounts(rows - missed, 0 if passed else missed, missed if passed else 0)
        return self._count(answers, counts)

    def _worth_it(self, kind: tuple[str, str], x: NDArray[np.generic], extra: Sequence[NDArray[np.generic]]) -> bool:
        if any(array.dtype.hasobject for array in (x, *extra)):
            return False
        if self._local is None:
            return self._redis is not None
        return self._local_gate.open((*kind, len(x).bit_length()))

    def _ask_redis(
        self, kind: tuple[str, str], keys: list[bytes], found: list[bytes | None], missing: list[int]
    ) -> bool:
        """Fill ``found`` from the shared tier; False if it was not asked or did not answer."""
        gate = (*kind, len(missing).bit_length())
        if self._redis is None or not self._redis_gate.open(gate) or not self._redis.available:
            return False
        started = time.perf_counter()
        values = self._redis.get([keys[index] for index in missing])
        if values is None:
            return False
        hits = {index: value for index, value in zip(missing, values, strict=True) if value is not None}
        self._redis_gate.looked_up(gate, time.perf_counter() - started, len(missing), len(hits))
        for index, value in hits.items():
            found[index] = value
        if self._local is not None and hits:
            self._local.put({keys[index]: value for index, value in hits.items()})
        return True

    def _assemble(
        self,
        kind: tuple[str, str],
        x: NDArray[np.generic],
        compute: Callable[..., Arrays],
        extra: Sequence[NDArray[np.generic]],
        keys: list[bytes],
        found: list[bytes | None],
        missing: list[int],
        *,
        to_redis: bool,
    ) -> tuple[Arrays, int]:
        """Put found and computed rows together in order; also how many found ones were unusable."""
        rows = len(x)
        present = [index for index, value in enumerate(found) if value is not None]
        old: Arrays | None = None
        if present:
            try:
                old = unpack([value for value in found if value is not None])
            except ValueError:
                return self._recompute(kind, x, compute, extra, keys, len(present), to_redis=to_redis)
        if old is not None and not missing:
            return old, 0
        part = x[missing], [array[missing] for array in extra]
        new = self._timed(kind, compute, *part)
        self._store(keys, missing, new, to_redis=to_redis)
        if old is None:
            return new, 0
        if [(a.dtype, a.shape[1:]) for a in old] != [(a.dtype, a.shape[1:]) for a in new]:
            return self._recompute(kind, x, compute, extra, keys, len(present), to_redis=to_redis)
        merged = []
        for before, fresh in zip(old, new, strict=True):
            array = np.empty((rows, *fresh.shape[1:]), dtype=fresh.dtype)
            array[present], array[missing] = before, fresh
            merged.append(array)
        return tuple(merged), 0

    def _recompute(
        self,
        kind: tuple[str, str],
        x: NDArray[np.generic],
        compute: Callable[..., Arrays],
        extra: Sequence[NDArray[np.generic]],
        keys: list[bytes],
        lost: int,
        *,
        to_redis: bool,
    ) -> tuple[Arrays, int]:
        """Compute every row anew and put it in the place of entries that cannot be used."""
        new = self._timed(kind, compute, x, extra)
        self._store(keys, list(range(len(x))), new, to_redis=to_redis)
        return new, lost

    def _store(self, keys: list[bytes], indices: list[int], answers: Arrays, *, to_redis: bool) -> None:
        values = dict(zip((keys[index] for index in indices), pack(answers), strict=True))
        if self._local is not None:
            self._local.put(values)
        if to_redis and self._redis is not None:
            self._redis.put(values)

    def _timed(
        self,
        kind: tuple[str, str],
        compute: Callable[..., Arrays],
        x: NDArray[np.generic],
        extra: Sequence[NDArray[np.generic]],
    ) -> Arrays:
        started = time.perf_counter()
        answers = compute(x, *extra)
        if len(x):
            seconds = time.perf_counter() - started
            for gate in (self._local_gate, self._redis_gate):
                gate.computed((*kind, len(x).bit_length()), seconds, len(x))
        return answers

    def _count(self, answers: Arrays, counts: CacheCounts) -> tuple[Arrays, CacheCounts]:
        with self._lock:
            self._totals = self._totals + counts
        return answers, counts


def row_keys(
    space: str, verb: str, parameters: Mapping[str, object], x: NDArray[np.generic], *extra: NDArray[np.generic]
) -> list[bytes]:
    """Return 16 bytes for each row that name its answer."""
    layout = [(array.dtype.str, array.shape[1:]) for array in (x, *extra)]
    question = json.dumps([space, verb, dict(parameters), layout], sort_keys=True, default=str).encode()
    salt = hashlib.blake2b(question, digest_size=32).digest()
    flat = [
        np.ascontiguousarray(array).reshape(len(array), math.prod(array.shape[1:])).view(np.uint8)
        for array in (x, *extra)
    ]
    raw = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
    body, size = raw.tobytes(), raw.shape[1]
    return [
        hashlib.blake2b(body[start : start + size], digest_size=16, key=salt).digest()
        for start in range(0, size * len(x), size)
    ]
