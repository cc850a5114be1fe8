"""Small JSON responses: models, pages, accepted jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import orjson
from fastapi import Response
from pydantic import BaseModel

from contracts.jobs import Job

Item = TypeVar("Item", bound=BaseModel)


def write(model: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``model`` as JSON; non-finite numbers are null."""
    return Response(
        orjson.dumps(model.model_dump(mode="json")),
        status_code=status,
        media_type="application/json",
        headers=dict(headers or {}),
    )


def page(items: Sequence[Item], limit: int, cursor: Callable[[Item], str]) -> Response:
    """A page of at most ``limit`` items; one more was asked for, to know whether there is a next page."""
    shown = items[:limit]
    document = {
        "items": [item.model_dump(mode="json") for item in shown],
        "next": cursor(shown[-1]) if len(items) > limit else None,
    }
    return Response(orjson.dumps(document), media_type="application/json")


def accepted(job: Job) -> Response:
    """202 with the job and where to watch it."""
    return write(job, 202, {"Location": f"/jobs/{job.id}"})
