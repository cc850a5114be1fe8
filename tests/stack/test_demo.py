"""The demonstration runs through with tiny budgets, and cleans up when it cannot start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from service import demo


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`main` takes SIGTERM over; give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def left_behind(word: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "environ"])
        if word in str((process.info["environ"] or {}).get("LATENTSERVE_HOME", ""))
    ]


@pytest.mark.slow
def test_it_asks_every_verb_and_ends_what_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "pictures")
    tiny = {family: asked | {"budget": asked["budget"] and {"steps": 20}} for family, asked in demo.TRAINED.items()}
    monkeypatch.setattr(demo, "TRAINED", tiny)
    ended = demo.main()
    shown = capsys.readouterr().out
    assert ended == 0, shown
    table = {line.split()[0]: line.split() for line in shown.splitlines() if line.split()[:1] and "probab" in line}
    assert set(table) == {"pca", "vae", "flow"}
    assert all(0 < float(row[1]) < 12 for row in table.values())
    assert all(
        word in shown for word in ("strangest", "/predict", "nearest neighbours", "/encode", "/sample", "make run")
    )
    for family in tiny:
        with Image.open(tmp_path / "pictures" / f"samples-{family}.png") as picture:
            assert np.asarray(picture).std() > 0
    assert not left_behind(str(tmp_path))


def test_a_stack_that_is_not_ready_is_ended_and_its_logs_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "START_SECONDS", 0.0)
    assert demo.main() == 1
    assert "was not ready within 0 s" in capsys.readouterr().out
    assert not left_behind(str(tmp_path))
    assert list(tmp_path.glob("latentserve-demo-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    with (tmp_path / "out").open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "service.demo"],
            cwd=tmp_path,
            env=os.environ | {"TMPDIR": str(tmp_path)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 60
    while not left_behind(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_behind(str(tmp_path))
    running.send_signal(number)
    assert running.wait(60) == 130, (tmp_path / "out").read_text()
    assert not left_behind(str(tmp_path))


def test_pictures_are_drawn_in_characters() -> None:
    assert demo.draw(np.array([[0, 16], [8, 4]])) == ["  @@", "==::"]
    assert demo.beside([["ab"], ["cd"]]) == "|ab|  |cd|"
    assert demo.beside([["ab"], ["cd"], ["ef"]], width=10) == "|ab|  |cd|\n\n|ef|"
