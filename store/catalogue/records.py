"""What the catalogue answers: frozen records of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
class DirectionRows:
    """How many rows of each side a direction was made from, and how many of them were held out to measure it."""

    positive: int
    negative: int
    held_out_positive: int = 0
    held_out_negative: int = 0


@dataclass(frozen=True)
class Direction:
    """A named direction of an embedding space: ``vector`` (L,) float64 of length 1.

    ``digest`` is of what it was made from. ``bias``: ``vector·z + bias`` > 0 where z is taken for positive. ``scale``
    and ``distance``, in the space's units: the standard deviation of the projections, and between the sides' means.
    ``accuracy`` of a probe on the rows held out. ``model`` is the ``name@version`` that encoded the rows.
    """

    space: str
    name: str
    digest: str
    method: str
    vector: NDArray[np.float64] = field(compare=False)
    bias: float
    scale: float
    distance: float
    accuracy: float | None
    rows: DirectionRows
    model: str
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
