"""Networks that tell a coupling what to do: they see one half of the cells and answer parameters for the other.

A conditioner maps ``(B, C_in, …)`` to ``(B, C_out, …)``. Its last layer starts at zero, so that each coupling starts as
the map its parameters have at zero. Labels come in by an embedding added to the first hidden layer.

Residual blocks as in C. Durkan et al., "Neural spline flows", 2019 (arXiv:1906.04032); gated convolutions with
self-attention over the positions as in J. Ho et al., "Flow++", 2019 (arXiv:1902.00275).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class ResidualConditioner(nn.Module):
    """``(B, in)`` → ``(B, out)``: residual blocks of two layers of SiLU."""

    def __init__(
        self, inputs: int, outputs: int, *, width: int, depth: int, dropout: float = 0.0, classes: int = 0
    ) -> None:
        """``depth``: blocks; ``classes``: labels to condition on, 0 for none."""
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.last = nn.Linear(width, outputs)
        self.labels = nn.Embedding(classes, width) if classes else None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if self.labels is not None:
            h = h + self.labels(y)
        for block in self.blocks:
            h = h + block(h)  # (B, width)
        out: Tensor = self.last(F.silu(h))
        return out


class GatedConditioner(nn.Module):
    """``(B, in, H, W)`` → ``(B, out, H, W)``: gated residual convolutions, each followed by attention where asked."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        dropout: float = 0.0,
        classes: int = 0,
        attends: tuple[int, int] | None = None,
    ) -> None:
        """``depth``: blocks; ``classes``: labels, 0 for none; ``attends``: sides of the image, for attention."""
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            self.blocks.append(GatedConvolution(width, dropout))
            if attends is not None:
                self.blocks.append(Attention(width, *attends))
        self.last = nn.Conv2d(width, outputs, 1)
        self.labels = nn.Embedding(classes, width) if classes else None
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if self.labels is not None:
            h = h + self.labels(y)[:, :, None, None]
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.last(F.silu(h))
        return out


class GatedConvolution(nn.Module):
    """norm(x + a · σ(b)) with (a, b) of two convolutions of x; the norm is over a row's own channels and positions."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, 2 * width, 1),
        )
        self.norm = nn.GroupNorm(1, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x + F.glu(self.branch(x), dim=1))
        return out


class Attention(nn.Module):
    """norm(x + a · σ(b)) with (a, b) of self-attention over the positions, which are told apart by learned codes."""

    def __init__(self, width: int, height: int, wide: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.places = nn.Parameter(0.01 * torch.randn(width, height * wide))
        self.project = nn.Conv1d(width, 3 * width, 1)
        self.gate = nn.Conv1d(width, 2 * width, 1)
        self.norm = nn.GroupNorm(1, width)

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(2)  # (B, width, positions)
        heads = self.project(h + self.places).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        q, k, v = heads.unbind(1)  # (B, heads, positions, width / heads)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2)
        out: Tensor = self.norm(h + F.glu(self.gate(seen), dim=1)).reshape(x.shape)
        return out
