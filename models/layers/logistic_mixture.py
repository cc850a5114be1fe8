"""The CDF of a mixture of logistics, through the logit, then affine: one coupling of Flow++.

    z = exp(a) · (logit F(x) + τ x) + b,   F(x) = Σ_k π_k σ((x - μ_k) / s_k)

J. Ho, X. Chen, A. Srinivas, Y. Duan and P. Abbeel, "Flow++: improving flow-based generative models with variational
dequantization and architecture design", 2019 (arXiv:1902.00275). The logit is the difference of log F and log (1 - F),
each a sum of positive terms in logarithms, so it is as precise far out, where it grows linearly, as in the middle.
The small slope τ is ours: between narrow logistics F stands still, and what stands still has no inverse in floating
point.

F is a weighted mean of logistics: logit F(x) lies between the smallest and the largest of (x - μ_k) / s_k, hence the
inverse at v between the smallest and the largest of (v + μ_k / s_k) / (1 / s_k + τ). A search divides that bracket by
eight at a time, and Newton's steps end it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.layers.elementwise import Elementwise, log_sigmoid

NARROWEST, WIDEST = -5.0, 5.0
"""Bounds of log s_k."""
SLOPE = 0.01
"""τ."""
PARTS, SEARCHES, POLISHES = 8, 6, 3
"""The bracket ends 8⁶ = 262,144 times narrower, within reach of Newton's steps."""


class MixtureCDF(Elementwise):
    """``components`` logistics; their means start spread out, since equal ones would stay equal."""

    def __init__(self, components: int, bound: float = 2.0) -> None:
        """``bound``: of |a|."""
        super().__init__()
        self.components, self.bound = components, bound
        self.per_cell = 3 * components + 2
        places = (torch.arange(components) + 0.5) / components
        self.spread = [float(value) for value in torch.logit(places)]

    def _parameters_of(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        count = self.components
        scale, shift, logits, means, widths = torch.split(self.by_cell(x, raw), [1, 1, count, count, count], dim=2)
        log_scale = self.bound * torch.tanh(scale.squeeze(2) / self.bound)
        start = torch.tensor(self.spread, dtype=x.dtype, device=x.device).reshape(1, 1, -1, *[1] * (x.ndim - 2))
        log_widths = widths.clamp(NARROWEST, WIDEST)
        return log_scale, shift.squeeze(2), torch.log_softmax(logits, dim=2), means + start, log_widths

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift, log_pi, means, log_widths = self._parameters_of(x, raw)
        logit, log_slope = _logit(x, log_pi, means, log_widths)
        return logit * log_scale.exp() + shift, log_slope + log_scale

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        log_scale, shift, log_pi, means, log_widths = self._parameters_of(z, raw)
        v = (z - shift) * (-log_scale).exp()
        rates = (-log_widths).exp()
        ends = (v.unsqueeze(2) + means * rates) / (rates + SLOPE)
        low, high = ends.amin(2), ends.amax(2)
        x = _search(v, low, high, log_pi.exp(), means, rates)
        for _ in range(POLISHES):
            logit, log_slope = _logit(x, log_pi, means, log_widths)
            x = (x - (logit - v) * (-log_slope).exp()).maximum(low).minimum(high)
        return x


def _logit(x: Tensor, log_pi: Tensor, means: Tensor, log_widths: Tensor) -> tuple[Tensor, Tensor]:
    """logit F(x) + τ x and the log of its derivative."""
    u = (x.unsqueeze(2) - means) * (-log_widths).exp()
    left, right = log_sigmoid(u), log_sigmoid(-u)
    log_below = torch.logsumexp(log_pi + left, dim=2)
    log_above = torch.logsumexp(log_pi + right, dim=2)
    log_density = torch.logsumexp(log_pi + left + right - log_widths, dim=2)
    slope = torch.exp(log_density - log_below - log_above) + SLOPE
    return log_below - log_above + SLOPE * x, torch.log(slope)


def _search(v: Tensor, low: Tensor, high: Tensor, pi: Tensor, means: Tensor, rates: Tensor) -> Tensor:
    """Where F / (1 - F) passes exp(v - τ x), within ``(high - low) / PARTS**SEARCHES``."""
    # Beyond what exp can say the search stops short, on the straight part of the logit, where one Newton step ends it.
    largest = 0.8 * math.log(torch.finfo(v.dtype).max)
    v = v.unsqueeze(-1)
    inner = torch.arange(1, PARTS, dtype=v.dtype, device=v.device) / PARTS
    pi, means, rates = pi.unsqueeze(-1), means.unsqueeze(-1), rates.unsqueeze(-1)  # (B, C, K, …, 1)
    span = high - low
    for _ in range(SEARCHES):
        points = low.unsqueeze(-1) + span.unsqueeze(-1) * inner  # (B, C, …, 7)
        odds = (v - SLOPE * points).clamp(-largest, largest).exp()
        u = (points.unsqueeze(2) - means) * rates
        below, above = (pi * torch.sigmoid(u)).sum(2), (pi * torch.sigmoid(-u)).sum(2)
        span = span / PARTS
        low = low + span * (below < odds * above).to(v.dtype).sum(-1)
    return low + 0.5 * span
