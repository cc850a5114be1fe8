"""Classifiers of real data read samples: all classes, some classes, none."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from contracts.errors import InvalidInput
from metrics.samples import classes_found, classifier_accuracy_score, named_as, support

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


def test_samples_are_named_as_asked_or_not() -> None:
    x, y = DIGITS.images, DIGITS.target.astype(np.int64)
    right = named_as(x[:1200], y[:1200], x[1200:], y[1200:])
    wrong = named_as(x[:1200], y[:1200], x[1200:], (y[1200:] + 1) % 10)
    assert right > 0.85
    assert wrong < 0.1


def test_equal_laws_cover_each_other_and_collapsed_samples_do_not() -> None:
    generator = np.random.default_rng(0)
    real, same = generator.normal(size=(2, 800, 4))
    equal = support(real, same)
    assert min(equal.precision, equal.recall, equal.coverage) > 0.9
    assert equal.density == pytest.approx(1, abs=0.15)
    collapsed = support(real, 0.1 * generator.normal(size=(800, 4)))
    assert collapsed.precision > 0.95
    assert collapsed.coverage < 0.3
    assert collapsed.recall < 0.1
    far = support(real, same + 100)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_samples_that_repeat_real_rows_cover_all_of_them() -> None:
    real = np.random.default_rng(0).normal(size=(50, 2))
    assert support(real, real).coverage == 1
    with pytest.raises(InvalidInput, match="at least 6"):
        support(real[:5], real)
