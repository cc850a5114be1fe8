"""What a worker reads from ``LATENTSERVE_*`` besides the store's settings."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from store.settings import StoreSettings


class WorkerSettings(StoreSettings):
    """One worker process, and the children it starts."""

    heartbeat_seconds: float = Field(default=5, gt=0, description="How often a worker says that it lives.")
    reap_seconds: float = Field(default=2, gt=0, description="How often lost jobs and lost doorbells are looked for.")
    unclaimed_seconds: float = Field(
        default=5, ge=0, description="An idle worker takes a job that waited so long without a doorbell."
    )
    checkpoint_seconds: float = Field(default=10, ge=0, description="Least time between two checkpoints.")
    stop_seconds: float = Field(default=2, gt=0, description="From asking a child to end until it is killed.")
    accelerator: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="What training runs on.")
    train_threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of a training process; None: the cgroup's quota."
    )
    train_processes: int = Field(default=1, ge=1, le=64, description="Processes that share each batch of a job.")

    def environment(self) -> dict[str, str]:
        """Return the variables that give a child these settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {
            f"LATENTSERVE_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }
