"""Classifiers of real data read samples: all classes, some classes, none."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from contracts.errors import InvalidInput
from metrics.samples import classes_found, classifier_accuracy_score

DIGITS = load_digits()


def test_all_ten_digits_are_found_among_real_ones_and_few_among_few() -> None:
    real, labels = DIGITS.images[:1200], DIGITS.target[:1200].astype(np.int64)
    held_out, truth = DIGITS.images[1200:], DIGITS.target[1200:]
    answer = classes_found(real, labels, held_out)
    assert answer.found == 10
    assert answer.counts.sum() == len(held_out)
    assert np.abs(answer.counts - np.bincount(truth)).sum() < 0.15 * len(held_out)
    few = classes_found(real, labels, held_out[truth <= 1], at_least=20, classifier=LogisticRegression(max_iter=500))
    assert few.found == 2
    assert few.classes.tolist() == list(range(10))


def test_training_on_real_rows_scores_high_and_on_shuffled_labels_at_chance() -> None:
    x, y = DIGITS.images, DIGITS.target.astype(np.int64)
    high = classifier_accuracy_score(x[:1200], y[:1200], x[1200:], y[1200:])
    shuffled = np.random.default_rng(0).permutation(y[:1200])
    chance = classifier_accuracy_score(
        x[:1200], shuffled, x[1200:], y[1200:], classifier=LogisticRegression(C=1e-3, max_iter=2000)
    )
    assert high > 0.85
    assert chance < 0.25


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(10, dtype=np.int64), "two classes"),
        (np.arange(9), "one per row"),
        (np.linspace(0, 1, 10), "whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: NDArray[np.int64], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        classes_found(np.zeros((10, 3)), labels, np.zeros((4, 3)))
