"""Each fault at a random moment of a running job: it still ends in exactly one published version, with the weights
of the undisturbed run to the last bit."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from contracts.jobs import JobStatus
from workers.app import ring

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MOMENTS = random.Random()


@pytest.fixture(autouse=True)
def _moment() -> None:
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 10**6))
    MOMENTS.seed(seed)
    print(f"FAULT_SEED={seed}")


def assert_same(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name


def test_child_killed_twice(stack: Any, undisturbed: dict[str, Tensor]) -> None:
    stack.start_worker()
    job = stack.queue_job("twice")
    stack.child_past(job, 1, MOMENTS.randrange(1, 500)).kill()
    stack.child_past(job, 2, MOMENTS.randrange(600, 1000)).kill()
    assert_same(stack.published_once(job), undisturbed)
    ended = stack.job(job)
    assert ended.attempt == 3
    assert "resumed" in [event.type for event in stack.store.catalogue.events(job.id)]
    stack.eventually(lambda: not (stack.settings.scratch / "jobs" / job.id).exists(), "the scratch is cleared")


def test_worker_killed_and_another_takes_over(stack: Any, undisturbed: dict[str, Tensor]) -> None:
    first = stack.start_worker()
    job = stack.queue_job("orphan")
    child = stack.child_past(job, 1, MOMENTS.randrange(1, 1000))
    first.send_signal(signal.SIGKILL)
    first.wait()
    child.wait(5)  # the child does not outlive its worker
    stack.start_worker()
    assert_same(stack.published_once(job), undisturbed)
    assert stack.job(job).attempt == 2


def test_worker_stopped_hands_the_job_over(stack: Any, undisturbed: dict[str, Tensor]) -> None:
    first = stack.start_worker()
    job = stack.queue_job("handover")
    stack.child_past(job, 1, MOMENTS.randrange(1, 1000))
    stack.start_worker()
    first.terminate()
    assert first.wait(20) == 0
    assert_same(stack.published_once(job), undisturbed)
    reasons = [event.data.get("reason", "") for event in stack.store.catalogue.events(job.id)]
    assert "the worker was stopped" in reasons


def test_queue_server_killed_and_restarted_empty(stack: Any, undisturbed: dict[str, Tensor]) -> None:
    stack.start_worker()
    running = stack.queue_job("running")
    waiting = stack.queue_job("waiting", steps=50)
    stack.child_past(running, 1, MOMENTS.randrange(1, 1000))
    stack.kill_queue()
    unheard = stack.queue_job("unheard", ring_bell=False, steps=50)
    stack.start_queue()
    assert_same(stack.published_once(running), undisturbed)
    assert stack.job(running).attempt == 1
    stack.published_once(waiting)
    stack.published_once(unheard)


def test_without_any_queue_server(stack: Any) -> None:
    stack.kill_queue()
    worker = stack.start_worker()
    stack.published_once(stack.queue_job("silent", ring_bell=False, steps=50))
    worker.terminate()
    assert worker.wait(20) == 0


def test_duplicate_delivery_to_two_workers(stack: Any, undisturbed: dict[str, Tensor]) -> None:
    stack.start_worker()
    stack.start_worker()
    job = stack.queue_job("double")
    for _ in range(4):
        ring(stack.app, job.kind, job.id)
    stack.child_past(job, 1, 1)
    for _ in range(4):
        ring(stack.app, job.kind, job.id)
    assert_same(stack.published_once(job), undisturbed)
    assert stack.job(job).attempt == 1


def test_a_job_that_always_dies_fails_with_its_reason(stack: Any) -> None:
    stack.start_worker()
    job = stack.queue_job("doomed", max_attempts=2)
    for attempt in (1, 2):
        stack.child_past(job, attempt, 1).kill()
    ended = stack.ended(job)
    assert ended.status is JobStatus.FAILED
    assert ended.attempt == 2
    assert "SIGKILL" in ended.error.detail
    assert stack.store.catalogue.list_models() == []


def test_cancel_while_queued_and_while_running(stack: Any) -> None:
    queued = stack.queue_job("queued")
    assert stack.store.catalogue.request_cancel(queued.id).status is JobStatus.CANCELLED
    stack.start_worker()
    running = stack.queue_job("running", steps=1_000_000)
    child = stack.child_past(running, 1, MOMENTS.randrange(1, 500))
    stack.store.catalogue.request_cancel(running.id)
    ended = stack.ended(running, seconds=5)
    assert ended.status is JobStatus.CANCELLED
    assert not child.is_running()
    assert stack.job(queued).status is JobStatus.CANCELLED
    assert stack.store.catalogue.list_models() == []
