"""Coupling layers: one half of the cells is moved by a function of the other half.

    z_a = x_a,   z_b = g(x_b; θ(x_a)),   log |det| = Σ log g'(x_b; θ(x_a))

L. Dinh, D. Krueger and Y. Bengio, "NICE: non-linear independent components estimation", 2014 (arXiv:1410.8516);
L. Dinh, J. Sohl-Dickstein and S. Bengio, "Density estimation using Real NVP", 2017 (arXiv:1605.08803). What g is
stands in `models.layers.elementwise` and its kin, what θ is in `models.layers.conditioners`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers.bijection import Bijection
from models.layers.elementwise import Elementwise


class Coupling(Bijection):
    """Moves the last ``channels - kept`` channels by a function of the first ``kept``."""

    def __init__(self, conditioner: nn.Module, kept: int, transform: Elementwise) -> None:
        """``conditioner(x_a, y)`` answers the parameters of ``transform`` for the moved channels."""
        super().__init__()
        self.conditioner, self.kept, self.transform = conditioner, kept, transform

    def _raw(self, a: Tensor, y: Tensor | None) -> Tensor:
        # The halves may be float64 around a float32 network: an inverse that sees the very same `a` gets the
        # very same parameters back, so its error does not grow with the layers.
        own = next(self.conditioner.parameters()).dtype
        raw: Tensor = self.conditioner(_tame(a).to(own), y).to(a.dtype)
        return raw

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = x[:, : self.kept], x[:, self.kept :]
        b, log_slope = self.transform(b, self._raw(a, y))
        return torch.cat([a, b], dim=1), log_slope.flatten(1).sum(1)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        a, b = z[:, : self.kept], z[:, self.kept :]
        return torch.cat([a, self.transform.inverse(b, self._raw(a, y))], dim=1)


def _tame(a: Tensor) -> Tensor:
    """asinh: about the identity where data are, logarithmic far out, where a network would extrapolate wildly."""
    if a.dtype is not torch.float64:
        return torch.asinh(a)
    return torch.sign(a) * torch.log(a.abs() + torch.sqrt(a * a + 1))
