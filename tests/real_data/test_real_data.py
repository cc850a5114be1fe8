"""Data sets of the field through the real readers, trainer and engine; skipped where they are not on the machine."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from contracts.data import Part
from contracts.families import config_adapter
from engine.kinds import program
from engine.model import Model
from metrics.densities import anomaly_auroc
from store import Store
from store.datasets import UploadedFile
from store.settings import StoreSettings
from workers.export import export
from workers.publish import assemble
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets of development (shared/data) are not here")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(StoreSettings(home=tmp_path / "home"), migrate=True)


def test_the_four_official_files_of_fashion_mnist_are_one_dataset(store: Store) -> None:
    names = [f"{part}-{what}.gz" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    dataset, created = store.datasets.ingest(
        "fashion", [UploadedFile(name, DATA / "fashion-mnist" / name) for name in names], {}
    )
    assert created
    assert dataset.rows == 70_000
    assert dataset.parts[Part.TEST] == 10_000
    # valid is cut from the official train part by content
    assert dataset.parts[Part.TRAIN] + dataset.parts[Part.VALID] == 60_000
    assert 5_500 < dataset.parts[Part.VALID] < 6_500
    reader = store.datasets.open("fashion")
    rows = reader.read(Part.TEST, slice(None))
    assert rows.x.shape == (10_000, 28, 28, 1)
    assert rows.x.mean() == pytest.approx(73.15, abs=0.01)
    assert rows.y is not None
    assert np.bincount(rows.y).tolist() == [1000] * 10


def test_pca_on_normal_rows_of_thyroid_ranks_the_anomalies(store: Store, tmp_path: Path) -> None:
    with np.load(DATA / "adbench" / "38_thyroid.npz") as file:
        x, anomaly = file["X"], file["y"]
    np.save(tmp_path / "normal.npy", x[anomaly == 0])
    store.datasets.ingest("thyroid", [UploadedFile("normal.npy", tmp_path / "normal.npy")], {})
    reader = store.datasets.open("thyroid")
    family = build_seeded(config_adapter.validate_python({"family": "pca"}), reader.spec, reader.profile(), 0)
    train(family, reader, Plan(accelerator="cpu"))
    folder = tmp_path / "artifact"
    assemble(family, folder, graphs=export(family, folder), seed=0, steps=1, dataset=reader.dataset.digest)
    log_prob = program(Model.load(folder)).log_prob(x).values
    assert anomaly_auroc(log_prob, anomaly) > 0.95  # 0.9774 was measured


def test_real_tables_are_read_as_they_are(store: Store) -> None:
    file = DATA / "uci" / "protein_casp.csv.gz"
    dataset, _ = store.datasets.ingest("casp", [UploadedFile(file.name, file)], {})
    assert (dataset.rows, len(dataset.spec.features)) == (45_730, 10)
    expected = np.loadtxt(io.StringIO(_head(file, 100)), delimiter=",")
    everything = store.datasets.open("casp").read(None, slice(0, 100)).x
    assert np.array_equal(everything, expected)


def _head(path: Path, lines: int) -> str:
    import gzip

    with gzip.open(path, "rt") as file:
        return "".join(next(file) for _ in range(lines))
