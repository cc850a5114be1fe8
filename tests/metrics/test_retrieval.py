"""Recall among the nearest, and what a random order would have."""

import numpy as np
import pytest

from contracts.errors import InvalidInput
from metrics.retrieval import chance_at, recall_at


def test_recall_counts_queries_with_their_own_among_the_nearest() -> None:
    scores = [[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]]
    assert recall_at(1, scores, [0, 1, 2], [0, 1, 2]) == pytest.approx(1 / 3)
    assert recall_at(2, scores, [0, 1, 2], [0, 1, 2]) == pytest.approx(2 / 3)
    assert recall_at(5, scores, [0, 1, 2], [0, 1, 2]) == 1
    assert recall_at(1, scores, [0, 0, 2], [0, 0, 2]) == pytest.approx(2 / 3)  # any of a group will do
    assert recall_at(2, np.zeros((3, 3)), [0, 1, 2], [0, 1, 2]) == 0  # ties go to the others


def test_chance_is_the_recall_of_random_scores() -> None:
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 20, 60)
    for k in (1, 5, 10):
        found = np.mean([recall_at(k, generator.random((60, 60)), groups, groups) for _ in range(300)])
        assert chance_at(k, groups, groups) == pytest.approx(found, abs=0.01)
    assert chance_at(10, np.arange(100), np.arange(100)) == pytest.approx(0.1)
    assert chance_at(200, np.arange(100), np.arange(100)) == 1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="query 1 has no item"):
        recall_at(1, np.zeros((2, 2)), [0, 5], [0, 1])
    with pytest.raises(InvalidInput, match="queries by items"):
        recall_at(1, np.zeros(3), [0], [0])
    with pytest.raises(InvalidInput, match="at least 1"):
        recall_at(0, np.zeros((1, 1)), [0], [0])
