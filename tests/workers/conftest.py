"""Real stores in temporary folders, with scikit-learn's handwritten digits as dataset."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from contracts.jobs import Job, JobKind
from store import Store
from store.datasets import UploadedFile
from workers.settings import WorkerSettings


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(home=tmp_path / "home", train_threads=1, checkpoint_seconds=0.2, stop_seconds=1)


@pytest.fixture
def store(settings: WorkerSettings, tmp_path: Path) -> Iterator[Store]:
    with Store.open(settings, migrate=True) as opened:
        digits = load_digits()
        path = tmp_path / "digits.npz"
        np.savez(path, x=digits.images[:400].astype(np.uint8), y=digits.target[:400].astype(np.int64))
        opened.datasets.ingest("digits", [UploadedFile("digits.npz", path)], {"image": {"levels": 17}})
        yield opened


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


@pytest.fixture
def queue_train(store: Store) -> Any:
    """Queue a training job: ``queue_train(family, steps=…, seed=…, **request)``."""

    def queue(
        family: str, *, budget: dict[str, Any] | None = None, config: dict[str, Any] | None = None, **request: Any
    ) -> Job:
        body = {
            "name": "m",
            "dataset": "digits",
            "config": {"family": family, **(config or {})},
            "budget": budget or {},
            "seed": 3,
            **request,
        }
        return store.catalogue.insert_job(JobKind.TRAIN, body)[0]

    return queue
