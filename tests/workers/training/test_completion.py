"""Missing cells are drawn from what the other cells of their row say, on the grid, the same after a break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from contracts.data import Column, ColumnType, DataProfile, DataSpec, Part
from contracts.families import AnyConfig
from contracts.jobs import Budget
from models.family import Batch
from workers.training import completion
from workers.training.checkpoints import Checkpoints
from workers.training.completion import fit_completion
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded

CONFIGS: TypeAdapter[Any] = TypeAdapter(AnyConfig)
SPEC = DataSpec(
    modality="table",
    columns=(
        Column(name="a", type=ColumnType.REAL),
        Column(name="b", type=ColumnType.REAL, missing=True),
        Column(name="n", type=ColumnType.INTEGER, minimum=0, maximum=9, missing=True),
        Column(name="flag", type=ColumnType.BOOLEAN, missing=True),
        Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue"), missing=True),
    ),
)


class Rows:
    def __init__(self, x: NDArray[np.float64]) -> None:
        self.x, self.y = x, None


class TableReader:
    """A table in memory: the same methods as the store's reader."""

    def __init__(self, spec: DataSpec, x: NDArray[np.float64], valid: int = 50) -> None:
        self.spec, self.parts = spec, {Part.TRAIN: x[valid:], Part.VALID: x[:valid]}

    def count(self, part: Part | None = None) -> int:
        assert part is not None
        return len(self.parts[part])

    def read(self, part: Part | None, indices: Any) -> Rows:
        assert part is not None
        return Rows(self.parts[part][indices])

    def profile(self) -> DataProfile:
        x = self.parts[Part.TRAIN]
        return DataProfile(len(x), np.nanmean(x, 0), np.nanstd(x, 0), np.nanmin(x, 0), np.nanmax(x, 0))


def complete_rows(count: int) -> NDArray[np.float64]:
    """Rows whose every cell follows from a hidden number, more or less."""
    rng = np.random.default_rng(0)
    t = rng.normal(size=count)
    a, b = t + 0.1 * rng.normal(size=count), 1000 * (1 - t) + 100 * rng.normal(size=count)
    n = np.clip(np.floor(4.5 + 2 * t + rng.normal(size=count)), 0, 9)
    flag = (t + 0.5 * rng.normal(size=count) > 0).astype(float)
    colour = np.digitize(t + 0.3 * rng.normal(size=count), [-0.5, 0.5]).astype(float)
    return np.stack([a, b, n, flag, colour], axis=1)


def with_holes(x: NDArray[np.float64], share: float = 0.2) -> NDArray[np.float64]:
    holes = np.random.default_rng(1).random(x.shape) < share
    holes[:, 0] = False
    return np.where(holes, np.nan, x)


def test_a_table_without_missing_columns_needs_none() -> None:
    columns = tuple(column.model_copy(update={"missing": False}) for column in SPEC.columns)
    assert fit_completion(TableReader(SPEC.model_copy(update={"columns": columns}), complete_rows(200))) is None


def test_draws_are_rows_of_the_spec_and_keep_what_is_known() -> None:
    x = with_holes(complete_rows(600))
    fitted = fit_completion(TableReader(SPEC, x))
    assert fitted is not None
    filled = fitted.drawn(Batch(torch.from_numpy(x)), 1, 2).x.numpy()
    SPEC.check(filled)
    known = ~np.isnan(x)
    np.testing.assert_array_equal(filled[known], x[known])
    assert not np.array_equal(filled, fitted.drawn(Batch(torch.from_numpy(x)), 1, 3).x.numpy())
    np.testing.assert_array_equal(filled, fitted.drawn(Batch(torch.from_numpy(x)), 1, 2).x.numpy())


def test_draws_are_spread_and_related_as_the_data_are() -> None:
    truth = complete_rows(4000)
    x = with_holes(truth, 0.3)
    fitted = fit_completion(TableReader(SPEC, x))
    assert fitted is not None
    filled = fitted.drawn(Batch(torch.from_numpy(x)), 1).x.numpy()
    expected, column_means = np.corrcoef(truth.T), np.where(np.isnan(x), np.nanmean(x, axis=0), x)
    # Numbers are related linearly here, the flag and the colour by thresholds, which a Gaussian knows less well.
    np.testing.assert_allclose(np.corrcoef(filled.T)[:3, :3], expected[:3, :3], atol=0.02)
    np.testing.assert_allclose(np.corrcoef(filled.T), expected, atol=0.09)
    assert np.abs(np.corrcoef(column_means.T) - expected).max() > 0.2
    np.testing.assert_allclose(filled.std(0), truth.std(0), rtol=0.06)
    shares = [np.bincount(rows[:, 4].astype(int), minlength=3) / len(rows) for rows in (filled, truth)]
    np.testing.assert_allclose(*shares, atol=0.03)


def test_too_many_indicators_take_values_of_the_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "MOST_INDICATORS", 4)
    x = with_holes(complete_rows(600))
    x[:, 3] = np.nan
    reader = TableReader(SPEC, x)
    with pytest.warns(RuntimeWarning):  # numpy's own, of the column without a value
        fitted = fit_completion(reader)
    assert isinstance(fitted, completion._ByColumn)
    filled = fitted.drawn(Batch(torch.from_numpy(x)), 7).x.numpy()
    SPEC.check(filled)
    assert (filled[:, 3] == 0).all()
    assert set(filled[:, 1]) <= set(x[~np.isnan(x[:, 1]), 1])
    assert abs(filled[:, 2].mean() - np.nanmean(x[:, 2])) < 0.3


def test_a_share_of_a_batch_is_completed_as_in_the_whole() -> None:
    x = with_holes(complete_rows(300))
    fitted = fit_completion(TableReader(SPEC, x))
    assert fitted is not None
    whole = fitted.drawn(Batch(torch.from_numpy(x[:40])), 5).x
    part = fitted.drawn(Batch(torch.from_numpy(x[10:40])), 5, rows=slice(10, 40), total=40).x
    torch.testing.assert_close(whole[10:], part, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("family", ["flow", "autoencoder"])
def test_families_of_complete_rows_train_on_holes_and_resume_to_the_bit(family: str, tmp_path: Path) -> None:
    reader = TableReader(SPEC, with_holes(complete_rows(300)))
    config = CONFIGS.validate_python({"family": family, "width": 16, "batch_size": 32, "patience": 1000})
    assert not config.takes_missing

    class Stopped(Exception):
        pass

    class BreakAfter(Checkpoints):
        left = 4

        def save(self, checkpoint: Any) -> Path:
            path = super().save(checkpoint)
            self.left -= 1
            if not self.left:
                raise Stopped
            return path

    def run(checkpoints: Checkpoints | None = None) -> tuple[dict[str, torch.Tensor], Any]:
        built = build_seeded(config, reader.spec, reader.profile(), 1)
        result = train(built, reader, Plan(Budget(steps=30), 1, accelerator="cpu", threads=1), checkpoints=checkpoints)
        return {name: tensor.clone() for name, tensor in built.state_dict().items()}, result

    straight, result = run()
    assert not any(torch.isnan(t).any() for t in straight.values() if t.is_floating_point())
    assert result.best is not None
    with pytest.raises(Stopped):
        run(BreakAfter(tmp_path, 1, every_seconds=0))
    again, resumed = run(Checkpoints(tmp_path, 2, every_seconds=0))
    assert resumed.resumed_at
    assert [name for name in straight if not torch.equal(straight[name], again[name])] == []
    assert resumed.history == result.history
