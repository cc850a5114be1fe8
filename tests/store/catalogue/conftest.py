"""Small manifests, and a clock that tests can move."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from contracts.artifact import Card, Kind, Manifest
from contracts.data import Column, ColumnType, DataSpec, Measure
from store.catalogue import Catalogue
from store.catalogue.database import Database


def manifest(seed: int = 0, parents: dict[str, str] | None = None) -> Manifest:
    return Manifest(
        family="pca",
        kind=Kind.LATENT,
        config={"family": "pca"},
        data=DataSpec(modality="table", columns=(Column(name="a", type=ColumnType.REAL),)),
        graphs={},
        verbs={},
        measure=Measure.DENSITY,
        parents=parents or {},
        seed=seed,
        steps=1,
        dataset="0" * 64,
        space="s",
        files={},
    )


CARD = Card(metrics={"log_prob_nats": -1.5}, parity={}, timings={}, rows={"train": 9})


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the catalogue's clock on by some seconds."""
    ahead = 0.0
    real = Database.now

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(Database, "now", lambda self, connection: real(self, connection) + ahead)
    return move


def expire_claims(catalogue: Catalogue, advance: Callable[[float], None]) -> None:
    advance(31)
