"""Gradient descent by the clock, for peers that train in torch: Adam, cosine decay to zero, best weights on valid."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

EVALUATIONS = 20


@dataclass(frozen=True)
class Descent:
    """What a descent came to."""

    steps: int
    seconds: float


def descend(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    train: Tensor,
    valid: Tensor,
    *,
    seconds: float,
    seed: int,
    learning_rate: float = 1e-3,
    batch_rows: int = 128,
    clip: float | None = None,
    threads: int | None = None,
) -> Descent:
    """Descend ``loss(rows) -> mean over rows`` for so long, evaluations included; the best weights are put back.

    ``train (n, …)`` is visited in a new order each epoch; ``valid`` is scored twenty times.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(module.parameters(), lr=learning_rate)
    best, kept, evaluated, step = math.inf, copy.deepcopy(module.state_dict()), 0, 0
    order = torch.randperm(len(train), generator=generator)
    at, began = 0, time.monotonic()
    while (spent := (time.monotonic() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * spent))
        if at + batch_rows > len(train):
            order, at = torch.randperm(len(train), generator=generator), 0
        value = loss(train[order[at : at + batch_rows]])
        at, step = at + batch_rows, step + 1
        optimiser.zero_grad()
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimiser.step()
        if spent * EVALUATIONS >= evaluated + 1:
            evaluated += 1
            score = _evaluate(module, loss, valid, batch_rows)
            if score < best:
                best, kept = score, copy.deepcopy(module.state_dict())
    if _evaluate(module, loss, valid, batch_rows) > best:
        module.load_state_dict(kept)
    module.eval()
    return Descent(step, time.monotonic() - began)


def _evaluate(module: nn.Module, loss: Callable[[Tensor], Tensor], valid: Tensor, batch_rows: int) -> float:
    module.eval()
    with torch.no_grad():
        parts = [float(loss(rows)) * len(rows) for rows in valid.split(8 * batch_rows)]
    module.train()
    return sum(parts) / len(valid)
