"""What batchers count, for the metrics page."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Release(StrEnum):
    """Why a batch was run when it was."""

    IDLE = "idle"
    """The session was free and nothing waited."""
    DRAINED = "drained"
    """All that waited was taken."""
    BUDGET = "budget"
    """The next in the queue would have gone over the budget."""


class Rejection(StrEnum):
    """Why a request was not run."""

    QUEUE = "queue"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    TOO_LARGE = "too_large"


@dataclass
class BatchCounters:
    """Totals of one graph. ``batch_rows`` counts runs by the smallest power of two that holds their rows."""

    runs: int = 0
    requests: int = 0
    rows: int = 0
    queue_seconds: float = 0.0
    run_seconds: float = 0.0
    waiting_rows: int = 0
    batch_rows: Counter[int] = field(default_factory=Counter)
    released: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def ran(self, rows: int, queue_seconds: Sequence[float], run_seconds: float, reason: Release) -> None:
        """Count a batch of ``rows`` whose requests waited ``queue_seconds`` each."""
        with self._lock:
            self.runs += 1
            self.requests += len(queue_seconds)
            self.rows += rows
            self.queue_seconds += sum(queue_seconds)
            self.run_seconds += run_seconds
            self.batch_rows[1 << max(0, rows - 1).bit_length()] += 1
            self.released[reason.value] += 1

    def reject(self, reason: Rejection) -> None:
        with self._lock:
            self.rejected[reason.value] += 1
