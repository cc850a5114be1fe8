"""Parts are killed under load: they come back, and a job still ends in exactly one version."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

Cli = Callable[..., Any]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def name(stack: Any, iris_csv: Path, iris_spec: str) -> str:
    """A dataset of this module's own."""
    name = f"faults-{uuid.uuid4().hex[:8]}"
    with iris_csv.open("rb") as file:
        answer = httpx.post(f"{stack.url}/datasets", data={"name": name, "spec": iris_spec}, files={"files": file})
    assert answer.status_code == 201, answer.text
    return name


def versions(url: str, name: str) -> int:
    return len(httpx.get(f"{url}/models/{name}/versions").json()["items"])


def test_the_gateway_is_killed_during_a_job(stack: Any, cli: Cli, name: str, until: Callable[..., None]) -> None:
    job = cli("train", f"{name}-g", "-d", name, "-f", "vae", "--steps", "100", "--detach")
    until(lambda: httpx.get(f"{stack.url}/jobs/{job['id']}").json()["status"] == "running", 60, "the job runs")
    stack.kill("gateway")
    # The watcher rides over the restart.
    events = cli("jobs", "watch", job["id"])
    assert events[-1]["type"] == "succeeded"
    assert versions(stack.url, f"{name}-g") == 1


def test_the_queue_is_killed_and_comes_back_empty(stack: Any, cli: Cli, name: str, until: Callable[..., None]) -> None:
    job = cli("train", f"{name}-q", "-d", name, "-f", "pca", "--detach")
    stack.kill("queue")
    assert cli("jobs", "watch", job["id"])[-1]["type"] == "succeeded"
    later = cli("train", f"{name}-r", "-d", name, "-f", "pca", "--detach")
    assert cli("jobs", "watch", later["id"])[-1]["type"] == "succeeded"
    assert versions(stack.url, f"{name}-q") == versions(stack.url, f"{name}-r") == 1


def test_the_cache_is_killed_and_answers_go_on(stack: Any, cli: Cli, name: str, tmp_path: Path) -> None:
    model = f"{name}-r"
    if httpx.get(f"{stack.url}/models/{model}").status_code == 404:
        cli("train", model, "-d", name, "-f", "pca")
    (tmp_path / "rows.json").write_text("[[5.1, 3.5, 1.4, 0.2]]")
    before = cli("log-prob", model, str(tmp_path / "rows.json"))["log_prob"]
    stack.kill("cache")
    assert cli("log-prob", model, str(tmp_path / "rows.json"))["log_prob"] == before


@pytest.mark.slow
def test_a_killed_supervisor_takes_its_parts_along_and_another_takes_over(
    start_stack: Callable[..., Any], tmp_path: Path, until: Callable[..., None]
) -> None:
    home = tmp_path / "home"
    first = start_stack(home).wait_ready()
    pids = [pid for pid in first.state["parts"].values()]
    assert len(pids) == 5
    environment = os.environ | {"LATENTSERVE_HOME": str(home), "LATENTSERVE_PORT": "0"}
    second = subprocess.run(
        [sys.executable, "-m", "service.supervisor"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 1
    assert f"supervisor pid {first.process.pid}" in second.stderr
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    until(lambda: not any(map(alive, pids)), 30, "every part is gone")
    third = start_stack(home).wait_ready()
    pids = [pid for pid in third.state["parts"].values()]
    third.process.send_signal(signal.SIGINT)
    assert third.process.wait(40) == 0
    assert not any(map(alive, pids))
    assert not (home / "stack.json").exists()
