"""An affine map per channel whose first values come from data.

    z = (x + b) · exp(s),   log |det| = positions · Σ s

Kingma and Dhariwal, "Glow: generative flow with invertible 1×1 convolutions", 2018
(arXiv:1807.03039). Initialised so that the first batch leaves with mean 0 and deviation 1; whether
that has happened is a buffer, so a loaded state never starts again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers.bijection import Bijection


class ActNorm(Bijection):
    """Shift and scale of each channel of ``(B, C)`` or ``(B, C, H, W)``."""

    initialised: Tensor

    def __init__(self, channels: int, *, floor: float = 1e-3) -> None:
        """``floor``: a channel that varies less keeps its scale. It would vary as little after each norm of a chain,
        and a chain of scalings by 1 / floor is beyond float32."""
        super().__init__()
        self.floor = floor
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.tensor(False))

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None = None) -> None:
        """Set both parameters from rows ``x``, unless that was done before."""
        if bool(self.initialised):
            return
        axes = [0, *range(2, x.ndim)]
        self.bias.copy_(-x.mean(axes))
        std = x.std(axes, correction=0)
        self.log_scale.copy_(-torch.where(std > self.floor, std, 1.0).log())
        self.initialised.fill_(True)

    def _shaped(self, parameter: Tensor, like: Tensor) -> Tensor:
        # In the dtype of the data before any exp: exp(s) and exp(-s) must be inverse to its precision.
        return parameter.to(like.dtype).reshape(1, -1, *[1] * (like.ndim - 2))

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` → ``z`` of the same shape and the log-determinant ``(B,)``."""
        z = (x + self._shaped(self.bias, x)) * self._shaped(self.log_scale, x).exp()
        log_det = self.log_scale.to(x.dtype).sum() * float(x[0, 0].numel())
        return z, log_det.expand(x.shape[0])

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z * (-self._shaped(self.log_scale, z)).exp() - self._shaped(self.bias, z)
