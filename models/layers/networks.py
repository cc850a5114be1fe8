"""Encoders and decoders: multilayer perceptrons for rows, residual convolutions for images.

`Encoder` maps raw features to ``(B, outputs)``; hidden cells are set to 0, the mean after standardisation, and
where asked for the mask of shown cells comes with them. `Decoder` maps ``(B, inputs)`` to ``(B, width)``, the
numbers that a likelihood (or a reconstruction) wants, in the order ``(cells, per cell)`` for images.

The convolutions work at half the image's resolution and below (He et al. 2016, arXiv:1603.05027, blocks with
GroupNorm and SiLU): pixels are folded into channels on the way in and unfolded on the way out (Shi et al. 2016,
arXiv:1609.05158), which costs a quarter of a layer at full resolution. No layer looks at another row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.data import ColumnType, DataProfile, DataSpec
from contracts.families import SMALLEST_CONVOLVED
from models.layers.preprocessing import Standardise

COARSEST = 8
"""Convolutions halve the resolution until a side is at most this long."""


class Perceptron(nn.Sequential):
    """``depth`` hidden layers of ``width`` units with SiLU and dropout; none makes it linear."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for index in range(depth):
            layers += [nn.Linear(inputs if index == 0 else width, width), nn.SiLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(width if depth else inputs, outputs))
        super().__init__(*layers)


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            norm(channels),
            nn.SiLU(),
            nn.Dropout2d(dropout) if dropout else nn.Identity(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


class Cells(nn.Module):
    """Raw features as ``(B, width)`` standardised numbers, categories one-hot, hidden cells 0."""

    def __init__(self, spec: DataSpec, profile: DataProfile) -> None:
        super().__init__()
        self.standardise = Standardise(spec, profile)
        self.categories = {
            cell: len(column.categories or ())
            for cell, column in enumerate(() if spec.image is not None else spec.features)
            if column.type is ColumnType.CATEGORICAL and len(column.categories or ()) > 2
        }
        self.numeric = [cell for cell in range(spec.cells) if cell not in self.categories]
        self.width = len(self.numeric) + sum(self.categories.values())

    @property
    def owners(self) -> list[int]:
        """The cell that each of the numbers comes from."""
        return self.numeric + [cell for cell, count in self.categories.items() for _ in range(count)]

    def forward(self, x: Tensor, shown: Tensor | None = None) -> Tensor:
        """``x``, ``shown``: ``(B, *row)``."""
        v: Tensor = self.standardise(x)
        if shown is not None:
            v = torch.where(shown, v, 0.0)
        v = torch.flatten(v, 1)
        if not self.categories:
            return v
        parts = [v[:, self.numeric]] if self.numeric else []
        for cell, count in self.categories.items():
            one_hot = x[:, cell : cell + 1] == torch.arange(count, device=x.device, dtype=x.dtype)
            if shown is not None:
                one_hot = one_hot & shown[:, cell : cell + 1]
            parts.append(one_hot.to(v.dtype))
        return torch.cat(parts, 1)


class Encoder(nn.Module):
    """Raw features (and the mask of shown cells, and a condition) → ``(B, outputs)``."""

    def __init__(
        self,
        spec: DataSpec,
        profile: DataProfile,
        outputs: int,
        *,
        convolutional: bool,
        width: int,
        depth: int,
        dropout: float = 0.0,
        condition: int = 0,
        sees_mask: bool = False,
    ) -> None:
        """``width``: hidden units, or channels at half resolution; ``condition``: width of the condition."""
        super().__init__()
        self.cells = Cells(spec, profile)
        self.convolutional, self.sees_mask, self.shape = convolutional, sees_mask, spec.row_shape
        self.seen = spec.cells
        if convolutional:
            height, wide, channels = spec.row_shape
            self.plan = ScalePlan(height, wide, width)
            planes = channels * (2 if sees_mask else 1)
            self.trunk = nn.Sequential(*self.plan.down(planes, depth, dropout))
            self.head = Perceptron(self.plan.features + condition, outputs, 4 * width, 1, dropout)
        else:
            inputs = self.cells.width + (spec.cells if sees_mask else 0)
            self.head = Perceptron(inputs + condition, outputs, width, depth, dropout)

    def forward(self, x: Tensor, shown: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """``x``, ``shown`` ``(B, *row)``; ``condition`` ``(B, width)``. Without ``shown`` every cell is."""
        v = self.cells(x, shown)
        return self.encode(v, None if shown is None else shown.flatten(1), condition)

    def encode(self, v: Tensor, shown: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """``v`` ``(B, cells.width)`` as `Cells` answers it, ``shown`` ``(B, cells)``."""
        if self.sees_mask:
            mask = v.new_ones(len(v), self.seen) if shown is None else shown.to(v.dtype)
            v = torch.cat([v, mask], 1)
        if self.convolutional:
            image = as_image(v, self.shape)
            bottom, right = self.plan.padding
            v = self.trunk(functional.pad(image, (0, right, 0, bottom))).flatten(1)
        if condition is not None:
            v = torch.cat([v, condition], 1)
        out: Tensor = self.head(v)
        return out


class Decoder(nn.Module):
    """``(B, inputs)`` → ``(B, width)``; the last layer starts small, near the mean of the data."""

    def __init__(
        self,
        spec: DataSpec,
        inputs: int,
        outputs: int,
        *,
        convolutional: bool,
        width: int,
        depth: int,
        dropout: float = 0.0,
        condition: int = 0,
    ) -> None:
        """``outputs``: numbers per row; for images a multiple of the cells."""
        super().__init__()
        self.convolutional = convolutional
        if convolutional:
            self.height, self.wide, channels = spec.row_shape
            self.channels, self.per_cell = channels, outputs // spec.cells
            self.plan = ScalePlan(self.height, self.wide, width)
            self.head = Perceptron(inputs + condition, self.plan.features, 4 * width, 1, dropout)
            self.trunk = nn.Sequential(*self.plan.up(channels * self.per_cell, depth, dropout))
            last = self.trunk[-2]
        else:
            self.head = Perceptron(inputs + condition, outputs, width, depth, dropout)
            last = self.head[-1]
        assert isinstance(last, nn.Conv2d | nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """``z`` ``(B, inputs)``, ``condition`` ``(B, width)``."""
        h: Tensor = self.head(z if condition is None else torch.cat([z, condition], 1))
        if not self.convolutional:
            return h
        image: Tensor = self.trunk(h.reshape(-1, *self.plan.coarsest))[:, :, : self.height, : self.wide]
        return as_cells(image, self.channels)


def as_image(v: Tensor, shape: Sequence[int]) -> Tensor:
    """``(B, planes * cells)`` of images ``(H, W, C)`` → ``(B, planes * C, H, W)``."""
    height, wide, channels = shape
    planes = v.reshape(-1, v.shape[1] // (height * wide * channels), height, wide, channels)
    return planes.permute(0, 1, 4, 2, 3).flatten(1, 2)


def as_cells(image: Tensor, channels: int) -> Tensor:
    """``(B, C * k, H, W)`` → ``(B, cells * k)``, the k numbers of a cell beside each other."""
    _, planes, height, wide = image.shape
    cells = image.reshape(-1, channels, planes // channels, height, wide)
    return cells.permute(0, 3, 4, 1, 2).flatten(1)


class ScalePlan:
    """Which resolutions and channels a pair of convolutional networks goes through."""

    def __init__(self, height: int, wide: int, width: int) -> None:
        """``width``: channels at half resolution; each halving beyond doubles them, up to fourfold."""
        self.halvings = max(1, math.ceil(math.log2(max(height, wide) / COARSEST)))
        block = 2**self.halvings
        self.padding = (-height % block, -wide % block)
        self.channels = [width * min(2**index, 4) for index in range(self.halvings)]
        sides = ((height + self.padding[0]) // block, (wide + self.padding[1]) // block)
        self.coarsest = (self.channels[-1], *sides)
        self.features = math.prod(self.coarsest)

    def down(self, planes: int, depth: int, dropout: float) -> list[nn.Module]:
        """Image ``(B, planes, H, W)`` → ``(B, *coarsest)``."""
        layers: list[nn.Module] = []
        for channels in self.channels:
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * planes, channels, 3 if not layers else 1, padding="same")]
            layers += [Residual(channels, dropout) for _ in range(depth)]
            planes = channels
        return [*layers, norm(planes), nn.SiLU()]

    def up(self, planes: int, depth: int, dropout: float) -> list[nn.Module]:
        """``(B, *coarsest)`` → ``(B, planes, H, W)``."""
        layers: list[nn.Module] = []
        for index in reversed(range(self.halvings)):
            channels = self.channels[index]
            layers += [Residual(channels, dropout) for _ in range(depth)]
            if index:
                layers += [nn.Conv2d(channels, 4 * self.channels[index - 1], 1), nn.PixelShuffle(2)]
            else:
                last = nn.Conv2d(channels, 4 * planes, 3, padding=1)
                layers += [norm(channels), nn.SiLU(), last, nn.PixelShuffle(2)]
        return layers


def is_convolutional(choice: str, spec: DataSpec) -> bool:
    """Resolve ``auto | mlp | convolutional``: images of at least 16 pixels a side are worth convolutions."""
    if choice == "auto":
        return spec.image is not None and min(spec.image.height, spec.image.width) >= SMALLEST_CONVOLVED
    return choice == "convolutional"


def default_width(spec: DataSpec, rows: int, *, convolutional: bool) -> int:
    """Hidden units (or channels at half resolution) for data of this size."""
    if convolutional:
        return 16  # 28 x 28 pixels: some 1,500 rows a second on one core, forwards and backwards
    return 256 if spec.cells >= 32 or rows >= 10_000 else 128


def default_latents(spec: DataSpec) -> int:
    """Latent dimensions for rows of this size."""
    if spec.image is None:
        return max(2, min(16, spec.cells))
    return 16 if spec.cells <= 256 else 32 if spec.cells <= 1024 else 64


def default_batch_size(rows: int, *, convolutional: bool) -> int:
    """Rows per step: a power of two, some ten batches or more per epoch; convolutions profit from more steps."""
    return int(2 ** min(6 if convolutional else 8, max(4, round(math.log2(max(rows, 16) / 12)))))


def norm(channels: int) -> nn.GroupNorm:
    """Normalise each row by itself, in groups of channels."""
    return nn.GroupNorm(math.gcd(channels, 8), channels)
