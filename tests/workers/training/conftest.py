"""Digits held in arrays, and a tiny family with dropout whose every draw matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from contracts.data import DataProfile, DataSpec, ImageShape, Part

DIGITS = DataSpec(modality="image", image=ImageShape(height=8, width=8, levels=17))


@dataclass
class Rows:
    x: NDArray[Any]
    y: NDArray[np.int64] | None = None


@dataclass
class ArrayReader:
    """A dataset in memory: the same methods as the store's reader."""

    spec: DataSpec
    parts: dict[Part, NDArray[Any]]

    def count(self, part: Part | None = None) -> int:
        assert part is not None
        return len(self.parts[part])

    def read(self, part: Part | None, indices: Any) -> Rows:
        assert part is not None
        return Rows(self.parts[part][indices])

    def profile(self) -> DataProfile:
        flat = self.parts[Part.TRAIN].reshape(self.count(Part.TRAIN), -1).astype(np.float64)
        return DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def digits(train: int = 300, valid: int = 60) -> ArrayReader:
    images = load_digits().images.astype(np.uint8)[..., None]
    parts = {
        Part.TRAIN: images[:train],
        Part.VALID: images[train : train + valid],
        Part.TEST: images[train + valid : train + valid + 60],
    }
    return ArrayReader(DIGITS, parts)


@pytest.fixture
def reader() -> ArrayReader:
    return digits()
