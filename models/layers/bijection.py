"""What every layer of a flow answers: the way to the base, its log-determinant, and the way back."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Bijection(nn.Module, ABC):
    """An invertible map; ``y`` is an int64 ``(B,)`` label for layers that condition on it, else None."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` → ``z`` and log |det dz/dx| ``(B,)``."""

    @abstractmethod
    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """``z`` → ``x``."""

    def initialise(self, x: Tensor, y: Tensor | None = None) -> None:
        """Start from rows that arrive at this layer; most layers need not."""
