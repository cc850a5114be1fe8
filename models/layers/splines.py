"""Rational-quadratic splines: monotone, smooth, with an inverse in closed form.

In the bin [x_k, x_k+1] with height h, width w, slope s = h / w and derivatives d_k, d_k+1 at its ends, for
θ = (x - x_k) / w

    z = z_k + h (s θ² + d_k θ (1-θ)) / (s + (d_k+1 + d_k - 2 s) θ (1-θ))

C. Durkan, A. Bekasov, I. Murray and G. Papamakarios, "Neural spline flows", 2019 (arXiv:1906.04032), after
J. Gregory and R. Delbourgo, "Piecewise rational quadratic interpolation to monotonic data", 1982. Beyond
± ``bound`` the map is the identity, with derivative 1 where both meet: a value far out comes through as it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.layers.elementwise import Elementwise, softplus

MINIMUM = 1e-3
"""Of a bin's width and height, as a share of the interval, and of a derivative."""


STILL = 1e-3
"""Deviation below which a channel does not vary."""


class RationalQuadratic(Elementwise):
    """A spline of ``bins`` bins on [-bound, bound]."""

    def __init__(self, bins: int, bound: float) -> None:
        super().__init__()
        self.bins, self.bound = bins, bound
        self.per_cell = 3 * bins - 1
        # A raw derivative of 0 is a derivative of 1.
        self._slope_at_zero = math.log(math.expm1(1 - MINIMUM))

    def _bin(self, value: Tensor, raw: Tensor, *, by_height: bool) -> tuple[Tensor, ...]:
        """Of the bin that ``value`` falls into: place, width, foot, height, and the derivatives at its ends.

        Bins are counted by comparisons, and the one is picked by a mask: its gradient is a product, where that of an
        indexed read would be a scatter.
        """
        bins, p = self.bins, self.by_cell(value, raw)
        sides = p[:, :, : 2 * bins].reshape(*p.shape[:2], 2, bins, *p.shape[3:])
        shares = torch.softmax(sides, dim=3)
        sizes = 2 * self.bound * (MINIMUM + (1 - MINIMUM * bins) * shares)  # (B, C, 2, bins, …)
        starts = torch.cumsum(sizes, dim=3) - sizes - self.bound
        slopes = MINIMUM + softplus(p[:, :, None, 2 * bins :] + self._slope_at_zero)
        one = torch.ones_like(slopes[:, :, :, :1])
        index = (value[:, :, None] >= starts[:, :, int(by_height), 1:]).sum(2, keepdim=True)
        every = torch.arange(bins, device=value.device).reshape(bins, *[1] * (value.ndim - 2))
        chosen = (index == every).to(raw.dtype).unsqueeze(2)  # (B, C, 1, bins, …)
        ends = [torch.cat([one, slopes], dim=3), torch.cat([slopes, one], dim=3)]
        return (chosen * torch.cat([starts, sizes, *ends], dim=2)).sum(3).unbind(2)

    def gaussianising(self, x: Tensor) -> Tensor:
        """Return the parameters ``(C · per_cell,)`` of the maps that make each channel of rows ``x`` ``(B, C)`` about
        normal: its quantiles go to those of N(0, 1). A channel that hardly varies stays as it is.

        C. Meng et al., "Gaussianization flows", 2020 (arXiv:2003.01941).
        """
        x = x.to(torch.float64)
        levels = torch.arange(1, self.bins, dtype=torch.float64, device=x.device) / self.bins
        inner = torch.stack([torch.quantile(x, levels, dim=0).T, torch.special.ndtri(levels).expand(x.shape[1], -1)])
        ends = torch.full_like(inner[..., :1], self.bound)
        knots = torch.cat([-ends, inner.clamp(-self.bound, self.bound), ends], -1)  # (2, C, bins + 1)
        shares = (knots.diff(dim=-1) / (2 * self.bound)).clamp(min=MINIMUM)
        shares = shares / shares.sum(-1, keepdim=True)
        sides = ((shares - MINIMUM) / (1 - MINIMUM * self.bins)).clamp(min=1e-6).log()
        slopes = (shares[1] / shares[0]).log()
        middle = ((slopes[:, 1:] + slopes[:, :-1]) / 2).exp()
        raw = torch.cat([*sides, torch.log(torch.expm1(middle - MINIMUM)) - self._slope_at_zero], -1)
        return torch.where(x.std(0, correction=0)[:, None] > STILL, raw, 0.0).flatten()

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        x0, z0, width, height, d0, d1 = self._bin(x, raw, by_height=False)
        slope = height / width
        theta = ((x - x0) / width).clamp(0, 1)
        across = theta * (1 - theta)
        below = slope + (d1 + d0 - 2 * slope) * across
        z = z0 + height * (slope * theta * theta + d0 * across) / below
        above = d1 * theta * theta + 2 * slope * across + d0 * (1 - theta) ** 2
        inside = x.abs() < self.bound
        log_slope = torch.log(above * (slope / below) ** 2)
        return torch.where(inside, z, x), torch.where(inside, log_slope, 0.0)

    def inverse(self, z: Tensor, raw: Tensor) -> Tensor:
        x0, z0, width, height, d0, d1 = self._bin(z, raw, by_height=True)
        slope = height / width
        over = (z - z0).clamp(min=0).minimum(height)
        bend = over * (d1 + d0 - 2 * slope)
        a, b, c = height * (slope - d0) + bend, height * d0 - bend, -slope * over
        root = torch.sqrt((b * b - 4 * a * c).clamp(min=0))
        theta = (2 * c / (-b - root)).clamp(0, 1)
        return torch.where(z.abs() < self.bound, x0 + theta * width, z)
