"""What a top-down walk needs at both ends: features of a row for each level, and a row from the last state.

`BottomUp` sees the shown cells and the mask, and climbs from the last level to the first, so that the features of a
level know what the state of that level is about. `Output` is its counterpart below the last state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.data import DataProfile, DataSpec
from models.layers.networks import Cells, ScalePlan
from models.layers.top_down import Block, Level


class BottomUp(nn.Module):
    """Raw features and their mask → features of each level, the top first."""

    def __init__(
        self, spec: DataSpec, profile: DataProfile, levels: Sequence[Level], *, depth: int, dropout: float = 0.0
    ) -> None:
        """``levels``: as the top-down walk has them; ``depth``: blocks of each."""
        super().__init__()
        self.cells = Cells(spec, profile)
        self.shape = spec.row_shape
        self.planes = levels[-1].side is not None
        gain = 1 / math.sqrt(depth * len(levels))
        width = self.cells.width + spec.cells
        if self.planes:
            height, wide, channels = spec.row_shape
            bottom, right = ScalePlan(height, wide, levels[-1].channels).padding
            self.padding = (0, right, 0, bottom)
            width = 2 * channels
        self.climbs = nn.ModuleList()
        self.blocks = nn.ModuleList()
        below: Level | None = None
        for level in reversed(levels):
            self.climbs.append(_climb(width, below, level))
            self.blocks.append(nn.Sequential(*(Block(level, gain, dropout) for _ in range(depth))))
            width, below = level.channels, level

    def forward(self, x: Tensor, shown: Tensor) -> list[Tensor]:
        """``x``, ``shown``: ``(B, *row)`` → one feature ``(B, C[, H, W])`` per level."""
        h = torch.cat([self.cells(x, shown), shown.flatten(1).to(torch.float32)], 1)
        if self.planes:
            height, wide, channels = self.shape
            image = h.reshape(-1, 2, height, wide, channels).permute(0, 1, 4, 2, 3).flatten(1, 2)
            h = functional.pad(image, self.padding)
        features = []
        for climb, blocks in zip(self.climbs, self.blocks, strict=True):
            h = blocks(climb(h))
            features.append(h)
        return features[::-1]


class Output(nn.Module):
    """The last state → ``(B, outputs)``, small at the start; for images in the order ``(cells, per cell)``."""

    def __init__(self, spec: DataSpec, outputs: int, level: Level) -> None:
        super().__init__()
        self.shape, self.per_cell = spec.row_shape, outputs // spec.cells
        if level.side is None:
            self.layer: nn.Linear | nn.Conv2d = nn.Linear(level.channels, outputs)
        else:
            self.layer = nn.Conv2d(level.channels, 4 * self.shape[2] * self.per_cell, 3, padding=1)
        self.open = nn.Sequential(*level.open(level.channels))
        with torch.no_grad():
            self.layer.weight.mul_(0.1)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.layer(self.open(h))
        if isinstance(self.layer, nn.Linear):
            return out
        height, wide, channels = self.shape
        image = functional.pixel_shuffle(out, 2)[:, :, :height, :wide]
        return image.reshape(-1, channels, self.per_cell, height, wide).permute(0, 3, 4, 1, 2).flatten(1)


def image_levels(spec: DataSpec, width: int, groups: int, latents: int) -> list[Level]:
    """One level of a vector and one of planes per resolution, from the coarsest to half of the image's.

    ``width``: channels at half resolution. The vector has one group, of eight times the latents; the others are
    shared out in turn, the coarsest planes first.
    """
    height, wide, _ = spec.row_shape
    plan = ScalePlan(height, wide, width)
    levels = [Level(channels=8 * width, groups=1, latents=8 * latents)]
    for place, channels in enumerate(reversed(plan.channels)):
        side = (plan.coarsest[1] << place, plan.coarsest[2] << place)
        levels.append(Level(channels, len(range(place, groups - 1, plan.halvings)), latents, side))
    return levels


def default_groups(spec: DataSpec) -> int:
    """The vector, and one group for each resolution of planes but the finest, which costs the most and says little."""
    height, wide, _ = spec.row_shape
    return max(2, ScalePlan(height, wide, 1).halvings)


def _climb(inputs: int, below: Level | None, level: Level) -> nn.Module:
    """The features of one level as those of the level above it; the first sees the row itself."""
    if level.side is not None:
        unfold = nn.Conv2d(4 * inputs, level.channels, 3 if below is None else 1, padding="same")
        return nn.Sequential(nn.PixelUnshuffle(2), unfold)
    if below is None:
        return nn.Linear(inputs, level.channels)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs * math.prod(below.side or ()), level.channels))
