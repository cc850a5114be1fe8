import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidInput, VerbUnsupported
from engine import similarity as module
from engine.answers import Encoding
from engine.similarity import Metric, similarity, top_k


def encoding(seed: int, rows: int, dimensions: int = 3) -> Encoding:
    rng = np.random.default_rng(seed)
    return Encoding(rng.normal(size=(rows, dimensions)), 0.3 * rng.normal(size=(rows, dimensions)))


def reference(a: Encoding, b: Encoding, metric: Metric) -> np.ndarray:
    """One pair at a time, by the definitions."""

    def kl(m1, s1, m2, s2):
        return (np.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5).sum()

    def pair(i, j):
        u, v = a.vectors[i], b.vectors[j]
        s, t = np.exp(a.log_scale[i]), np.exp(b.log_scale[j])
        return {
            Metric.DOT: u @ v,
            Metric.COSINE: u @ v / np.linalg.norm(u) / np.linalg.norm(v),
            Metric.EUCLIDEAN: np.linalg.norm(u - v),
            Metric.SYMMETRIC_KL: kl(u, s, v, t) + kl(v, t, u, s),
            Metric.WASSERSTEIN2: np.sqrt(((u - v) ** 2).sum() + ((s - t) ** 2).sum()),
        }[metric]

    return np.array([[pair(i, j) for j in range(len(b.vectors))] for i in range(len(a.vectors))])


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("block", [1, 1 << 22])
def test_metrics_follow_their_definitions(metric, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    a, b = encoding(0, 4), encoding(1, 5)
    np.testing.assert_allclose(similarity(a, b, metric), reference(a, b, metric), rtol=1e-10)


@pytest.mark.parametrize("metric", list(Metric))
def test_a_posterior_is_nearest_to_itself(metric):
    a = encoding(2, 6)
    found = similarity(a, a, metric)
    if metric is Metric.COSINE:
        np.testing.assert_allclose(np.diag(found), 1)
    elif not metric.larger_is_nearer:
        np.testing.assert_allclose(np.diag(found), 0, atol=1e-7)


def test_zero_and_extreme_vectors_have_a_cosine():
    a = Encoding(np.array([[0.0, 0.0], [1e-300, 0.0], [1e300, 1e300]]))
    found = similarity(a, a, Metric.COSINE)
    np.testing.assert_allclose(found[0], 0)
    np.testing.assert_allclose(np.diag(found)[1:], 1)


def test_single_precision_vectors_are_compared_in_double():
    a = Encoding(np.full((1, 1000), 0.1, dtype=np.float32))
    assert similarity(a, a, Metric.DOT).dtype == np.float64
    np.testing.assert_allclose(similarity(a, a, Metric.DOT), 1000 * float(np.float32(0.1)) ** 2, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    metric=st.sampled_from(list(Metric)),
    sizes=st.lists(st.integers(0, 9), max_size=6),
    k=st.integers(1, 12),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_top_k_is_the_head_of_the_full_order(metric, sizes, k, ties, seed):
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    vectors = rng.integers(-1, 2, size=(total, 2)).astype(float) if ties else rng.normal(size=(total, 2))
    scale = np.zeros((total, 2))
    query = Encoding(rng.integers(-1, 2, size=(3, 2)).astype(float), np.zeros((3, 2)))
    edges = np.cumsum([0, *sizes])
    batches = [Encoding(vectors[i:j], scale[i:j]) for i, j in itertools.pairwise(edges)]
    found = top_k(query, iter(batches), metric, k)
    assert found.indices.shape == found.scores.shape == (3, min(k, total))
    if total:
        full = similarity(query, Encoding(vectors, scale), metric)
        order = np.argsort(-full if metric.larger_is_nearer else full, axis=1, kind="stable")[:, :k]
        np.testing.assert_allclose(found.scores, np.take_along_axis(full, order, axis=1), atol=1e-12)
        if not ties:
            np.testing.assert_array_equal(found.indices, order)
        assert all(len(set(row)) == len(row) for row in found.indices.tolist())


def test_ties_go_to_the_earlier_row_in_whatever_batch():
    row = Encoding(np.ones((2, 2)))
    found = top_k(Encoding(np.ones((1, 2))), [row, row, row], Metric.DOT, 3)
    assert found.indices.tolist() == [[0, 1, 2]]


def test_large_batches_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 8)
    a, b = encoding(0, 4), encoding(1, 50)
    found = top_k(a, [b], Metric.EUCLIDEAN, 5)
    expected = np.argsort(reference(a, b, Metric.EUCLIDEAN), axis=1)[:, :5]
    np.testing.assert_array_equal(found.indices, expected)


@pytest.mark.parametrize("metric", [Metric.SYMMETRIC_KL, Metric.WASSERSTEIN2])
def test_points_have_no_posterior_to_compare(metric):
    a = encoding(0, 2)
    with pytest.raises(VerbUnsupported, match="cosine, dot, euclidean"):
        similarity(a, Encoding(a.vectors), metric)


def test_bad_vectors_are_refused():
    a = encoding(0, 2)
    with pytest.raises(InvalidInput, match="equal L"):
        similarity(a, encoding(0, 2, dimensions=4), Metric.DOT)
    with pytest.raises(InvalidInput, match="`b` holds"):
        similarity(a, Encoding(np.full((1, 3), np.nan)), Metric.DOT)
    with pytest.raises(InvalidInput, match="top_k"):
        top_k(a, [a], Metric.DOT, 0)
