import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.data import Column, ColumnType, DataSpec
from engine.kinds.moments import Moments

SPEC = DataSpec(
    modality="table",
    columns=(
        Column(name="a", type=ColumnType.REAL),
        Column(name="b", type=ColumnType.CATEGORICAL, categories=("x", "y", "z")),
        Column(name="c", type=ColumnType.INTEGER, minimum=0, maximum=9),
    ),
)


@settings(deadline=None)
@given(cut=st.lists(st.integers(0, 60), max_size=5), seed=st.integers(0, 1000))
def test_pieces_add_up_to_the_whole(cut, seed):
    rng = np.random.default_rng(seed)
    draws = np.stack((rng.normal(size=60), rng.integers(0, 3, 60), rng.integers(0, 10, 60)), axis=1).astype(float)
    weights = rng.dirichlet(np.ones(20), size=3).reshape(-1)
    rows = np.repeat(np.arange(3), 20)
    moments = Moments(SPEC, 3)
    edges = sorted({0, 60, *cut})
    for start, stop in itertools.pairwise(edges):
        moments.add(rows[start:stop], weights[start:stop], draws[start:stop])
    by_row, w = draws.reshape(3, 20, 3), weights.reshape(3, 20, 1)
    mean = (w * by_row).sum(axis=1)
    np.testing.assert_allclose(moments.mean()[:, [0, 2]], mean[:, [0, 2]], atol=1e-12)
    votes = [[(w[r, :, 0] * (by_row[r, :, 1] == code)).sum() for code in range(3)] for r in range(3)]
    np.testing.assert_array_equal(moments.mean()[:, 1], np.argmax(votes, axis=1))
    variance = (w * (by_row - mean[:, None]) ** 2).sum(axis=1)
    np.testing.assert_allclose(moments.std()[:, [0, 2]], np.sqrt(variance[:, [0, 2]]), atol=1e-6)


def test_known_means_take_the_place_of_the_draws():
    moments = Moments(SPEC, 1)
    rows, weights = np.zeros(2, dtype=np.int64), np.array([0.5, 0.5])
    draws = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 9.0]])
    moments.add(rows, weights, draws, np.array([[1.0, 0.0, 12.0], [1.0, 0.0, 12.0]]))
    np.testing.assert_allclose(moments.mean(), [[1.0, 0.0, 9.0]])
    np.testing.assert_allclose(moments.std()[0, 0], 1.0)


def test_the_probability_of_what_is_answered() -> None:
    columns = (
        Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
        Column(name="open", type=ColumnType.BOOLEAN),
        Column(name="a", type=ColumnType.REAL),
    )
    moments = Moments(DataSpec(modality="table", columns=columns), 1)
    draws = np.array([[2.0, 0, 1.5], [2.0, 0, 2.5], [0.0, 1, 3.5]])
    moments.add(np.zeros(3, dtype=np.int64), np.array([0.5, 0.25, 0.25]), draws)
    np.testing.assert_allclose(moments.mean()[0], [2, 0.25, 2.25])
    np.testing.assert_allclose(moments.probability()[0], [0.75, 0.75, 1.0])


def test_moments_of_each_draw_add_up_by_the_law_of_total_variance() -> None:
    spec = DataSpec(
        modality="table",
        columns=(
            Column(name="x", type=ColumnType.REAL),
            Column(name="k", type=ColumnType.CATEGORICAL, categories=("a", "b", "c")),
        ),
    )
    moments = Moments(spec, 1)
    rows, weights = np.zeros(2, dtype=np.int64), np.full(2, 0.5)
    draws = np.array([[100.0, 2.0], [-100.0, 2.0]])
    expected, deviation = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[2.0, 0.7], [4.0, 0.7]])
    moments.add(rows, weights, draws, expected, deviation)
    assert moments.mean().tolist() == [[2.0, 2.0]]
    # Mean of the variances, (4 + 16) / 2, and variance of the means, 1; a category's deviation is that of its draws.
    np.testing.assert_allclose(moments.std(), [[np.sqrt(11.0), 0.0]], atol=1e-9)
