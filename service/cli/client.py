"""The CLI's side of HTTP: one client, problems as exceptions, a job's events as a stream that survives a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, cast

import httpx

from contracts.errors import Problem

Json = dict[str, Any]
GIVE_UP_SECONDS = 60.0


class ServiceError(Exception):
    """The service answered with a problem document, or nothing answers at all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Client:
    """HTTP calls to one latentserve; every method raises ServiceError."""

    def __init__(self, url: str, *, timeout_seconds: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=httpx.Timeout(timeout_seconds, connect=10.0))

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Json:
        return self.json("GET", path, params=_present(query))

    def post(self, path: str, body: Json, **headers: str) -> Json:
        """POST a JSON body; fields that are None are left out."""
        return self.json("POST", path, json=_present(body), headers=headers)

    def post_for_bytes(self, path: str, body: Json, accept: str) -> tuple[bytes, httpx.Headers]:
        """POST a JSON body and take the answer as ``accept``, say ``image/png``."""
        response = self.send("POST", path, json=_present(body), headers={"Accept": accept})
        return response.content, response.headers

    def post_events(self, path: str, body: Json) -> Iterator[Json]:
        """POST a JSON body and yield the events of the answer as they come: ``{id, type, data}``."""
        headers = {"Accept": "text/event-stream"}
        try:
            with self._http.stream("POST", path, json=_present(body), headers=headers) as response:
                if response.is_error:
                    response.read()
                self._check(response)
                yield from read_events(response.iter_lines())
        except httpx.HTTPError as error:
            raise self._away(error) from error

    def json(self, method: str, path: str, **arguments: Any) -> Json:
        response = self.send(method, path, **arguments)
        return cast(Json, response.json()) if response.content else {}

    def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise self._away(error) from error
        self._check(response)
        return response

    def download(self, path: str) -> Iterator[bytes]:
        """Stream the body of a GET."""
        try:
            with self._http.stream("GET", path) as response:
                if response.is_error:
                    response.read()
                self._check(response)
                yield from response.iter_bytes()
        except httpx.HTTPError as error:
            raise self._away(error) from error

    def pages(self, path: str, **query: Any) -> Iterator[Json]:
        """Every item of a list endpoint, page by page."""
        after: str | None = None
        while True:
            page = self.get(path, **query, after=after)
            yield from page["items"]
            after = page.get("next")
            if after is None:
                return

    def events(self, job_id: str) -> Iterator[Json]:
        """The events of a job until it ended: ``{id, type, data}``; continues where it was after a lost connection."""
        last, failing_since = 0, None
        while True:
            try:
                for event in self._connection(job_id, last):
                    failing_since = None
                    last = event["id"]
                    yield event
                    if event["type"] in ("succeeded", "failed", "cancelled"):
                        return
            except (httpx.HTTPError, ServiceError) as error:
                known = error if isinstance(error, ServiceError) else self._away(error)
                failing_since = failing_since or time.monotonic()
                # A gateway that is coming up says 503 for a moment; only a 4xx is final.
                if known.problem.status < 500 or time.monotonic() - failing_since > GIVE_UP_SECONDS:
                    raise known from error
            # The stream ends without a last event where the gateway restarts; the row still knows.
            time.sleep(0.3)

    def _connection(self, job_id: str, last: int) -> Iterator[Json]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
        timeout = httpx.Timeout(60.0, connect=5.0)
        with self._http.stream("GET", f"/jobs/{job_id}/events", headers=headers, timeout=timeout) as response:
            if response.is_error:
                response.read()
            self._check(response)
            yield from read_events(response.iter_lines())

    def _check(self, response: httpx.Response) -> None:
        if not response.is_error:
            return
        try:
            problem = Problem.model_validate(response.json())
        except ValueError:
            problem = Problem(
                type="about:blank",
                title=response.reason_phrase,
                status=response.status_code,
                detail=f"{self.url} answered {response.status_code}: {response.text[:300]}",
            )
        raise ServiceError(problem)

    def _away(self, error: Exception) -> ServiceError:
        return ServiceError(
            Problem(
                type="urn:latentserve:problem:unreachable",
                title="No answer",
                status=503,
                detail=f"nothing usable answers at {self.url} ({error}): start it with `latentserve up`, "
                "or name another address by --url or LATENTSERVE_URL",
            )
        )


def read_events(lines: Iterator[str]) -> Iterator[Json]:
    """Parse server-sent events: each becomes ``{id, type, data}``; comments are skipped."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in fields:
                yield {
                    "id": int(fields.get("id", "0")),
                    "type": fields.get("event", "message"),
                    "data": json.loads(fields["data"]),
                }
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value


def _present(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}
