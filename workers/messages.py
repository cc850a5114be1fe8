"""What a child tells its parent: JSON lines on an inherited pipe.

``{"progress": {…}}``  how far it is (`contracts.jobs.Progress`)
``{"event": {"type", "data"}}``  an entry for the job's history
``{"done": {…}}``  what it made; the parent publishes it
``{"failed": {"problem": {…}, "final": bool}}``  why it gave up, and whether another attempt would fail the same way
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

from contracts.errors import LatentserveError, Problem
from contracts.jobs import Progress


class Sender:
    """The child's end. Without a descriptor (processes beyond the first) it says nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def progress(self, progress: Progress) -> None:
        self._send({"progress": progress.model_dump(mode="json")})

    def event(self, type: str, data: dict[str, Any]) -> None:
        self._send({"event": {"type": type, "data": data}})

    def done(self, result: dict[str, Any]) -> None:
        self._send({"done": result})

    def failed(self, error: LatentserveError, *, final: bool) -> None:
        self._send({"failed": {"problem": error.problem().model_dump(mode="json"), "final": final}})

    def _send(self, message: dict[str, Any]) -> None:
        if self._descriptor is None:
            return
        data = memoryview(json.dumps(message).encode() + b"\n")
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]


class Inbox:
    """The parent's end: bytes in, the newest progress, events, and the ending out."""

    def __init__(self) -> None:
        self._rest = b""
        self.progress: Progress | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.done: dict[str, Any] | None = None
        self.problem: Problem | None = None
        self.final = False

    def feed(self, data: bytes) -> None:
        """Take in bytes as they come; a line that is cut off by the child's death is dropped."""
        for message in self._lines(data):
            if "progress" in message:
                self.progress = Progress.model_validate(message["progress"])
            elif "event" in message:
                self.events.append((message["event"]["type"], message["event"]["data"]))
            elif "done" in message:
                self.done = message["done"]
            elif "failed" in message:
                self.problem = Problem.model_validate(message["failed"]["problem"])
                self.final = bool(message["failed"]["final"])

    def take_progress(self) -> Progress | None:
        taken, self.progress = self.progress, None
        return taken

    def take_events(self) -> list[tuple[str, dict[str, Any]]]:
        taken, self.events = self.events, []
        return taken

    def _lines(self, data: bytes) -> Iterator[dict[str, Any]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
