"""Figures of a density: mean log-probability, bits per dimension, Monte-Carlo bounds, anomalies.

bits per dimension = -log p(x) / (D ln 2)
log p(x) ≥ log 1/K Σ_k exp(w_k), in expectation, with the standard error of the delta method,
sd(exp w) / (√K · mean(exp w))                     (Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519)
AUROC = P(score of an anomaly > score of a normal row) + ½ P(equal)        (Hanley & McNeil 1982)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from scipy.stats import rankdata

from contracts.errors import InvalidInput
from metrics.arrays import Floats, labels, values


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, both in the unit of what was averaged; NaN from a single value."""

    value: float
    standard_error: float
    count: int


def mean_log_prob(log_prob: ArrayLike) -> Estimate:
    """Return the mean of log-probabilities ``(n,)``, nats; -inf if any row has zero density."""
    array = values("log_prob", log_prob)
    if np.isneginf(array).any():
        return Estimate(-math.inf, math.nan, len(array))
    return Estimate(float(array.mean()), _standard_error(array), len(array))


def bits_per_dim(log_prob: ArrayLike, cells: int) -> Floats:
    """Return -log p / (cells ln 2) elementwise, bits. Raises InvalidInput unless ``cells`` ≥ 1."""
    if cells < 1:
        raise InvalidInput(f"bits per dimension need at least one cell, got {cells}")
    bits: Floats = -np.asarray(log_prob, dtype=np.float64) / (cells * math.log(2))
    return bits


def log_mean_exp(log_weights: ArrayLike, axis: int = 0) -> tuple[Floats, Floats]:
    """Return log 1/K Σ exp(w) over ``axis`` and its standard error, nats.

    The error is NaN for K = 1 and where all weights are zero.
    """
    w = np.asarray(log_weights, dtype=np.float64)
    if w.ndim == 0 or w.shape[axis] == 0:
        raise InvalidInput("`log_weights` must hold at least one weight along the axis")
    count = w.shape[axis]
    value = np.asarray(logsumexp(w, axis=axis) - math.log(count))
    if count == 1:
        return value, np.full_like(value, np.nan)
    with np.errstate(invalid="ignore"):
        relative = np.exp(w - np.expand_dims(value, axis))
        error = np.asarray(relative.std(axis=axis, ddof=1) / math.sqrt(count))
    return value, error


def anomaly_auroc(log_prob: ArrayLike, anomaly: ArrayLike) -> float:
    """Return the AUROC of -log p as a score of anomalies; ``anomaly`` ``(n,)`` is 1 for anomalies, else 0.

    Rows of zero density count as the most anomalous. Raises InvalidInput unless both classes occur.
    """
    score = -values("log_prob", log_prob)
    given = np.asarray(anomaly)
    truth = labels("anomaly", given.astype(np.int64) if given.dtype == np.bool_ else given, len(score))
    positives = int((truth == 1).sum())
    negatives = int((truth == 0).sum())
    if positives + negatives != len(truth) or not positives or not negatives:
        raise InvalidInput("`anomaly` must hold both 0 (normal) and 1 (anomaly), and nothing else")
    above = float(rankdata(score)[truth == 1].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def _standard_error(array: Floats) -> float:
    return float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
