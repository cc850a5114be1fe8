"""Coupling layers: one half of the cells is moved by a function of the other half.

    z_a = x_a,   z_b = x_b · exp(s(x_a)) + t(x_a),   log |det| = Σ s(x_a)

L. Dinh, D. Krueger and Y. Bengio, "NICE: non-linear independent components estimation", 2014
(arXiv:1410.8516): s = 0. L. Dinh, J. Sohl-Dickstein and S. Bengio, "Density estimation using Real
NVP", 2017 (arXiv:1605.08803): s bounded, here by a scaled tanh, so that the inverse stays precise.

A conditioner maps ``(B, C_a, …)`` to ``(B, C_out, …)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.bijection import Bijection


class MLPConditioner(nn.Module):
    """``(B, in)`` → ``(B, out)``: hidden layers of SiLU with residual steps; the last layer starts at zero."""

    def __init__(
        self, inputs: int, outputs: int, *, width: int, depth: int, dropout: float = 0.0, classes: int = 0
    ) -> None:
        """``depth``: hidden layers; ``classes``: labels to condition on, 0 for none."""
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, outputs)
        self.dropout = nn.Dropout(dropout)
        self.labels = nn.Embedding(classes, width) if classes else None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if self.labels is not None:
            h = h + self.labels(y)
        h = self.dropout(F.silu(h))  # (B, width)
        for layer in self.hidden:
            h = h + self.dropout(F.silu(layer(h)))
        out: Tensor = self.last(h)
        return out


class ConvConditioner(nn.Module):
    """``(B, in, H, W)`` → ``(B, out, H, W)``: 3×3 residual blocks; the last convolution starts at zero."""

    def __init__(
        self, inputs: int, outputs: int, *, width: int, depth: int, dropout: float = 0.0, classes: int = 0
    ) -> None:
        """``depth``: residual blocks; ``classes``: labels to condition on, 0 for none."""
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 1))
            for _ in range(depth)
        )
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        self.dropout = nn.Dropout2d(dropout)
        self.labels = nn.Embedding(classes, width) if classes else None
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if self.labels is not None:
            h = h + self.labels(y)[:, :, None, None]
        for block in self.hidden:
            h = h + self.dropout(block(h))
        out: Tensor = self.last(F.silu(h))
        return out


class Permutation(Bijection):
    """A fixed order of the channels: drawn once from a seed, or reversed, which swaps the halves of a coupling."""

    order: Tensor
    back: Tensor

    def __init__(self, channels: int, seed: int | None) -> None:
        """``seed``: of the shuffle; None for the reversed order."""
        super().__init__()
        order = torch.arange(channels).flip(0)
        if seed is not None:
            order = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z.index_select(1, self.back)


class Coupling(Bijection):
    """Moves the last ``channels - kept`` channels by a function of the first ``kept``."""

    def __init__(self, conditioner: nn.Module, kept: int, *, affine: bool, bound: float = 2.0) -> None:
        """``conditioner`` answers shifts, and before them raw log-scales where ``affine``; |log-scale| < ``bound``."""
        super().__init__()
        self.conditioner, self.kept, self.affine, self.bound = conditioner, kept, affine, bound

    def _parameters_of(self, a: Tensor, y: Tensor | None) -> tuple[Tensor | None, Tensor]:
        # The halves may be float64 around a float32 network: an inverse that sees the very same `a` gets the
        # very same shift back, so its error does not grow with the layers.
        own = next(self.conditioner.parameters()).dtype
        out: Tensor = self.conditioner(a.to(own), y).to(a.dtype)
        if not self.affine:
            return None, out
        raw, shift = out.chunk(2, dim=1)
        return self.bound * torch.tanh(raw / self.bound), shift

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self._parameters_of(a, y)
        if log_scale is None:
            return torch.cat([a, b + shift], dim=1), x.new_zeros(x.shape[0])
        return torch.cat([a, b * log_scale.exp() + shift], dim=1), log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        a, b = z[:, : self.kept], z[:, self.kept :]
        log_scale, shift = self._parameters_of(a, y)
        b = b - shift
        return torch.cat([a, b if log_scale is None else b * (-log_scale).exp()], dim=1)


class Diagonal(Bijection):
    """NICE's last layer: ``z = x · exp(s)`` per channel, which an additive flow needs to change volume at all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.to(x.dtype).exp(), self.log_scale.to(x.dtype).sum().expand(x.shape[0])

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z * (-self.log_scale.to(z.dtype)).exp()
