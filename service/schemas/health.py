"""Health of the gateway and of what it leans on."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Check(BaseModel):
    ok: bool
    detail: str = ""


class LiveWorker(BaseModel):
    name: str
    queues: list[str]
    seen_at: datetime


class Readiness(BaseModel):
    """`degraded`: requests are answered, but something is away (no cache, no doorbell, no worker)."""

    status: Literal["ready", "degraded"]
    checks: dict[str, Check] = Field(description="store, queue, cache, workers.")
    workers: list[LiveWorker] = Field(description="Workers by their last heartbeat.")
