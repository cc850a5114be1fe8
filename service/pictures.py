"""Pictures as PNG and JPEG: read into uint8 rows, written as one grid.

Where a dataset has fewer than 256 levels, a file's 0..255 is spread over them and back:
``level = round(value · (levels - 1) / 255)``.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.data import ImageShape
from contracts.errors import BadRequest, TooLarge
from service.tensors import wrong


@dataclass(frozen=True)
class Picture:
    """``levels`` (H, W, C) of an image shape; ``opaque`` (H, W): whether a pixel is at least half so."""

    levels: NDArray[np.uint8]
    opaque: NDArray[np.bool_]


def read_picture(data: bytes, shape: ImageShape, location: str, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a PNG or JPEG to ``(H, W, C)`` levels of ``shape``, whatever its alpha channel says; errors as below."""
    return decode_picture(data, shape, location, max_pixels=max_pixels).levels


def decode_picture(data: bytes, shape: ImageShape, location: str, *, max_pixels: int) -> Picture:
    """Decode a PNG or JPEG to levels of ``shape`` and what is opaque.

    Raises BadRequest where it is neither, TooLarge over ``max_pixels``, InvalidInput where its size differs.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning: the limit is checked below
            opened = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
            if opened.width * opened.height > max_pixels:
                raise TooLarge(f"{location}: {opened.width}x{opened.height} pixels are over the limit of {max_pixels}")
            if opened.size != (shape.width, shape.height):
                raise wrong(
                    location,
                    f"is {opened.width}x{opened.height} pixels, and the model takes {shape.width}x{shape.height}: "
                    "resize it",
                )
            image = opened.convert("L" if shape.channels == 1 else "RGB")
            opaque = np.ones((shape.height, shape.width), dtype=bool)
            if opened.has_transparency_data:
                opaque = np.asarray(opened.convert("RGBA").getchannel("A")) >= 128
    except (TooLarge, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, TooLarge):
            raise
        # Pillow's own words may hold an address in memory.
        raise BadRequest(f"{location}: not a PNG or JPEG that can be read; is it damaged or cut short?") from None
    pixels: NDArray[np.uint8] = np.asarray(image, dtype=np.uint8).reshape(shape.shape)
    if shape.levels < 256:
        pixels = np.rint(pixels * ((shape.levels - 1) / 255)).astype(np.uint8)
    return Picture(pixels, opaque)


def write_grid(pictures: NDArray[np.generic], shape: ImageShape, *, across: int | None = None) -> bytes:
    """Write ``(B, H, W, C)`` levels (integer or floating) as one PNG, row by row, 1 pixel apart.

    ``across``: pictures on a line; None: as many as make the grid near square.
    """
    from PIL import Image

    count = len(pictures)
    columns = math.ceil(math.sqrt(count)) if across is None else min(across, count)
    rows = math.ceil(count / columns)
    levels = np.clip(np.nan_to_num(pictures.astype(np.float64)), 0, shape.levels - 1)
    values = np.rint(levels * (255 / (shape.levels - 1))).astype(np.uint8)
    height, width = shape.height + 1, shape.width + 1
    grid = np.zeros((rows * height - 1, columns * width - 1, shape.channels), dtype=np.uint8)
    for index, picture in enumerate(values):
        top, left = index // columns * height, index % columns * width
        grid[top : top + shape.height, left : left + shape.width] = picture
    image = Image.fromarray(grid[..., 0] if shape.channels == 1 else grid)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
