"""What the catalogue answers: frozen records of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from contracts.artifact import Card, Manifest
from contracts.data import DataSpec, Part
from contracts.jobs import Job

LATEST = "latest"


@dataclass(frozen=True)
class Claim:
    """The right to work on a job: only the holder of the present attempt may write."""

    job: Job
    worker: str
    attempt: int


@dataclass(frozen=True)
class Renewal:
    """``held``: the attempt is still ours; ``cancel_requested``: end it and finish as cancelled."""

    held: bool
    cancel_requested: bool


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version of a model; ``size`` in bytes, ``reference`` is ``name@version``."""

    name: str
    version: int
    digest: str
    manifest: Manifest
    card: Card
    size: int
    created_at: datetime
    aliases: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class ModelSummary:
    """A model's version numbers, ascending, and its aliases (alias → version)."""

    name: str
    versions: tuple[int, ...]
    aliases: dict[str, int]

    @property
    def latest(self) -> int | None:
        return self.aliases.get(LATEST)


@dataclass(frozen=True)
class Dataset:
    """A dataset's row: ``size`` is in bytes of its canonical arrays."""

    name: str
    digest: str
    spec: DataSpec
    rows: int
    parts: dict[Part, int]
    size: int
    created_at: datetime


@dataclass(frozen=True)
class Worker:
    """A worker by its last heartbeat."""

    name: str
    queues: tuple[str, ...]
    seen_at: datetime
    info: dict[str, Any] = field(default_factory=dict)


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
