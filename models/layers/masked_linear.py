"""MADE: a perceptron whose output for a cell depends on the cells before it alone.

Each input, hidden unit and output has a degree, and a weight is kept where information flows from a lower degree to a
higher one: hidden unit k sees the first degree(k) cells, the outputs of the cell at rank r see hidden units and inputs
of degrees below r. Germain, Gregor, Murray & Larochelle 2015, "MADE: masked autoencoder for distribution estimation",
arXiv:1502.03509; residual blocks as in Nash & Durkan 2019, arXiv:1904.05626 (equal degrees in all layers).

Without an order nothing is masked: the mask of shown cells is an input, and hidden cells are 0 (Hoogeboom et al. 2022,
"Autoregressive diffusion models", arXiv:2110.02037).

Legend: ``B`` rows, ``F`` features of the cells, ``W`` hidden units, ``y`` labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.data import DataProfile, DataSpec
from models.layers.likelihoods import Likelihood
from models.layers.networks import Cells

FARTHEST = 20.0
"""Standardised inputs are cut at ± this: one wild cell must not drown the others."""


class MaskedLinear(nn.Linear):
    """A linear map with only the weights in ``mask`` ``(outputs, inputs)``."""

    mask: Tensor | None

    def __init__(self, mask: Tensor, *, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        self.register_buffer("mask", mask.to(torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.mask is None else self.weight * self.mask
        return functional.linear(x, weight, self.bias)

    @torch.no_grad()
    def fold(self) -> None:
        """Cut the weights themselves and forget the mask, so that a graph holds one matrix."""
        if self.mask is not None:
            self.weight.mul_(self.mask)
            self.mask = None


class MaskedBlock(nn.Module):
    """h + W₂ silu(W₁ silu(h)), both maps masked."""

    def __init__(self, mask: Tensor, dropout: float) -> None:
        super().__init__()
        self.first, self.second = MaskedLinear(mask), MaskedLinear(mask)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, h: Tensor) -> Tensor:
        branch = self.dropout(functional.silu(self.first(functional.silu(h))))
        out: Tensor = h + self.second(branch)
        return out


class MADE(nn.Module):
    """Outputs of a likelihood for every cell, in the cells' own order or, with ``any_order``, given the shown ones."""

    def __init__(
        self,
        spec: DataSpec,
        profile: DataProfile,
        likelihood: Likelihood,
        *,
        width: int,
        depth: int,
        dropout: float,
        any_order: bool,
        classes: int = 0,
    ) -> None:
        """``depth``: residual blocks; ``classes``: labels of a conditional model, 0 without a condition."""
        super().__init__()
        self.any_order = any_order
        self.cells = Cells(spec, profile)
        tabular = spec.image is None
        # In a fixed order a cell without a value is an input of its own; in any order it is never shown.
        declared = [cell for cell, column in enumerate(spec.features) if column.missing] if tabular else []
        self.gaps = list(range(spec.cells)) if any_order else declared
        inputs = torch.tensor([*self.cells.owners, *self.gaps])
        hidden = torch.linspace(1, max(1, spec.cells - 1), width).round().to(torch.int64) - 1
        outputs = likelihood.owners

        def mask(to: Tensor, of: Tensor, *, strict: bool) -> Tensor:
            if any_order:
                return torch.ones(len(to), len(of), dtype=torch.bool)
            return of < to[:, None] if strict else of <= to[:, None]

        self.first = MaskedLinear(mask(hidden, inputs, strict=False))
        self.blocks = nn.ModuleList(MaskedBlock(mask(hidden, hidden, strict=False), dropout) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.last = MaskedLinear(mask(outputs, hidden, strict=True))
        self.direct = MaskedLinear(mask(outputs, inputs, strict=True), bias=False)
        self.label = nn.Embedding(classes, width) if classes else None
        self.label_direct = nn.Embedding(classes, likelihood.width) if classes else None
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias.copy_(likelihood.start())
            self.direct.weight.zero_()
            if self.label_direct is not None:
                self.label_direct.weight.zero_()

    def forward(self, x: Tensor, shown: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """``x``, ``shown`` ``(B, *row)``, ``y`` ``(B,)`` → ``(B, likelihood.width)``."""
        v = self._features(x, shown)
        out: Tensor = self.last(self.dropout(self._states(v, y))) + self.direct(v)
        return out if self.label_direct is None else out + self.label_direct(y)

    def states(self, x: Tensor, shown: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The last hidden layer ``(B, W)``."""
        return self._states(self._features(x, shown), y)

    def _states(self, v: Tensor, y: Tensor | None) -> Tensor:
        h: Tensor = self.first(v)
        if self.label is not None:
            assert y is not None, "a conditional model needs labels"
            h = h + self.label(y)
        for block in self.blocks:
            h = block(h)
        return functional.silu(h)

    def _features(self, x: Tensor, shown: Tensor | None) -> Tensor:
        """``(B, F)``; cells that are hidden or have no value are 0, and their masks say so."""
        if shown is None and self.gaps:
            shown = ~torch.isnan(x) if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)
        v = torch.clamp(self.cells(x, shown), -FARTHEST, FARTHEST)
        if shown is None or not self.gaps:
            return v
        mask = shown.flatten(1).to(v.dtype)
        return torch.cat([v, mask if self.any_order else mask[:, self.gaps]], 1)
