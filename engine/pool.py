"""The models in memory: loaded on first use, shared by every thread, the least recently used leaving first.

A version is loaded once however many callers ask for it at the same time; the others wait for the first. A model in
use is pinned and cannot leave. The budget counts estimated resident bytes of whole models, loaded or loading.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from contracts.errors import NotReady, Overloaded, TooLarge
from engine.call import current_call
from engine.counters import BatchCounters
from engine.kinds import Program, program
from engine.model import Model
from engine.options import SessionOptions


class ArtifactSource(Protocol):
    """Where verified artifacts come from."""

    def fetch(self, digest: str) -> Path:
        """Return the local folder of an artifact, its files verified. Raises ArtifactCorrupt or NotFound."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is in memory now."""

    digest: str
    family: str
    resident_bytes: int
    in_use: int
    idle_seconds: float


@dataclass(eq=False)
class _Entry:
    digest: str
    ready: threading.Event = field(default_factory=threading.Event)
    program: Program | None = None
    error: BaseException | None = None
    resident_bytes: int = 0
    pins: int = 0
    used_at: float = 0.0


class ModelPool:
    """Programs by artifact digest, within a memory budget. Thread-safe."""

    pinned_wait_seconds = 10.0
    """How long a load waits for room while every other model is in use, where the call has no deadline."""

    def __init__(
        self, artifacts: ArtifactSource, *, memory_budget_bytes: int, options: SessionOptions | None = None
    ) -> None:
        self._artifacts = artifacts
        self._budget = memory_budget_bytes
        self._options = options or SessionOptions()
        self._entries: dict[str, _Entry] = {}
        self._counters: dict[str, dict[str, BatchCounters]] = {}
        self._room = threading.Condition()
        self._closed = False

    @contextmanager
    def use(self, digest: str) -> Iterator[Program]:
        """Yield the program of an artifact, loading it if need be, and keep it in memory meanwhile.

        Raises ArtifactCorrupt or NotFound as the store does, each time anew; TooLarge if the model alone is over
        the budget; Overloaded if the others are all in use and none left in time.
        """
        entry = self._acquire(digest)
        try:
            if entry.program is None:
                raise AssertionError("a loaded entry has a program")
            yield entry.program
        finally:
            with self._room:
                entry.pins -= 1
                entry.used_at = time.monotonic()
                self._room.notify_all()

    def loaded(self) -> list[LoadedModel]:
        """Return the models in memory, most recently used first."""
        now = time.monotonic()
        with self._room:
            entries = [(entry, entry.program) for entry in self._entries.values()]
        models = [
            LoadedModel(
                digest=entry.digest,
                family=loaded.manifest.family,
                resident_bytes=entry.resident_bytes,
                in_use=entry.pins,
                idle_seconds=0.0 if entry.pins else max(0.0, now - entry.used_at),
            )
            for entry, loaded in entries
            if loaded is not None
        ]
        return sorted(models, key=lambda model: model.idle_seconds)

    def resident_bytes(self) -> int:
        """Return the bytes that the models in memory count for."""
        with self._room:
            return self._used()

    def counters(self) -> dict[str, dict[str, BatchCounters]]:
        """Return what the batchers counted, by digest and graph, of models that left again too."""
        with self._room:
            return {digest: dict(graphs) for digest, graphs in self._counters.items()}

    def evict(self, digest: str) -> None:
        """Let a model go; callers who use it finish first. Unknown digests are ignored."""
        with self._room:
            entry = self._entries.get(digest)
            if entry is not None and entry.ready.is_set():
                self._remove(entry)

    def close(self) -> None:
        """Let every model go; later uses raise NotReady."""
        with self._room:
            self._closed = True
            for entry in list(self._entries.values()):
                if entry.ready.is_set():
                    self._remove(entry)

    def _acquire(self, digest: str) -> _Entry:
        """Return a loaded entry with a pin on it."""
        with self._room:
            if self._closed:
                raise NotReady("the server is going down")
            entry = self._entries.get(digest)
            first = entry is None
            if entry is None:
                entry = self._entries[digest] = _Entry(digest)
            entry.pins += 1
        if first:
            self._load(entry)
        elif not entry.ready.wait(current_call().remaining_seconds):
            self._release(entry)
            raise NotReady("the model is being loaded; try again in a moment", retry_after_seconds=1.0)
        if entry.error is not None:
            self._release(entry)
            raise entry.error
        return entry

    def _release(self, entry: _Entry) -> None:
        with self._room:
            entry.pins -= 1

    def _load(self, entry: _Entry) -> None:
        """Fetch, make room and load; the outcome, good or bad, is for all who wait."""
        try:
            folder = self._artifacts.fetch(entry.digest)
            with self._room:
                counters = self._counters.setdefault(entry.digest, {})
            model = Model.load(folder, self._options, counters=counters)
            self._make_room(entry, model.resident_bytes)
            entry.program = program(model)
        except BaseException as error:
            entry.error = error
            with self._room:
                self._entries.pop(entry.digest, None)
                entry.resident_bytes = 0
                self._room.notify_all()
        finally:
            entry.used_at = time.monotonic()
            entry.ready.set()

    def _make_room(self, entry: _Entry, need: int) -> None:
        if need > self._budget:
            raise TooLarge(
                f"the model takes about {_mebibytes(need)} MiB, over the whole memory budget of "
                f"{_mebibytes(self._budget)} MiB; raise memory_budget_bytes"
            )
        remaining = current_call().remaining_seconds
        until = time.monotonic() + (self.pinned_wait_seconds if remaining is None else remaining)
        with self._room:
            while self._used() + need > self._budget:
                idle = [other for other in self._entries.values() if other.ready.is_set() and not other.pins]
                if idle:
                    self._remove(min(idle, key=lambda other: other.used_at))
                elif not self._room.wait(until - time.monotonic()) and time.monotonic() >= until:
                    raise Overloaded(
                        f"no room for the model: every one of the {_mebibytes(self._budget)} MiB of the memory "
                        "budget is in use; try again later, or raise memory_budget_bytes",
                        retry_after_seconds=1.0,
                    )
            entry.resident_bytes = need

    def _used(self) -> int:
        return sum(entry.resident_bytes for entry in self._entries.values())

    def _remove(self, entry: _Entry) -> None:
        """Forget an entry. Its sessions are freed when the last caller lets go of the program."""
        self._entries.pop(entry.digest, None)
        self._room.notify_all()


def _mebibytes(count: int) -> int:
    return -(-count // (1 << 20))
