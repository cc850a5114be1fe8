"""Orders in which cells or tokens are seen, while training over all of them.

Each function turns uniforms into orders or masks, so that a training step stays a function of its noise.
Legend: ``B`` rows, ``D`` cells or tokens, ``order[t]`` the cell that stands at position t.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PLAIN_ROWS = 0.25
"""Share of the texts that stay in their own order while training over any."""


def random_order(u: Tensor, last: Tensor | None = None) -> Tensor:
    """``u`` ``(B, D)`` uniforms → a random permutation of each row ``(B, D)``; cells in ``last`` (B, D) come last."""
    return torch.argsort(u if last is None else u + last.to(u.dtype), -1)


def inverse(order: Tensor) -> Tensor:
    """Where each cell stands in ``order`` ``(B, D)``."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, places)


def random_shown(u: Tensor, level: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Show a uniformly random number of cells: ``u`` ``(B, D)``, ``level`` ``(B, 1)`` uniforms.

    Returns ``shown`` bool ``(B, D)`` and how many are hidden ``(B, 1)``, at least one of those ``present`` (B, D):
    cells that are not present are never shown nor counted.
    """
    cells = u.shape[1]
    if present is None:
        count = torch.full_like(level, cells)
        rank = inverse(random_order(u))
    else:
        count = present.sum(-1, keepdim=True).to(u.dtype)
        rank = inverse(random_order(u, ~present))
    shown_count = torch.minimum(torch.floor(level * count), (count - 1).clamp(min=0))
    return rank < shown_count, count - shown_count


def shown_first(shown: Tensor, absent: Tensor | None = None) -> Tensor:
    """``shown`` bool ``(B, D)`` → order ``(B, D)``: the shown, then the hidden, each ascending; ``absent`` last."""
    key = (~shown).to(torch.int64)
    if absent is not None:
        key = torch.where(absent, 2, key)
    return torch.argsort(key, dim=-1, stable=True)


def random_spans(u: Tensor, row: Tensor) -> Tensor:
    """Show random spans of texts: ``u`` ``(B, T)``, ``row`` ``(B, 4)`` uniforms → bool ``(B, T)``.

    A row has spans of one length, a power of two, from a random start, each shown with the row's own probability;
    some rows are shown whole and so keep their order.
    """
    length = u.shape[1]
    most = max(1, math.ceil(math.log2(max(length, 2))))
    span = 2 ** torch.floor(row[:, :1] * most).to(torch.int64)
    start = torch.floor(row[:, 1:2] * span).to(torch.int64)
    index = (torch.arange(length, device=u.device) + start) // span
    return (torch.gather(u, 1, index.clamp(max=length - 1)) < row[:, 2:3]) | (row[:, 3:] < PLAIN_ROWS)
