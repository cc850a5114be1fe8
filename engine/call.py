"""The call on whose behalf graphs run: its deadline, whether its caller left, and what it spent.

A program's verbs take no deadline of their own. Whoever serves a request opens a `call`; every run
beneath it, on that thread or on one that copied its context, sees it through a context variable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from contracts.errors import DeadlineExceeded


@dataclass
class Call:
    """One request. ``deadline`` is on the `time.monotonic` clock; ``cancelled`` is set when the caller leaves."""

    deadline: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    queue_seconds: float = 0.0
    run_seconds: float = 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Seconds until the deadline, not below 0; None = no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Raise `DeadlineExceeded` if the answer would come too late or nobody waits for it."""
        if self.cancelled.is_set():
            raise DeadlineExceeded("the caller left before the answer was ready")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceeded("not answered within the deadline; send fewer rows or samples, or try again later")


_current: ContextVar[Call | None] = ContextVar("latentserve_call", default=None)


def current_call() -> Call:
    """Return the call that is being served, or one without limits."""
    return _current.get() or Call()


@contextmanager
def call(*, deadline_seconds: float | None = None, cancelled: threading.Event | None = None) -> Iterator[Call]:
    """Serve a request: runs within obey its deadline and its cancellation, and add up their seconds on it."""
    deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds
    opened = Call(deadline, cancelled or threading.Event())
    token = _current.set(opened)
    try:
        yield opened
    finally:
        _current.reset(token)
