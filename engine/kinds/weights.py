"""Importance weights: estimates of log Z = log E[w], their errors, effective sizes and resampling.

For w_1 … w_K of one row, log (1/K) Σ w_k is a lower bound of log Z in expectation that tightens with K (Burda,
Grosse, Salakhutdinov 2016, "Importance weighted autoencoders", arXiv:1509.00519). Its standard error follows by the
delta method: sd(w) / (√K · mean(w)). The effective sample size is (Σ w)² / Σ w² (Kish 1965).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.conditional import log_sum_exp

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LogMean:
    """``values`` (B,) = log mean w in nats and their ``standard_error`` (B,), NaN where it cannot be told."""

    values: Floats
    standard_error: Floats


def clean(log_w: Floats) -> Floats:
    """Count a weight whose arithmetic overflowed to NaN as zero: its draw is out of the density's reach."""
    return np.where(np.isnan(log_w), -np.inf, log_w)


def log_mean_exp(log_w: Floats) -> LogMean:
    """Return log mean exp over the last axis of ``log_w`` (B, K)."""
    samples = log_w.shape[1]
    values = log_sum_exp(log_w) - np.log(samples)
    if samples == 1:
        return LogMean(values, np.full(len(log_w), np.nan))
    with np.errstate(invalid="ignore"):
        relative = np.exp(log_w - values[:, None])  # w / mean(w); NaN where every weight is zero
        return LogMean(values, relative.std(axis=1, ddof=1) / np.sqrt(samples))


def normalise(log_w: Floats) -> Floats:
    """Return weights ``(B, K)`` that add up to one; equal ones where all are zero."""
    total = log_sum_exp(log_w)
    lost = ~np.isfinite(total)
    with np.errstate(invalid="ignore"):
        weights = np.exp(log_w - total[:, None])
    weights[lost] = 1.0 / log_w.shape[1]
    return weights


def effective_sample_size(weights: Floats) -> Floats:
    """Return 1 / Σ w² of normalised ``weights`` (B, K), between 1 and K."""
    size: Floats = 1.0 / np.square(weights).sum(axis=1)
    return size


def resample(weights: Floats, uniforms: Floats) -> NDArray[np.int64]:
    """Return indices ``(B, draws)`` into normalised ``weights`` (B, K) by inverse CDF of ``uniforms`` (B, draws)."""
    cumulative = np.cumsum(weights, axis=1)
    cumulative /= cumulative[:, -1:]
    picked = np.stack([np.searchsorted(row, u, side="right") for row, u in zip(cumulative, uniforms, strict=True)])
    indices: NDArray[np.int64] = np.minimum(picked, weights.shape[1] - 1).astype(np.int64)
    return indices
