"""Jobs: what is asked, how far it is, how it ended.

queued → running → succeeded | failed | cancelled; the row in the catalogue is the truth, the
message in the queue is a doorbell. Each claim of a job takes a lease and raises ``attempt``; only
the holder of the present attempt may write.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.artifact import Verb
from contracts.errors import Problem
from contracts.families import AnyConfig

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class JobKind(StrEnum):
    TRAIN = "train"
    INGEST = "ingest"
    BATCH = "batch"


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class Budget(BaseModel):
    """How long to train: exactly one of steps, epochs or seconds; none of them: sized by the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = Field(default=None, ge=1, le=100_000_000)
    epochs: float | None = Field(default=None, gt=0, le=1_000_000)
    seconds: float | None = Field(
        default=None, gt=0, le=7 * 86400, description="Turned into steps once, after a timed warm-up."
    )

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if sum(value is not None for value in (self.steps, self.epochs, self.seconds)) > 1:
            raise ValueError("give one of steps, epochs or seconds")
        return self


class TrainRequest(BaseModel):
    """The body of ``POST /train``."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME_PATTERN, description="Model that gets the new version.")
    dataset: str = Field(min_length=1, description="Name or digest of the dataset.")
    config: AnyConfig
    budget: Budget = Budget()
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    start_from: str | None = Field(
        default=None, description="Reference of a version whose weights training continues from."
    )


class IngestRequest(BaseModel):
    """A large upload that a job ingests: the file is in the store's scratch, its problems end the job."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME_PATTERN)
    files: list[tuple[str, str]] = Field(description="(original file name, key in the blob store) of each part.")
    overrides: dict[str, Any] = Field(default_factory=dict, description="Fields of the spec given by the user.")


class BatchRequest(BaseModel):
    """The body of ``POST /batches``: one verb over every row of a dataset, the answer as Parquet."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, description="Model reference.")
    verb: Verb
    dataset: str = Field(min_length=1, description="Name or digest of the dataset.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="As in the verb's own request, say seed.")


class Progress(BaseModel):
    """How far a running job is."""

    model_config = ConfigDict(extra="forbid")

    stage: str = ""
    step: int = 0
    steps: int | None = Field(default=None, description="Steps planned in all; None until the budget is timed.")
    epoch: float = 0.0
    terms: dict[str, float] = Field(default_factory=dict, description="Terms of the loss, running mean.")
    held_out: float | None = Field(default=None, description="Last held-out score, lower is better.")
    best: float | None = Field(default=None, description="Best held-out score.")
    examples_per_second: float | None = None
    eta_seconds: float | None = None


class Job(BaseModel):
    """A job as its row says."""

    id: str
    kind: JobKind
    status: JobStatus
    request: dict[str, Any]
    attempt: int = Field(description="Claims so far.")
    max_attempts: int
    cancel_requested: bool = False
    progress: Progress = Progress()
    result: dict[str, Any] | None = Field(
        default=None, description="train: {model, version, reference, digest}; ingest: {dataset}; batch: {key, rows}."
    )
    error: Problem | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class JobEvent(BaseModel):
    """One entry of a job's history; ``id`` grows by one from 1 and is the SSE event id."""

    id: int
    type: str = Field(description="queued | claimed | progress | resumed | published | succeeded | failed | cancelled")
    at: datetime
    data: dict[str, Any] = Field(default_factory=dict)
