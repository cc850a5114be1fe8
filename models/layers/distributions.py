"""Distributions of one cell given a network's outputs, in operators that export.

Each has ``outputs`` numbers per cell and answers, for ``h`` ``(B, n, outputs)`` over its ``n`` cells,

    log_prob(x, h)   x (B, n) in the data's own units → nats per cell (B, n)
    mean(h)          expected value (B, n); the most probable category where codes have no order
    draw(h, u)       u uniform (B, n) → a value (B, n); discrete ones are whole numbers

A draw is the inverse of the distribution function at ``u``, so one uniform per cell suffices.

The discretised logistic (Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517) gives a whole number v the mass
of the logistic on [v - 1/2, v + 1/2]; the outermost values take the tails. With a = (v + 1/2 - m) / s and
b = (v - 1/2 - m) / s,

    log(σ(a) - σ(b)) = log σ(a) + log σ(-b) + log(1 - exp(-1/s)),

which keeps its precision far out in the tails, where the difference itself would be 0 - 0.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from models.layers.gaussian import clamp_open, log_normal, normal_quantile

NARROWEST_BINS = 0.05
"""Smallest scale of a discretised logistic, in bins: 0.9999 of the mass lies in one bin."""
SMALLEST_LOG_SCALE = -5.0
"""Smallest log standard deviation of a real cell in standardised units: repeated values cannot pull a density
up without end."""
LARGEST_LOG_SCALE = 7.0
EXACT_LEVELS = 32
"""Up to so many levels the mean of a discretised logistic is summed over the grid."""


class CellDistribution(Protocol):
    """What a likelihood is composed of; see the module's docstring."""

    outputs: int

    def log_prob(self, x: Tensor, h: Tensor) -> Tensor: ...

    def mean(self, h: Tensor) -> Tensor: ...

    def draw(self, h: Tensor, u: Tensor) -> Tensor: ...


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

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        return self.low + (u >= torch.sigmoid(-h[..., 0])).to(h.dtype)


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

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        return _chosen(torch.softmax(h, -1), u).to(h.dtype)


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

    def _within(self, value: Tensor) -> Tensor:
        return torch.where(self.discrete > 0, torch.minimum(torch.maximum(value, self.low), self.high), value)


class DiscretisedLogistic(nn.Module):
    """Whole numbers in [low, high]: a mixture of ``components`` logistics on unit bins.

    ``h`` is (m, log s, logit of the weight) per component in standardised units, weights only where there are two
    or more.
    """

    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    smallest: Tensor
    edges: Tensor | None

    def __init__(self, centre: Tensor, scale: Tensor, low: Tensor, high: Tensor, components: int = 1) -> None:
        """``centre``, ``scale``, ``low``, ``high``: ``(n,)``; bounds may be infinite."""
        super().__init__()
        self.components = components
        self.outputs = 2 if components == 1 else 3 * components
        for name, value in (("centre", centre), ("scale", scale), ("low", low), ("high", high)):
            self.register_buffer(name, value.clone())
        smallest = torch.log(NARROWEST_BINS / scale).clamp(min=-LARGEST_LOG_SCALE)
        self.register_buffer("smallest", smallest)
        self.register_buffer("edges", _edges(low, high) if exact_mean(low, high) else None)

    def log_prob(self, x: Tensor, h: Tensor) -> Tensor:
        mean, log_scale, log_weight = self._components(h)
        precision = torch.exp(-log_scale) / self.scale[:, None]  # 1 / s in the data's own units
        offset = (x - self.centre)[..., None] - mean * self.scale[:, None]
        upper, lower = (offset + 0.5) * precision, (offset - 0.5) * precision
        is_low, is_high = (x <= self.low)[..., None], (x >= self.high)[..., None]
        zero = torch.zeros_like(upper)
        log_p = (
            torch.where(is_high, zero, log_sigmoid(upper))
            + torch.where(is_low, zero, log_sigmoid(-lower))
            + torch.where(is_low | is_high, zero, log_one_minus_exp(precision))
        )
        if log_weight is None:
            return log_p[..., 0]
        return torch.logsumexp(log_weight + log_p, -1)

    def mean(self, h: Tensor) -> Tensor:
        mean, log_scale, log_weight = self._components(h)
        centre = mean * self.scale[:, None] + self.centre[:, None]
        scale = torch.exp(log_scale) * self.scale[:, None]
        expected = self._summed(centre, scale) if self.edges is not None else self._integrated(centre, scale)
        if log_weight is None:
            return expected[..., 0]
        return (torch.exp(log_weight) * expected).sum(-1)

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        mean, log_scale, log_weight = self._components(h)
        if log_weight is None:
            mean, log_scale = mean[..., 0], log_scale[..., 0]
        else:
            weight = torch.exp(log_weight)
            chosen = _chosen(weight, u).unsqueeze(-1)
            below = torch.gather(torch.cumsum(weight, -1) - weight, -1, chosen)[..., 0]
            u = (u - below) / torch.gather(weight, -1, chosen)[..., 0]
            mean, log_scale = (torch.gather(t, -1, chosen)[..., 0] for t in (mean, log_scale))
        u = clamp_open(u)
        standard = mean + torch.exp(log_scale) * (torch.log(u) - torch.log(1 - u))
        value = torch.floor(standard * self.scale + self.centre + 0.5)
        return torch.minimum(torch.maximum(value, self.low), self.high)

    def _components(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """``(B, n, M)`` each: mean and log-scale in standardised units, log-weight."""
        k = self.components
        smallest = self.smallest[:, None]
        log_scale = torch.clamp(smallest + softplus(h[..., k : 2 * k] - smallest), max=LARGEST_LOG_SCALE)
        return h[..., :k], log_scale, None if k == 1 else torch.log_softmax(h[..., 2 * k :], -1)

    def _summed(self, centre: Tensor, scale: Tensor) -> Tensor:
        """E[v] = low + Σ P(V > edge) over the edges between values; ``(B, n, M)``."""
        assert self.edges is not None
        above = torch.sigmoid((centre[..., None] - self.edges[:, None, :]) / scale[..., None])
        return self.low[:, None] + above.sum(-1)

    def _integrated(self, centre: Tensor, scale: Tensor) -> Tensor:
        """The same sum as an integral: off by at most half a value, by next to nothing once s ≥ 1/2."""
        low, high = self.low[:, None], self.high[:, None]
        bounded_low, bounded_high = torch.isfinite(low), torch.isfinite(high)
        low, high = torch.where(bounded_low, low, 0.0), torch.where(bounded_high, high, 0.0)
        from_low = torch.where(bounded_low, low + scale * softplus((centre - low) / scale), centre)
        return from_low - torch.where(bounded_high, scale * softplus((centre - high) / scale), 0.0)


def exact_mean(low: Tensor, high: Tensor) -> bool:
    """Whether all cells have few enough levels for sums over the grid."""
    return bool(((high - low) < EXACT_LEVELS).all())


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


def _chosen(weights: Tensor, u: Tensor) -> Tensor:
    """Index of the part of [0, 1) that ``u`` falls into, parts of the lengths ``weights`` ``(B, n, K)``."""
    below = torch.cumsum(weights, -1)[..., :-1]
    return (u.unsqueeze(-1) >= below).to(torch.int64).sum(-1)


def _edges(low: Tensor, high: Tensor) -> Tensor:
    """``(n, most levels - 1)``: the edges between neighbouring values, beyond reach where a cell has fewer."""
    steps = max(int((high - low).max()), 1)
    edges = low[:, None] + torch.arange(steps, dtype=low.dtype) + 0.5
    return torch.where(edges < high[:, None], edges, math.inf)
