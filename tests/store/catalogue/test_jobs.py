from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from contracts.errors import Conflict, InvalidInput, NotFound, Problem
from contracts.jobs import JobKind, JobStatus, Progress
from store.catalogue import Catalogue, Claim
from store.catalogue.jobs import PROGRESS_EVENTS_KEPT

Advance = Callable[[float], None]
REQUEST = {"name": "m", "dataset": "d", "config": {"family": "pca"}}
LEASE = 30
PROBLEM = Problem(type="urn:x", title="t", status=500, detail="d")


def start(catalogue: Catalogue, *, max_attempts: int | None = None) -> Claim:
    job, _ = catalogue.insert_job(JobKind.TRAIN, REQUEST, max_attempts=max_attempts)
    claim = catalogue.claim_job(job.id, "worker-1")
    assert claim is not None
    return claim


def types(catalogue: Catalogue, job_id: str) -> list[str]:
    return [event.type for event in catalogue.events(job_id)]


def test_a_job_goes_from_queued_to_succeeded(catalogue: Catalogue) -> None:
    job, created = catalogue.insert_job(JobKind.TRAIN, REQUEST)
    assert (created, job.status, job.attempt, job.request, job.max_attempts) == (True, JobStatus.QUEUED, 0, REQUEST, 3)
    claim = catalogue.claim_job(job.id, "w")
    assert claim is not None
    assert (claim.attempt, claim.worker, claim.job.status) == (1, "w", JobStatus.RUNNING)
    assert catalogue.finish_job(claim, JobStatus.SUCCEEDED, result={"rows": 3})
    ended = catalogue.get_job(job.id)
    assert (ended.status, ended.result, ended.error) == (JobStatus.SUCCEEDED, {"rows": 3}, None)
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert ended.created_at <= ended.started_at <= ended.finished_at
    events = catalogue.events(job.id)
    assert [event.id for event in events] == [1, 2, 3]
    assert [event.type for event in events] == ["queued", "claimed", "succeeded"]
    assert [event.id for event in catalogue.events(job.id, after=1, limit=1)] == [2]


def test_a_failed_job_keeps_its_problem(catalogue: Catalogue) -> None:
    claim = start(catalogue)
    assert catalogue.finish_job(claim, JobStatus.FAILED, error=PROBLEM)
    assert catalogue.get_job(claim.job.id).error == PROBLEM
    assert catalogue.events(claim.job.id)[-1].data["error"]["detail"] == "d"


def test_finishing_needs_an_end(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidInput, match="not queued"):
        catalogue.finish_job(start(catalogue), JobStatus.QUEUED)


def test_unknown_jobs_are_not_found(catalogue: Catalogue) -> None:
    for call in (
        lambda: catalogue.get_job("x"),
        lambda: catalogue.claim_job("x", "w"),
        lambda: catalogue.request_cancel("x"),
        lambda: catalogue.events("x"),
        lambda: catalogue.record_event("x", "resumed", {}),
        lambda: catalogue.list_jobs(after="x"),
    ):
        with pytest.raises(NotFound, match="no job 'x'"):
            call()


def test_a_request_that_is_no_json_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidInput, match="JSON"):
        catalogue.insert_job(JobKind.TRAIN, {"a": object()})
    assert catalogue.list_jobs() == []


def test_idempotency_key(catalogue: Catalogue) -> None:
    first, created = catalogue.insert_job(JobKind.TRAIN, {"a": 1, "b": 2}, idempotency_key="k")
    again, created_again = catalogue.insert_job(JobKind.TRAIN, {"b": 2, "a": 1}, idempotency_key="k")
    assert (created, created_again, again.id) == (True, False, first.id)
    with pytest.raises(Conflict, match=first.id):
        catalogue.insert_job(JobKind.TRAIN, {"a": 2}, idempotency_key="k")
    with pytest.raises(Conflict):
        catalogue.insert_job(JobKind.BATCH, {"a": 1, "b": 2}, idempotency_key="k")
    assert len(catalogue.list_jobs()) == 1
    catalogue.insert_job(JobKind.TRAIN, {"a": 1})
    catalogue.insert_job(JobKind.TRAIN, {"a": 1})
    assert len(catalogue.list_jobs()) == 3


def test_jobs_are_listed_newest_first_by_pages(catalogue: Catalogue) -> None:
    ids = [catalogue.insert_job(kind, {})[0].id for kind in (JobKind.TRAIN, JobKind.BATCH, JobKind.TRAIN)]
    assert [job.id for job in catalogue.list_jobs()] == ids[::-1]
    assert [job.id for job in catalogue.list_jobs(limit=2)] == [ids[2], ids[1]]
    assert [job.id for job in catalogue.list_jobs(after=ids[1])] == [ids[0]]
    assert [job.id for job in catalogue.list_jobs(kind=JobKind.BATCH)] == [ids[1]]
    catalogue.claim_job(ids[0], "w")
    assert [job.id for job in catalogue.list_jobs(status=JobStatus.RUNNING)] == [ids[0]]


def test_a_claimed_job_is_not_claimed_again_before_its_lease_ends(catalogue: Catalogue, advance: Advance) -> None:
    claim = start(catalogue)
    assert catalogue.claim_job(claim.job.id, "other") is None
    advance(LEASE - 1)
    assert catalogue.renew_lease(claim).held
    advance(LEASE - 1)
    assert catalogue.claim_job(claim.job.id, "other") is None
    advance(2)
    second = catalogue.claim_job(claim.job.id, "other")
    assert second is not None
    assert second.attempt == 2


def test_a_superseded_attempt_changes_nothing(catalogue: Catalogue, advance: Advance) -> None:
    first = start(catalogue)
    assert catalogue.record_progress(first, Progress(step=5))
    advance(LEASE + 1)
    second = catalogue.claim_job(first.job.id, "other")
    assert second is not None
    assert not catalogue.renew_lease(first).held
    assert not catalogue.record_progress(first, Progress(step=99))
    assert not catalogue.finish_job(first, JobStatus.SUCCEEDED)
    assert catalogue.release_job(first, "died") is JobStatus.RUNNING
    with pytest.raises(Conflict, match="superseded"):
        catalogue.plan_steps(first, 100)
    job = catalogue.get_job(first.job.id)
    assert (job.status, job.attempt, job.progress.step) == (JobStatus.RUNNING, 2, 5)
    assert catalogue.renew_lease(second).held


def test_nothing_is_written_after_the_end(catalogue: Catalogue) -> None:
    claim = start(catalogue)
    assert catalogue.finish_job(claim, JobStatus.CANCELLED)
    assert not catalogue.finish_job(claim, JobStatus.SUCCEEDED)
    assert not catalogue.record_progress(claim, Progress(step=1))
    assert not catalogue.renew_lease(claim).held
    assert catalogue.claim_job(claim.job.id, "w") is None
    assert catalogue.release_job(claim, "late") is JobStatus.CANCELLED


def test_attempts_are_capped_and_the_reasons_told(catalogue: Catalogue, advance: Advance) -> None:
    job, _ = catalogue.insert_job(JobKind.TRAIN, REQUEST, max_attempts=3)
    first = catalogue.claim_job(job.id, "a")
    assert first is not None
    assert catalogue.release_job(first, "exit code 137") is JobStatus.QUEUED
    assert catalogue.claim_job(job.id, "b") is not None
    advance(LEASE + 1)
    third = catalogue.claim_job(job.id, "c")  # the second's lease ran out
    assert third is not None
    assert catalogue.release_job(third, "exit code 1") is JobStatus.FAILED
    failed = catalogue.get_job(job.id)
    assert failed.error is not None
    for told in ("3 of 3", "attempt 1: exit code 137", "attempt 2: its lease ran out", "attempt 3: exit code 1"):
        assert told in failed.error.detail
    assert catalogue.claim_job(job.id, "d") is None


def test_the_last_attempt_is_not_claimed_after_its_lease_but_reaped(catalogue: Catalogue, advance: Advance) -> None:
    claim = start(catalogue, max_attempts=1)
    advance(LEASE + 1)
    assert catalogue.claim_job(claim.job.id, "other") is None
    assert catalogue.reap() == []
    assert catalogue.get_job(claim.job.id).status is JobStatus.FAILED


def test_reap_takes_back_expired_leases_and_rings(catalogue: Catalogue, advance: Advance) -> None:
    claim = start(catalogue)
    assert catalogue.reap() == []
    advance(LEASE + 1)
    assert [job.id for job in catalogue.reap()] == [claim.job.id]
    job = catalogue.get_job(claim.job.id)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 1)
    assert types(catalogue, job.id) == ["queued", "claimed", "queued"]


def test_reap_rings_for_jobs_that_wait_with_growing_pauses(catalogue: Catalogue, advance: Advance) -> None:
    job, _ = catalogue.insert_job(JobKind.TRAIN, REQUEST)
    assert catalogue.reap() == []
    rung = []
    for second in range(1, 61):
        advance(1)
        if catalogue.reap():
            rung.append(second)
    assert rung[0] == 2
    pauses = [later - earlier for earlier, later in itertools.pairwise(rung)]
    assert pauses == sorted(pauses)
    assert pauses[-1] <= 16
    assert len(rung) >= 5
    catalogue.claim_job(job.id, "w")
    advance(20)
    assert catalogue.reap() == []


def test_a_queued_job_is_cancelled_at_once(catalogue: Catalogue) -> None:
    job, _ = catalogue.insert_job(JobKind.TRAIN, REQUEST)
    cancelled = catalogue.request_cancel(job.id)
    assert cancelled.status is JobStatus.CANCELLED
    assert cancelled.finished_at is not None
    assert catalogue.claim_job(job.id, "w") is None
    with pytest.raises(Conflict, match="cancelled"):
        catalogue.request_cancel(job.id)


def test_a_running_job_is_flagged_and_its_worker_learns_it(catalogue: Catalogue) -> None:
    claim = start(catalogue)
    assert not catalogue.renew_lease(claim).cancel_requested
    assert catalogue.request_cancel(claim.job.id).status is JobStatus.RUNNING
    assert catalogue.request_cancel(claim.job.id).cancel_requested
    renewal = catalogue.renew_lease(claim)
    assert (renewal.held, renewal.cancel_requested) == (True, True)
    assert catalogue.finish_job(claim, JobStatus.CANCELLED)
    assert types(catalogue, claim.job.id)[-1] == "cancelled"


def test_a_job_to_be_cancelled_is_not_tried_again(catalogue: Catalogue, advance: Advance) -> None:
    released, expired = start(catalogue), start(catalogue)
    for claim in (released, expired):
        catalogue.request_cancel(claim.job.id)
    assert catalogue.release_job(released, "killed") is JobStatus.CANCELLED
    advance(LEASE + 1)
    assert catalogue.claim_job(expired.job.id, "w") is None
    assert catalogue.reap() == []
    assert catalogue.get_job(expired.job.id).status is JobStatus.CANCELLED


def test_steps_are_planned_once_over_all_attempts(catalogue: Catalogue) -> None:
    first = start(catalogue)
    assert catalogue.plan_steps(first, 120) == 120
    assert catalogue.plan_steps(first, 200) == 120
    catalogue.release_job(first, "died")
    second = catalogue.claim_job(first.job.id, "w")
    assert second is not None
    assert catalogue.plan_steps(second, 300) == 120


def test_progress_is_kept_in_the_row_and_as_events(catalogue: Catalogue) -> None:
    claim = start(catalogue)
    progress = Progress(stage="train", step=3, steps=10, terms={"rate": 1.5}, held_out=2.5, eta_seconds=7)
    assert catalogue.record_progress(claim, progress)
    assert catalogue.get_job(claim.job.id).progress == progress
    assert Progress.model_validate(catalogue.events(claim.job.id)[-1].data) == progress
    assert catalogue.record_progress(claim, Progress(step=4), event=False)
    assert len(catalogue.events(claim.job.id)) == 3
    assert catalogue.get_job(claim.job.id).progress.step == 4


def test_figures_that_are_not_finite_are_left_out(catalogue: Catalogue) -> None:
    claim = start(catalogue)
    progress = Progress(terms={"good": 1.0, "bad": float("nan")}, held_out=float("inf"))
    assert catalogue.record_progress(claim, progress)
    read = catalogue.get_job(claim.job.id).progress
    assert (read.terms, read.held_out) == ({"good": 1.0}, None)


def test_old_progress_events_go_and_others_stay(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PROGRESS_EVENTS_KEPT == 1000
    monkeypatch.setattr("store.catalogue.jobs.PROGRESS_EVENTS_KEPT", 10)
    claim = start(catalogue)
    for step in range(30):
        catalogue.record_progress(claim, Progress(step=step))
    events = catalogue.events(claim.job.id)
    assert [event.type for event in events[:2]] == ["queued", "claimed"]
    assert [event.data["step"] for event in events[2:]] == list(range(20, 30))
    assert [event.id for event in events] == [1, 2, *range(23, 33)]


def test_own_events(catalogue: Catalogue) -> None:
    claim = start(catalogue)
    catalogue.record_event(claim.job.id, "resumed", {"step": 7})
    event = catalogue.events(claim.job.id)[-1]
    assert (event.type, event.data) == ("resumed", {"step": 7})
