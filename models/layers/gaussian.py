"""Gaussian formulas in operators that export: log-density, Kullback-Leibler divergence, quantile.

    log N(x; m, s) = -(x - m)² / 2s² - log s - log(2π) / 2
    KL(N(m, s) ‖ N(0, 1)) = (m² + s² - 1) / 2 - log s

The quantile is algorithm AS 241 (Wichura 1988, "The percentage points of the normal distribution"), a
ratio of polynomials: erfinv has no ONNX counterpart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LOG_TWO_PI = math.log(2 * math.pi)

_CENTRE = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
_TAIL = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)


def log_normal(x: Tensor, mean: Tensor | float, log_scale: Tensor) -> Tensor:
    """Return log N(x; mean, exp(log_scale)) per element, nats."""
    return -0.5 * ((x - mean) * torch.exp(-log_scale)) ** 2 - log_scale - 0.5 * LOG_TWO_PI


def rate(mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_scale)) ‖ N(0, 1)) per element, nats."""
    return 0.5 * (mean**2 + torch.exp(2 * log_scale) - 1) - log_scale


def normal_quantile(u: Tensor) -> Tensor:
    """Return the x with Φ(x) = u, elementwise.

    ``u`` in [0, 1) is clamped to [1e-11, 1 - 1e-11] (float32: [2⁻²⁵, 1 - 2⁻²⁴]), so that the answer is finite;
    relative error about 1e-15 in float64.
    """
    u = clamp_open(u)
    q = u - 0.5
    central = q * _ratio(0.180625 - q * q, _CENTRE)
    tail = torch.minimum(u, 1 - u)
    r = torch.sqrt(-torch.log(tail)) - 1.6
    outer = torch.sign(q) * _ratio(r, _TAIL)
    return torch.where(torch.abs(q) <= 0.425, central, outer)


def clamp_open(u: Tensor) -> Tensor:
    """Keep uniform noise off 0 and 1, where quantiles are infinite."""
    if u.dtype == torch.float64:
        return torch.clamp(u, 1e-11, 1 - 1e-11)
    return torch.clamp(u, 2.0**-25, 1 - 2.0**-24)


def _ratio(r: Tensor, coefficients: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    above, below = (_horner(r, row) for row in coefficients)
    return above / below


def _horner(r: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.full_like(r, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * r + coefficient
    return total
