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
