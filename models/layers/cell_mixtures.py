"""Mixtures of logistics of one cell given a network's outputs: on unit bins for whole numbers, densities for real ones.

See `models.layers.distributions` for what they answer. The discretised logistic (Salimans et al. 2017, "PixelCNN++",
arXiv:1701.05517) gives a whole number v the mass of the logistic on [v - 1/2, v + 1/2]; the outermost values take the
tails. With a = (v + 1/2 - m) / s and b = (v - 1/2 - m) / s,

    log(σ(a) - σ(b)) = log σ(a) + log σ(-b) + log(1 - exp(-1/s)),

which keeps its precision far out in the tails, where the difference itself would be 0 - 0.

``h`` ``(B, n, outputs)`` is (m, log s, logit of the weight) per component in standardised units, weights only where
there are two components or more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.layers.distributions import (
    LARGEST_LOG_SCALE,
    SMALLEST_LOG_SCALE,
    chosen_part,
    log_one_minus_exp,
    log_sigmoid,
    softplus,
    warm,
)
from models.layers.gaussian import clamp_open

NARROWEST_BINS = 0.05
"""Smallest scale of a discretised logistic, in bins: 0.9999 of the mass lies in one bin."""
LOGISTIC_STD = math.pi / math.sqrt(3)
"""Standard deviation of a logistic of scale 1."""
QUANTILES = 32
"""Values of a logistic that stand for it where its deviation within bounds is asked for."""
EXACT_LEVELS = 32
"""Up to so many levels the mean of a discretised logistic is summed over the grid."""


class DiscretisedLogistic(nn.Module):
    """Whole numbers in [low, high]: a mixture of ``components`` logistics on unit bins."""

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

    def std(self, h: Tensor) -> Tensor:
        mean, log_scale, log_weight = self._components(h)
        centre = mean * self.scale[:, None] + self.centre[:, None]
        scale = torch.exp(log_scale) * self.scale[:, None]
        if self.edges is None:
            # Quantiles of each logistic, cut to the bounds: a closed form would need the dilogarithm.
            value = centre[..., None] + scale[..., None] * quantiles(h)
            value = torch.minimum(torch.maximum(value, self.low[:, None, None]), self.high[:, None, None])
            weight = torch.ones_like(centre) if log_weight is None else torch.exp(log_weight)
            mean = (weight * value.mean(-1)).sum(-1)[..., None, None]
            return torch.sqrt((weight * torch.square(value - mean).mean(-1)).sum(-1))
        # Masses by their logarithms: differences of distribution functions leave nothing exact of a rare value, and a
        # square root would make much of the rest.
        steps = torch.arange(self.edges.shape[1] + 1, dtype=h.dtype, device=h.device)
        log_p = torch.stack([self.log_prob(self.low + step, h) for step in steps], -1)  # (B, n, levels)
        p = torch.where(self.low[:, None] + steps <= self.high[:, None], torch.exp(log_p), 0.0)
        expected = (p * steps).sum(-1, keepdim=True)
        return torch.sqrt((p * torch.square(steps - expected)).sum(-1))

    def temper(self, h: Tensor, t: Tensor) -> Tensor:
        return _temper_mixture(h, t, self.components)

    def start(self) -> Tensor:
        return _start_mixture(self.components)

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        standard = _draw_mixture(*self._components(h), u)
        value = torch.floor(standard * self.scale + self.centre + 0.5)
        return torch.minimum(torch.maximum(value, self.low), self.high)

    def _components(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """``(B, n, M)`` each: mean and log-scale in standardised units, log-weight."""
        return _mixture(h, self.components, self.smallest[:, None])

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


class LogisticMixture(nn.Module):
    """Real numbers: a mixture of ``components`` logistic densities."""

    centre: Tensor
    scale: Tensor

    def __init__(self, centre: Tensor, scale: Tensor, components: int) -> None:
        """``centre``, ``scale``: ``(n,)`` units of a standardised cell."""
        super().__init__()
        self.components = components
        self.outputs = 2 if components == 1 else 3 * components
        self.register_buffer("centre", centre.clone())
        self.register_buffer("scale", scale.clone())

    def log_prob(self, x: Tensor, h: Tensor) -> Tensor:
        mean, log_scale, log_weight = self._components(h)
        distance = torch.abs(((x - self.centre) / self.scale)[..., None] - mean) * torch.exp(-log_scale)
        log_p = -distance - 2 * torch.log(1 + torch.exp(-distance)) - log_scale
        log_p = log_p[..., 0] if log_weight is None else torch.logsumexp(log_weight + log_p, -1)
        return log_p - torch.log(self.scale)

    def mean(self, h: Tensor) -> Tensor:
        mean, _, log_weight = self._components(h)
        standard = mean[..., 0] if log_weight is None else (torch.exp(log_weight) * mean).sum(-1)
        return standard * self.scale + self.centre

    def std(self, h: Tensor) -> Tensor:
        mean, log_scale, log_weight = self._components(h)
        return _mixture_std(mean, torch.exp(log_scale), log_weight) * self.scale

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        return _draw_mixture(*self._components(h), u) * self.scale + self.centre

    def temper(self, h: Tensor, t: Tensor) -> Tensor:
        return _temper_mixture(h, t, self.components)

    def start(self) -> Tensor:
        return _start_mixture(self.components)

    def _components(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return _mixture(h, self.components, torch.full_like(self.scale, SMALLEST_LOG_SCALE)[:, None])


def quantiles(like: Tensor) -> Tensor:
    """``QUANTILES`` equally probable values of a logistic of scale 1, stretched to its variance."""
    p = (torch.arange(QUANTILES, dtype=like.dtype, device=like.device) + 0.5) / QUANTILES
    x = torch.log(p) - torch.log(1 - p)
    return x * (LOGISTIC_STD / torch.sqrt(torch.square(x).mean()))


def _mixture(h: Tensor, components: int, smallest: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mean, log-scale (not below ``smallest``) and log-weight of each logistic, ``(B, n, M)``; no weight of one."""
    k = components
    log_scale = torch.clamp(smallest + softplus(h[..., k : 2 * k] - smallest), max=LARGEST_LOG_SCALE)
    return h[..., :k], log_scale, None if k == 1 else torch.log_softmax(h[..., 2 * k :], -1)


def _draw_mixture(mean: Tensor, log_scale: Tensor, log_weight: Tensor | None, u: Tensor) -> Tensor:
    """A draw ``(B, n)``: ``u`` chooses the logistic, and what is left of it is uniform again."""
    if log_weight is None:
        mean, log_scale = mean[..., 0], log_scale[..., 0]
    else:
        weight = torch.exp(log_weight)
        chosen = chosen_part(weight, u).unsqueeze(-1)
        below = torch.gather(torch.cumsum(weight, -1) - weight, -1, chosen)[..., 0]
        u = (u - below) / torch.gather(weight, -1, chosen)[..., 0]
        mean, log_scale = (torch.gather(t, -1, chosen)[..., 0] for t in (mean, log_scale))
    u = clamp_open(u)
    return mean + torch.exp(log_scale) * (torch.log(u) - torch.log(1 - u))


def _mixture_std(mean: Tensor, scale: Tensor, log_weight: Tensor | None) -> Tensor:
    """Deviation ``(B, n)`` of a mixture of logistics ``(B, n, M)``."""
    if log_weight is None:
        return LOGISTIC_STD * scale[..., 0]
    weight = torch.exp(log_weight)
    centre = (weight * mean).sum(-1, keepdim=True)
    return torch.sqrt((weight * (torch.square(mean - centre) + (LOGISTIC_STD * scale) ** 2)).sum(-1))


def _temper_mixture(h: Tensor, t: Tensor, components: int) -> Tensor:
    k = components
    t = warm(t)[..., None]
    parts = [h[..., :k], h[..., k : 2 * k] + torch.log(t)]
    return torch.cat(parts if k == 1 else [*parts, h[..., 2 * k :] / t], -1)


def _start_mixture(components: int) -> Tensor:
    """Logistics side by side over the middle of standardised data."""
    if components == 1:
        return torch.tensor([0.0, -0.5])
    spread = torch.linspace(-1.5, 1.5, components)
    return torch.cat([spread, torch.full((components,), -1.0), torch.zeros(components)])


def exact_mean(low: Tensor, high: Tensor) -> bool:
    """Whether all cells have few enough levels for sums over the grid."""
    return bool(((high - low) < EXACT_LEVELS).all())


def _edges(low: Tensor, high: Tensor) -> Tensor:
    """``(n, most levels - 1)``: the edges between neighbouring values, beyond reach where a cell has fewer."""
    steps = max(int((high - low).max()), 1)
    edges = low[:, None] + torch.arange(steps, dtype=low.dtype) + 0.5
    return torch.where(edges < high[:, None], edges, math.inf)
