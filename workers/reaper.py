"""Threads that keep a worker honest: heartbeats, and the search for lost jobs and lost doorbells.

The row is the truth and Redis only makes it faster: a worker whose broker connection went deaf, or whose queue came
back empty, still finds the queued jobs of its kinds in the catalogue and takes them while it is idle.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from celery import Celery

from contracts.jobs import Job, JobStatus
from workers.app import ring
from workers.scratch import sweep
from workers.tasks import Attendant

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
BROKER_PAUSE_SECONDS = 10.0


class Periodic(threading.Thread):
    """Does something every ``seconds`` until it is stopped; an exception is logged and the next turn comes."""

    def __init__(self, name: str, seconds: float, act: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._seconds, self._act = seconds, act
        self._done = threading.Event()

    def run(self) -> None:
        while True:
            try:
                self._act()
            except Exception:  # the store may be away for a while
                log.warning("%s failed this time", self.name, exc_info=True)
            if self._done.wait(self._seconds):
                return

    def stop(self) -> None:
        self._done.set()


def heartbeat(attendant: Attendant, queues: list[str]) -> Callable[[], None]:
    """Return the act that writes this worker's row."""

    def beat() -> None:
        attendant.store.catalogue.heartbeat(attendant.name, queues, {"pid": os.getpid(), "job": attendant.job_id})

    return beat


class Reaper:
    """The act that takes back lost jobs, rings for waiting ones, and gives the oldest to this worker if it idles."""

    def __init__(self, attendant: Attendant, app: Celery) -> None:
        self._attendant, self._app = attendant, app
        self._catalogue = attendant.store.catalogue
        self._ring_again = self._sweep_again = 0.0
        self._direct: threading.Thread | None = None

    def __call__(self) -> None:
        for job in self._catalogue.reap():
            self._ring(job)
        if self._attendant.idle and not self._attendant.stopping.is_set():
            waiting = self._oldest_unclaimed()
            if waiting is not None:
                self._take(waiting)
        if time.monotonic() >= self._sweep_again:
            self._sweep_again = time.monotonic() + SWEEP_SECONDS
            sweep(self._attendant.store)

    def join(self) -> None:
        """Wait for a job that was taken without a doorbell."""
        if self._direct is not None:
            self._direct.join()

    def _ring(self, job: Job) -> None:
        if time.monotonic() < self._ring_again:
            return
        try:
            ring(self._app, job.kind, job.id)
        except Exception as error:  # kombu raises a different error for each way of being away
            self._ring_again = time.monotonic() + BROKER_PAUSE_SECONDS
            log.warning("the queue server does not answer (%s); jobs are found through the catalogue", error)

    def _oldest_unclaimed(self) -> Job | None:
        found: list[Job] = []
        for kind in self._attendant.kinds:
            found += self._catalogue.list_jobs(status=JobStatus.QUEUED, kind=kind, limit=1000)
        now = datetime.now(UTC)
        patience = self._attendant.settings.unclaimed_seconds
        waiting = [job for job in found if (now - job.created_at).total_seconds() >= patience]
        return min(waiting, key=lambda job: job.created_at, default=None)

    def _take(self, job: Job) -> None:
        if self._direct is not None and self._direct.is_alive():
            return
        self._direct = threading.Thread(target=self._attendant.attend, args=(job.id,), name="direct", daemon=True)
        self._direct.start()
