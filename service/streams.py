"""Answers that come in pieces: server-sent events from a thread that goes on only while somebody listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import orjson
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from contracts.errors import Internal, LatentserveError
from service.execution import Execution, Outcome

log = logging.getLogger("latentserve.streams")

STREAM = "text/event-stream"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event(name: str, data: Mapping[str, object]) -> bytes:
    """One server-sent event with JSON as its data."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))


async def stream(
    execution: Execution, produce: Callable[[], Iterator[bytes]], ended: Callable[[Outcome[None]], None]
) -> EventResponse:
    """Answer what ``produce`` yields, in a thread of ``execution`` and under its deadline, as it comes.

    What goes wrong before the first event is raised; later it is an event `error` with the problem. ``ended`` is told
    how long it took.
    """
    events = _Events(execution, produce, ended)
    try:
        await events.begin()
    except BaseException:
        events.cancel()
        raise
    return EventResponse(events)


class EventResponse(StreamingResponse):
    """A stream whose work is cancelled when it ends in whatever way, the client leaving included."""

    def __init__(self, events: _Events) -> None:
        super().__init__(events.written(), media_type=STREAM, headers=_HEADERS)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._events.cancel()


class _Events:
    """Events on their way from the thread to the event loop: bytes, then an exception or None, which ends them."""

    def __init__(
        self, execution: Execution, produce: Callable[[], Iterator[bytes]], ended: Callable[[Outcome[None]], None]
    ) -> None:
        self._execution, self._produce, self._ended = execution, produce, ended
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._first: bytes | None = None
        self._task = self._loop.create_task(self._run())

    async def begin(self) -> None:
        """Wait for the first event; raises what came in its place."""
        first = await self._queue.get()
        if isinstance(first, Exception):
            raise first
        self._first = first

    async def written(self) -> AsyncIterator[bytes]:
        """All events, each as it comes."""
        item: bytes | Exception | None = self._first
        while isinstance(item, bytes):
            yield item
            item = await self._queue.get()
        if item is not None:
            yield event("error", _problem(item))

    def cancel(self) -> None:
        """Stop the thread before its next step."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            self._ended(await self._execution.run(self._job))
        except Exception as error:
            self._queue.put_nowait(error)
        else:
            self._queue.put_nowait(None)

    def _job(self) -> None:
        for item in self._produce():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


def _problem(error: Exception) -> dict[str, object]:
    if not isinstance(error, LatentserveError):
        log.error("a stream broke off", exc_info=error)
        error = Internal("the stream broke off; try again")
    return error.problem().model_dump(exclude_none=True)
