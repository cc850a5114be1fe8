"""How alike two encodings are, and the exact nearest of many in bounded memory.

    cosine         ⟨a, b⟩ / (‖a‖ ‖b‖), 0 where a vector is zero                     larger = nearer
    dot            ⟨a, b⟩                                                           larger = nearer
    euclidean      ‖a − b‖                                                          smaller = nearer
    symmetric_kl   KL(a‖b) + KL(b‖a) of diagonal Gaussians, nats (Jeffreys 1946)    smaller = nearer
    wasserstein2   √(‖μ_a − μ_b‖² + ‖σ_a − σ_b‖²) of diagonal Gaussians             smaller = nearer

The last two compare posteriors and need ``log_scale``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidInput, VerbUnsupported
from engine.answers import Encoding

Floats = NDArray[np.float64]

# Scalars of the largest temporary of a comparison: 32 MiB of float64.
_BLOCK = 1 << 22


class Metric(StrEnum):
    """What is compared; see the module's text."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    SYMMETRIC_KL = "symmetric_kl"
    WASSERSTEIN2 = "wasserstein2"

    @property
    def larger_is_nearer(self) -> bool:
        return self in (Metric.COSINE, Metric.DOT)

    @property
    def needs_scale(self) -> bool:
        """Whether it compares posteriors, not points."""
        return self in (Metric.SYMMETRIC_KL, Metric.WASSERSTEIN2)


@dataclass(frozen=True)
class TopK:
    """The nearest rows of a stream for each query, nearest first: ``indices`` (A, k) into the stream, int64, and
    ``scores`` (A, k). Fewer columns where the stream was shorter than k; ties go to the earlier row."""

    indices: NDArray[np.int64]
    scores: Floats


def similarity(a: Encoding, b: Encoding, metric: Metric) -> Floats:
    """Return the metric between every row of ``a`` and every row of ``b``, ``(A, B)`` float64.

    Raises InvalidInput if their dimensions differ, VerbUnsupported if the metric needs posteriors that are not there.
    """
    _check(a, b, metric)
    one, two = _float64(a.vectors), _float64(b.vectors)
    if metric is Metric.DOT:
        return one @ two.T
    if metric is Metric.COSINE:
        return np.clip(_unit(one) @ _unit(two).T, -1.0, 1.0)
    if metric is Metric.EUCLIDEAN:
        return _distances(one, two)
    if a.log_scale is None or b.log_scale is None:
        raise AssertionError("checked above")
    one_scale, two_scale = _float64(a.log_scale), _float64(b.log_scale)
    if metric is Metric.WASSERSTEIN2:
        return _distances(
            np.concatenate((one, np.exp(one_scale)), axis=1), np.concatenate((two, np.exp(two_scale)), axis=1)
        )
    return _symmetric_kl(one, one_scale, two, two_scale)


def top_k(query: Encoding, batches: Iterable[Encoding], metric: Metric, k: int) -> TopK:
    """Return the ``k`` nearest rows of all ``batches`` to each row of ``query``, exactly.

    Holds k candidates per query and one batch at a time. Raises InvalidInput if k is below 1.
    """
    if k < 1:
        raise InvalidInput(f"top_k must be at least 1, got {k}")
    queries = len(query.vectors)
    indices, scores = np.empty((queries, 0), dtype=np.int64), np.empty((queries, 0))
    seen = 0
    for batch in batches:
        rows = len(batch.vectors)
        if rows == 0:
            continue
        step = max(1, _BLOCK // max(1, queries))
        for start in range(0, rows, step):
            part = _slice(batch, start, start + step)
            found = similarity(query, part, metric)
            numbers = np.broadcast_to(np.arange(seen, seen + found.shape[1]), found.shape)
            scores = np.concatenate((scores, found), axis=1)
            indices = np.concatenate((indices, numbers), axis=1)
            # Candidates stand before newcomers, so a stable order leaves ties with the earlier row.
            order = np.argsort(-scores if metric.larger_is_nearer else scores, axis=1, kind="stable")[:, :k]
            scores = np.take_along_axis(scores, order, axis=1)
            indices = np.take_along_axis(indices, order, axis=1)
            seen += found.shape[1]
    return TopK(indices, scores)


def _check(a: Encoding, b: Encoding, metric: Metric) -> None:
    if a.vectors.ndim != 2 or b.vectors.ndim != 2 or a.vectors.shape[1] != b.vectors.shape[1]:
        raise InvalidInput(
            f"vectors must stand in two arrays (rows, L) of equal L, got {a.vectors.shape} and {b.vectors.shape}"
        )
    for encoding, name in ((a, "a"), (b, "b")):
        if not np.isfinite(encoding.vectors).all():
            raise InvalidInput(f"`{name}` holds vectors with values that are not finite")
    if metric.needs_scale and (a.log_scale is None or b.log_scale is None):
        others = ", ".join(each.value for each in Metric if not each.needs_scale)
        raise VerbUnsupported(
            f"{metric.value} compares posteriors, and these vectors have no log_scale; use one of {others}, "
            "or a model with a posterior such as vae or pca"
        )


def _slice(encoding: Encoding, start: int, stop: int) -> Encoding:
    scale = None if encoding.log_scale is None else encoding.log_scale[start:stop]
    return Encoding(encoding.vectors[start:stop], scale)


def _float64(array: NDArray[np.floating]) -> Floats:
    return array.astype(np.float64, copy=False)


def _unit(vectors: Floats) -> Floats:
    # Dividing by the largest entry first keeps the squares of very small and very large vectors in range.
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: Floats = np.divide(scaled, norms, out=scaled, where=norms > 0)
    return unit


def _distances(a: Floats, b: Floats) -> Floats:
    from scipy.spatial.distance import cdist

    distances: Floats = cdist(a, b)
    return distances


def _symmetric_kl(a: Floats, a_scale: Floats, b: Floats, b_scale: Floats) -> Floats:
    """½ Σ_d [σ_a²/σ_b² + σ_b²/σ_a² − 2 + (μ_a − μ_b)² (1/σ_a² + 1/σ_b²)], in blocks of rows of ``a``."""
    result = np.empty((len(a), len(b)))
    precision = np.exp(-2.0 * b_scale)
    step = max(1, _BLOCK // max(1, b.size))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        ratio = 2.0 * (a_scale[rows, None] - b_scale)
        squared = np.square(a[rows, None] - b)
        # cosh − 1 as 2 sinh², which keeps its digits where the two scales are nearly equal.
        spread = 4.0 * np.square(np.sinh(0.5 * ratio))
        result[rows] = 0.5 * (spread + squared * (np.exp(-2.0 * a_scale[rows, None]) + precision)).sum(axis=-1)
    return result
