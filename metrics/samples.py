"""Figures of samples from a model, read by classifiers of the real data.

classes found            classes that a classifier trained on real rows sees among the samples
classifier accuracy      accuracy on real rows of a classifier trained on samples of known class
                         (Ravuri & Vinyals 2019, arXiv:1905.10887), to be set beside one trained on real rows
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from contracts.errors import InvalidInput
from metrics.arrays import Floats, labels, pair


class Classifier(Protocol):
    """A classifier of any number of classes in the manner of scikit-learn."""

    def fit(self, x: Floats, y: NDArray[np.int64]) -> Any: ...

    def predict(self, x: Floats) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class ClassesFound:
    """``counts`` (classes,) of samples by class, in the order of ``classes``; ``found`` have enough of them."""

    classes: NDArray[np.int64]
    counts: NDArray[np.int64]
    found: int


def classes_found(
    real: ArrayLike,
    real_labels: ArrayLike,
    samples: ArrayLike,
    *,
    at_least: int = 1,
    seed: int = 0,
    classifier: Classifier | None = None,
) -> ClassesFound:
    """Count the samples ``(n, …)`` by the class that a classifier of ``real`` ``(m, …)`` gives them.

    Raises InvalidInput for rows of unequal width, labels that do not fit, or fewer than two classes.
    """
    rows, drawn = pair(real, samples, at_least=1)
    truth = _truth(real_labels, len(rows))
    model = _fitted(classifier, rows, truth, seed)
    classes = np.unique(truth)
    predicted = model.predict(drawn)
    counts = np.array([(predicted == label).sum() for label in classes], dtype=np.int64)
    return ClassesFound(classes, counts, int((counts >= at_least).sum()))


def classifier_accuracy_score(
    samples: ArrayLike,
    sample_labels: ArrayLike,
    real: ArrayLike,
    real_labels: ArrayLike,
    *,
    seed: int = 0,
    classifier: Classifier | None = None,
) -> float:
    """Return the accuracy in [0, 1] on ``real`` rows of a classifier trained on ``samples`` of known class.

    Raises InvalidInput for rows of unequal width, labels that do not fit, or fewer than two classes.
    """
    drawn, rows = pair(samples, real, at_least=1)
    truth = _truth(sample_labels, len(drawn))
    model = _fitted(classifier, drawn, truth, seed)
    return float((model.predict(rows) == labels("real_labels", real_labels, len(rows))).mean())


def _truth(given: ArrayLike, n: int) -> NDArray[np.int64]:
    truth = labels("labels", given, n)
    if len(np.unique(truth)) < 2:
        raise InvalidInput("a classifier needs rows of at least two classes")
    return truth


def _fitted(classifier: Classifier | None, x: Floats, y: NDArray[np.int64], seed: int) -> Classifier:
    if classifier is None:
        network = MLPClassifier((128,), max_iter=60, early_stopping=len(x) >= 1000, random_state=seed)
        classifier = make_pipeline(StandardScaler(), network)
    classifier.fit(x, y)
    return classifier
