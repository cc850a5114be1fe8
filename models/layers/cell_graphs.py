"""The graphs of autoregressive models over cells, made of a network and a likelihood.

There are three regimes: cells in their own order (`Regime.FIXED`), in an order that is an input (`Regime.ORDERED`),
and all hidden cells at once given the mask of shown ones (`Regime.SHOWN`).

Shapes: ``x`` ``(B, *row)``, ``order`` ``(B, cells)``, ``shown`` ``(B, *row)``, ``u`` ``(B, cells)``, ``temperature``
``(B,)``, ``y`` ``(B,)``; answers per cell ``(B, cells)`` in the data's own units.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn

from models.layers.cell_transformer import CellTransformer
from models.layers.gated_convolution import GatedPixelCNN, ShownConvolution
from models.layers.likelihoods import Likelihood
from models.layers.masked_linear import MADE

CellNetwork = CellTransformer | MADE | GatedPixelCNN | ShownConvolution


class Regime(Enum):
    """What a conditional is conditioned on."""

    FIXED = "fixed"
    ORDERED = "ordered"
    SHOWN = "shown"


class Cells(nn.Module):
    """A network and its likelihood in one regime."""

    raster: Tensor

    def __init__(self, net: CellNetwork, likelihood: Likelihood, regime: Regime) -> None:
        super().__init__()
        self.net, self.likelihood, self.regime = net, likelihood, regime
        self.register_buffer("raster", torch.arange(likelihood.cells), persistent=False)

    def outputs(self, x: Tensor, given: Tensor | None, y: Tensor | None) -> Tensor:
        """What the likelihood is made of ``(B, likelihood.width)``; ``given``: the order, or the mask of shown cells.

        A transformer in a fixed order takes the cells' own.
        """
        h: Tensor
        if isinstance(self.net, CellTransformer):
            order = self.raster.expand(x.shape[0], -1) if given is None else given
            h = self.net(x, order, y)
        else:
            h = self.net(x, given, y)
        return h

    def states(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The pooled hidden state of complete rows ``(B, W)``."""
        if isinstance(self.net, CellTransformer):
            return self.net.sequence(x, self.raster.expand(x.shape[0], -1), y).mean(1)
        return self.net.states(x, None, y)

    def split(self, a: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Tell arguments apart by their place: the order or mask where there is one, then the label."""
        return (None, a) if self.regime is Regime.FIXED else (a, b)


class CellScore(nn.Module):
    """Graph ``score``: nats of each cell; 0 where it has no value, or is shown."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        given, y = self.cells.split(a, b)
        h = self.cells.outputs(x, given, y)
        flat = x.flatten(1).to(self.cells.likelihood.dtype)
        silent = torch.isnan(flat)
        if self.cells.regime is Regime.SHOWN and given is not None:
            silent = silent | given.flatten(1)
        log_p = self.cells.likelihood.log_prob(torch.where(torch.isnan(flat), 0.0, flat), h)
        return torch.where(silent, 0.0, log_p)


class CellStep(nn.Module):
    """Graph ``step`` without a cache: x, shown where that is the regime, u, temperature, y where conditional."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(
        self, x: Tensor, a: Tensor, b: Tensor, c: Tensor | None = None, d: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        given, u, temperature, y = (None, a, b, c) if self.cells.regime is Regime.FIXED else (a, b, c, d)
        assert temperature is not None
        likelihood = self.cells.likelihood
        h = likelihood.temper(self.cells.outputs(x, given, y), temperature)
        return likelihood.mean(h), likelihood.std(h), likelihood.draw(h, u)


class CachedStep(nn.Module):
    """Graph ``step`` of a transformer, one cell at a time."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(
        self,
        value: Tensor,
        cell: Tensor,
        following: Tensor,
        position: Tensor,
        cache: Tensor,
        u: Tensor,
        temperature: Tensor,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        net, likelihood = self.cells.net, self.cells.likelihood
        assert isinstance(net, CellTransformer)
        h, cache = net.step(value, cell, following, position, cache, y)
        h = likelihood.temper(h, temperature)
        u = u.expand(-1, likelihood.cells)
        asked = following[:, None]
        answers = likelihood.mean(h), likelihood.std(h), likelihood.draw(h, u)
        mean, std, draw = (torch.gather(each, 1, asked)[:, 0] for each in answers)
        return mean, std, draw, cache


class CellEmbed(nn.Module):
    """Graph ``embed``."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.cells.states(x, y)
