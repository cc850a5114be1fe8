"""A plain MADE on binary cells (Germain et al. 2015, arXiv:1502.03509): one fixed order, two hidden layers, no more."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.quality.peers.descent import Descent, descend


class _Masked(nn.Linear):
    mask: Tensor

    def __init__(self, inputs: Tensor, outputs: Tensor, *, strict: bool) -> None:
        """``inputs``/``outputs``: the number of each unit; an output sees inputs of smaller (or equal) number."""
        super().__init__(len(inputs), len(outputs))
        seen = outputs[:, None] > inputs if strict else outputs[:, None] >= inputs
        self.register_buffer("mask", seen.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """p(x) = ∏ p(x_i | x_<i) over ``cells`` bits, in their own order."""

    def __init__(self, cells: int, *, width: int = 1000, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        order = torch.arange(1, cells + 1)
        hidden = [torch.randint(1, cells, (width,)) for _ in range(2)]
        self.network = nn.Sequential(
            _Masked(order, hidden[0], strict=False), nn.ReLU(),
            _Masked(hidden[0], hidden[1], strict=False), nn.ReLU(),
            _Masked(hidden[1], order, strict=True),
        )  # fmt: skip

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p of bits ``(B, cells)`` as floats, nats: ``(B,)``."""
        return -F.binary_cross_entropy_with_logits(self.network(x), x, reduction="none").sum(1)

    def fit(self, train: NDArray[np.uint8], valid: NDArray[np.uint8], *, seconds: float, seed: int, threads: int
            ) -> Descent:  # fmt: skip
        """Train for so many seconds."""
        return descend(
            self, lambda rows: -self.log_likelihood(rows).mean(), _bits(train), _bits(valid[:2000]), seconds=seconds,
            seed=seed, threads=threads,
        )  # fmt: skip

    def log_prob(self, x: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Exact, nats ``(n,)``."""
        with torch.no_grad():
            parts = [self.log_likelihood(rows) for rows in _bits(x).split(1000)]
        return torch.cat(parts).double().numpy()


def _bits(x: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(x.reshape(len(x), -1)).float()
