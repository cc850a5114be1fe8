"""Monotone maps of single cells whose parameters a network answers: what a coupling does to the cells it moves.

    z = g(x; θ),   log |dz/dx| = log g'(x; θ)

Shapes: ``x``, ``z`` ``(B, C, …)``; ``raw`` ``(B, C · per_cell, …)``, unbounded numbers of a network, all zero at the
start of training, where a map should be about the identity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.bijection import Bijection


class Elementwise(nn.Module, ABC):
    """A monotone map of each cell with ``per_cell`` parameters."""

    per_cell: int

    @abstractmethod
    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` → ``z`` and log dz/dx, both of the shape of ``x``."""

    @abstractmethod
    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        """``z`` → ``x``."""

    def gaussianising(self, x: Tensor) -> Tensor:
        """Parameters ``(C · per_cell,)`` under which channels of rows ``x`` become about normal; 0 where unknown."""
        return x.new_zeros(x.shape[1] * self.per_cell)

    def by_cell(self, x: Tensor, raw: Tensor) -> Tensor:
        """``raw`` as ``(B, C, per_cell, …)``."""
        return raw.reshape(raw.shape[0], x.shape[1], self.per_cell, *raw.shape[2:])


class Shift(Elementwise):
    """``z = x + t`` (Dinh, Krueger & Bengio 2014, arXiv:1410.8516)."""

    per_cell = 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return x + raw, torch.zeros_like(x)

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        return z - raw


class Affine(Elementwise):
    """``z = x · exp(s) + t`` with ``|s| < bound``, so that the inverse stays precise (Dinh et al. 2017)."""

    per_cell = 2

    def __init__(self, bound: float = 2.0) -> None:
        super().__init__()
        self.bound = bound

    def _parameters_of(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = raw.chunk(2, dim=1)
        return self.bound * torch.tanh(scale / self.bound), shift

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._parameters_of(raw)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        log_scale, shift = self._parameters_of(raw)
        return (z - shift) * (-log_scale).exp()


class Composed(Elementwise):
    """One map after another: ``z = then(first(x))``."""

    def __init__(self, first: Elementwise, then: Elementwise) -> None:
        super().__init__()
        self.first, self.then = first, then
        self.per_cell = first.per_cell + then.per_cell

    def _parts(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """``raw`` of the first map, which may want its parameters side by side, and of the second."""
        p, count = self.by_cell(x, raw), self.first.per_cell
        return p[:, :, :count].transpose(1, 2).flatten(1, 2), p[:, :, count:].flatten(1, 2)

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        first, then = self._parts(x, raw)
        between, log_slope = self.first(x, first)
        z, more = self.then(between, then)
        return z, log_slope + more

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        first, then = self._parts(z, raw)
        return self.first.inverse(self.then.inverse(z, then), first)


class Marginal(Bijection):
    """Each channel by a map of its own, the same for every row; it needs no other channel to condition on.

    It starts as what makes the channels of the first rows about normal, where the transform knows such a map."""

    def __init__(self, channels: int, transform: Elementwise) -> None:
        super().__init__()
        self.transform = transform
        self.raw = nn.Parameter(torch.zeros(channels * transform.per_cell))

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None = None) -> None:
        """Start from rows ``x``, unless the map has moved."""
        if not self.raw.any():
            self.raw.copy_(self.transform.gaussianising(x.transpose(0, 1).flatten(1).T))

    def _raw(self, x: Tensor) -> Tensor:
        return self.raw.to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = self.transform(x, self._raw(x))
        return z, log_slope.flatten(1).sum(1)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.transform.inverse(z, self._raw(z))


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp x), in float64 of operators that have a kernel of that precision on CPU once exported."""
    if x.dtype is not torch.float64:
        return F.softplus(x)
    return torch.relu(x) + torch.log(1 + torch.exp(-x.abs()))


def log_sigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + exp -x)), likewise."""
    if x.dtype is not torch.float64:
        return F.logsigmoid(x)
    return torch.clamp(x, max=0) - torch.log(1 + torch.exp(-x.abs()))
