"""Where answers are kept: in this process by bytes, and in a Redis that many gateways share."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

_log = logging.getLogger(__name__)

# What an entry costs beside its key and value: the dictionary's slot, the link, two object headers.
_OVERHEAD_BYTES = 200
_KEYS_PER_COMMAND = 512


class LocalTier:
    """Least recently used values, up to a number of bytes. Thread-safe."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes_held(self) -> int:
        return self._bytes

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._lock:
            found = [self._values.get(key) for key in keys]
            for key, value in zip(keys, found, strict=True):
                if value is not None:
                    self._values.move_to_end(key)
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        with self._lock:
            for key, value in values.items():
                size = len(key) + len(value) + _OVERHEAD_BYTES
                if size > self._capacity:
                    continue
                earlier = self._values.pop(key, None)
                if earlier is not None:
                    self._bytes -= len(key) + len(earlier) + _OVERHEAD_BYTES
                self._values[key] = value
                self._bytes += size
            while self._bytes > self._capacity:
                key, value = self._values.popitem(last=False)
                self._bytes -= len(key) + len(value) + _OVERHEAD_BYTES


class _Client(Protocol):
    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]: ...
    def mset(self, mapping: Mapping[bytes, bytes]) -> object: ...
    def ping(self) -> object: ...
    def close(self) -> None: ...


class RedisTier:
    """A Redis kept as an LRU by its own settings. Its troubles are never an error here.

    After a failure it is left alone for a while that doubles up to half a minute; then one caller tries again.
    """

    prefix = b"latentserve:answer:"
    timeout_seconds = 0.25
    first_pause_seconds = 1.0
    longest_pause_seconds = 30.0

    def __init__(self, url: str) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._errors = (redis.RedisError, OSError)
        self._client = cast(
            _Client,
            redis.Redis.from_url(
                url,
                socket_timeout=self.timeout_seconds,
                socket_connect_timeout=self.timeout_seconds,
                retry=Retry(NoBackoff(), 0),
            ),
        )
        self._lock = threading.Lock()
        self._pause_seconds = 0.0
        self._closed_until = 0.0
        self.failures = 0

    @property
    def available(self) -> bool:
        """Whether a caller may try; after a pause, true for one caller only until it has tried."""
        with self._lock:
            now = time.monotonic()
            if not self._pause_seconds:
                return True
            if now < self._closed_until:
                return False
            self._closed_until = now + self._pause_seconds
            return True

    def get(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        """Return the values, None where there is none; None altogether if Redis is in trouble."""
        try:
            found: list[bytes | None] = []
            for start in range(0, len(keys), _KEYS_PER_COMMAND):
                found += self._client.mget([self.prefix + key for key in keys[start : start + _KEYS_PER_COMMAND]])
        except self._errors as error:
            self._failed(error)
            return None
        self._worked()
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        items = [(self.prefix + key, value) for key, value in values.items()]
        try:
            for start in range(0, len(items), _KEYS_PER_COMMAND):
                self._client.mset(dict(items[start : start + _KEYS_PER_COMMAND]))
        except self._errors as error:
            self._failed(error)

    def ping(self) -> bool:
        """Whether Redis answers now."""
        try:
            self._client.ping()
        except self._errors as error:
            self._failed(error)
            return False
        self._worked()
        return True

    def close(self) -> None:
        self._client.close()

    def _worked(self) -> None:
        with self._lock:
            self._pause_seconds = 0.0

    def _failed(self, error: BaseException) -> None:
        with self._lock:
            self.failures += 1
            longer = 2 * self._pause_seconds or self.first_pause_seconds
            self._pause_seconds = min(longer, self.longest_pause_seconds)
            self._closed_until = time.monotonic() + self._pause_seconds
            pause = self._pause_seconds
        _log.warning("answer cache: Redis failed (%s); left alone for %.0f s", error, pause)
