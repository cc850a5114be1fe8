"""Jobs as the HTTP face shows them."""

from __future__ import annotations

from pydantic import BaseModel, Field

from contracts.jobs import Job, JobEvent


class JobPage(BaseModel):
    """Newest first."""

    items: list[Job]
    next: str | None = Field(default=None, description="`after` of the next page; null on the last one.")


class EventPage(BaseModel):
    items: list[JobEvent]
    next: str | None = Field(default=None, description="`after` of the next page; null where there is none yet.")
