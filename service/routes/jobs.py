"""/jobs: list, show, watch and cancel."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import anyio.to_thread
import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from contracts.errors import BadRequest
from contracts.jobs import Job, JobEvent, JobKind, JobStatus
from service.gateway import Gateway, of
from service.responses import page, write
from service.routes.datasets import After, Limit
from service.schemas.jobs import EventPage, JobPage

router = APIRouter(tags=["jobs"])

EVENTS_AT_ONCE = 500
STREAM = "text/event-stream"


@router.get("/jobs", operation_id="listJobs", summary="List jobs", response_model=JobPage)
def list_jobs(
    request: Request,
    status: JobStatus | None = None,
    kind: JobKind | None = None,
    limit: Limit = 50,
    after: After = None,
) -> Response:
    """List jobs, newest first."""
    jobs = of(request.app).store.catalogue.list_jobs(status=status, kind=kind, limit=limit + 1, after=after)
    return page(jobs, limit, lambda job: job.id)


@router.get("/jobs/{job_id}", operation_id="getJob", summary="Show a job", response_model=Job)
def get_job(request: Request, job_id: str) -> Response:
    """Show how far a job is, or how it ended."""
    return write(of(request.app).store.catalogue.get_job(job_id))


@router.post("/jobs/{job_id}/cancel", operation_id="cancelJob", summary="Cancel a job", response_model=Job)
def cancel_job(request: Request, job_id: str) -> Response:
    """Cancel a queued job at once, ask a running one to end; 409 where it has ended."""
    return write(of(request.app).store.catalogue.request_cancel(job_id))


@router.get(
    "/jobs/{job_id}/events",
    operation_id="watchJob",
    summary="Watch a job",
    responses={
        200: {
            "description": "Server-sent events until the job ends: `id` grows by one, `event` is the type, `data` the "
            "event's data as JSON. With `Accept: application/json`, a page of events.",
            "content": {
                STREAM: {"schema": {"type": "string"}},
                "application/json": {"schema": {"$ref": "#/components/schemas/EventPage"}},
            },
        },
        # Names the model, so that it is part of the document.
        "2XX": {"model": EventPage, "description": "A page of events."},
    },
)
async def watch_job(
    request: Request,
    job_id: str,
    after: Annotated[int, Query(ge=0, description="Events up to this id are left out.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most events of a page; JSON only.")] = 100,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=20)] = None,
) -> Response:
    """Stream a job's events, from the start or from where an earlier stream broke off (`Last-Event-ID`)."""
    gateway = of(request.app)
    if last_event_id:
        if not (last_event_id.isascii() and last_event_id.isdigit()):
            raise BadRequest(f"Last-Event-ID {last_event_id!r} is no event's number")
        after = max(after, min(int(last_event_id), 2**31 - 1))
    if "application/json" in request.headers.get("accept", ""):
        events = await _events(gateway, job_id, after, limit + 1)
        return page(events, limit, lambda event: str(event.id))
    job = await anyio.to_thread.run_sync(gateway.store.catalogue.get_job, job_id)  # 404 before the stream begins
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(gateway, job.id, after), media_type=STREAM, headers=headers)


async def _stream(gateway: Gateway, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Events as they come, comments where nothing does, the end when the job has ended."""
    settings, catalogue = gateway.settings, gateway.store.catalogue
    spoke = time.monotonic()
    yield b"retry: 1000\n\n"
    while not gateway.closing.is_set():
        # The row is read first: what ended the job wrote its last event in the same transaction.
        job = await anyio.to_thread.run_sync(catalogue.get_job, job_id)
        events = await _events(gateway, job_id, after, EVENTS_AT_ONCE)
        for event in events:
            yield _encode(event)
            after, spoke = event.id, time.monotonic()
        if len(events) == EVENTS_AT_ONCE:
            continue
        if job.status.ended:
            return
        if time.monotonic() - spoke >= settings.event_heartbeat_seconds:
            yield b": alive\n\n"
            spoke = time.monotonic()
        await anyio.sleep(settings.event_poll_seconds)


async def _events(gateway: Gateway, job_id: str, after: int, limit: int) -> list[JobEvent]:
    return await anyio.to_thread.run_sync(lambda: gateway.store.catalogue.events(job_id, after=after, limit=limit))


def _encode(event: JobEvent) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.type.encode(), orjson.dumps(event.data))
