"""Around every request: its id, the last resort for defects, and the counting of it."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request

from service.gateway import of
from service.problems import unexpected

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLIENT_LEFT = 499
SCRAPES = ("health", "readiness", "metrics")


class Frame:
    """ASGI middleware; it stands inside Starlette's own and outside the exception handlers."""

    def __init__(self, app: ASGIApp, service: FastAPI) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        identity = given if ID.fullmatch(given) else uuid.uuid4().hex
        request.state.request_id = identity
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = identity
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            status = CLIENT_LEFT
        except Exception as error:
            if status:  # the answer had begun: only breaking the connection tells that it is not whole
                raise
            await unexpected(error, identity)(scope, receive, answer)
        finally:
            self._count(scope, request.state, status, time.perf_counter() - started)

    def _count(self, scope: Scope, state: Any, status: int, seconds: float) -> None:
        op = getattr(scope.get("route"), "operation_id", None) or "unknown"
        if op in SCRAPES:
            return
        version = getattr(state, "version", None)
        of(self._service).metrics.request(
            op,
            status,
            seconds,
            model=version.name if version is not None else "",
            version=str(version.version) if version is not None else "",
            queue_seconds=getattr(state, "queue_seconds", None),
            run_seconds=getattr(state, "run_seconds", None),
        )
