"""How samples are drawn for the card, compared with held-out rows and laid out as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contracts.data import DataProfile, Part
from store.datasets import Rows
from workers import likeness


class Held:
    """A reader whose held-out rows are given."""

    def __init__(self, x: np.ndarray, part: Part = Part.TEST) -> None:
        self.x, self.part = x, part

    def count(self, part: Part | None = None) -> int:
        return len(self.x) if part is self.part else 0

    def read(self, part: Part | None, indices: Any) -> Rows:
        return Rows(self.x[indices])


@pytest.fixture
def profile() -> DataProfile:
    return DataProfile(100, np.zeros(3), np.array([1.0, 1000.0, 0.0]), np.zeros(3), np.ones(3))


def normal(seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(256, 3)) * [1.0, 1000.0, 0.0] + [shift, 0, 0]


@pytest.mark.parametrize("part", [Part.TEST, Part.VALID])
def test_equal_sets_are_near_and_shifted_ones_far_in_units_of_each_cell(profile: DataProfile, part: Part) -> None:
    held = Held(normal(0), part)
    figures = likeness.measure({"samples": normal(1), "shifted": normal(2, 2.0)}, held, profile)  # type: ignore[arg-type]
    near, far = figures["samples_mmd_squared"], figures["shifted_mmd_squared"]
    assert abs(near["value"]) < 0.01 < near["p_value"]
    assert far["value"] > 0.1
    assert far["p_value"] == pytest.approx(0.01)
    assert far["rows"] == [256, 256]


def test_without_held_out_rows_nothing_is_measured(profile: DataProfile) -> None:
    assert likeness.measure({"samples": normal(1)}, Held(normal(0)[:1]), profile) == {}  # type: ignore[arg-type]


def test_the_picture_shows_one_set_under_the_other() -> None:
    first, second = np.zeros((256, 2, 2, 1), np.uint8), np.ones((256, 2, 2, 1))
    picture = likeness.preview({"samples": first, "standard_normal": second})
    assert picture is not None
    assert picture.shape == (64, 2, 2, 1)
    assert not picture[: len(picture) // 2].any()
    assert picture[len(picture) // 2 :].all()
    assert likeness.preview({}) is None


def test_reconstructions_stand_below_their_inputs() -> None:
    samples = np.zeros((256, 2, 2, 1))
    inputs, outputs = np.full((32, 2, 2, 1), 2), np.full((32, 2, 2, 1), 3.0)
    picture = likeness.preview({"samples": samples, "means": samples}, (inputs, outputs))
    assert picture is not None
    lines = picture.reshape(8, 8, -1)[:, :, 0]
    assert lines.mean(axis=1).tolist() == [0, 0, 0, 0, 0, 0, 2, 3]
    alone = likeness.preview({}, (inputs, outputs))
    assert alone is not None
    assert alone.reshape(8, 8, -1)[:, :, 0].mean(axis=1).tolist() == [2, 3] * 4


def test_rows_with_missing_cells_are_compared_with_nothing(profile: DataProfile) -> None:
    holes = normal(0)
    holes[::2, 1] = np.nan
    figures = likeness.measure({"samples": normal(1)}, Held(holes), profile)  # type: ignore[arg-type]
    assert figures["samples_mmd_squared"]["rows"] == [128, 256]
    assert abs(figures["samples_mmd_squared"]["value"]) < 0.02
    holes[:, 1] = np.nan
    assert likeness.measure({"samples": normal(1)}, Held(holes), profile) == {}  # type: ignore[arg-type]
