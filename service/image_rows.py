"""Pictures in a request: rows of pixels, and which pixels are hidden.

A transparent pixel of a picture with an alpha channel is hidden, where the verb takes hidden cells; elsewhere the alpha
channel is not looked at. A mask is a picture of its own: what is painted in a light colour is hidden, black and
transparent pixels are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import ImageShape
from service.pictures import Picture, decode_picture
from service.tensors import from_base64, wrong

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def is_picture(value: object) -> bool:
    return isinstance(value, Mapping) and "image" in value


def read_images(
    inputs: Sequence[Any], shape: ImageShape, location: str, *, max_pixels: int, alpha: bool
) -> tuple[Bytes, Mask | None]:
    """Read objects ``{"image": base64}`` as rows ``(B, H, W, C)``, and with ``alpha`` their hidden pixels, if any."""
    read = [_picture(value, shape, f"{location}[{row}]", max_pixels) for row, value in enumerate(inputs)]
    return stack(read, alpha=alpha)


def stack(pictures: Sequence[Picture], *, alpha: bool) -> tuple[Bytes, Mask | None]:
    """Pictures as rows, and with ``alpha`` their hidden pixels, None where every pixel is shown."""
    hidden = np.stack([np.broadcast_to(~each.opaque[..., None], each.levels.shape) for each in pictures])
    return np.stack([each.levels for each in pictures]), hidden if alpha and hidden.any() else None


def read_masks(value: object, shape: ImageShape, rows: int, location: str, *, max_pixels: int) -> Mask | None:
    """Read a mask picture for all ``rows``, or one for each, as ``(rows, H, W, C)``; None where it is no picture."""
    several = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0 and is_picture(value[0])
    if not several and not is_picture(value):
        return None
    given = list(value) if several else [value]  # type: ignore[call-overload]
    places = [f"{location}[{row}]" for row in range(len(given))] if several else [location]
    if len(given) not in (1, rows):
        raise wrong(location, f"holds {len(given)} pictures for {rows} rows; give one for all, or one per row")
    plain = shape.model_copy(update={"levels": 256})
    read = [_picture(each, plain, place, max_pixels) for each, place in zip(given, places, strict=True)]
    marked = np.stack([each.opaque & (each.levels.mean(axis=-1) >= 128) for each in read])
    return np.ascontiguousarray(np.broadcast_to(marked[..., None], (rows, *shape.shape)))


def _picture(value: object, shape: ImageShape, place: str, max_pixels: int) -> Picture:
    if not isinstance(value, Mapping) or set(value) != {"image"}:
        raise wrong(place, 'must be {"image": "<base64 of a PNG or JPEG>"}')
    text = value["image"]
    if isinstance(text, str) and text.startswith("data:"):
        text = text.partition(",")[2]
    return decode_picture(from_base64(text, f"{place}.image"), shape, f"{place}.image", max_pixels=max_pixels)
