"""Distributions of one cell given a network's outputs, in operators that export.

Each has ``outputs`` numbers per cell and answers, for ``h`` ``(B, n, outputs)`` over its ``n`` cells,

    log_prob(x, h)   x (B, n) in the data's own units → nats per cell (B, n)
    mean(h)          expected value (B, n); the most probable category where codes have no order
    std(h)           standard deviation (B, n), of the codes for categories
    draw(h, u)       u uniform (B, n) → a value (B, n); discrete ones are whole numbers
    temper(h, t)     h of the distribution at temperature t (B, 1): logits are divided by it, scales multiplied

A draw is the inverse of the distribution function at ``u``, so one uniform per cell suffices.

Mixtures of logistics, for whole and for real numbers, stand in `models.layers.cell_mixtures`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from models.layers.gaussian import log_normal, normal_quantile

SMALLEST_LOG_SCALE = -5.0
"""Smallest log standard deviation of a real cell in standardised units: repeated values cannot pull a density
up without end."""
LARGEST_LOG_SCALE = 7.0
COLDEST = 1e-4
"""Temperatures below, 0 among them, count as this one: the most probable value."""


class CellDistribution(Protocol):
    """What a likelihood is composed of; see the module's docstring."""

    outputs: int

    def log_prob(self, x: Tensor, h: Tensor) -> Tensor: ...

    def mean(self, h: Tensor) -> Tensor: ...

    def std(self, h: Tensor) -> Tensor: ...

    def draw(self, h: Tensor, u: Tensor) -> Tensor: ...

    def temper(self, h: Tensor, t: Tensor) -> Tensor: ...

    def start(self) -> Tensor:
        """Outputs ``(outputs,)`` to begin training from: near the data, and different for parts of a mixture."""
        ...


class Bernoulli(nn.Module):
    """Two values, ``low`` and ``low + 1``; ``h`` is the logit of the upper one."""

    outputs = 1
    low: Tensor

    def __init__(self, low: Tensor) -> None:
        """``low``: ``(n,)``."""
        super().__init__()
        self.register_buffer("low", low.clone())

    def log_prob(self, x: Tensor, h: Tensor) -> Tensor:
        sign = 2 * (x - self.low) - 1
        return log_sigmoid(sign * h[..., 0])

    def mean(self, h: Tensor) -> Tensor:
        return self.low + torch.sigmoid(h[..., 0])

    def std(self, h: Tensor) -> Tensor:
        # √(σ(h) σ(-h)) by logarithms: the runtime's σ is exact to some 1e-8 only, of which a square root makes 1e-4.
        return torch.exp(0.5 * (log_sigmoid(h[..., 0]) + log_sigmoid(-h[..., 0])))

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        return self.low + (u >= torch.sigmoid(-h[..., 0])).to(h.dtype)

    def temper(self, h: Tensor, t: Tensor) -> Tensor:
        return h / warm(t)[..., None]

    def start(self) -> Tensor:
        return torch.zeros(1)


class Categorical(nn.Module):
    """Codes 0 … K-1 without order; ``h`` are K logits. The mean is the most probable code."""

    codes: Tensor

    def __init__(self, categories: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.outputs = categories
        self.register_buffer("codes", torch.arange(categories, dtype=dtype))

    def log_prob(self, x: Tensor, h: Tensor) -> Tensor:
        log_p = torch.log_softmax(h, -1)
        chosen = (x.unsqueeze(-1) == self.codes).to(h.dtype)
        return (log_p * chosen).sum(-1)

    def mean(self, h: Tensor) -> Tensor:
        return torch.argmax(h, -1).to(h.dtype)

    def std(self, h: Tensor) -> Tensor:
        p = torch.softmax(h, -1)
        mean = (p * self.codes).sum(-1, keepdim=True)
        return torch.sqrt((p * torch.square(self.codes - mean)).sum(-1))

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        return chosen_part(torch.softmax(h, -1), u).to(h.dtype)

    def temper(self, h: Tensor, t: Tensor) -> Tensor:
        return h / warm(t)[..., None]

    def start(self) -> Tensor:
        return torch.zeros(self.outputs)


class Gaussian(nn.Module):
    """N(m, s) with both learned; ``h`` is (m, log s) in standardised units.

    A whole number v (``discrete``) is scored by E[log N(v + u)] over u in [0, 1), a lower bound of the log-mass
    of [v, v + 1) by Jensen's inequality, so that its score is a log-probability like that of other discrete cells.
    """

    outputs = 2
    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    discrete: Tensor

    def __init__(self, centre: Tensor, scale: Tensor, low: Tensor, high: Tensor, discrete: Tensor) -> None:
        """All ``(n,)``: units of a standardised cell, bounds (±inf where open), and which cells are whole numbers."""
        super().__init__()
        for name, value in (("centre", centre), ("scale", scale), ("low", low), ("high", high)):
            self.register_buffer(name, value.clone())
        self.register_buffer("discrete", discrete.to(centre.dtype))

    def log_prob(self, x: Tensor, h: Tensor) -> Tensor:
        mean, log_scale = h[..., 0], _log_scale(h[..., 1])
        value = (x + 0.5 * self.discrete - self.centre) / self.scale
        spread = self.discrete / (24 * self.scale**2) * torch.exp(-2 * log_scale)
        return log_normal(value, mean, log_scale) - torch.log(self.scale) - spread

    def mean(self, h: Tensor) -> Tensor:
        return self._within(h[..., 0] * self.scale + self.centre - 0.5 * self.discrete)

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        standard = h[..., 0] + torch.exp(_log_scale(h[..., 1])) * normal_quantile(u)
        value = standard * self.scale + self.centre
        return self._within(torch.where(self.discrete > 0, torch.floor(value), value))

    def std(self, h: Tensor) -> Tensor:
        return torch.exp(_log_scale(h[..., 1])) * self.scale

    def temper(self, h: Tensor, t: Tensor) -> Tensor:
        return torch.stack([h[..., 0], h[..., 1] + torch.log(warm(t))], -1)

    def start(self) -> Tensor:
        return torch.zeros(2)

    def _within(self, value: Tensor) -> Tensor:
        return torch.where(self.discrete > 0, torch.minimum(torch.maximum(value, self.low), self.high), value)


def warm(t: Tensor) -> Tensor:
    """A temperature that can be divided by."""
    return torch.clamp(t, min=COLDEST)


def log_sigmoid(x: Tensor) -> Tensor:
    """log σ(x), also in float64 (for which the ONNX runtime has no Softplus)."""
    return -softplus(-x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) without overflow."""
    return torch.relu(x) + torch.log(1 + torch.exp(-torch.abs(x)))


def log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - e^-x) for x > 0: a series where e^-x rounds to 1, off by less than 1e-7."""
    small = torch.clamp(x, max=0.5)
    square = small * small
    series = torch.log(small) - small / 2 + square / 24 - square * square / 2880
    large = torch.log(1 - torch.exp(-torch.clamp(x, min=0.5)))
    return torch.where(x < 0.5, series, large)


def _log_scale(raw: Tensor) -> Tensor:
    smooth = SMALLEST_LOG_SCALE + softplus(raw - SMALLEST_LOG_SCALE)
    return torch.clamp(smooth, max=LARGEST_LOG_SCALE)


def chosen_part(weights: Tensor, u: Tensor) -> Tensor:
    """Index of the part of [0, 1) that ``u`` falls into, parts of the lengths ``weights`` ``(B, n, K)``."""
    below = torch.cumsum(weights, -1)[..., :-1]
    return (u.unsqueeze(-1) >= below).to(torch.int64).sum(-1)
