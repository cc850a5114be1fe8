"""What tables become before a density is read off them."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.tables import dequantise, kept_columns, prepare
from contracts.data import Part


def test_constants_and_near_copies_go() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 500))
    x = np.stack([a, np.full(500, 7.0), b, 3 * a + 0.01 * b, a + b], axis=1)
    assert kept_columns(x) == [0, 2, 4]


def test_repeated_values_are_spread_by_their_grid_and_others_stay() -> None:
    generator = np.random.default_rng(0)
    counts, real = generator.integers(0, 9, size=1000).astype(float), generator.normal(size=1000)
    spread = dequantise(np.stack([counts, real], axis=1), generator)
    assert np.array_equal(np.floor(spread[:, 0]), counts)
    assert len(np.unique(spread[:, 0])) == 1000
    assert np.array_equal(spread[:, 1], real)


def test_a_value_that_is_common_among_real_ones_gets_no_spike() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1000, 1))
    x[:100] = 0.0
    spread = dequantise(x, generator)
    assert spread[:100].std() > 1e-3
    assert np.abs(spread - x).max() < 0.02


def test_parts_are_fixed_and_standardised_by_the_train_rows() -> None:
    x = np.random.default_rng(1).normal(3, [1, 100], size=(1000, 2))
    parts = prepare(x)
    assert [len(parts[part]) for part in Part] == [800, 100, 100]
    assert np.allclose(parts[Part.TRAIN].mean(0), 0)
    assert np.allclose(parts[Part.TRAIN].std(0), 1)
    again = prepare(x)
    assert all(np.array_equal(parts[part], again[part]) for part in Part)
