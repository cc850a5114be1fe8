"""Contrast: what belongs together is near, what does not is far, over the rows of all processes.

*pairs*   symmetric cross-entropy between two views or modalities (A. Radford et al., "Learning transferable visual
          models from natural language supervision", 2021, arXiv:2103.00020)
*views*   NT-Xent: two views a_i, b_i of each row, every other view of the batch a negative (T. Chen et al., "A simple
          framework for contrastive learning of visual representations", 2020, arXiv:2002.05709)

Shapes: vectors of unit length ``(B, L)``; losses ``(B,)`` nats, one per local row.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn import functional


def gathered(v: Tensor, *, everywhere: bool = True) -> tuple[Tensor, int]:
    """Rows ``(N, …)`` of all processes, in their order, and the number of the first local one.

    Gradients reach the processes that the rows came from. Not ``everywhere``: of this process alone, which others need
    not meet here.
    """
    if not everywhere or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return v, 0
    counts = [torch.zeros(1, dtype=torch.int64, device=v.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(v)], device=v.device))
    sizes = [int(count) for count in counts]
    # Shares of a batch may differ by a row, and what is gathered must be alike.
    padded = torch.cat([v, v.new_zeros(max(sizes) - len(v), *v.shape[1:])])
    parts = all_gather(padded) if v.requires_grad else _plain(padded)  # type: ignore[no-untyped-call]
    rows = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return rows, sum(sizes[: dist.get_rank()])


def _plain(v: Tensor) -> list[Tensor]:
    parts = [torch.zeros_like(v) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, v.contiguous())
    return parts


def pair_losses(a: Tensor, b: Tensor, scale: Tensor, alike: Tensor | None = None, *, everywhere: bool = True) -> Tensor:
    """Mean of the cross-entropies of b_i given a_i and of a_i given b_i, at logits scale · ⟨a, b⟩.

    ``alike`` ``(B,)`` int64: rows with equal numbers are no negatives of each other.
    """
    (every_a, first), (every_b, _) = (gathered(v, everywhere=everywhere) for v in (a, b))
    target = first + torch.arange(len(a), device=a.device)
    forth, back = scale * a @ every_b.T, scale * b @ every_a.T
    if alike is not None:
        everyone, _ = gathered(alike, everywhere=everywhere)
        same = alike[:, None] == everyone
        same[torch.arange(len(a), device=a.device), target] = False
        forth, back = (logits.masked_fill(same, -torch.inf) for logits in (forth, back))
    losses = [functional.cross_entropy(logits.float(), target, reduction="none") for logits in (forth, back)]
    return (losses[0] + losses[1]) / 2


def view_losses(a: Tensor, b: Tensor, temperature: float, *, everywhere: bool = True) -> Tensor:
    """NT-Xent of each row's two views."""
    (every_a, first), (every_b, _) = (gathered(v, everywhere=everywhere) for v in (a, b))
    everyone = torch.cat([every_a, every_b])
    own = first + torch.arange(len(a), device=a.device)
    losses = []
    for view, itself, other in ((a, own, own + len(every_a)), (b, own + len(every_a), own)):
        logits = view @ everyone.T / temperature
        logits = logits.scatter(1, itself[:, None], -torch.inf)
        losses.append(functional.cross_entropy(logits.float(), other, reduction="none"))
    return (losses[0] + losses[1]) / 2
