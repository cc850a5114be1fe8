"""Draws from a Gaussian inside a box, with their exact density (the GHK simulator).

For h = m + L e with L lower triangular, the cells are drawn in order: given those before, cell i is normal with mean
c_i = m_i + Σ_{j<i} L_ij e_j and deviation L_ii, and is drawn from that normal cut to [lower_i, upper_i). The density
of what is drawn is

    q(h) = Π_i φ(e_i) / (L_ii P_i),    P_i = Φ((upper_i − c_i) / L_ii) − Φ((lower_i − c_i) / L_ii)

which every h in the box can be asked for, so a mixture of such draws has a density too. Unlike rejection, no draw is
lost where many cells stand near their bounds.

John Geweke (1991), Vassilis Hajivassiliou and Daniel McFadden (1990), Michael Keane (1994).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.conditional import Conditional, Floats, log_sum_exp

_LOG_2PI = float(np.log(2 * np.pi))
_TINY = np.finfo(np.float64).tiny


def draw(given: Conditional, component: Floats, uniforms: Floats, lower: Floats, upper: Floats) -> Floats:
    """Return one draw inside the box for each row of ``given``, ``(B, h)``.

    ``component`` (B,) and ``uniforms`` (B, h) are U[0, 1); the bounds are (h,), ±inf where open.
    """
    weights = np.cumsum(np.exp(given.log_responsibilities), axis=1)
    last = weights.shape[1] - 1
    picked = np.minimum((component[:, None] * weights[:, -1:] >= weights).sum(axis=1), last)
    drawn = np.empty_like(uniforms)
    for k in np.unique(picked):
        rows = np.flatnonzero(picked == k)
        drawn[rows] = _draw_one(given.means[rows, k], given.cholesky[k], uniforms[rows], lower, upper)
    return drawn


def log_density(given: Conditional, h: Floats, lower: Floats, upper: Floats) -> Floats:
    """Return log q(h) of `draw` at ``h`` (B, h) inside the box, ``(B,)`` nats."""
    from scipy.linalg import solve_triangular

    if h.shape[1] == 0:
        return np.zeros(len(h))
    each = np.empty_like(given.log_responsibilities)
    for k, factor in enumerate(given.cholesky):
        scale = np.diagonal(factor)
        e = solve_triangular(factor, (h - given.means[:, k]).T, lower=True, check_finite=False).T
        centre = h - scale * e
        inside = _log_mass((lower - centre) / scale, (upper - centre) / scale)
        each[:, k] = (-0.5 * (np.square(e) + _LOG_2PI) - np.log(scale) - inside).sum(axis=1)
    return log_sum_exp(each + given.log_responsibilities)


def _draw_one(means: Floats, factor: Floats, uniforms: Floats, lower: Floats, upper: Floats) -> Floats:
    from scipy.special import log_ndtr, ndtri_exp

    e, h = np.zeros_like(uniforms), np.empty_like(uniforms)
    for i in range(h.shape[1]):
        centre = means[:, i] + e[:, :i] @ factor[i, :i]
        a, b = (lower[i] - centre) / factor[i, i], (upper[i] - centre) / factor[i, i]
        # In the lower tail, where logarithms of Φ keep their digits.
        flip = a > -b
        low, high = np.where(flip, -b, a), np.where(flip, -a, b)
        log_low, log_high = log_ndtr(low), log_ndtr(high)
        u = np.maximum(uniforms[:, i], _TINY)
        with np.errstate(divide="ignore"):
            log_p = np.logaddexp(log_low + np.log1p(-u), log_high + np.log(u))
        quantile = np.clip(ndtri_exp(np.minimum(log_p, 0.0)), low, high)
        e[:, i] = np.where(flip, -quantile, quantile)
        below = np.nextafter(upper[i], -np.inf) if np.isfinite(upper[i]) else upper[i]
        h[:, i] = np.clip(centre + factor[i, i] * e[:, i], lower[i], below)
        # What rounding moved must be what the later cells are drawn on.
        e[:, i] = (h[:, i] - centre) / factor[i, i]
    return h


def _log_mass(a: Floats, b: Floats) -> Floats:
    """log(Φ(b) − Φ(a)), accurate in both tails."""
    from scipy.special import log_ndtr

    flip = a > -b
    low, high = np.where(flip, -b, a), np.where(flip, -a, b)
    log_low, log_high = log_ndtr(low), log_ndtr(high)
    with np.errstate(divide="ignore", invalid="ignore"):
        mass: NDArray[np.float64] = log_high + np.log1p(-np.exp(log_low - log_high))
    return mass
