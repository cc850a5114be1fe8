"""zuko's neural spline flow (Durkan et al. 2019) and masked autoregressive flow (Papamakarios et al. 2017).

Their defaults but for the width, which is the one whose number of parameters comes nearest to a given size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.quality.peers.descent import Descent, descend

WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class Flow:
    """``nsf`` or ``maf`` with two hidden layers on standardised tables ``(n, D)``."""

    def __init__(self, kind: str, features: int, *, parameters: int, transforms: int = 5, seed: int = 0) -> None:
        """``parameters``: about how many it may have."""
        sizes = {width: _count(_make(kind, features, width, transforms)) for width in WIDTHS}
        width = min(sizes, key=lambda each: abs(math.log(sizes[each] / parameters)))
        torch.manual_seed(seed)
        self.flow = _make(kind, features, width, transforms)
        self.parameters, self.width = sizes[width], width

    def fit(self, train: NDArray[np.float64], valid: NDArray[np.float64], *, seconds: float, seed: int, threads: int,
            learning_rate: float = 1e-3) -> Descent:  # fmt: skip
        """Train for so many seconds."""
        return descend(
            self.flow, lambda rows: -self.flow().log_prob(rows).mean(), _tensor(train), _tensor(valid), seconds=seconds,
            seed=seed, threads=threads, learning_rate=learning_rate, batch_rows=256, clip=5.0,
        )  # fmt: skip

    def log_prob(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exact, nats ``(n,)``."""
        with torch.no_grad():
            return torch.cat([self.flow().log_prob(rows) for rows in _tensor(x).split(2000)]).double().numpy()


def _make(kind: str, features: int, width: int, transforms: int) -> nn.Module:
    import zuko

    make = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF}[kind]
    return make(features, transforms=transforms, hidden_features=(width, width))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _tensor(x: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).float()
