"""Exponential moving average of weights (Polyak & Juditsky 1992), used for evaluation and export.

``shadow ← d·shadow + (1 - d)·weights`` with d = min(decay, (1 + t) / (10 + t)), so that short runs are not held
back by the first weights. Buffers are not averaged: they are what they are at the moment of use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """The running average of a module's parameters."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """``decay`` in [0, 1) per step; 0 keeps the weights of the last step."""
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._decay = decay
        self.shadow: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps (from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.shadow.values()), [p.data for p in self._parameters.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module compute with the averaged weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, shadow: dict[str, Tensor]) -> None:
        """Restore a saved average; raises KeyError where a weight is absent."""
        for name, tensor in self.shadow.items():
            tensor.copy_(shadow[name])

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            kept = parameter.data
            parameter.data = self.shadow[name]
            self.shadow[name] = kept
