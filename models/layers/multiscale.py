"""Images in a flow: space to channels, and scales that let half of the channels go early.

    z = (z_1, …, z_S),   (z_s, h_s) = split(layers_s(squeeze(h_{s-1}))),   h_0 = x

L. Dinh, J. Sohl-Dickstein and S. Bengio, "Density estimation using Real NVP", 2017
(arXiv:1605.08803), sections 3.6 and 3.7. What leaves early costs no further layers and sees a wider
neighbourhood than its own pixels.

Shapes: ``x`` ``(B, C, H, W)``; ``z`` ``(B, C·H·W)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.bijection import Bijection


def scales_of(height: int, width: int) -> int:
    """How often sides can be halved while they are even and at least 8 pixels; at most 3."""
    count = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 8 and count < 3:
        height, width, count = height // 2, width // 2, count + 1
    return count


class Chain(Bijection):
    """Layers of a flow in a row."""

    def __init__(self, layers: Sequence[Bijection]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def _bijections(self) -> list[Bijection]:
        return [cast(Bijection, layer) for layer in self.layers]

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        for layer in self._bijections():
            x, part = layer(x, y)
            log_det = log_det + part
        return x, log_det

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        for layer in reversed(self._bijections()):
            z = layer.inverse(z, y)
        return z

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None = None) -> None:
        """Pass rows through, each layer starting from what arrives at it."""
        for layer in self._bijections():
            layer.initialise(x, y)
            x, _ = layer(x, y)


class Multiscale(Bijection):
    """Squeeze, layers, split, for each scale; the last scale keeps all its channels."""

    def __init__(
        self, channels: int, height: int, width: int, scales: int, layers: Callable[[int, int], Sequence[Bijection]]
    ) -> None:
        """``layers(channels, scale)`` answers the layers of a scale; sides are divisible by ``2**scales``."""
        super().__init__()
        self.chains = nn.ModuleList()
        self.shapes: list[tuple[int, int, int]] = []  # after the squeeze of each scale
        for scale in range(scales):
            channels, height, width = 4 * channels, height // 2, width // 2
            self.shapes.append((channels, height, width))
            self.chains.append(Chain(layers(channels, scale)))
            channels = channels // 2

    def _scales(self) -> list[Chain]:
        return [cast(Chain, chain) for chain in self.chains]

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(x.shape[0])
        parts = []
        last = len(self.shapes) - 1
        for scale, chain in enumerate(self._scales()):
            x, part = chain(F.pixel_unshuffle(x, 2), y)
            log_det = log_det + part
            if scale < last:
                x, out = x.chunk(2, dim=1)
                parts.append(out.flatten(1))
        parts.append(x.flatten(1))
        return torch.cat(parts, dim=1), log_det

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        last = len(self.shapes) - 1
        end = z.shape[1]
        x = z
        for scale, chain in reversed(list(enumerate(self._scales()))):
            channels, height, width = self.shapes[scale]
            out = channels if scale == last else channels // 2
            part = z[:, end - out * height * width : end].reshape(-1, out, height, width)
            end -= out * height * width
            x = part if scale == last else torch.cat([x, part], dim=1)
            x = F.pixel_shuffle(chain.inverse(x, y), 2)
        return x

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None = None) -> None:
        """As `Chain.initialise`, through every scale."""
        for chain in self._scales():
            x = F.pixel_unshuffle(x, 2)
            chain.initialise(x, y)
            x = chain(x, y)[0].chunk(2, dim=1)[0]
