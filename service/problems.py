"""Every error leaves as an RFC 9457 problem document that carries the id of the request."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from contracts.errors import (
    FieldProblem,
    Internal,
    InvalidInput,
    LatentserveError,
    Problem,
)
from contracts.families import CONFIG_CLASSES

MEDIA_TYPE = "application/problem+json"
MOST_PLACES = 50

log = logging.getLogger("latentserve.gateway")


def request_id(request: Request) -> str | None:
    """The id that the middleware gave this request."""
    found = getattr(request.state, "request_id", None)
    return found if isinstance(found, str) else None


def problem_response(problem: Problem, *, headers: dict[str, str] | None = None) -> Response:
    """Write ``problem`` as a response of its own status."""
    body = problem.model_dump_json(exclude_none=True).encode()
    return Response(body, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def error_response(error: LatentserveError, request_id: str | None) -> Response:
    """The response of an error of our tree, with ``Retry-After`` where it says when to come back."""
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
    return problem_response(error.problem(request_id), headers=headers)


def places(error: ValidationError | RequestValidationError) -> list[FieldProblem]:
    """The wrong places that pydantic found, as paths like ``config.width`` or ``inputs[3].age``."""
    found = []
    for each in error.errors()[:MOST_PLACES]:
        steps = _steps(each["loc"])
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
        message = str(each["msg"]).removeprefix("Value error, ")
        found.append(FieldProblem(location=path or "body", message=message))
    return found


def _steps(location: tuple[str | int, ...]) -> list[str | int]:
    """A place as the client wrote it: without the part of the request, and without the name of a union's member."""
    steps = [step for step in location if step not in ("body", "query", "path", "header")]
    if steps[:1] == ["config"] and len(steps) > 1 and steps[1] in CONFIG_CLASSES:
        del steps[1]
    return steps


def invalid(error: ValidationError | RequestValidationError) -> InvalidInput:
    """Translate pydantic's complaint into an error of our tree."""
    errors = places(error)
    detail = "; ".join(f"{each.location}: {each.message}" for each in errors[:5])
    return InvalidInput(f"the request does not fit its schema: {detail}", errors=errors)


def install(app: FastAPI) -> None:
    """Make every way in which a request can fail answer a problem document."""

    @app.exception_handler(LatentserveError)
    async def ours(request: Request, error: LatentserveError) -> Response:
        if error.status >= 500:
            log.error("%s: %s (request %s)", error.code, error.detail, request_id(request))
        return error_response(error, request_id(request))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return error_response(invalid(error), request_id(request))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        problem = _http_problem(error, request)
        return problem_response(problem, headers=dict(error.headers or {}))


def unexpected(error: Exception, request_id: str | None) -> Response:
    """The answer to a defect of ours: logged in full with the request's id, shown without any of it."""
    log.exception("unexpected error (request %s)", request_id, exc_info=error)
    return error_response(
        Internal("the server failed at this request; its log holds the reason under the request id"), request_id
    )


def _http_problem(error: HTTPException, request: Request) -> Problem:
    identity = request_id(request)
    path = request.url.path
    if error.status_code == 404:
        code, title, detail = "not-found", "Not found", f"there is nothing at {path}; /openapi.json lists every path"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        code, title = "method-not-allowed", "Method not allowed"
        detail = f"{path} does not answer {request.method}; use {allowed}"
    else:
        code, title, detail = f"http-{error.status_code}", str(error.detail), str(error.detail)
    return Problem(
        type=f"urn:latentserve:problem:{code}",
        title=title,
        status=error.status_code,
        detail=detail,
        request_id=identity,
    )
