"""The supervisor: it starts, restarts and ends parts, and says clearly what stands in its way."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from service import supervisor as supervising
from service.parts import Part, Stack, StackError, StackSettings, claim_port, pings, plan_stack, worker_seen
from service.supervisor import Child, Supervisor, hold

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int | None) -> bool:
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


class Running:
    """A supervisor in a thread of its own."""

    def __init__(self, home: Path, *parts: Part, prepare: tuple[tuple[str, ...], ...] = ()) -> None:
        self.said: list[str] = []
        self.ready = threading.Event()
        self.error: StackError | None = None
        stack = Stack(parts=parts, environment={"COLOUR": "green"}, url="http://127.0.0.1:9", prepare=prepare)
        self.supervisor = Supervisor(home, stack, on_ready=lambda _: self.ready.set(), say=self.said.append)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.supervisor.run()
        except StackError as error:
            self.error = error

    def close(self) -> None:
        self.supervisor.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*parts: Part, **options: tuple[tuple[str, ...], ...]) -> Running:
        started.append(Running(tmp_path, *parts, **options))
        return started[-1]

    yield start
    for running in started:
        running.close()


def test_a_part_that_is_killed_is_started_again(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(Part("sleeper", SLEEP), Part("other", SLEEP))
    assert running.ready.wait(20)
    sleeper, other = running.supervisor.children
    first, neighbour = sleeper.pid, other.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: sleeper.pid not in (None, first))
    assert other.pid == neighbour
    assert alive(sleeper.pid)
    wait_until(lambda: f'"sleeper": {sleeper.pid}' in (tmp_path / "stack.json").read_text())
    assert any("SIGKILL" in line for line in running.said)


def test_stopping_ends_every_process_and_removes_the_state(run: Callable[..., Running], tmp_path: Path) -> None:
    # The part starts a process of its own, which has to go as well.
    program = (
        "import subprocess, sys, time; own = [sys.executable, '-c', 'import time; time.sleep(600)']; "
        "print(subprocess.Popen(own).pid, flush=True); time.sleep(600)"
    )
    running = run(Part("parent", (sys.executable, "-c", program)), Part("server", SLEEP, serves=True))
    assert running.ready.wait(20)
    log = tmp_path / "logs" / "parent.log"
    wait_until(lambda: log.read_text().strip())
    pids = [child.pid for child in running.supervisor.children] + [int(log.read_text())]
    assert all(map(alive, pids))
    running.close()
    wait_until(lambda: not any(map(alive, pids)))
    assert not (tmp_path / "stack.json").exists()


def test_a_part_deaf_to_sigterm_is_killed(run: Callable[..., Running], tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
    )
    running = run(Part("deaf", (sys.executable, "-c", deaf), stop_seconds=0.3))
    wait_until(lambda: (tmp_path / "logs/deaf.log").exists() and "on" in (tmp_path / "logs/deaf.log").read_text())
    pid = running.supervisor.children[0].pid
    running.close()
    assert not alive(pid)


def test_a_part_that_cannot_start_ends_the_stack_with_the_end_of_its_log(run: Callable[..., Running]) -> None:
    running = run(
        Part("good", SLEEP),
        Part("bad", (sys.executable, "-c", "raise SystemExit('no such planet')"), ready=lambda: False),
    )
    running.thread.join(30)
    assert "bad does not start" in str(running.error)
    assert "no such planet" in str(running.error)
    assert running.supervisor.children[0].pid is None


def test_a_part_that_is_never_ready_ends_the_stack(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "START_SECONDS", 0.5)
    running = run(Part("mute", SLEEP, ready=lambda: False))
    running.thread.join(30)
    assert "mute was not ready" in str(running.error)


def test_preparation_runs_first_and_its_failure_is_shown(run: Callable[..., Running], tmp_path: Path) -> None:
    touch = f"import os, pathlib; pathlib.Path({str(tmp_path / 'made')!r}).write_text(os.environ['COLOUR'])"
    running = run(Part("sleeper", SLEEP), prepare=((sys.executable, "-c", touch),))
    assert running.ready.wait(20)
    assert (tmp_path / "made").read_text() == "green"
    failing = run(Part("sleeper", SLEEP), prepare=((sys.executable, "-c", "raise SystemExit('out of ink')"),))
    failing.thread.join(30)
    assert "out of ink" in str(failing.error)
    assert failing.supervisor.children[0].starts == 0


def test_pauses_between_restarts_grow(tmp_path: Path) -> None:
    child = Child(Part("brief", (sys.executable, "-c", "")), dict(os.environ), tmp_path)
    child.start()
    pauses = []
    while len(pauses) < 3:
        happened = child.tend()
        if happened and "ended" in happened:
            pauses.append(float(happened.split(" in ")[1].split()[0]))
        time.sleep(0.01)
    child.stop(5)
    assert pauses == [0.2, 0.4, 0.8]


def test_a_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "LOG_BYTES", 10)
    child = Child(Part("talker", (sys.executable, "-c", "print('fresh')")), dict(os.environ), tmp_path)
    child.log.write_text("much older output")
    child.start()
    child.stop(10)
    assert child.tail() == "fresh"
    assert child.log.with_suffix(".log.1").read_text() == "much older output"


def test_one_home_has_one_supervisor(tmp_path: Path) -> None:
    busy = rf"in use by a running stack \(supervisor pid {os.getpid()}\)"
    with hold(tmp_path), pytest.raises(StackError, match=busy), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"127.0.0.1:{port}.*--port"):
            plan_stack(StackSettings(home=tmp_path, port=port))
    assert claim_port("127.0.0.1", 0) > 0
    assert claim_port("127.0.0.1", port) == port


def test_the_two_servers_evict_as_they_should(tmp_path: Path) -> None:
    plan = plan_stack(StackSettings(home=tmp_path, port=0))
    servers = [part for part in plan.parts if part.serves]
    children = [Child(part, dict(os.environ), tmp_path) for part in servers]
    for child in children:
        child.start()
    try:
        wait_until(lambda: all(part.ready() for part in servers))
        for name, policy in (("QUEUE", "noeviction"), ("CACHE", "allkeys-lru")):
            url = plan.environment[f"LATENTSERVE_{name}_URL"]
            with redis.Redis.from_url(url) as client:
                settings = client.config_get("*")
            assert settings["maxmemory-policy"] == policy
            assert (settings["save"], settings["appendonly"]) == ("", "no")
            assert (int(settings["maxmemory"]) > 0) == (name == "CACHE")
            open_url = "redis://" + url.partition("@")[2]
            with redis.Redis.from_url(open_url) as client, pytest.raises(redis.AuthenticationError):
                client.ping()
            assert not pings(open_url)
    finally:
        for child in children:
            child.ask_to_stop()
            child.stop(5)
    assert not servers[0].ready()


def test_given_servers_are_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSERVE_QUEUE_URL", "redis://queue.example:6379/0")
    monkeypatch.setenv("LATENTSERVE_CACHE_URL", "redis://cache.example:6379/0")
    plan = plan_stack(StackSettings(home=tmp_path, port=0))
    assert [part.name for part in plan.parts] == ["gateway", "train", "batch"]
    assert "LATENTSERVE_QUEUE_URL" not in plan.environment


@pytest.mark.parametrize(
    ("host", "reachable"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")]
)
def test_the_stack_is_called_at_an_address_that_answers(tmp_path: Path, host: str, reachable: str) -> None:
    url = plan_stack(StackSettings(home=tmp_path, host=host, port=0)).url
    assert url.startswith(f"http://{reachable}:")


def test_a_gateway_that_is_away_shows_no_worker() -> None:
    assert not worker_seen(f"http://127.0.0.1:{claim_port('127.0.0.1', 0)}", "train")
