"""Attempts with real children over a real store."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts.errors import InvalidInput
from contracts.jobs import BatchRequest, Job, JobKind, JobStatus
from engine.kinds import program
from engine.model import Model
from store import Store
from store.datasets import UploadedFile
from workers.attempt import run_attempt
from workers.batch import check_batch
from workers.settings import WorkerSettings

AUTOENCODER = {"width": 16, "latents": 4, "depth": 1, "patience": 1000}


@pytest.fixture
def attempt(store: Store, settings: WorkerSettings) -> Any:
    """Claim a job and see it through; returns the job as it is afterwards."""

    def run(job: Job) -> Job:
        claim = store.catalogue.claim_job(job.id, "test")
        assert claim is not None
        status = run_attempt(store, settings, claim, threading.Event())
        after = store.catalogue.get_job(job.id)
        assert status is after.status
        return after

    return run


def test_training_then_continuing_then_batches(
    store: Store, settings: WorkerSettings, queue_train: Any, attempt: Any
) -> None:
    first = attempt(queue_train("autoencoder", budget={"steps": 40}, config=AUTOENCODER))
    assert first.status is JobStatus.SUCCEEDED, first.error
    version = store.catalogue.resolve("m")
    assert first.result["reference"] == version.reference == "m@1"
    assert version.manifest.steps == 40
    assert version.card.metrics["reconstruction_mse"] > 0
    assert version.card.metrics["part"] == "test"
    assert set(version.card.parity)
    assert version.card.timings["export_seconds"] > 0
    assert version.card.rows["train"] + version.card.rows["valid"] + version.card.rows["test"] == 400
    assert version.card.history[-1]["step"] == 40
    assert "preview.png" in version.manifest.files
    from_mixture = version.card.metrics["samples_mmd_squared"]
    from_standard_normal = version.card.metrics["standard_normal_mmd_squared"]
    assert from_mixture["value"] < from_standard_normal["value"]  # the mixture on z is what makes it sample
    assert not (settings.scratch / "jobs" / first.id).exists()
    stages = [event.data["stage"] for event in store.catalogue.events(first.id) if event.type == "progress"]
    assert "export" in stages
    assert (first.progress.stage, first.progress.step) == ("evaluate", 40)
    assert first.progress.terms  # the last figures of training stay readable once it is over
    assert first.progress.held_out is not None
    assert first.progress.epoch > 0

    # what the first version left open holds for the second one, which goes on from its weights
    second = attempt(
        queue_train("autoencoder", budget={"steps": 40}, config={"patience": 1000, "depth": 1}, start_from="m@1")
    )
    assert second.status is JobStatus.SUCCEEDED, second.error
    later = store.catalogue.resolve("m@2")
    assert later.manifest.config["width"] == 16
    assert later.card.history[0]["held_out"] < version.card.history[0]["held_out"]
    assert later.manifest.space != version.manifest.space

    request = {"model": "m@2", "verb": "encode", "dataset": "digits"}
    batch = attempt(store.catalogue.insert_job(JobKind.BATCH, request)[0])
    assert batch.status is JobStatus.SUCCEEDED, batch.error
    table = pq.read_table(io.BytesIO(store.blobs.get(batch.result["key"])))
    assert batch.result["rows"] == table.num_rows == 400
    assert table.schema.metadata[b"space"].decode() == later.manifest.space
    with_engine = program(Model.load(store.artifacts.fetch(later.digest)))
    rows = store.datasets.open("digits").read(None, slice(0, 400))
    vectors = np.stack(table["vector"].to_numpy())
    assert np.allclose(vectors, with_engine.encode(rows.x).vectors, atol=1e-5)


def test_scores_as_a_batch_of_fitting_rows(store: Store, tmp_path: Path, queue_train: Any, attempt: Any) -> None:
    trained = attempt(queue_train("pca", config={"components": 3}))
    assert trained.status is JobStatus.SUCCEEDED, trained.error
    metrics = store.catalogue.resolve("m").card.metrics
    assert metrics["kind"] == "lower_bound"
    assert metrics["bits_per_dim"] == pytest.approx(-metrics["log_prob_nats"] / (64 * np.log(2)))
    assert metrics["rows"] == store.datasets.open("digits").dataset.parts["test"]
    request = {"model": "m", "verb": "log_prob", "dataset": "digits", "parameters": {"samples": 4}}
    batch = attempt(store.catalogue.insert_job(JobKind.BATCH, request)[0])
    assert batch.status is JobStatus.SUCCEEDED, batch.error
    table = pq.read_table(io.BytesIO(store.blobs.get(batch.result["key"])))
    assert table.column_names == ["row", "log_prob", "standard_error", "kind"]
    assert np.isfinite(table["log_prob"].to_numpy()).all()
    assert set(table["kind"].to_pylist()) == {"lower_bound"}
    assert table.schema.metadata[b"measure"] == b"probability"

    np.save(tmp_path / "plain.npy", np.random.default_rng(0).normal(size=(50, 3)))
    store.datasets.ingest("plain", [UploadedFile("plain.npy", tmp_path / "plain.npy")], {})
    other = {"model": "m", "verb": "encode", "dataset": "plain"}
    refused = attempt(store.catalogue.insert_job(JobKind.BATCH, other)[0])
    assert refused.status is JobStatus.FAILED
    assert "shape" in refused.error.detail


def test_predicts_the_cells_that_have_no_value(store: Store, tmp_path: Path, queue_train: Any, attempt: Any) -> None:
    x = np.random.default_rng(0).normal(size=(200, 3)) @ np.array([[1, 2, 0], [0, 1, 3], [0, 0, 0.1]]) + 1e6
    np.save(tmp_path / "whole.npy", x)
    store.datasets.ingest("whole", [UploadedFile("whole.npy", tmp_path / "whole.npy")], {})
    trained = attempt(queue_train("pca", config={"components": 2}, dataset="whole"))
    assert trained.status is JobStatus.SUCCEEDED, trained.error
    holes = x.copy()
    holes[::2, 1] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    spec = {"columns": [{"name": "x1", "missing": True}]}
    store.datasets.ingest("holes", [UploadedFile("holes.npy", tmp_path / "holes.npy")], spec)
    batch = attempt(store.catalogue.insert_job(JobKind.BATCH, {"model": "m", "verb": "predict", "dataset": "holes"})[0])
    assert batch.status is JobStatus.SUCCEEDED, batch.error
    table = pq.read_table(io.BytesIO(store.blobs.get(batch.result["key"])))
    mean = np.array(table["mean"].to_pylist())
    shown = ~np.isnan(holes)
    assert np.array_equal(mean[shown], x[shown])
    errors = (mean - x)[~shown]
    assert np.sqrt((errors**2).mean()) < 0.5 * x[:, 1].std()
    assert set(table["kind"].to_pylist()) == {"exact"}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"start_from": "absent"}, "absent"),
        ({"config": {"condition": "label", "family": "vae"}, "dataset": "plain"}, "condition"),
    ],
)
def test_a_fault_of_the_request_fails_at_once(
    store: Store, tmp_path: Path, queue_train: Any, attempt: Any, request_: dict[str, Any], message: str
) -> None:
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).normal(size=(50, 3)))
    store.datasets.ingest("plain", [UploadedFile("plain.npy", tmp_path / "plain.npy")], {})
    config = request_.pop("config", {"family": "vae"})
    ended = attempt(queue_train(config.pop("family"), config=config, **request_))
    assert (ended.status, ended.attempt) == (JobStatus.FAILED, 1)
    assert message in ended.error.detail
    assert ended.error.status < 500


def test_a_request_that_cannot_be_read_fails_at_once(store: Store, attempt: Any) -> None:
    ended = attempt(store.catalogue.insert_job(JobKind.BATCH, {"model": "m", "verb": "sing", "dataset": "digits"})[0])
    assert (ended.status, ended.attempt) == (JobStatus.FAILED, 1)
    assert "verb" in ended.error.detail


@pytest.mark.slow
def test_two_processes_train_one_job(store: Store, settings: WorkerSettings, queue_train: Any) -> None:
    job = queue_train("autoencoder", budget={"steps": 30}, config=AUTOENCODER)
    claim = store.catalogue.claim_job(job.id, "test")
    assert claim is not None
    both = settings.model_copy(update={"train_processes": 2, "accelerator": "cpu"})
    assert run_attempt(store, both, claim, threading.Event()) is JobStatus.SUCCEEDED, store.catalogue.get_job(job.id)
    assert store.catalogue.resolve("m").card.metrics["training"]["processes"] == 2


def test_a_diverging_run_fails_at_once_and_says_where(queue_train: Any, attempt: Any) -> None:
    config = {**AUTOENCODER, "learning_rate": 1.0, "gradient_clip": 1e30, "latent_penalty": 1e38}
    ended = attempt(queue_train("autoencoder", budget={"steps": 200}, config=config))
    assert (ended.status, ended.attempt) == (JobStatus.FAILED, 1)
    assert ended.error.type.endswith("training-diverged")
    assert "at step" in ended.error.detail


def test_ingest_of_an_upload(store: Store, tmp_path: Path, attempt: Any) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "\n".join(f"{i}.5,{i % 7}.25" for i in range(40)))
    store.blobs.put("uploads/u/0", tmp_path / "t.csv")
    request = {"name": "table", "files": [["t.csv", "uploads/u/0"]]}
    ended = attempt(store.catalogue.insert_job(JobKind.INGEST, request)[0])
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.result["dataset"] == "table"
    assert store.datasets.open("table").count() == 40
    assert store.blobs.list("uploads/u") == []


def test_ingest_ends_with_the_readers_problem(store: Store, attempt: Any) -> None:
    store.blobs.put("uploads/v/0", b"a,b\n1,2\n3\n" * 20)
    request = {"name": "ragged", "files": [["t.csv", "uploads/v/0"]]}
    ended = attempt(store.catalogue.insert_job(JobKind.INGEST, request)[0])
    assert ended.status is JobStatus.FAILED
    assert ended.error.status == 422
    assert store.blobs.list("uploads/v") == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"verb": "sample"}, "verb"),
        ({"parameters": {"sead": 1}}, "parameters.sead"),
        ({"parameters": {"seed": -1}}, "parameters.seed"),
        ({"parameters": {"samples": 0}}, "parameters.samples"),
    ],
)
def test_wrong_batches_are_refused(change: dict[str, Any], where: str) -> None:
    request = {"model": "m", "verb": "encode", "dataset": "d", **change}
    with pytest.raises(InvalidInput) as caught:
        check_batch(BatchRequest.model_validate(request))
    assert caught.value.errors[0].location == where


def test_a_superseded_attempt_changes_nothing(store: Store, settings: WorkerSettings, queue_train: Any) -> None:
    job = queue_train("autoencoder", budget={"steps": 10_000_000}, config=AUTOENCODER)
    claim = store.catalogue.claim_job(job.id, "first")
    assert claim is not None
    store.catalogue.release_job(claim, "taken away by the test")
    other = store.catalogue.claim_job(job.id, "second")
    assert other is not None
    assert run_attempt(store, settings, claim, threading.Event()) is None
    assert store.catalogue.get_job(job.id).status is JobStatus.RUNNING
    assert store.catalogue.list_models() == []
