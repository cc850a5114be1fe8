"""Card figures against a model whose answers are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from contracts.data import Part
from contracts.families import config_adapter
from engine.kinds import program
from engine.model import Model
from store import Store
from store.datasets import UploadedFile
from workers.evaluate import evaluate
from workers.export import export
from workers.publish import assemble
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded


@pytest.fixture
def scored(store: Store, tmp_path: Path) -> Any:
    generator = np.random.default_rng(0)
    np.save(
        tmp_path / "t.npy", generator.normal(size=(600, 3)) @ generator.normal(size=(3, 5)) + generator.normal(size=5)
    )
    store.datasets.ingest("t", [UploadedFile("t.npy", tmp_path / "t.npy")], {})
    reader = store.datasets.open("t")
    config = config_adapter.validate_python({"family": "pca", "components": 2})
    family = build_seeded(config, reader.spec, reader.profile(), 0)
    train(family, reader, Plan(accelerator="cpu"))
    folder = tmp_path / "artifact"
    graphs = export(family, folder)
    assemble(family, folder, graphs=graphs, seed=0, steps=1, dataset=reader.dataset.digest)
    return program(Model.load(folder)), reader


def test_figures_agree_with_scikit_learn_on_the_rows_there_are(scored: Any) -> None:
    answerer, reader = scored
    evaluation = evaluate(answerer, reader)
    reference = PCA(2).fit(reader.read(Part.TRAIN, slice(None)).x)
    expected = reference.score_samples(reader.read(Part.TEST, slice(None)).x)
    metrics = evaluation.metrics
    assert metrics["log_prob_nats"] == pytest.approx(expected.mean(), abs=1e-3)
    assert metrics["standard_error"] == pytest.approx(expected.std(ddof=1) / np.sqrt(len(expected)), rel=1e-3)
    assert (metrics["kind"], metrics["measure"], metrics["rows"]) == ("exact", "density", len(expected))
    assert evaluation.timings["evaluate_seconds"] > 0

    # without test rows `valid` is scored, without either nothing
    class Without:
        spec, read = reader.spec, reader.read

        def __init__(self, *absent: Part) -> None:
            self.absent = absent

        def count(self, part: Part | None = None) -> int:
            return 0 if part in self.absent else reader.count(part)

    assert evaluate(answerer, Without(Part.TEST)).metrics["part"] == "valid"  # type: ignore[arg-type]
    assert evaluate(answerer, Without(Part.TEST, Part.VALID)).metrics == {"rows": 0}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Holes:
    """A reader whose test rows have some cells without a value."""

    reader: Any
    holes: np.ndarray

    @property
    def spec(self) -> Any:
        return self.reader.spec

    def count(self, part: Part | None = None) -> int:
        return int(self.reader.count(part))

    def read(self, part: Part | None, indices: Any) -> Any:
        rows = self.reader.read(part, indices)
        return replace(rows, x=np.where(self.holes[indices], np.nan, rows.x))


def test_rows_with_missing_cells_are_scored_by_those_they_have(scored: Any) -> None:
    answerer, reader = scored
    count = reader.count(Part.TEST)
    holes = np.random.default_rng(1).random((count, 5)) < 0.2
    holes[0] = False
    metrics = evaluate(answerer, Holes(reader, holes)).metrics
    x = reader.read(Part.TEST, slice(0, count)).x
    expected = answerer.log_prob(x, hidden=holes).values
    assert metrics["log_prob_nats"] == pytest.approx(expected.mean())
    assert metrics["bits_per_dim"] == pytest.approx(-expected.sum() / ((~holes).sum() * np.log(2)))
    assert (metrics["rows"], metrics["rows_with_missing_cells"]) == (count, int(holes.any(axis=1).sum()))
    whole = x[~holes.any(axis=1)]
    decoded = answerer.decode(answerer.encode(whole).vectors)
    assert metrics["reconstruction_mse"] == pytest.approx(((decoded - whole) ** 2).mean())


def test_rows_that_a_model_cannot_score_are_left_out_and_counted(scored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answerer, reader = scored
    count = reader.count(Part.TEST)
    holes = np.zeros((count, 5), dtype=bool)
    holes[::2, 1] = True
    monkeypatch.setattr(answerer, "_score_partial", super(type(answerer), answerer)._score_partial)
    metrics = evaluate(answerer, Holes(reader, holes)).metrics
    left = holes.any(axis=1)
    expected = answerer.log_prob(reader.read(Part.TEST, slice(0, count)).x[~left]).values
    assert (metrics["rows"], metrics["rows_left_out"]) == (len(expected), int(left.sum()))
    assert metrics["log_prob_nats"] == pytest.approx(expected.mean())
    every = evaluate(answerer, Holes(reader, np.ones((count, 5), dtype=bool) & (np.arange(5) == 0))).metrics
    assert (every["rows"], every["rows_left_out"]) == (0, count)
    assert "log_prob_nats" not in every
    assert "reconstruction_mse" not in every
