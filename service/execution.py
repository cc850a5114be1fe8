"""Runs programs off the event loop in a bounded number of threads, or on it where that is cheaper.

A thread hop costs some tens of microseconds, as much as a small encoder. Both are measured by
moving averages, the cost per kind of work (model, verb, size), and work that was cheaper than a hop
so far runs inline. Work over the deadline is answered by 504 while its thread runs out; what would
have to wait behind too many others is refused at once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

from contracts.errors import DeadlineExceeded, Overloaded
from engine.call import call

T = TypeVar("T")

KINDS_REMEMBERED = 4096
WEIGHT = 0.1
FIRST_HOP_SECONDS = 100e-6
# A run inline holds up every other request, so an average this long never does, however slow hops are.
LONGEST_INLINE_SECONDS = 1e-3
# Runs before an average is believed: the first ones load the model.
RUNS_BEFORE_INLINE = 3


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What work answered, how long it waited for its turn (thread and batch) and how long its graphs ran."""

    value: T
    queue_seconds: float
    run_seconds: float
    inline: bool


class Execution:
    """The threads of a gateway."""

    def __init__(self, *, threads: int, max_waiting: int, deadline_seconds: float) -> None:
        self._limiter: anyio.CapacityLimiter | None = None
        self._threads = threads
        self._capacity = threads + max_waiting
        self.deadline_seconds = deadline_seconds
        self._lock = threading.Lock()
        self._admitted = 0
        self._hop_seconds = FIRST_HOP_SECONDS
        self._costs: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Requests admitted and not in a thread yet."""
        return max(0, self._admitted - self._threads)

    def inlines(self, kind: Hashable | None) -> bool:
        """Whether work of this kind would run on the event loop now."""
        if kind is None or self._admitted:  # a busy session would hold up the loop
            return False
        seconds, runs = self._costs.get(kind, (0.0, 0))
        return runs >= RUNS_BEFORE_INLINE and seconds < min(self._hop_seconds, LONGEST_INLINE_SECONDS)

    async def run(self, work: Callable[[], T], *, kind: Hashable | None = None) -> Outcome[T]:
        """Run ``work``; ``kind`` names work of equal cost, None never runs inline.

        Raises Overloaded where too much waits, DeadlineExceeded, and whatever ``work`` raises.
        """
        if self.inlines(kind):
            return self._timed(work, kind, queued_at=time.perf_counter(), inline=True, left=threading.Event())
        with self._lock:
            if self._admitted >= self._capacity:
                raise Overloaded(
                    f"{self._admitted} requests are being answered or wait already; try again shortly",
                    retry_after_seconds=1.0,
                )
            self._admitted += 1
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._threads)
        left, started = threading.Event(), threading.Event()
        queued_at = time.perf_counter()

        def job() -> Outcome[T]:
            started.set()
            try:
                return self._timed(work, kind, queued_at=queued_at, inline=False, left=left)
            finally:
                self._leave()

        try:
            with anyio.fail_after(self.deadline_seconds):
                outcome = await anyio.to_thread.run_sync(job, limiter=self._limiter, abandon_on_cancel=True)
        except TimeoutError:
            raise DeadlineExceeded(
                f"not answered within {self.deadline_seconds:g} s; send fewer rows or samples, or use /batches"
            ) from None
        finally:
            left.set()
            if not started.is_set():
                self._leave()
        self._learn_hop(time.perf_counter() - queued_at, outcome)
        return outcome

    def _leave(self) -> None:
        with self._lock:
            self._admitted -= 1

    def _timed(
        self, work: Callable[[], T], kind: Hashable | None, *, queued_at: float, inline: bool, left: threading.Event
    ) -> Outcome[T]:
        begun = time.perf_counter()
        waited = begun - queued_at
        with call(deadline_seconds=max(0.0, self.deadline_seconds - waited), cancelled=left) as served:
            value = work()
        seconds = time.perf_counter() - begun
        if kind is not None:
            self._learn(kind, seconds)
        return Outcome(value, waited + served.queue_seconds, served.run_seconds or seconds, inline)

    def _learn(self, kind: Hashable, seconds: float) -> None:
        with self._lock:
            average, runs = self._costs.pop(kind, (seconds, 0))
            # The first runs load and warm the model, so the average starts anew after them.
            average = seconds if runs < RUNS_BEFORE_INLINE else average + WEIGHT * (seconds - average)
            self._costs[kind] = (average, runs + 1)
            if len(self._costs) > KINDS_REMEMBERED:
                self._costs.popitem(last=False)

    def _learn_hop(self, elapsed: float, outcome: Outcome[T]) -> None:
        hop = elapsed - outcome.run_seconds
        # Only hops that met a free thread tell what a hop costs.
        if 0 < hop < 10 * FIRST_HOP_SECONDS:
            self._hop_seconds += WEIGHT * (hop - self._hop_seconds)
