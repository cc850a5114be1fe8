"""Leases over a real catalogue, and over one that is away."""

from __future__ import annotations

from typing import Any

from contracts.jobs import JobStatus
from store import Store
from store.catalogue import Claim, Renewal
from workers.lease import LeaseKeeper


def claimed(store: Store, queue_train: Any) -> Claim:
    claim = store.catalogue.claim_job(queue_train("pca").id, "test")
    assert claim is not None
    return claim


def test_learns_of_cancelling(store: Store, queue_train: Any) -> None:
    claim = claimed(store, queue_train)
    with LeaseKeeper(store.catalogue, claim, lease_seconds=0.3) as lease:
        assert not lease.cancel.is_set()
        store.catalogue.request_cancel(claim.job.id)
        assert lease.cancel.wait(10)
        assert not lease.lost.is_set()


def test_learns_that_the_attempt_is_over(store: Store, queue_train: Any) -> None:
    claim = claimed(store, queue_train)
    with LeaseKeeper(store.catalogue, claim, lease_seconds=0.3) as lease:
        store.catalogue.finish_job(claim, JobStatus.CANCELLED)
        assert lease.lost.wait(10)


class Away:
    """A catalogue that cannot be asked, then can again."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, 0

    def renew_lease(self, claim: Claim) -> Renewal:
        self.asked += 1
        if self.asked <= self.failures:
            raise OSError("the database is away")
        return Renewal(held=True, cancel_requested=True)


def test_a_short_absence_of_the_database_is_survived(store: Store, queue_train: Any) -> None:
    with LeaseKeeper(Away(2), claimed(store, queue_train), lease_seconds=2) as lease:
        assert lease.cancel.wait(10)
        assert not lease.lost.is_set()


def test_a_long_absence_loses_the_lease(store: Store, queue_train: Any) -> None:
    with LeaseKeeper(Away(10**6), claimed(store, queue_train), lease_seconds=0.2) as lease:
        assert lease.lost.wait(10)
