"""Gated PixelCNN: convolutions that see the pixels before the current one, gated as an LSTM's units are.

    h ← tanh(a) · σ(b),   (a, b) = W * x + label

A vertical stack sees the rows above, a horizontal one the pixels to the left and the vertical stack; together they
see all pixels before and none after, without a blind spot. Within an RGB pixel the channels come in their order: the
units of the horizontal stack are cut into three groups, and at the centre of a kernel group g sees the groups up to
g (in the first layer: the channels before g). Van den Oord et al. 2016, "Conditional image generation with PixelCNN
decoders", arXiv:1606.05328.

`ShownConvolution` is the same gate without an order: it sees all around, hidden pixels as 0 and the mask of shown ones
as further channels (Hoogeboom et al. 2022, arXiv:2110.02037), with dilations so that it looks far into a hole.

Legend: ``B`` rows, ``C`` channels of the image, ``W`` units per site, ``H × V`` its height and width, ``y`` labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.data import DataProfile, DataSpec
from models.layers.likelihoods import Likelihood
from models.layers.preprocessing import Standardise

FIRST_KERNEL, KERNEL = 7, 3
DILATIONS = (1, 2, 4)


def gated(x: Tensor) -> Tensor:
    """``(B, 2 W, …)`` → ``(B, W, …)``."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


def groups_of(units: int, groups: int) -> Tensor:
    """Cut ``units`` into ``groups`` of (nearly) equal size: which each unit is in."""
    return torch.arange(units) * groups // units


class CentreMasked(nn.Conv2d):
    """A convolution over the pixels to the left whose centre sees only some input channels."""

    mask: Tensor | None

    def __init__(self, centre: Tensor, reach: int) -> None:
        """``centre`` bool ``(outputs, inputs)``; ``reach``: pixels to the left."""
        outputs, inputs = centre.shape
        super().__init__(inputs, outputs, (1, reach + 1))
        mask = torch.ones(outputs, inputs, 1, reach + 1)
        mask[:, :, 0, -1] = centre.to(mask.dtype)
        self.reach = reach
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.mask is None else self.weight * self.mask
        return functional.conv2d(functional.pad(x, (self.reach, 0, 0, 0)), weight, self.bias)

    @torch.no_grad()
    def fold(self) -> None:
        """Cut the weights themselves and forget the mask."""
        if self.mask is not None:
            self.weight.mul_(self.mask)
            self.mask = None


class GatedLayer(nn.Module):
    """One layer of both stacks."""

    def __init__(self, inputs: int, planes: int, width: int, channels: int, classes: int, *, first: bool) -> None:
        """``inputs``: channels of the vertical stack, ``planes``: of the horizontal one; ``channels``: C."""
        super().__init__()
        kernel = FIRST_KERNEL if first else KERNEL
        self.first, self.reach = first, kernel // 2
        # The first layer leaves out the row itself, which later ones may see: it holds what is known from above.
        self.vertical = nn.Conv2d(inputs, 2 * width, (self.reach + (0 if first else 1), kernel))
        own, twice = groups_of(width, channels), groups_of(width, channels).repeat(2)
        of = groups_of(planes, channels)
        self.horizontal = CentreMasked(of < twice[:, None] if first else of <= twice[:, None], self.reach)
        self.down = nn.Conv2d(2 * width, 2 * width, 1, bias=False)
        self.out = CentreMasked(own <= own[:, None], 0)
        self.label = nn.Embedding(classes, 2 * width) if classes else None

    def forward(self, above: Tensor, left: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Vertical state ``(B, inputs, H, V)`` and horizontal ``(B, planes, H, V)`` → ``(B, W, H, V)`` each."""
        wide = self.vertical(functional.pad(above, (self.reach, self.reach, self.reach, 0)))
        if self.first:
            wide = wide[:, :, :-1]
        across = self.horizontal(left) + self.down(wide)
        if self.label is not None:
            assert y is not None, "a conditional model needs labels"
            bias = self.label(y)[:, :, None, None]
            wide, across = wide + bias, across + bias
        out: Tensor = self.out(gated(across))
        return gated(wide), out if self.first else left + out


class _Image(nn.Module):
    """Images as standardised planes, and where in the picture each site is."""

    place: Tensor

    def __init__(self, spec: DataSpec, profile: DataProfile) -> None:
        super().__init__()
        height, wide, self.channels = spec.row_shape
        self.standardise = Standardise(spec, profile)
        down, across = torch.linspace(-1, 1, height), torch.linspace(-1, 1, wide)
        place = torch.stack([down[:, None].expand(height, wide), across[None].expand(height, wide)])
        self.register_buffer("place", place, persistent=False)

    def forward(self, x: Tensor, shown: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(B, H, V, C)`` → planes ``(B, C, H, V)`` (with the mask ``2 C``) and places ``(B, 2, H, V)``."""
        v = self.standardise(x)
        if shown is not None:
            v = torch.cat([torch.where(shown, v, 0.0), shown.to(v.dtype)], -1)
        return v.permute(0, 3, 1, 2), self.place.expand(x.shape[0], *self.place.shape)


def _flat(h: Tensor, channels: int) -> Tensor:
    """``(B, C · outputs, H, V)`` → ``(B, H · V · C · outputs)`` as likelihoods lay cells out."""
    height, wide = h.shape[2:]
    return h.reshape(-1, channels, h.shape[1] // channels, height, wide).permute(0, 3, 4, 1, 2).flatten(1)


class GatedPixelCNN(nn.Module):
    """Outputs of a likelihood for every cell given the cells before it."""

    def __init__(
        self,
        spec: DataSpec,
        profile: DataProfile,
        likelihood: Likelihood,
        *,
        width: int,
        depth: int,
        dropout: float,
        classes: int = 0,
    ) -> None:
        super().__init__()
        outputs = likelihood.outputs_per_cell
        assert outputs is not None
        self.image = _Image(spec, profile)
        channels = self.channels = self.image.channels
        self.layers = nn.ModuleList(
            GatedLayer(
                channels + 2 if index == 0 else width,
                channels if index == 0 else width,
                width,
                channels,
                classes,
                first=index == 0,
            )
            for index in range(depth)
        )
        self.dropout = nn.Dropout2d(dropout)
        own = groups_of(width, channels)
        last = torch.arange(channels).repeat_interleave(outputs)
        self.mix = CentreMasked(own <= own[:, None], 0)
        self.last = CentreMasked(own <= last[:, None], 0)
        _begin(self.last, likelihood, channels)

    def forward(self, x: Tensor, shown: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """``x`` ``(B, H, V, C)``, ``y`` ``(B,)`` → ``(B, likelihood.width)``; in a fixed order nothing is hidden."""
        h = torch.relu(self.mix(torch.relu(self._left(x, y))))
        return _flat(self.last(h), self.channels)

    def states(self, x: Tensor, shown: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The last layer's mean over the picture ``(B, W)``."""
        return self._left(x, y).mean((2, 3))

    def _left(self, x: Tensor, y: Tensor | None) -> Tensor:
        left, place = self.image(x)
        above = torch.cat([left, place], 1)
        for index, layer in enumerate(self.layers):
            above, left = layer(above, left, y)
            if index + 1 < len(self.layers):
                above, left = self.dropout(above), self.dropout(left)
        state: Tensor = left
        return state


class ShownConvolution(nn.Module):
    """Outputs of a likelihood for every cell given the shown cells, wherever they are."""

    def __init__(
        self,
        spec: DataSpec,
        profile: DataProfile,
        likelihood: Likelihood,
        *,
        width: int,
        depth: int,
        dropout: float,
        classes: int = 0,
    ) -> None:
        super().__init__()
        outputs = likelihood.outputs_per_cell
        assert outputs is not None
        self.image = _Image(spec, profile)
        channels = self.channels = self.image.channels
        self.first = nn.Conv2d(2 * channels + 2, width, KERNEL, padding="same")
        self.wide = nn.ModuleList(
            nn.Conv2d(width, 2 * width, KERNEL, padding="same", dilation=DILATIONS[index % len(DILATIONS)])
            for index in range(depth)
        )
        self.out = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.labels = nn.ModuleList(nn.Embedding(classes, 2 * width) for _ in range(depth if classes else 0))
        self.dropout = nn.Dropout2d(dropout)
        self.mix, self.last = nn.Conv2d(width, width, 1), nn.Conv2d(width, channels * outputs, 1)
        _begin(self.last, likelihood, channels)

    def forward(self, x: Tensor, shown: Tensor | None, y: Tensor | None = None) -> Tensor:
        """``x``, ``shown`` ``(B, H, V, C)``, ``y`` ``(B,)`` → ``(B, likelihood.width)``."""
        h = torch.relu(self.mix(torch.relu(self._sites(x, shown, y))))
        return _flat(self.last(h), self.channels)

    def states(self, x: Tensor, shown: Tensor | None, y: Tensor | None = None) -> Tensor:
        """The last layer's mean over the picture ``(B, W)``."""
        return self._sites(x, shown, y).mean((2, 3))

    def _sites(self, x: Tensor, shown: Tensor | None, y: Tensor | None) -> Tensor:
        shown = torch.ones_like(x, dtype=torch.bool) if shown is None else shown
        h: Tensor = self.first(torch.cat(self.image(x, shown), 1))
        for index, (wide, out) in enumerate(zip(self.wide, self.out, strict=True)):
            branch = wide(self.dropout(h))
            if len(self.labels):
                assert y is not None, "a conditional model needs labels"
                branch = branch + self.labels[index](y)[:, :, None, None]
            h = h + out(gated(branch))
        return h


@torch.no_grad()
def _begin(last: nn.Conv2d, likelihood: Likelihood, channels: int) -> None:
    """Start near what the likelihood starts from, the same in every cell."""
    assert last.bias is not None
    last.weight.mul_(0.1)
    last.bias.copy_(likelihood.start()[: likelihood.outputs_per_cell].repeat(channels))
