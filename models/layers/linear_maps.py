"""Linear maps of the channels: fixed orders, diagonals, and learned matrices by their LU factors.

    z = L U P x + b,   log |det| = positions · Σ log |diag U|

L is lower triangular with ones on its diagonal, U upper with a positive one, P a fixed order drawn once, with which the
map starts. J. Oliva et al., "Transformation autoregressive networks", 2018 (arXiv:1801.09819); D. P. Kingma and
P. Dhariwal, "Glow", 2018 (arXiv:1807.03039), where it is a 1×1 convolution of images.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from models.layers.bijection import Bijection


class Permutation(Bijection):
    """A fixed order of the channels: drawn once from a seed, or reversed, which swaps the halves of a coupling."""

    order: Tensor
    back: Tensor

    def __init__(self, channels: int, seed: int | None) -> None:
        """``seed``: of the shuffle; None for the reversed order."""
        super().__init__()
        order = channel_order(channels, seed)
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z.index_select(1, self.back)


class Diagonal(Bijection):
    """NICE's last layer: ``z = x · exp(s)`` per channel, which an additive flow needs to change volume at all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.to(x.dtype).exp(), self.log_scale.to(x.dtype).sum().expand(x.shape[0])

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z * (-self.log_scale.to(z.dtype)).exp()


class LU(Bijection):
    """A linear map of ``(B, C)``, or of the channels of ``(B, C, H, W)``."""

    order: Tensor
    weight: Tensor | None
    inverse_weight: Tensor | None

    def __init__(self, channels: int, seed: int | None) -> None:
        """``seed``: of the order, as for a permutation."""
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(channels * (channels - 1) // 2))
        self.upper = nn.Parameter(torch.zeros(channels * (channels - 1) // 2))
        self.log_diagonal = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("order", channel_order(channels, seed))
        below = torch.tril_indices(channels, channels, -1)
        self.register_buffer("below", below[0] * channels + below[1], persistent=False)
        self.register_buffer("weight", None, persistent=False)
        self.register_buffer("inverse_weight", None, persistent=False)

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """L and U, ``(C, C)``."""
        channels = len(self.bias)
        below = cast(Tensor, self.below)
        empty = torch.zeros(channels * channels, dtype=dtype, device=below.device)
        lower = empty.index_copy(0, below, self.lower.to(dtype)).reshape(channels, channels)
        upper = empty.index_copy(0, below, self.upper.to(dtype)).reshape(channels, channels).T
        eye = torch.eye(channels, dtype=dtype, device=below.device)
        return lower + eye, upper + torch.diag(self.log_diagonal.to(dtype).exp())

    def _weight(self, dtype: torch.dtype) -> Tensor:
        lower, upper = self._factors(dtype)
        return (lower @ upper)[:, torch.argsort(self.order)]

    @torch.no_grad()
    def freeze(self) -> None:
        """Hold the matrix and its inverse as buffers, float64, for graphs that must not compute them."""
        self.weight = self._weight(torch.float64)
        self.inverse_weight = torch.linalg.inv(self.weight)

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight = self._weight(x.dtype) if self.weight is None else self.weight.to(x.dtype)
        z = _multiply(weight, x) + self._shift(x)
        log_det = self.log_diagonal.to(x.dtype).sum() * float(x[0, 0].numel())
        return z, log_det.expand(x.shape[0])

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if self.inverse_weight is None:
            inverse = torch.linalg.inv(self._weight(z.dtype))
        else:
            inverse = self.inverse_weight.to(z.dtype)
        return _multiply(inverse, z - self._shift(z))

    def _shift(self, like: Tensor) -> Tensor:
        return self.bias.to(like.dtype).reshape(1, -1, *[1] * (like.ndim - 2))


def _multiply(weight: Tensor, x: Tensor) -> Tensor:
    if x.ndim == 2:
        return x @ weight.T
    product: Tensor = weight @ x.flatten(2)  # (B, C, positions)
    return product.reshape(x.shape)


def channel_order(channels: int, seed: int | None) -> Tensor:
    """Return an order of the channels: drawn once from ``seed``; None reverses, which swaps the halves of a
    coupling."""
    if seed is None:
        return torch.arange(channels).flip(0)
    return torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
