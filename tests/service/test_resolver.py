"""References: remembered for no longer than promised, so that every gateway sees an alias move within a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from service.resolver import Resolver
from service.settings import GatewaySettings


class Clock:
    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


def test_the_default_keeps_the_promise_of_a_second() -> None:
    assert GatewaySettings.model_fields["resolve_seconds"].default <= 1


def test_another_gateway_sees_an_alias_move_when_its_memory_ends(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = client.app.state.gateway.store.catalogue  # type: ignore[attr-defined]
    clock = Clock()
    monkeypatch.setattr("service.resolver.time", clock)
    mover, other = (Resolver(catalogue, seconds=1) for _ in range(2))
    asked: list[str] = []
    look_up: Callable[[str], object] = catalogue.resolve
    monkeypatch.setattr(catalogue, "resolve", lambda reference: (asked.append(reference), look_up(reference))[1])

    assert [each.resolve("reals").version for each in (mover, other)] == [1, 1]
    catalogue.set_alias("reals", "latest", 2)
    try:
        mover.forget()
        clock.now += 0.9
        assert [each.resolve("reals").version for each in (mover, other)] == [2, 1]
        assert len(asked) == 3  # the other one still remembered
        clock.now += 0.2
        assert other.resolve("reals").version == 2
    finally:
        catalogue.set_alias("reals", "latest", 1)
