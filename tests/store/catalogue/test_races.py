"""Two or more at once, as threads and as processes: one wins, the others change nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from contracts.errors import NameTaken
from contracts.jobs import JobKind, JobStatus
from store import StoreSettings
from store.catalogue import Catalogue, ModelVersion
from tests.store.catalogue.conftest import CARD, manifest
from tests.store.catalogue.test_datasets import dataset

Answer = TypeVar("Answer")
THREADS = 6


def at_once(call: Callable[[int], Answer]) -> list[Answer]:
    barrier = Barrier(THREADS)

    def run(index: int) -> Answer:
        barrier.wait()
        return call(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def test_one_thread_claims(catalogue: Catalogue) -> None:
    for _ in range(5):
        job, _ = catalogue.insert_job(JobKind.TRAIN, {})
        claims = at_once(lambda index, job=job: catalogue.claim_job(job.id, f"w{index}"))
        (won,) = [claim for claim in claims if claim is not None]
        assert catalogue.get_job(job.id).attempt == won.attempt == 1


def test_one_idempotency_key_is_one_job(catalogue: Catalogue) -> None:
    answers = at_once(lambda _: catalogue.insert_job(JobKind.TRAIN, {"a": 1}, idempotency_key="k"))
    assert len({job.id for job, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1


def test_an_attempt_that_publishes_twice_at_once_publishes_once(catalogue: Catalogue) -> None:
    job, _ = catalogue.insert_job(JobKind.TRAIN, {})
    claim = catalogue.claim_job(job.id, "w")
    assert claim is not None

    def publish(_: int) -> ModelVersion | None:
        return catalogue.publish_version(claim, name="m", digest="1" * 64, manifest=manifest(), card=CARD, size=1)

    assert sum(version is not None for version in at_once(publish)) == 1
    assert len(catalogue.list_versions("m")) == 1
    assert catalogue.get_job(job.id).status is JobStatus.SUCCEEDED


def test_publications_of_one_name_get_different_numbers(catalogue: Catalogue) -> None:
    versions = at_once(
        lambda index: (
            catalogue.import_version(name="m", digest=f"{index}" * 64, manifest=manifest(), card=CARD, size=1).version
        )
    )
    assert sorted(versions) == list(range(1, THREADS + 1))
    assert catalogue.resolve("m").version == THREADS


def test_finish_and_release_and_cancel_at_once_leave_one_end(catalogue: Catalogue) -> None:
    job, _ = catalogue.insert_job(JobKind.TRAIN, {}, max_attempts=1)
    claim = catalogue.claim_job(job.id, "w")
    assert claim is not None
    ends = [
        lambda: catalogue.finish_job(claim, JobStatus.SUCCEEDED, result={}),
        lambda: catalogue.finish_job(claim, JobStatus.CANCELLED),
        lambda: catalogue.release_job(claim, "died"),
    ]
    at_once(lambda index: ends[index % 3]())
    types = [event.type for event in catalogue.events(job.id)]
    assert types[:2] == ["queued", "claimed"]
    assert types[2:] == [str(catalogue.get_job(job.id).status)]


def test_one_name_is_one_dataset(catalogue: Catalogue) -> None:
    def insert(index: int) -> bool:
        try:
            return catalogue.insert_dataset(dataset("d", f"{index % 2}"))[1]
        except NameTaken:
            return False

    assert sum(at_once(insert)) == 1
    assert len(catalogue.list_datasets()) == 1


def test_events_of_many_writers_are_numbered_without_gaps(catalogue: Catalogue) -> None:
    job, _ = catalogue.insert_job(JobKind.TRAIN, {})
    at_once(lambda index: [catalogue.record_event(job.id, "resumed", {"from": index}) for _ in range(5)])
    assert [event.id for event in catalogue.events(job.id)] == list(range(1, 2 + 5 * THREADS))


CLAIMER = """
    import sys, json
    from store import StoreSettings
    from store.catalogue import Catalogue
    settings = StoreSettings.model_validate_json(sys.argv[1])
    catalogue = Catalogue.open(settings, migrate=True)
    print("ready", flush=True)
    for job_id in sys.stdin.readline().split():
        claim = catalogue.claim_job(job_id, sys.argv[2])
        if claim is not None:
            catalogue.record_event(job_id, "won", {"worker": sys.argv[2], "attempt": claim.attempt})
    catalogue.close()
"""


def test_one_process_claims(catalogue: Catalogue, catalogue_settings: StoreSettings) -> None:
    ids = [catalogue.insert_job(JobKind.TRAIN, {"n": n})[0].id for n in range(20)]
    command = [sys.executable, "-c", textwrap.dedent(CLAIMER), catalogue_settings.model_dump_json()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen([*command, f"w{n}"], **pipes) for n in range(3)]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write(" ".join(ids) + "\n")
            child.stdin.flush()
        assert [child.wait(60) for child in children] == [0, 0, 0]
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()
    for job_id in ids:
        won = [event.data for event in catalogue.events(job_id) if event.type == "won"]
        assert len(won) == 1, json.dumps(won)
        assert catalogue.get_job(job_id).attempt == 1


def test_processes_that_start_at_once_migrate_once(catalogue_settings: StoreSettings) -> None:
    code = "import sys; from store import *; Store.open(StoreSettings.model_validate_json(sys.argv[1]), migrate=True)"
    command = [sys.executable, "-c", code, catalogue_settings.model_dump_json()]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    catalogue = Catalogue.open(catalogue_settings)
    catalogue.ping()
    catalogue.close()
