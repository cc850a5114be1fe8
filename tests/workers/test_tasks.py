"""What a bell leads to, without a broker."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from contracts.jobs import Job, JobKind, JobStatus
from store import Store
from workers.app import QUEUES, TASKS, make_app
from workers.reaper import Periodic, Reaper, heartbeat
from workers.settings import WorkerSettings
from workers.tasks import Attendant, register


@pytest.fixture
def attendant(store: Store, settings: WorkerSettings) -> Attendant:
    return Attendant(store, settings, "batch@test", ["batch"])


def broken(store: Store) -> Job:
    """A job whose model is gone by the time that it runs: quick to fail, and without torch."""
    return store.catalogue.insert_job(JobKind.BATCH, {"model": "absent", "verb": "encode", "dataset": "digits"})[0]


def test_a_bell_for_nobody_is_no_error(attendant: Attendant) -> None:
    assert not attendant.attend("no-such-job")


def test_a_second_bell_finds_the_job_taken(attendant: Attendant, store: Store) -> None:
    job = broken(store)
    assert attendant.attend(job.id)
    assert not attendant.attend(job.id)
    ended = store.catalogue.get_job(job.id)
    assert ended.status is JobStatus.FAILED
    assert ended.attempt == 1
    assert ended.error is not None
    assert "absent" in ended.error.detail
    assert attendant.idle


def test_a_stopping_worker_takes_nothing(attendant: Attendant, store: Store, queue_train: Any) -> None:
    attendant.stopping.set()
    job = queue_train("pca")
    assert not attendant.attend(job.id)
    assert store.catalogue.get_job(job.id).status is JobStatus.QUEUED


def test_an_error_of_the_worker_itself_releases_the_job(
    store: Store, settings: WorkerSettings, queue_train: Any
) -> None:
    job = queue_train("pca")
    settings.scratch.mkdir(exist_ok=True)
    (settings.scratch / "jobs").write_text("a file where a folder should be")
    assert Attendant(store, settings, "w", ["train"]).attend(job.id)
    released = store.catalogue.get_job(job.id)
    assert (released.status, released.attempt) == (JobStatus.QUEUED, 1)


def test_tasks_are_registered_by_name_and_take_an_id(attendant: Attendant, store: Store) -> None:
    app = make_app("redis://127.0.0.1:1/0")
    register(app, attendant)
    assert set(TASKS.values()) <= set(app.tasks)
    job = broken(store)
    app.tasks[TASKS[JobKind.BATCH]](job.id)
    assert store.catalogue.get_job(job.id).status is JobStatus.FAILED


def test_the_reaper_takes_the_oldest_job_nobody_rang_for(
    store: Store, settings: WorkerSettings, queue_train: Any
) -> None:
    patient = settings.model_copy(update={"unclaimed_seconds": 0})
    attendant = Attendant(store, patient, "w", ["batch"])
    first, second = broken(store), broken(store)
    queue_train("pca")
    reaper = Reaper(attendant, make_app("redis://127.0.0.1:1/0"))
    reaper()
    reaper.join()
    assert store.catalogue.get_job(first.id).status is JobStatus.FAILED
    assert store.catalogue.get_job(second.id).status is JobStatus.QUEUED
    reaper()
    reaper.join()
    assert store.catalogue.get_job(second.id).status is JobStatus.FAILED
    reaper()
    reaper.join()
    assert [job.kind for job in store.catalogue.list_jobs(status=JobStatus.QUEUED)] == [JobKind.TRAIN]


def test_the_reaper_leaves_young_jobs_to_the_bell_and_sweeps(
    attendant: Attendant, store: Store, settings: WorkerSettings
) -> None:
    job = broken(store)
    for name in (job.id, "unknown"):
        (settings.scratch / "jobs" / name / "attempt-1").mkdir(parents=True)
    (settings.scratch / "jobs" / "unknown" / "attempt-1").chmod(0o500)
    reaper = Reaper(attendant, make_app("redis://127.0.0.1:1/0"))
    reaper()
    reaper.join()
    assert store.catalogue.get_job(job.id).status is JobStatus.QUEUED
    assert [path.name for path in (settings.scratch / "jobs").iterdir()] == [job.id]


def test_heartbeats_name_the_queues(attendant: Attendant, store: Store) -> None:
    heartbeat(attendant, ["batch"])()
    (worker,) = store.catalogue.live_workers()
    assert (worker.name, worker.queues) == ("batch@test", ("batch",))


def test_periodic_goes_on_after_an_exception() -> None:
    twice, turns = threading.Event(), []

    def act() -> None:
        turns.append(1)
        if len(turns) == 2:
            twice.set()
        raise OSError("away")

    thread = Periodic("test", 0.01, act)
    thread.start()
    assert twice.wait(10)
    thread.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_app_speaks_json_only_and_never_prefetches() -> None:
    conf = make_app("redis://127.0.0.1:1/0").conf
    assert conf.accept_content == ["json"]
    assert not conf.task_acks_late
    assert conf.worker_disable_prefetch
    assert set(QUEUES) == set(TASKS) == set(JobKind)


def test_a_worker_imports_no_torch() -> None:
    code = "import sys, workers.main; sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_unknown_queue_is_a_usage_error() -> None:
    from workers.main import main

    with pytest.raises(SystemExit) as caught:
        main(["--queues", "train,mail"])
    assert caught.value.code == 2


def test_settings_reach_the_child(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert WorkerSettings() == settings
