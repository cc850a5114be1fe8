"""Probes: how much a simple classifier makes of frozen vectors, by the number of labels that it learns from.

linear   logistic regression on standardised entries (Alain & Bengio 2016, arXiv:1610.01644), the common measure of
         representations learned without labels
knn      the vote of the nearest training vectors by cosine (Wu et al. 2018, arXiv:1805.01978)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts.errors import InvalidInput
from metrics.arrays import Floats, labels, pair

Method = Literal["linear", "knn"]
ITERATIONS = 300


@dataclass(frozen=True)
class Probe:
    """``accuracy`` on held-out rows, with its binomial standard error, of a classifier that saw ``rows`` labels:
    ``per_class`` of each class, or all there were (None)."""

    per_class: int | None
    rows: int
    accuracy: float
    standard_error: float


def probes(
    train: ArrayLike,
    train_labels: ArrayLike,
    test: ArrayLike,
    test_labels: ArrayLike,
    *,
    method: Method = "linear",
    per_class: Sequence[int | None] = (None,),
    neighbours: int = 10,
    seed: int = 0,
) -> list[Probe]:
    """Fit on ``train`` (n, L) and score on ``test`` (m, L), once for each number of labels, in the order given.

    Rows of a class are chosen by the seed, fewer being part of more; a class with too few gives what it has. Raises
    InvalidInput for rows of unequal width, labels that do not fit, or fewer than two classes.
    """
    z, held_out = pair(train, test, at_least=1)
    known, truth = labels("train_labels", train_labels, len(z)), labels("test_labels", test_labels, len(held_out))
    if len(np.unique(known)) < 2:
        raise InvalidInput("a probe needs train rows of at least two classes")
    if any(count is not None and count < 1 for count in per_class):
        raise InvalidInput("the number of labels per class must be at least 1")
    order = np.random.default_rng(seed).permutation(len(z))
    place = _place_in_class(known[order])
    found = []
    for count in per_class:
        chosen = order if count is None else order[place < count]
        right = float((_fitted(z[chosen], known[chosen], method, neighbours).predict(held_out) == truth).mean())
        error = math.sqrt(right * (1 - right) / len(truth))
        found.append(Probe(count, len(chosen), right, error))
    return found


def _place_in_class(known: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many rows of its class stand before each row."""
    place = np.empty(len(known), dtype=np.int64)
    for label in np.unique(known):
        own = np.flatnonzero(known == label)
        place[own] = np.arange(len(own))
    return place


def _fitted(z: Floats, known: NDArray[np.int64], method: Method, neighbours: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if method == "knn":
        return KNeighborsClassifier(min(neighbours, len(z)), metric="cosine").fit(z, known)
    with warnings.catch_warnings():
        # What has not converged after so many steps is scored as it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS)).fit(z, known)
