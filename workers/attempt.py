"""One attempt at a job, seen from the worker: a child does the work, the worker holds the lease and the pen.

The worker imports no torch. It writes progress at most twice a second, and only it ends the attempt: publish or
finish on success (compare-and-set on the attempt number), fail at once on an error that another attempt would
repeat, release the job on anything else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts.errors import Problem
from contracts.jobs import JobKind, JobStatus, TrainRequest
from store import Store
from store.artifacts import load_card, load_manifest
from store.catalogue import Claim
from workers.lease import LeaseKeeper
from workers.messages import Inbox
from workers.process import ChildProcess
from workers.scratch import clear_job, job_folder
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5


def run_attempt(store: Store, settings: WorkerSettings, claim: Claim, stopping: threading.Event) -> JobStatus | None:
    """Work on a claimed job until it ends, fails, is cancelled or is taken away.

    ``stopping``: set when the worker is to end; the child is ended then and the job released (which counts as an
    attempt). Returns the job's status afterwards, None where the attempt was superseded.
    """
    folder = job_folder(store, claim.job.id)
    arguments = ["--job", claim.job.id, "--attempt", str(claim.attempt), "--worker", claim.worker]
    inbox = Inbox()
    child = ChildProcess("workers.child", arguments, settings.environment(), folder / f"attempt-{claim.attempt}.log")
    try:
        with LeaseKeeper(store.catalogue, claim, settings.lease_seconds) as lease:
            interrupted = _follow(store, settings, claim, child, inbox, lease, stopping)
            if lease.lost.is_set():
                log.warning("attempt %d of job %s was superseded", claim.attempt, claim.job.id)
                return None
            status = _conclude(store, claim, child, inbox, interrupted)
    finally:
        child.close()
    if status is not None and status.ended:
        clear_job(store, claim.job.id)
    return status


def _follow(
    store: Store,
    settings: WorkerSettings,
    claim: Claim,
    child: ChildProcess,
    inbox: Inbox,
    lease: LeaseKeeper,
    stopping: threading.Event,
) -> str | None:
    """Pass reports on until the child ends; returns why it was interrupted, None where it was not."""
    written = 0.0
    interruptions: list[tuple[str, Callable[[], bool]]] = [
        ("superseded", lease.lost.is_set),
        ("cancelled", lease.cancel.is_set),
        ("the worker was stopped", stopping.is_set),
    ]
    while True:
        ended = child.code is not None  # asked before reading, so that nothing is left unread
        inbox.feed(child.receive(0 if ended else 0.1))
        if ended:
            _pass_on(store, claim, inbox)
            return None
        if inbox.done is None:
            for reason, happened in interruptions:
                if happened():
                    child.stop(settings.stop_seconds)
                    return reason
        if time.monotonic() - written >= PROGRESS_SECONDS:
            written = time.monotonic()
            _pass_on(store, claim, inbox)


def _pass_on(store: Store, claim: Claim, inbox: Inbox) -> None:
    progress, events = inbox.take_progress(), inbox.take_events()
    try:
        for type, data in events:
            store.catalogue.record_event(claim.job.id, type, data)
        if progress is not None:
            store.catalogue.record_progress(claim, progress)
    except Exception:  # a busy database must not end the job: the next report says more anyway
        log.warning("the progress of job %s could not be written", claim.job.id, exc_info=True)


def _conclude(
    store: Store, claim: Claim, child: ChildProcess, inbox: Inbox, interrupted: str | None
) -> JobStatus | None:
    """Write the ending that the attempt deserves."""
    if interrupted == "cancelled":
        return JobStatus.CANCELLED if store.catalogue.finish_job(claim, JobStatus.CANCELLED) else None
    if interrupted is not None:
        return store.catalogue.release_job(claim, interrupted)
    if child.code == 0 and inbox.done is not None:
        return _succeed(store, claim, inbox.done)
    if inbox.problem is not None and inbox.final:
        return _fail(store, claim, inbox.problem)
    reason = inbox.problem.detail if inbox.problem is not None else child.epitaph()
    log.warning("attempt %d of job %s died: %s", claim.attempt, claim.job.id, reason)
    return store.catalogue.release_job(claim, reason)


def _succeed(store: Store, claim: Claim, done: dict[str, Any]) -> JobStatus | None:
    if claim.job.kind is not JobKind.TRAIN:
        held = store.catalogue.finish_job(claim, JobStatus.SUCCEEDED, result=done)
        return JobStatus.SUCCEEDED if held else None
    folder = Path(done["folder"])
    version = store.catalogue.publish_version(
        claim,
        name=TrainRequest.model_validate(claim.job.request).name,
        digest=done["digest"],
        manifest=load_manifest(folder),
        card=load_card(folder),
        size=done["size"],
    )
    return None if version is None else JobStatus.SUCCEEDED


def _fail(store: Store, claim: Claim, problem: Problem) -> JobStatus | None:
    return JobStatus.FAILED if store.catalogue.finish_job(claim, JobStatus.FAILED, error=problem) else None
