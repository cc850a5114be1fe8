from __future__ import annotations

from collections.abc import Callable

from store.catalogue import Catalogue


def test_heartbeats(catalogue: Catalogue, advance: Callable[[float], None]) -> None:
    assert catalogue.live_workers() == []
    catalogue.heartbeat("b", ["train"], {"pid": 1})
    catalogue.heartbeat("a", ["batch", "train"], {})
    assert [(worker.name, worker.queues, worker.info) for worker in catalogue.live_workers()] == [
        ("a", ("batch", "train"), {}),
        ("b", ("train",), {"pid": 1}),
    ]
    advance(10)
    catalogue.heartbeat("b", ["train"], {"pid": 2})
    advance(10)
    (alive,) = catalogue.live_workers()
    assert (alive.name, alive.info) == ("b", {"pid": 2})
    assert len(catalogue.live_workers(within_seconds=60)) == 2


def test_workers_unseen_for_a_day_are_forgotten(catalogue: Catalogue, advance: Callable[[float], None]) -> None:
    catalogue.heartbeat("old", [], {})
    advance(90_000)
    catalogue.heartbeat("new", [], {})
    assert [worker.name for worker in catalogue.live_workers(within_seconds=1e9)] == ["new"]
