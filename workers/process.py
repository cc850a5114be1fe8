"""A child process that ends when its parent does, and the pipe on which it reports."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

_SET_DEATH_SIGNAL = 1  # prctl(2)
TAIL_BYTES = 4000

# Threads of torch that wait give their core up: where a gateway or another job has the other core, spinning at
# each barrier made steps four times slower; on an idle machine it costs nothing that was seen.
CALM = {"OMP_WAIT_POLICY": "PASSIVE"}


class ChildProcess:
    """A running ``python -m <module>``: its standard output and error go to ``log``, its reports to a pipe."""

    def __init__(self, module: str, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        """Start it. It gets ``--report <descriptor> --parent <pid>`` besides ``arguments``."""
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", module, *arguments, "--report", str(writer), "--parent", str(os.getpid())]
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    # an open end for as long as this process lives: the child reads it to notice the end
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**CALM, **os.environ, **environment},
                    pass_fds=(writer,),
                )
        finally:
            os.close(writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def receive(self, seconds: float) -> bytes:
        """Return what it reported, waiting up to ``seconds`` for something."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        pieces = []
        while ready:
            try:
                piece = os.read(self._reader, 1 << 16)
            except BlockingIOError:
                break
            if not piece:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(seconds)  # the pipe is closed: nothing more to wait for but the exit
                break
            pieces.append(piece)
        return b"".join(pieces)

    def stop(self, seconds: float) -> None:
        """End it: ask, and after ``seconds`` kill."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        """Kill it if it still runs, and give the pipes back."""
        self.stop(0)
        os.close(self._reader)
        if self._process.stdin is not None:
            self._process.stdin.close()

    def epitaph(self) -> str:
        """Say in a sentence how it ended, with the last lines of its log."""
        code = self._process.returncode
        if code == -signal.SIGKILL:
            how = "the process was killed (SIGKILL); the usual cause is that the machine ran out of memory"
        elif code < 0:
            how = f"the process was ended by {signal.Signals(-code).name}"
        else:
            how = f"the process ended with exit code {code}"
        tail = self._tail()
        return f"{how}; its last lines: {tail}" if tail else how

    def _tail(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return " | ".join(line.strip() for line in lines[-5:] if line.strip())


def end_with_parent(parent: int, stdin: IO[str] | None = None) -> None:
    """Called first in a child: it will not outlive ``parent``.

    Linux sends SIGKILL when the parent's thread ends; elsewhere, and in between, the end of standard input does.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)

    def watch() -> None:
        with contextlib.suppress(Exception):
            while os.read(descriptor, 1):
                pass
        os._exit(0)

    descriptor = (stdin or sys.stdin).fileno()
    threading.Thread(target=watch, name="parent", daemon=True).start()
