"""Rings the workers: one Celery message per job, sent by a thread of its own.

The job's row is the truth and the reaper rings again, so a bell that cannot be rung is only slow,
never an error. Celery is imported in that thread when the first bell rings.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from typing import TYPE_CHECKING, Any

from contracts.jobs import Job, JobKind

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger("latentserve.doorbell")

QUEUES = {JobKind.TRAIN: "train", JobKind.INGEST: "batch", JobKind.BATCH: "batch"}
MOST_WAITING = 10_000
TIMEOUT_SECONDS = 2.0


class Doorbell:
    """Tells workers of queued jobs, if the queue server is there."""

    def __init__(self, queue_url: str) -> None:
        self._url = queue_url
        self._jobs: queue.Queue[tuple[str, JobKind] | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.rung = 0
        self.failed = 0

    def ring(self, job: Job) -> None:
        """Ask for a message to be sent; returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="doorbell", daemon=True)
                self._thread.start()
        # A full queue means that the server has been away for long: the reaper rings for those jobs.
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait((job.id, job.kind))

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Send what waits and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join(timeout_seconds)

    def _send_all(self) -> None:
        app: Celery | None = None
        while (waiting := self._jobs.get()) is not None:
            job_id, kind = waiting
            try:
                app = app or _application(self._url)
                self._send(app, job_id, kind)
                self.rung += 1
            except Exception as error:  # kombu raises what its transports raise
                self.failed += 1
                log.warning("the queue at its address does not take the bell of job %s: %s", job_id, error)
        if app is not None:
            app.close()

    def _send(self, app: Any, job_id: str, kind: JobKind) -> None:
        app.send_task(
            f"latentserve.{kind}", args=[job_id], queue=QUEUES[kind], retry=False, ignore_result=True, expires=3600
        )


def _application(url: str) -> Celery:
    from celery import Celery

    app = Celery("latentserve", broker=url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        broker_connection_timeout=TIMEOUT_SECONDS,
        broker_transport_options={
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "max_retries": 0,
        },
        task_publish_retry=False,
    )
    return app
