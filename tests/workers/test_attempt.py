"""Attempts with real children over a real store."""

from __future__ import annotations

import threading
from typing import Any

from contracts.jobs import JobStatus
from store import Store
from workers.attempt import run_attempt
from workers.settings import WorkerSettings


def attempt(store: Store, settings: WorkerSettings, job_id: str, stopping: threading.Event) -> JobStatus | None:
    claim = store.catalogue.claim_job(job_id, "test")
    assert claim is not None
    return run_attempt(store, settings, claim, stopping)


def test_a_training_job_ends_published(
    store: Store, settings: WorkerSettings, queue_train: Any, stopping: threading.Event
) -> None:
    job = queue_train("vae", budget={"steps": 30}, config={"width": 16, "latents": 4})
    assert attempt(store, settings, job.id, stopping) is JobStatus.SUCCEEDED, store.catalogue.get_job(job.id).error
    version = store.catalogue.resolve("m@1")
    print(version.card.model_dump_json(indent=1))
    assert version.manifest.steps == 30
