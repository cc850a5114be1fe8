"""Children that end with their parent, and what is said of those that died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workers.process import ChildProcess

SPEAKER = """
import argparse, os, sys, time
from workers.process import end_with_parent
p = argparse.ArgumentParser()
p.add_argument("how"); p.add_argument("--report", type=int); p.add_argument("--parent", type=int)
a = p.parse_args()
end_with_parent(a.parent)
os.write(a.report, b"hello")
if a.how == "fail":
    print("the reason", file=sys.stderr)
    sys.exit(7)
if a.how == "stubborn":
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(a.report, b"!")
if a.how != "quick":
    time.sleep(600)
"""


@pytest.fixture
def module(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "speaker.py").write_text(SPEAKER)
    return {"PYTHONPATH": str(tmp_path)}


def heard(child: ChildProcess, wanted: bytes) -> bytes:
    got = b""
    deadline = time.monotonic() + 30
    while wanted not in got and time.monotonic() < deadline:
        got += child.receive(0.5)
    return got


def test_reports_and_exit_code(module: dict[str, str], tmp_path: Path) -> None:
    child = ChildProcess("speaker", ["fail"], module, tmp_path / "log")
    assert heard(child, b"hello") == b"hello"
    while child.code is None:
        child.receive(0.1)
    assert child.code == 7
    assert child.epitaph() == "the process ended with exit code 7; its last lines: the reason"
    child.close()


@pytest.mark.parametrize(("how", "code"), [("sleep", -signal.SIGTERM), ("stubborn", -signal.SIGKILL)])
def test_stop_asks_then_kills(module: dict[str, str], tmp_path: Path, how: str, code: int) -> None:
    child = ChildProcess("speaker", [how], module, tmp_path / "log")
    heard(child, b"!" if how == "stubborn" else b"hello")
    child.stop(0.5)
    assert child.code == code
    child.close()


def test_a_killed_child_is_told_from_a_terminated_one(module: dict[str, str], tmp_path: Path) -> None:
    for number, word in ((signal.SIGKILL, "out of memory"), (signal.SIGTERM, "SIGTERM")):
        child = ChildProcess("speaker", ["sleep"], module, tmp_path / "log")
        heard(child, b"hello")
        os.kill(child.pid, number)
        while child.code is None:
            child.receive(0.1)
        assert word in child.epitaph()
        child.close()


def test_a_child_ends_when_its_parent_is_killed(module: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from workers.process import ChildProcess\n"
        f"c = ChildProcess('speaker', ['sleep'], {module!r}, Path({str(tmp_path / 'log')!r}))\n"
        "got = b''\n"
        "while b'hello' not in got: got += c.receive(1)\n"
        "print(c.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(10)
    assert not child.is_running()


def test_an_orphan_does_not_start_working(module: dict[str, str]) -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "speaker", "quick", "--report", str(writer), "--parent", "1"]
    done = subprocess.run(
        command, pass_fds=(writer,), stdin=subprocess.PIPE, env={**os.environ, **module}, check=True, timeout=60
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b""
    assert done.returncode == 0
