"""What every layer of a flow answers: the way to the base, its log-determinant, and the way back."""

from __future__ import annotations

from torch import Tensor, nn


class Bijection(nn.Module):
    """An invertible map; ``y`` is an int64 ``(B,)`` label for layers that condition on it, else None."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` → ``z`` and log |det dz/dx| ``(B,)``."""
        raise NotImplementedError

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """``z`` → ``x``."""
        raise NotImplementedError

    def initialise(self, x: Tensor, y: Tensor | None = None) -> None:
        """Start from rows that arrive at this layer; most layers need not."""
