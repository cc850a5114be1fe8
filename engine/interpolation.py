"""Paths between two vectors, from a (t = 0) to b (t = 1) in equal steps.

    lerp   (1 - t) a + t b
    slerp  r(t) (cos(tω) â + sin(tω) p̂),   r(t) = (1 - t)|a| + t|b|

with ω the angle between a and b and p̂ the unit vector in their plane that stands upright on â (Shoemake 1985,
"Animating rotation with quaternion curves"). In many dimensions nearly all draws of N(0, I) have about the same length,
and the middle of a straight line is shorter than any of them; slerp keeps the length (White 2016, "Sampling generative
networks", arXiv:1609.04468).

Where slerp is not defined it still answers a path: between vectors of one direction, and where one is zero, the
straight line; between opposite ones, a half-circle in a plane that depends on a alone (in one dimension, the line).
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InvalidInput

Floats = NDArray[np.float64]

# Below this sine two vectors count as parallel: their plane would be made of rounding errors.
_PARALLEL = 1e-12


class Mode(StrEnum):
    LERP = "lerp"
    SLERP = "slerp"


def interpolate(a: NDArray[np.floating], b: NDArray[np.floating], steps: int, mode: Mode) -> Floats:
    """Return the paths ``(P, steps, L)`` from each row of ``a`` (P, L) to that of ``b`` (P, L), both ends included.

    Raises InvalidInput for fewer than 2 steps and for shapes that differ.
    """
    if steps < 2:
        raise InvalidInput(f"steps must be at least 2, the two ends, got {steps}")
    if a.ndim != 2 or a.shape != b.shape:
        raise InvalidInput(f"both ends need vectors of one shape (pairs, L), got {a.shape} and {b.shape}")
    start, end = a.astype(np.float64), b.astype(np.float64)
    t = np.linspace(0.0, 1.0, steps)
    path = _line(start, end, t) if mode is Mode.LERP else _arc(start, end, t)
    # What comes in goes out to the bit, whatever the arithmetic between makes of it.
    path[:, 0], path[:, -1] = start, end
    return path


def _line(a: Floats, b: Floats, t: Floats) -> Floats:
    path: Floats = (1 - t)[:, None] * a[:, None] + t[:, None] * b[:, None]
    return path


def _arc(a: Floats, b: Floats, t: Floats) -> Floats:
    lengths = np.stack([np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)], axis=1)
    defined = (lengths > 0).all(axis=1)
    safe = np.where(lengths > 0, lengths, 1.0)
    from_, to = a / safe[:, :1], b / safe[:, 1:]
    cosine = (from_ * to).sum(axis=1)
    across = to - cosine[:, None] * from_
    sine = np.linalg.norm(across, axis=1)
    parallel, opposite = (sine < _PARALLEL) & (cosine > 0), (sine < _PARALLEL) & (cosine < 0)
    defined &= ~parallel
    if a.shape[1] == 1:
        defined &= ~opposite
    elif opposite.any():
        across[opposite] = _upright(from_[opposite])
        sine = np.linalg.norm(across, axis=1)
        cosine[opposite] = -1.0
    upright = across / np.where(sine > 0, sine, 1.0)[:, None]
    angle = np.where(opposite, np.pi, np.arctan2(sine, cosine))
    turned = t * angle[:, None]
    radius = (1 - t) * lengths[:, :1] + t * lengths[:, 1:]
    arc = radius[..., None] * (
        np.cos(turned)[..., None] * from_[:, None] + np.sin(turned)[..., None] * upright[:, None]
    )
    return np.where(defined[:, None, None], arc, _line(a, b, t))


def _upright(unit: Floats) -> Floats:
    """A vector upright on each unit vector: the axis that it leans to least, less its share."""
    axis = np.abs(unit).argmin(axis=1)
    rows = np.arange(len(unit))
    upright: Floats = -unit[rows, axis][:, None] * unit
    upright[rows, axis] += 1.0
    return upright
