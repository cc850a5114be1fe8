"""The doorbell: a message that a Celery worker would take, and silence where the queue is away."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from contracts.jobs import Job, JobKind, JobStatus
from service.doorbell import Doorbell


def job(kind: JobKind) -> Job:
    return Job(
        id=f"id-{kind}",
        kind=kind,
        status=JobStatus.QUEUED,
        request={},
        attempt=0,
        max_attempts=3,
        created_at=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    ("kind", "queue"), [(JobKind.TRAIN, "train"), (JobKind.INGEST, "batch"), (JobKind.BATCH, "batch")]
)
def test_a_bell_is_a_message_in_the_queue_of_its_kind(valkey_pair: Any, kind: JobKind, queue: str) -> None:
    with redis.Redis.from_url(valkey_pair.queue_url) as server:
        server.flushdb()
        bell = Doorbell(valkey_pair.queue_url)
        bell.ring(job(kind))
        bell.close()
        assert (bell.rung, bell.failed) == (1, 0)
        [message] = server.lrange(queue, 0, -1)
        headers = json.loads(message)["headers"]
        assert headers["task"] == f"latentserve.{kind}"
        assert f"id-{kind}" in headers["argsrepr"]


def test_a_queue_that_is_away_costs_nothing_but_the_bell(until: Callable[..., None]) -> None:
    bell = Doorbell("redis://127.0.0.1:1/0")
    bell.ring(job(JobKind.TRAIN))
    until(lambda: bell.failed == 1, 30, "the failed bell is counted")
    bell.close()
    assert bell.rung == 0


def test_closing_an_unused_bell_does_nothing() -> None:
    Doorbell("redis://127.0.0.1:1/0").close()
