"""From raw features to the space where a network works, and back, with the log-determinant.

    v = f(x + u),   log p_x(x + u) = log p_v(v) + Σ log |f'|

``u`` in [0, 1) spreads a discrete value over its unit bin (Uria, Murray & Larochelle 2013,
arXiv:1306.0186; Theis, van den Oord & Bethge 2016, arXiv:1511.01844), so a density on the result is
in nats of the data's own units and bounds the probability of the bin. ``f`` is a fixed scaling, or
for bounded pixels the logit (Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803).

Shapes: ``x`` raw features ``(B, *row)``, float64 table or uint8 image with channels last; ``u`` and
``v`` ``(B, cells)`` flattened in C order; log-determinants ``(B,)``. Everything here is float64:
the units of a table may need it, and the caller casts once the numbers are tame.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contracts.data import DataProfile, DataSpec
from contracts.errors import InvalidInput

BIN_VARIANCE = 1 / 12
"""Variance of U[0, 1)."""


def moments(spec: DataSpec, profile: DataProfile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation ``(cells,)`` of the dequantised cells, the deviation floored.

    A discrete cell gains 1/2 and 1/12; a real column that never varies gets a deviation of a
    thousandth (of its size, if that is above 1), so that nothing divides by zero, and a row that
    is the first to differ is very improbable without drowning its other cells.
    """
    discrete = spec.discrete
    mean = profile.mean + 0.5 * discrete
    std = np.sqrt(profile.std**2 + BIN_VARIANCE * discrete)
    # A sum of equal numbers is off by some last digits: that little is no variation. In small units it is one.
    varies = std > 1e-12 * np.abs(mean)
    return mean, np.where(varies, std, 1e-3 * np.maximum(1.0, np.abs(mean)))


class Standardise(nn.Module):
    """``(x - mean) / std`` in float32, for inputs of an encoder: no noise, no log-determinant.

    Tables are standardised per column; images by one mean and deviation over all pixels, since a
    pixel that is nearly always 0 must not be blown up.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: DataSpec, profile: DataProfile) -> None:
        super().__init__()
        mean, std = moments(spec, profile)
        mean = mean - 0.5 * spec.discrete
        if spec.image is not None:
            pooled_mean = mean.mean()
            std = np.full_like(std, math.sqrt((std**2 + (mean - pooled_mean) ** 2).mean()))
            mean = np.full_like(mean, pooled_mean)
        self.register_buffer("mean", torch.from_numpy(mean.reshape(spec.row_shape)))
        self.register_buffer("std", torch.from_numpy(std.reshape(spec.row_shape)))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``(B, *row)`` raw → ``(B, *row)`` float32."""
        return ((x.to(torch.float64) - self.mean) / self.std).to(torch.float32)


class Dequantise(nn.Module):
    """Raw features as flat float64 cells, ``u`` added to the discrete ones."""

    discrete: Tensor

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.cells = spec.cells
        self.any = bool(spec.discrete.any())
        self.register_buffer("discrete", torch.from_numpy(spec.discrete.astype(np.float64)))

    def forward(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``x`` ``(B, *row)``, ``u`` ``(B, cells)`` or None (the middle of each bin) → ``(B, cells)`` float64."""
        flat = x.to(torch.float64).reshape(-1, self.cells)
        if not self.any:
            return flat
        return flat + self.discrete * (0.5 if u is None else u.to(torch.float64))


class Scale(nn.Module):
    """``v = (x - shift) / scale`` per cell."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        """``shift``, ``scale``: ``(cells,)``, scale > 0."""
        super().__init__()
        if not (np.asarray(scale) > 0).all():
            raise InvalidInput("a scale must be positive in every cell")
        self.register_buffer("shift", torch.from_numpy(np.array(shift, dtype=np.float64)))
        self.register_buffer("scale", torch.from_numpy(np.array(scale, dtype=np.float64)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, cells)`` → ``v`` ``(B, cells)``, log-determinant ``(B,)``."""
        log_det = -self.scale.log().sum() + torch.zeros_like(x[:, 0])
        return (x - self.shift) / self.scale, log_det

    def inverse(self, v: Tensor) -> Tensor:
        """``v`` ``(B, cells)`` → ``x`` ``(B, cells)``."""
        return v * self.scale + self.shift


class Logit(nn.Module):
    """``v = logit(alpha + (1 - 2 alpha) x / levels)`` for values in [0, levels)."""

    def __init__(self, levels: int, alpha: float = 0.05) -> None:
        """``alpha`` in (0, 1/2) keeps both ends finite."""
        super().__init__()
        if levels < 2 or not 0 < alpha < 0.5:
            raise InvalidInput(f"the logit needs levels >= 2 and 0 < alpha < 1/2, got {levels} and {alpha}")
        self.levels, self.alpha = levels, alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, cells)`` in [0, levels) → ``v`` ``(B, cells)``, log-determinant ``(B,)``."""
        p = self.alpha + (1 - 2 * self.alpha) / self.levels * x
        log_p, log_q = torch.log(p), torch.log1p(-p)
        slope = math.log((1 - 2 * self.alpha) / self.levels)
        return log_p - log_q, (slope - log_p - log_q).sum(-1)

    def inverse(self, v: Tensor) -> Tensor:
        """``v`` ``(B, cells)`` → ``x`` ``(B, cells)``, up to ``alpha`` of the range outside of it."""
        return (torch.sigmoid(v) - self.alpha) * (self.levels / (1 - 2 * self.alpha))


class Preprocess(nn.Module):
    """Dequantisation, then a fixed map of each cell: the first layer of a density on raw features."""

    def __init__(self, spec: DataSpec, profile: DataProfile, *, logit: bool = False) -> None:
        """``logit``: unbounded space for pixels with many levels; else each cell is standardised."""
        super().__init__()
        self.row_shape = spec.row_shape
        self.dequantise = Dequantise(spec)
        self.map: Scale | Logit
        if logit:
            if spec.image is None:
                raise InvalidInput("the logit is for images: cells of a table have no common bounds")
            self.map = Logit(spec.image.levels)
        else:
            self.map = Scale(*moments(spec, profile))

    def forward(self, x: Tensor, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Raw ``x`` ``(B, *row)``, ``u`` ``(B, cells)`` → ``v`` ``(B, cells)`` float64, log-determinant ``(B,)``."""
        v, log_det = self.map(self.dequantise(x, u))
        return v, log_det

    def inverse(self, v: Tensor) -> Tensor:
        """``v`` ``(B, cells)`` → dequantised ``x`` ``(B, *row)`` float64, not floored."""
        return self.map.inverse(v.to(torch.float64)).reshape(-1, *self.row_shape)
