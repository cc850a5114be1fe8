"""Retrieval: whether what belongs to a query is among its k nearest.

recall@k   share of the queries with an item of their own group among the k items of highest score
chance     the same in expectation, if the order of the items were random
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts.errors import InvalidInput
from metrics.arrays import Floats, labels


def recall_at(k: int, scores: ArrayLike, query_groups: ArrayLike, item_groups: ArrayLike) -> float:
    """Return recall@k of ``scores`` ``(Q, N)``, larger is nearer; groups are whole numbers ``(Q,)`` and ``(N,)``.

    Of items with equal scores those of other groups count as nearer, so a model that tells nothing gains nothing.
    Raises InvalidInput for shapes that do not fit, or a query without an item of its group.
    """
    relevant, order = _ranked(scores, query_groups, item_groups)
    if k < 1:
        raise InvalidInput(f"k must be at least 1, got {k}")
    return float(np.take_along_axis(relevant, order[:, :k], axis=1).any(axis=1).mean())


def chance_at(k: int, query_groups: ArrayLike, item_groups: ArrayLike) -> float:
    """Return the recall@k to expect of a random order."""
    queries = np.asarray(query_groups)
    items = labels("item_groups", item_groups, len(np.asarray(item_groups)))
    others = len(items) - (queries[:, None] == items).sum(axis=1)
    missed = np.ones(len(queries))
    for drawn in range(min(k, len(items))):
        missed *= np.maximum(others - drawn, 0) / (len(items) - drawn)
    return float((1 - missed).mean())


def _ranked(
    scores: ArrayLike, query_groups: ArrayLike, item_groups: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    found: Floats = np.asarray(scores, dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise InvalidInput(f"`scores` must be queries by items, got shape {found.shape}")
    queries = labels("query_groups", query_groups, found.shape[0])
    items = labels("item_groups", item_groups, found.shape[1])
    relevant = queries[:, None] == items
    if not relevant.any(axis=1).all():
        raise InvalidInput(f"query {int(np.argmin(relevant.any(axis=1)))} has no item of its group")
    return relevant, np.lexsort((relevant, -found), axis=1).astype(np.int64)
