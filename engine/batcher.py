"""Micro-batching without a timer: whoever finds the session free takes all that waits.

Callers run the graph on their own threads. The first to come finds the session free and runs at once, inline.
Those who come meanwhile wait in a queue; when the run ends, the first of them is woken as the next leader and takes
all that waits, up to a budget in elements. So batches grow exactly with the load, and an idle service adds no delay.

- One request is one item; an item is never larger than the budget (`Model.run` splits it before).
- A run that fails is halved until the bad row is alone; the others are answered.
- Callers who left or whose deadline passed are dropped when a batch is formed.
- The queue is bounded in rows, and a caller whose deadline falls before its turn is refused at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidInput, LatentserveError, Overloaded, TooLarge
from engine.call import Call, current_call
from engine.counters import BatchCounters, Rejection, Release

Arrays = dict[str, NDArray[np.generic]]
Run = Callable[[Arrays], Arrays]


@dataclass(eq=False)
class _Item:
    feeds: Mapping[str, NDArray[np.generic]]
    rows: int
    call: Call
    queued_at: float
    wake: threading.Event = field(default_factory=threading.Event)
    leader: bool = False
    answer: Arrays | None = None
    error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.answer is not None or self.error is not None


class Batcher:
    """The queue before one graph at one shape of row; see the module's text. Thread-safe."""

    def __init__(
        self,
        run: Run,
        *,
        row_elements: int,
        element_budget: int,
        queue_rows: int,
        counters: BatchCounters | None = None,
    ) -> None:
        """``run`` takes feeds with a leading batch dimension and answers arrays with the same.

        ``row_elements``: scalars that one row costs, inputs and outputs together.
        """
        self._run = run
        self._row_elements = max(1, row_elements)
        self._queue_rows = queue_rows
        self.rows_per_run = element_budget // self._row_elements
        self._element_budget = element_budget
        self.counters = counters or BatchCounters()
        self._lock = threading.Lock()
        self._queue: deque[_Item] = deque()
        self._waiting_rows = 0
        self._running_rows = 0
        self._busy = False
        # Sums that fade, weighted by rows: a run of one row tells little about what a row costs in a large batch.
        self._recent_seconds = self._recent_rows = 0.0

    def submit(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run ``feeds`` (each ``(rows, …)``), together with whoever waits, and return this caller's rows.

        Raises TooLarge if the rows are over the budget, Overloaded if the queue is full or the turn would come
        after the deadline, DeadlineExceeded if time ran out or the caller left, InvalidInput if a row makes the
        graph fail.
        """
        rows = len(next(iter(feeds.values())))
        call = current_call()
        self._admit_size(rows)
        call.check()
        item = _Item(feeds, rows, call, time.monotonic())
        with self._lock:
            if self._busy:
                self._admit(item)
                self._queue.append(item)
                self._waiting_rows += rows
                self.counters.waiting_rows = self._waiting_rows
            else:
                self._busy = item.leader = True
                self._running_rows = rows
        if item.leader:
            self._lead([item], Release.IDLE)
        else:
            self._follow(item)
        if item.error is not None:
            raise item.error
        if item.answer is None:
            raise AssertionError("a batch ended without an answer for one of its items")
        return item.answer

    def _admit_size(self, rows: int) -> None:
        if rows <= self.rows_per_run:
            return
        self.counters.reject(Rejection.TOO_LARGE)
        raise TooLarge(
            f"{rows} rows of {self._row_elements} elements are over the budget of {self._element_budget} elements "
            "of one run; send fewer or smaller rows, or raise the setting element_budget"
        )

    def _admit(self, item: _Item) -> None:
        """Refuse what cannot be answered in time, rather than let it wait in vain."""
        ahead = self._waiting_rows + self._running_rows
        expected = ahead * self._recent_seconds / max(1.0, self._recent_rows)
        if self._waiting_rows + item.rows > self._queue_rows and self._queue:
            why = f"{self._waiting_rows} rows wait for this model already"
        elif item.call.deadline is not None and item.queued_at + expected > item.call.deadline:
            why = f"the turn of this request would come in about {expected:.1f} s, after its deadline"
        else:
            return
        self.counters.reject(Rejection.QUEUE)
        raise Overloaded(f"{why}; try again later", retry_after_seconds=max(0.1, expected))

    def _follow(self, item: _Item) -> None:
        while not item.wake.wait(item.call.remaining_seconds):
            with self._lock:
                if item.wake.is_set():
                    break
                if item.call.remaining_seconds:
                    continue
                if item in self._queue:  # its own deadline passed while it waited
                    self._queue.remove(item)
                    self._waiting_rows -= item.rows
                    self.counters.waiting_rows = self._waiting_rows
                    self._drop(item)
                    return
            # It is in the running batch: the answer is nearly there, and a run cannot be interrupted.
            item.wake.wait()
        if item.leader and not item.ended:
            with self._lock:
                batch, reason = self._take()
            self._lead(batch, reason)

    def _drop(self, item: _Item) -> bool:
        """End an item whose caller left or came too late; False if it is still wanted."""
        try:
            item.call.check()
        except LatentserveError as error:
            item.error = error
            self.counters.reject(Rejection.CANCELLED if item.call.cancelled.is_set() else Rejection.DEADLINE)
            item.wake.set()
            return True
        return False

    def _take(self) -> tuple[list[_Item], Release]:
        """Form a batch from the head of the queue. Called with the lock held."""
        batch: list[_Item] = []
        rows, reason = 0, Release.DRAINED
        while self._queue:
            item = self._queue[0]
            if batch and (rows + item.rows > self.rows_per_run or not _stackable(batch[0], item)):
                reason = Release.BUDGET
                break
            self._queue.popleft()
            self._waiting_rows -= item.rows
            if not self._drop(item):
                batch.append(item)
                rows += item.rows
        self.counters.waiting_rows = self._waiting_rows
        self._running_rows = rows
        return batch, reason

    def _lead(self, batch: list[_Item], reason: Release) -> None:
        """Run a batch, then wake the next leader, whatever happens."""
        try:
            if batch:
                self._run_timed(batch, reason)
        finally:
            with self._lock:
                if self._queue:
                    successor = self._queue[0]
                    successor.leader = True
                    successor.wake.set()
                else:
                    self._busy = False
                    self._running_rows = 0

    def _run_timed(self, batch: list[_Item], reason: Release) -> None:
        started = time.monotonic()
        try:
            self._answer(batch)
        finally:
            seconds = time.monotonic() - started
            rows = sum(item.rows for item in batch)
            self._recent_seconds = 0.8 * self._recent_seconds + seconds
            self._recent_rows = 0.8 * self._recent_rows + rows
            self.counters.ran(rows, [started - item.queued_at for item in batch], seconds, reason)
            for item in batch:
                if not item.ended:
                    item.error = AssertionError("the leader of this batch was interrupted")
                item.call.queue_seconds += started - item.queued_at
                item.call.run_seconds += seconds
                item.wake.set()

    def _answer(self, batch: list[_Item]) -> None:
        """Give each item its answer or its error, halving a batch that fails."""
        if len(batch) == 1:
            item = batch[0]
            try:
                item.answer = self._run_rows(item.feeds, 0, item.rows)
            except Exception as error:
                item.error = error
            return
        try:
            answers = self._run({name: np.concatenate([item.feeds[name] for item in batch]) for name in batch[0].feeds})
        except Exception:
            half = len(batch) // 2
            self._answer(batch[:half])
            self._answer(batch[half:])
            return
        start = 0
        for item in batch:
            # A copy, so that one caller's answer does not keep the whole batch alive.
            item.answer = {name: array[start : start + item.rows].copy() for name, array in answers.items()}
            start += item.rows

    def _run_rows(self, feeds: Mapping[str, NDArray[np.generic]], start: int, stop: int) -> Arrays:
        """Run one item's rows, halving where that fails, so that the error names the bad row."""
        try:
            return self._run({name: array[start:stop] for name, array in feeds.items()})
        except Exception as error:
            if isinstance(error, LatentserveError):
                raise
            if stop - start <= 1:
                raise InvalidInput(f"inputs[{start}] cannot be computed: {error}") from error
        middle = (start + stop) // 2
        parts = (self._run_rows(feeds, start, middle), self._run_rows(feeds, middle, stop))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _stackable(a: _Item, b: _Item) -> bool:
    return a.feeds.keys() == b.feeds.keys()
