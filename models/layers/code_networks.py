"""From rows to vectors at sites, which are quantised, and back: one level of sites, or two.

Images: sites are places of a coarse grid. With two levels (A. Razavi et al. 2019, arXiv:1906.00446) a grid half as
fine stands on top, whose codes are chosen first; the encoder of the grid below sees them, and both go into the decoder.
Other rows: a perceptron answers as many vectors as there are sites.

Legend: ``B`` rows, ``D`` entries of a vector, ``N`` sites of all levels, the top first, ``C`` channels of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.data import DataProfile, DataSpec
from models.layers.networks import Cells, Perceptron, Residual, ScalePlan, as_cells, as_image, norm

Quantise = Callable[[Tensor, int], Tensor]
"""Vectors ``(B, n, D)`` of a level and its number, the top's is 0 → what the decoder sees of them."""


class Grid(nn.Module):
    """Encoder and decoder of images."""

    def __init__(
        self,
        spec: DataSpec,
        outputs: int,
        *,
        dimensions: int,
        levels: int,
        width: int,
        depth: int,
        dropout: float,
        sees_mask: bool,
    ) -> None:
        """``outputs``: numbers per row, a multiple of the cells."""
        super().__init__()
        self.shape = spec.row_shape
        height, wide, channels = self.shape
        self.plan = plan = ScalePlan(height, wide, width)
        features, *side = plan.coarsest
        self.dimensions, self.levels = dimensions, levels
        self.side = (side[0], side[1])
        self.above = (-(-side[0] // 2), -(-side[1] // 2))
        self.down = nn.Sequential(*plan.down(channels * (2 if sees_mask else 1), depth, dropout))
        seen = features
        if levels == 2:
            self.to_top = nn.Sequential(
                nn.PixelUnshuffle(2),
                nn.Conv2d(4 * features, features, 1),
                Residual(features, dropout),
                norm(features),
                nn.SiLU(),
                nn.Conv2d(features, dimensions, 1),
            )
            self.from_top = nn.Sequential(
                nn.Conv2d(dimensions, features, 1),
                Residual(features, dropout),
                nn.Conv2d(features, 4 * features, 1),
                nn.PixelShuffle(2),
            )
            seen += features
        self.to_bottom = nn.Conv2d(seen, dimensions, 1)
        self.from_codes = nn.Conv2d(dimensions + seen - features, features, 1)
        self.up = nn.Sequential(*plan.up(outputs // (height * wide), depth, dropout))

    @property
    def sites(self) -> tuple[int, ...]:
        """Sites of each level, the top first."""
        grids = [self.above, self.side] if self.levels == 2 else [self.side]
        return tuple(h * w for h, w in grids)

    def blocks(self) -> list[tuple[int, int, int]]:
        """Of each level: rows and columns of its grid, and the side of the square of pixels under a site."""
        block = 2**self.plan.halvings
        return [(*self.above, 2 * block), (*self.side, block)][2 - self.levels :]

    def encode(self, v: Tensor, quantise: Quantise) -> list[Tensor]:
        """``v`` ``(B, planes * cells)`` → what ``quantise`` answers of each level, ``(B, n, D)``."""
        bottom, right = self.plan.padding
        h = self.down(functional.pad(as_image(v, self.shape), (0, right, 0, bottom)))
        if self.levels == 1:
            return [quantise(_flat(self.to_bottom(h)), 0)]
        (height, wide), (high, across) = self.side, self.above
        padded = functional.pad(h, (0, 2 * across - wide, 0, 2 * high - height))
        top = quantise(_flat(self.to_top(padded)), 0)
        return [top, quantise(_flat(self.to_bottom(torch.cat([h, self._spread(top)], 1))), 1)]

    def decode(self, z: Sequence[Tensor]) -> Tensor:
        """Quantised vectors of each level → ``(B, outputs)``."""
        h = _grid(z[-1], self.side)
        if self.levels == 2:
            h = torch.cat([h, self._spread(z[0])], 1)
        height, wide, channels = self.shape
        image: Tensor = self.up(self.from_codes(h))
        return as_cells(image[:, :, :height, :wide], channels)

    def _spread(self, top: Tensor) -> Tensor:
        """The top's vectors on the grid below, ``(B, C, …)``."""
        grid: Tensor = self.from_top(_grid(top, self.above))
        return grid[:, :, : self.side[0], : self.side[1]]


class Flat(nn.Module):
    """Encoder and decoder of rows without places."""

    levels = 1

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dimensions: int,
        sites: int,
        width: int,
        depth: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dimensions, self.sites = dimensions, (sites,)
        self.down = Perceptron(inputs, sites * dimensions, width, depth, dropout)
        self.up = Perceptron(sites * dimensions, outputs, width, depth, dropout)

    def encode(self, v: Tensor, quantise: Quantise) -> list[Tensor]:
        h: Tensor = self.down(v)
        return [quantise(h.reshape(-1, self.sites[0], self.dimensions), 0)]

    def decode(self, z: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.up(z[0].flatten(1))
        return out


class Features(nn.Module):
    """Raw rows, and where asked for the mask of shown cells, as numbers for an encoder."""

    def __init__(self, spec: DataSpec, profile: DataProfile, *, sees_mask: bool) -> None:
        super().__init__()
        self.cells, self.sees_mask = Cells(spec, profile), sees_mask
        self.width = self.cells.width + (spec.cells if sees_mask else 0)

    def forward(self, x: Tensor, shown: Tensor) -> Tensor:
        v: Tensor = self.cells(x, shown)
        return torch.cat([v, shown.flatten(1).to(v.dtype)], 1) if self.sees_mask else v


def _flat(grid: Tensor) -> Tensor:
    """``(B, D, h, w)`` → ``(B, h * w, D)``."""
    return grid.flatten(2).transpose(1, 2)


def _grid(z: Tensor, side: tuple[int, int]) -> Tensor:
    """``(B, h * w, D)`` → ``(B, D, h, w)``."""
    return z.transpose(1, 2).reshape(-1, z.shape[2], *side)
