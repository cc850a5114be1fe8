"""Jobs on texts with real children over a real store: documents with a vocabulary and labels, and one text."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from contracts.data import Part
from contracts.families import config_adapter
from contracts.jobs import Budget, Job, JobKind, JobStatus
from engine.kinds import program
from engine.kinds.tokens import TokenProgram
from engine.model import Model
from engine.tokeniser import TOKENISER_FILE
from store import Store
from store.datasets import UploadedFile
from tests.text_models import ONE_TEXT, write_text_model
from workers import likeness
from workers.attempt import run_attempt
from workers.evaluate import evaluate
from workers.settings import WorkerSettings
from workers.training.checkpoints import Checkpoints
from workers.training.texts import prepare_texts
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded

TINY = {"width": 16, "depth": 1, "heads": 2, "batch_size": 32, "ema_decay": 0.0, "learning_rate": 0.01}
STEPS = {"steps": 60}
CATS, DOGS = "the cat sat on the mat and purred", "the dog ran to the park and barked"

Attempt = Callable[..., Job]


@pytest.fixture
def attempt(store: Store, settings: WorkerSettings) -> Attempt:
    """Queue a job for ``train`` (or of ``kind``) and see it through."""

    def run(request: dict[str, Any], kind: JobKind = JobKind.TRAIN) -> Job:
        job = store.catalogue.insert_job(kind, request)[0]
        claim = store.catalogue.claim_job(job.id, "test")
        assert claim is not None
        run_attempt(store, settings, claim, threading.Event())
        after = store.catalogue.get_job(job.id)
        assert after.status is JobStatus.SUCCEEDED, after.error
        return after

    return run


@pytest.fixture
def documents(store: Store, tmp_path: Path) -> str:
    path = tmp_path / "pets.jsonl"
    rows = [{"text": f"{(CATS, DOGS)[i % 2]} {i} times", "pet": ("cat", "dog")[i % 2]} for i in range(200)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    store.datasets.ingest("pets", [UploadedFile("pets.jsonl", path)], {"label": "pet", "modality": "text"})
    return "pets"


@pytest.fixture
def one_text(store: Store, tmp_path: Path) -> str:
    path = tmp_path / "story.txt"
    path.write_text("".join(f"{(CATS, DOGS)[i % 2]}, {i % 7} times.\n" for i in range(150)))
    store.datasets.ingest("story", [UploadedFile("story.txt", path)], {})
    return "story"


def request(dataset: str, **more: Any) -> dict[str, Any]:
    config = {"family": "autoregressive", **TINY, **more.pop("config", {})}
    return {"name": dataset, "dataset": dataset, "config": config, "budget": STEPS, "seed": 1, **more}


def test_documents_with_a_vocabulary_and_labels(store: Store, attempt: Attempt, documents: str) -> None:
    attempt(request(documents, config={"tokens": "bpe", "vocabulary": 300, "condition": "label"}))
    version = store.catalogue.resolve("pets@1")
    manifest, metrics = version.manifest, version.card.metrics
    assert TOKENISER_FILE in manifest.files
    assert manifest.condition == ("cat", "dog")
    assert 256 < manifest.config["vocabulary"] <= 300
    assert manifest.config["context"] >= 16
    assert metrics["rows"] == store.datasets.open("pets").count(Part.TEST)
    assert metrics["tokens"] < metrics["bytes"]
    assert metrics["nats_per_token"] == pytest.approx(-metrics["log_prob_nats"] * metrics["rows"] / metrics["tokens"])
    assert np.exp(metrics["nats_per_token"]) == pytest.approx(metrics["perplexity"])
    assert metrics["bits_per_byte"] < 2  # 8 know nothing
    assert metrics["sample_labels"] == ["cat", "dog", "cat", "dog"]
    assert len(metrics["sample_texts"]) == 4
    assert "preview.png" not in manifest.files
    assert version.card.rows["train"] + version.card.rows["valid"] + version.card.rows["test"] == 200

    answers = program(Model.load(store.artifacts.fetch(version.digest)))
    assert isinstance(answers, TokenProgram)
    scores = answers.log_prob([CATS, CATS], given=np.array([0, 1])).values
    assert scores[0] > scores[1]  # a text about cats is likelier under their label

    # Training goes on with the weights, the sizes and the alphabet there were.
    attempt(request(documents, config={"tokens": "bpe", "condition": "label"}, start_from="pets@1"))
    later = store.catalogue.resolve("pets@2")
    assert later.manifest.files[TOKENISER_FILE] == manifest.files[TOKENISER_FILE]
    assert later.manifest.config["vocabulary"] == manifest.config["vocabulary"]
    assert later.card.metrics["bits_per_byte"] < metrics["bits_per_byte"]
    assert later.manifest.space != manifest.space


def test_one_text_and_batches_over_it(store: Store, attempt: Attempt, one_text: str) -> None:
    attempt(request(one_text, config={"context": 16}))
    version = store.catalogue.resolve("story@1")
    metrics = version.card.metrics
    assert TOKENISER_FILE not in version.manifest.files
    assert metrics["tokens"] == metrics["bytes"] == metrics["characters"]
    assert "log_prob_nats" not in metrics
    assert metrics["nats_per_character"] < 4  # uniform over bytes: 5.5

    scored = ["row", "log_prob", "standard_error", "kind", "tokens", "bytes"]
    for verb, columns in (("log_prob", scored), ("encode", ["row", "vector"])):
        done = attempt({"model": "story@1", "verb": verb, "dataset": "story"}, JobKind.BATCH)
        table = pq.read_table(io.BytesIO(store.blobs.get(done.result["key"])))
        assert table.column_names == columns
        assert table.num_rows == 150
    answers = program(Model.load(store.artifacts.fetch(version.digest)))
    rows = store.datasets.open("story").read(None, slice(0, 3)).x
    scores = pq.read_table(io.BytesIO(store.blobs.get(_last(store, "log_prob")))).column("log_prob").to_numpy()
    np.testing.assert_allclose(scores[:3], answers.log_prob(rows).values, rtol=1e-4)


def _last(store: Store, verb: str) -> str:
    jobs = store.catalogue.list_jobs(kind=JobKind.BATCH, limit=10)
    return str(next(job.result["key"] for job in jobs if job.result and job.result["verb"] == verb))


class Stopped(Exception):
    """What ends a run in the middle."""


class BreakAfter(Checkpoints):
    """Ends the run right after its ``count``-th checkpoint, like a kill there."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(folder, 1, every_seconds=0)
        self._left = count

    def save(self, checkpoint: Any) -> Path:
        path = super().save(checkpoint)
        self._left -= 1
        if self._left == 0:
            raise Stopped
        return path


def test_a_broken_run_ends_bit_equal(store: Store, one_text: str, tmp_path: Path) -> None:
    """The vocabulary and the windows are made anew by each attempt, and the weights do not show it."""
    config = config_adapter.validate_python({"family": "autoregressive", **TINY, "context": 16, "tokens": "bpe"})

    def run(checkpoints: Checkpoints | None = None) -> dict[str, torch.Tensor]:
        dataset = store.datasets.open(one_text)
        settled, reader = prepare_texts(dataset, config, tmp_path / "scratch")
        family = build_seeded(settled, reader.spec, reader.profile(), 1)
        train(family, reader, Plan(Budget(steps=30), 1, accelerator="cpu", threads=1), checkpoints=checkpoints)
        return dict(family.state_dict())

    straight = run()
    with pytest.raises(Stopped):
        run(BreakAfter(tmp_path / "job", 12))
    resumed = run(Checkpoints(tmp_path / "job", 2, every_seconds=0))
    assert [name for name, value in straight.items() if not torch.equal(value, resumed[name])] == []


def test_figures_are_sums_over_what_was_scored(store: Store, one_text: str, tmp_path: Path) -> None:
    oracle = write_text_model(tmp_path / "model", ONE_TEXT)
    answers = program(Model.load(oracle.folder))
    reader = store.datasets.open(one_text)
    metrics = evaluate(answers, reader).metrics
    text = "".join(reader.read(Part.TEST, slice(None)).x)
    expected = -answers.log_prob([text]).values[0]
    assert metrics["part"] == "test"
    assert metrics["nats_per_character"] == pytest.approx(expected / len(text))
    assert metrics["bits_per_byte"] == pytest.approx(expected / len(text.encode()) / np.log(2))
    assert len(likeness.texts(answers)["sample_texts"]) == 4
