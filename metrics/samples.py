"""Figures of samples from a model, read by classifiers of the real data.

classes found            classes that a classifier trained on real rows sees among the samples
classifier accuracy      accuracy on real rows of a classifier trained on samples of known class
                         (Ravuri & Vinyals 2019, arXiv:1905.10887), to be set beside one trained on real rows
named as asked           share of samples that a classifier trained on real rows gives the class they were asked for
precision, recall        share of samples within the k-nearest-neighbour balls of real rows, and of real rows within
                         those of samples (Kynkäänniemi et al. 2019, arXiv:1904.06991)
density, coverage        how many balls of real rows a sample lies in, over k, and the share of real rows whose ball
                         holds a sample (Naeem et al. 2020, arXiv:2002.09797)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors
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


def named_as(
    real: ArrayLike,
    real_labels: ArrayLike,
    samples: ArrayLike,
    asked: ArrayLike,
    *,
    seed: int = 0,
    classifier: Classifier | None = None,
) -> float:
    """Return the share in [0, 1] of ``samples`` that a classifier trained on ``real`` rows names as asked.

    Raises InvalidInput for rows of unequal width, labels that do not fit, or fewer than two classes.
    """
    rows, drawn = pair(real, samples, at_least=1)
    model = _fitted(classifier, rows, _truth(real_labels, len(rows)), seed)
    return float((model.predict(drawn) == labels("asked", asked, len(drawn))).mean())


@dataclass(frozen=True)
class Support:
    """How far samples and real rows lie within each other's support: see the module's docstring."""

    precision: float
    recall: float
    density: float
    coverage: float


def support(real: ArrayLike, samples: ArrayLike, *, neighbours: int = 5) -> Support:
    """Compare ``samples`` ``(n, …)`` with ``real`` rows ``(m, …)`` by Euclidean balls up to the k-th neighbour.

    All distances are held at once: n · m doubles. Raises InvalidInput for rows of unequal width or too few of them.
    """
    rows, drawn = pair(real, samples, at_least=neighbours + 1)
    real_radius, drawn_radius = (_radius(each, neighbours) for each in (rows, drawn))
    squared = np.square(rows).sum(1)[:, None] - 2 * rows @ drawn.T + np.square(drawn).sum(1)
    distance = np.sqrt(np.maximum(squared, 0.0))  # (m, n)
    in_real = distance < real_radius[:, None]
    return Support(
        precision=float(in_real.any(axis=0).mean()),
        recall=float((distance < drawn_radius).any(axis=1).mean()),
        density=float(in_real.sum(axis=0).mean() / neighbours),
        coverage=float((distance.min(axis=1) < real_radius).mean()),
    )


def _radius(rows: Floats, neighbours: int) -> Floats:
    """Distance to the k-th nearest other row."""
    distances, _ = NearestNeighbors(n_neighbors=neighbours + 1).fit(rows).kneighbors(rows)
    radius: Floats = distances[:, -1]
    return radius


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
