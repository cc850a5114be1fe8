"""Start the embedded stack and keep it up: `python -m service.supervisor`, or `latentserve up`.

One supervisor holds one home (a lock on ``home/supervisor.lock``). Each part runs in a session of
its own, so that Ctrl-C reaches the supervisor alone, writes to ``home/logs/<part>.log``, ends when
the supervisor ends however that happens (parent-death signal), and is started again when it
dies, at once at first and then more and more slowly. ``home/stack.json`` says where the stack
answers, by which processes, and whether everything was ready.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from service.parts import Part, Stack, StackError, StackSettings, plan_stack

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 30.0
START_SECONDS = 120.0
STARTS_BEFORE_READY = 3
LOG_BYTES = 20 << 20


class Child:
    """A part's process, its log and the time of its next start."""

    def __init__(self, part: Part, environment: dict[str, str], logs: Path) -> None:
        self.part, self.log = part, logs / f"{part.name}.log"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._next = 0.0
        self.starts = 0
        self.ready = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; its output goes to the log, which is put aside once it has grown large."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.part.command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()),
            )
        self._started = time.monotonic()
        self.starts += 1

    def tend(self) -> str | None:
        """Start the process again if it died and its pause is over; return what happened, if anything did."""
        now = time.monotonic()
        if self._process is None:
            if now < self._next:
                return None
            self.start()
            return f"{self.part.name} started again (pid {self.pid})"
        code = self._process.poll()
        if code is None:
            return None
        self._end_group()
        if now - self._started > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        self._next, self._process = now + self._pause, None
        happened = f"{self.part.name} ended with {_how(code)}; starting it again in {self._pause:.1f} s"
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return happened

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, seconds: float) -> None:
        """Wait for the process to end, and end it and what it left behind after ``seconds``."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self._end_group()
        self._process.wait()
        self._process = None

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 8192))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _end_group(self) -> None:
        # The session leader may be gone while its own children (a training child) linger in its group.
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class Supervisor:
    """Runs a stack in the calling thread until it is told to stop.

    The thread must live as long as the stack: parent-death signals follow the thread that started a process.
    """

    def __init__(
        self,
        home: Path,
        stack: Stack,
        *,
        on_ready: Callable[[Stack], None] = lambda stack: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.home, self.stack = home, stack
        self._on_ready, self._say = on_ready, say
        # A plain flag, not an Event: a handler that runs while the same thread holds the Event's lock would deadlock.
        self._stopping = False
        logs = home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._environment = {**os.environ, **stack.environment}
        self.children = [Child(part, self._environment, logs) for part in stack.parts]

    def stop(self) -> None:
        """Ask `run` to return; may be called from a signal handler or another thread."""
        self._stopping = True

    def run(self) -> None:
        """Start everything, keep it up, and on `stop` end it: gateway and workers first, then the servers.

        Raises StackError where a part keeps dying before it was ever ready; its log's tail is in the message.
        """
        deadline, all_ready = time.monotonic() + START_SECONDS, False
        for command in self.stack.prepare:
            self._prepare(command)
        try:
            for child in self.children:
                child.start()
            self._write_state(False)
            while not self._stopping:
                time.sleep(0.1)
                for child in self.children:
                    happened = child.tend()
                    if happened:
                        self._say(happened)
                        self._write_state(all_ready)
                    if not child.ready:
                        self._await(child, deadline)
                if not all_ready and all(child.ready for child in self.children):
                    all_ready = True
                    self._write_state(True)
                    self._on_ready(self.stack)
        finally:
            self._end()

    def _prepare(self, command: tuple[str, ...]) -> None:
        done = subprocess.run(
            command, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise StackError(f"`{' '.join(command[1:])}` failed:\n{done.stderr.strip()[-2000:]}")

    def _await(self, child: Child, deadline: float) -> None:
        if child.pid is not None and child.part.ready():
            child.ready = True
        elif child.starts >= STARTS_BEFORE_READY and child.pid is None:
            raise StackError(f"{child.part.name} does not start; the end of {child.log}:\n{child.tail()}")
        elif time.monotonic() > deadline:
            raise StackError(
                f"{child.part.name} was not ready within {START_SECONDS:.0f} s; the end of {child.log}:\n{child.tail()}"
            )

    def _end(self) -> None:
        # In reverse: what uses the queue ends before the queue does.
        users = [child for child in self.children if not child.part.serves]
        for group in (users, [child for child in self.children if child.part.serves]):
            for child in group:
                child.ask_to_stop()
            for child in group:
                child.stop(child.part.stop_seconds)
        (self.home / "stack.json").unlink(missing_ok=True)

    def _write_state(self, ready: bool) -> None:
        state = {
            "pid": os.getpid(),
            "url": self.stack.url,
            "ready": ready,
            "parts": {child.part.name: child.pid for child in self.children},
        }
        fresh = self.home / "stack.json.new"
        fresh.write_text(json.dumps(state))
        fresh.replace(self.home / "stack.json")


@contextlib.contextmanager
def hold(home: Path) -> Iterator[IO[str]]:
    """Hold the home for this process; StackError where another supervisor has it."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "supervisor.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise StackError(
                f"{home} is in use by a running stack (supervisor {lock.read().strip() or 'unknown'}): "
                "stop that one, or choose another folder by --home"
            ) from error
        lock.truncate(0)
        lock.write(f"pid {os.getpid()}")
        lock.flush()
        yield lock


def supervise(
    settings: StackSettings,
    *,
    on_ready: Callable[[Stack], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Run the embedded stack until SIGTERM or SIGINT. Raises StackError. Must be called in the main thread."""
    home = Path(settings.home).expanduser().resolve()
    with hold(home):
        # What a supervisor left that was killed outright; it would pass for our own state until we have one.
        (home / "stack.json").unlink(missing_ok=True)
        supervisor = Supervisor(home, plan_stack(settings), on_ready=on_ready or _announce, say=say or _log)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop())
        supervisor.run()


def main() -> int:
    """Entry of `python -m service.supervisor`; everything is read from LATENTSERVE_* settings."""
    try:
        supervise(StackSettings())
    except StackError as error:
        _log(f"error: {error}")
        return 1
    return 0


def _announce(stack: Stack) -> None:
    _log(f"ready at {stack.url}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _end_with(parent: int) -> Callable[[], None] | None:
    """What a new process does first: ask the kernel for SIGTERM when its parent dies (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, set_death_signal = ctypes.CDLL(None).prctl, 1

    def request() -> None:
        prctl(set_death_signal, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(0)

    return request


if __name__ == "__main__":
    sys.exit(main())
