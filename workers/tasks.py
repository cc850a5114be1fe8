"""What happens when the bell rings: claim the job by its row, and work on it if the claim is ours."""

from __future__ import annotations

import logging
import threading

from celery import Celery

from contracts.errors import NotFound
from contracts.jobs import JobKind
from store import Store
from workers.app import QUEUES, TASKS
from workers.attempt import run_attempt
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)


class Attendant:
    """Takes jobs one at a time, whoever brings them: a Celery message or the reaper."""

    def __init__(self, store: Store, settings: WorkerSettings, name: str, queues: list[str]) -> None:
        self.store, self.settings, self.name = store, settings, name
        self.kinds = [kind for kind in JobKind if QUEUES[kind] in queues]
        self.stopping = threading.Event()
        self._busy = threading.Lock()
        self.job_id: str | None = None

    @property
    def idle(self) -> bool:
        return not self._busy.locked()

    def attend(self, job_id: str) -> bool:
        """Claim a job and see it through; False where it was not to be had.

        A duplicate or late message ends here: the row says that someone has the job or that it has ended. While
        another job is under way the call waits for it.
        """
        with self._busy:
            if self.stopping.is_set():
                return False  # still queued; whoever is next finds it
            try:
                claim = self.store.catalogue.claim_job(job_id, self.name)
            except NotFound:
                log.warning("a message names the job %s, which does not exist", job_id)
                return False
            if claim is None:
                return False
            self.job_id = job_id
            try:
                log.info("attempt %d of %s job %s begins", claim.attempt, claim.job.kind, job_id)
                status = run_attempt(self.store, self.settings, claim, self.stopping)
                log.info("attempt %d of job %s: %s", claim.attempt, job_id, status or "superseded")
            except Exception as error:
                log.exception("attempt %d of job %s broke in the worker", claim.attempt, job_id)
                self.store.catalogue.release_job(claim, f"the worker broke: {type(error).__name__}: {error}")
            finally:
                self.job_id = None
            return True


def register(app: Celery, attendant: Attendant) -> None:
    """Register the tasks of every kind of job with the application."""
    for kind in JobKind:
        app.task(_task(attendant), name=TASKS[kind], ignore_result=True)


def _task(attendant: Attendant):  # type: ignore[no-untyped-def]
    def work(job_id: str) -> None:
        attendant.attend(job_id)

    return work
