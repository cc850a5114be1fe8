"""Random views of pictures: crops, turns, flips, light, colour, erased patches, with every number from given uniforms.

Each picture is warped once, by the product of its crop, turn and flip, and lit by kornia's operators (E. Riba et al.,
"Kornia: an open source differentiable computer vision library for PyTorch", 2020, arXiv:1910.02190). Grey pictures are
changed in brightness and contrast, coloured ones also in saturation and hue, and made grey now and then.

Shapes: ``x`` ``(B, C, H, W)`` in 0 … 1, ``u`` ``(B, UNIFORMS)`` in [0, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from kornia.geometry.transform import warp_affine
from torch import Tensor

UNIFORMS = 16
SMALLEST_ASPECT = 3 / 4


@dataclass(frozen=True)
class Recipe:
    """How far views may go from their picture."""

    smallest_crop: float = 0.4
    """Least share of the area that a view shows."""
    turn: float = 10.0
    """Degrees, either way."""
    flip: bool = True
    light: float = 0.4
    """Brightness is moved and contrast multiplied by so much at most."""
    colour: float = 0.4
    """The same for saturation; hue is turned by a quarter of it. Coloured pictures only."""
    grey: float = 0.2
    """Share of the views of coloured pictures without colour."""
    erase: float = 0.25
    """Share of the views with a patch, up to a quarter of the picture, set to its mean."""


def views(x: Tensor, u: Tensor, recipe: Recipe) -> Tensor:
    """Return one view of each picture."""
    height, width = x.shape[-2:]
    out = warp_affine(x, _warp(u, recipe, height, width), (height, width), padding_mode="reflection")
    out = _lit(out.clamp(0, 1), u[:, 7:12], recipe)
    return _erased(out, u[:, 12:16], recipe)


def _warp(u: Tensor, recipe: Recipe, height: int, width: int) -> Tensor:
    """Maps ``(B, 2, 3)`` from pixels of the picture to pixels of the view."""
    area = recipe.smallest_crop + (1 - recipe.smallest_crop) * u[:, 0]
    aspect = torch.exp((2 * u[:, 1] - 1) * -math.log(SMALLEST_ASPECT))
    across, down = torch.sqrt(area * aspect).clamp(max=1), torch.sqrt(area / aspect).clamp(max=1)
    left, top = (1 - across) * u[:, 2] * (width - 1), (1 - down) * u[:, 3] * (height - 1)
    angle = math.radians(recipe.turn) * (2 * u[:, 4] - 1)
    mirror = torch.where((u[:, 5] < 0.5) & recipe.flip, -1.0, 1.0)
    # Around the middle of what is shown: shift, turn, stretch to the whole, mirror, shift back.
    x0, y0 = left + across * (width - 1) / 2, top + down * (height - 1) / 2
    cos, sin = torch.cos(angle), torch.sin(angle)
    a, b = mirror * cos / across, -mirror * sin / across
    c, d = sin / down, cos / down
    shift_x = (width - 1) / 2 - a * x0 - b * y0
    shift_y = (height - 1) / 2 - c * x0 - d * y0
    return torch.stack([torch.stack([a, b, shift_x], -1), torch.stack([c, d, shift_y], -1)], 1)


def _lit(x: Tensor, u: Tensor, recipe: Recipe) -> Tensor:
    swing = 2 * u - 1
    x = adjust_contrast(x, 1 + recipe.light * swing[:, 0])
    x = adjust_brightness(x, recipe.light * swing[:, 1] / 2)
    if x.shape[1] == 1:
        return x
    x = adjust_saturation(x, 1 + recipe.colour * swing[:, 2])
    x = adjust_hue(x, 2 * math.pi * recipe.colour / 4 * swing[:, 3])
    without = (u[:, 4] < recipe.grey)[:, None, None, None]
    return torch.where(without, rgb_to_grayscale(x).expand_as(x), x)


def _erased(x: Tensor, u: Tensor, recipe: Recipe) -> Tensor:
    """A rectangle of up to half of each side, set to the picture's mean."""
    if not recipe.erase:
        return x
    height, width = x.shape[-2:]
    chosen = u[:, 0] < recipe.erase
    # The first uniform, spread anew over the chosen, says how large the patch is.
    side = 0.2 + 0.3 * (u[:, 0] / recipe.erase).clamp(max=1)
    top, left = (u[:, 1:3] * (1 - side[:, None])).unbind(1)
    rows = torch.arange(height, device=x.device) / height
    columns = torch.arange(width, device=x.device) / width
    inside_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])
    patch = inside_rows[:, None, :, None] & inside_columns[:, None, None, :] & chosen[:, None, None, None]
    return torch.where(patch, x.mean((2, 3), keepdim=True), x)
