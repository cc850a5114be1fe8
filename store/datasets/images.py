"""Images: arrays of pixels or encoded pictures become uint8 ``(N, H, W, C)`` of one size.

Every picture of a data set has the same size and channels. Where the uploaded ones differ, the
overrides must name the size to bring them to (Lanczos). Transparent pictures are laid on white.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.data import Column, DataSpec, ImageShape, Role
from contracts.errors import FieldProblem, InvalidInput, TooLarge
from store.datasets import splits
from store.datasets.columns import ColumnScan
from store.datasets.content import Chunk, Content
from store.datasets.encoding import Encoder
from store.datasets.named_arrays import Group, arrow
from store.datasets.overrides import ImageOverride, Overrides
from store.datasets.tables import SplitBy

CHUNK_PIXELS = 1 << 22
LARGEST_SIDE = 4096


def describe_columns(
    columns: dict[str, list[Any]], roles: dict[str, Role], overrides: Overrides, rows: int
) -> list[Column]:
    """The label, caption, id and split columns beside images; other columns are left out.

    ``columns``: name → Arrow arrays whose lengths sum to ``rows``.
    """
    overrides.check_names(list(columns))
    said = {name: overrides.column(name).role for name in columns}
    described = []
    taken: set[Role] = set()
    for name, arrays in columns.items():
        role = said[name] or roles.get(name)
        if said[name] is None and role in said.values():
            role = None  # the user gave that role to another column
        if name in overrides.drop or role is None:
            continue
        if role is Role.FEATURE:
            raise InvalidInput(f"column {name!r} stands beside images; give it the role label, caption, id or split")
        if role in taken:
            raise InvalidInput(f"two columns have the role `{role}`; drop one of them")
        taken.add(role)
        scan = ColumnScan(name, textual=False)
        for array in arrays:
            scan.add(array)
        described.append(scan.column(overrides.column(name), role, rows))
    return described


def image_spec(shape: ImageShape, columns: list[Column], overrides: Overrides, by: SplitBy) -> DataSpec:
    by = "column" if any(column.role is Role.SPLIT for column in columns) else by
    return DataSpec(modality="image", image=shape, columns=tuple(columns), split=overrides.split.rule(by))


def companions(spec: DataSpec, values: dict[str, Any], start: int, rows: int, part: int) -> dict[str, Any]:
    """The fields of a `Chunk` beside its features, from Arrow arrays by column name."""
    fields: dict[str, Any] = {"parts": np.full(rows, part, dtype=np.uint8)}
    for column in spec.columns:
        encoder, array = Encoder(column), values[column.name]
        if column.role is Role.LABEL:
            fields["y"] = encoder.codes(array, start)
        elif column.role is Role.CAPTION:
            fields["captions"] = encoder.strings(array)
        elif column.role is Role.SPLIT:
            fields["parts"] = encoder.parts(array, start)
        elif column.role is Role.ID:
            fields["ids"] = encoder.strings(array)
    return fields


def understand_arrays(groups: list[Group], overrides: Overrides) -> Content:
    """Pixels in arrays ``(n, H, W)``, ``(n, H, W, C)``, ``(n, C, H, W)``, or ``(n, H·W·C)`` with a declared shape."""
    layout = _layout(groups[0].features.shape[1:], overrides.image)
    for group in groups:
        if group.features.dtype.kind not in "biuf":
            raise InvalidInput(f"images must be numbers, and these are {group.features.dtype}")
    lows, highs = zip(*(_extremes(group.features) for group in groups), strict=True)
    low, high = min(lows), max(highs)
    if low < 0 or high > 255:
        raise InvalidInput(f"pixels must lie in 0..255, and these lie in {low:g}..{high:g}")
    levels = overrides.image.levels or (2 if high <= 1 else 256)
    if high >= levels:
        raise InvalidInput(
            f"pixels reach {high:g}, over the {levels} levels declared",
            errors=[FieldProblem(location="overrides.image.levels", message=f"must be at least {int(high) + 1}")],
        )
    height, width, channels = layout.target(overrides.image)
    shape = shape_of(height, width, channels, levels)
    columns = {name: [arrow(group.columns[name]) for group in groups] for name in groups[0].columns}
    rows = sum(len(group.features) for group in groups)
    described = describe_columns(columns, groups[0].roles, overrides, rows)
    by: SplitBy = "hash" if all(group.part == splits.OPEN for group in groups) else "given"
    return ArrayImages(groups, layout, image_spec(shape, described, overrides, by))


class Layout:
    """How an array's axes are height, width and channels."""

    def __init__(self, order: Literal["hw", "hwc", "chw", "flat"], height: int, width: int, channels: int) -> None:
        self.order, self.height, self.width, self.channels = order, height, width, channels

    def target(self, said: ImageOverride) -> tuple[int, int, int]:
        return said.height or self.height, said.width or self.width, said.channels or self.channels

    def pixels(self, block: NDArray[Any]) -> NDArray[Any]:
        """Rows as ``(n, H, W, C)``."""
        if self.order == "chw":
            return block.transpose(0, 2, 3, 1)
        return block.reshape(len(block), self.height, self.width, self.channels)


class ArrayImages:
    """Images of arrays, brought to the spec's shape chunk by chunk."""

    def __init__(self, groups: list[Group], layout: Layout, spec: DataSpec) -> None:
        self._groups, self._layout, self.spec = groups, layout, spec

    def chunks(self) -> Iterator[Chunk]:
        assert self.spec.image is not None
        pixels = max(math.prod(self.spec.image.shape), self._layout.height * self._layout.width)
        step = max(1, CHUNK_PIXELS // pixels)
        start = 0
        for group in self._groups:
            for first in range(0, len(group.features), step):
                rows = slice(first, first + step)
                block = self._layout.pixels(np.asarray(group.features[rows])).astype(np.uint8)
                values = {
                    column.name: arrow(np.asarray(group.columns[column.name][rows])) for column in self.spec.columns
                }
                fields = companions(self.spec, values, start, len(block), group.part)
                yield Chunk(x=reshape_images(block, self.spec.image), **fields)
                start += len(block)


def reshape_images(block: NDArray[np.uint8], shape: ImageShape) -> NDArray[np.uint8]:
    """``(n, h, w, c)`` to the shape's size (Lanczos; nearest where pixels are not 8 bits) and channels."""
    if block.shape[1:] == shape.shape:
        return block
    from PIL import Image

    # Interpolated values of a palette of levels are clipped by PIL at 255 only, so levels < 256 take a neighbour's.
    method = Image.Resampling.LANCZOS if shape.levels == 256 else Image.Resampling.NEAREST
    resized = np.empty((len(block), *shape.shape), dtype=np.uint8)
    for index, pixels in enumerate(block):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        picture = picture.convert("L" if shape.channels == 1 else "RGB")
        if picture.size != (shape.width, shape.height):
            picture = picture.resize((shape.width, shape.height), method)
        resized[index] = np.asarray(picture).reshape(shape.shape)
    return resized


def decode_picture(data: bytes, name: str, *, most_pixels: int, levels: int = 256) -> Any:
    """Decode PNG or JPEG bytes to a PIL image of mode L or RGB, upright and on white.

    Black and white of a picture with one bit a pixel become 0 and ``levels - 1``.

    Raises TooLarge over the pixel limit (before decoding) and InvalidInput where the bytes are no whole picture.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
            _check_size(opened.size, name, most_pixels)
            opened.load()
            picture = ImageOps.exif_transpose(opened)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                clear = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
            if picture.mode.startswith("I"):  # 16 bits a pixel
                return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            if picture.mode == "1":
                return Image.fromarray(np.asarray(picture).astype(np.uint8) * np.uint8(levels - 1))
            return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    except (InvalidInput, TooLarge):
        raise
    except Exception as error:  # decoders raise whatever hostile bytes lead them to
        raise InvalidInput(
            f"{name} is no whole PNG or JPEG picture ({type(error).__name__}); upload it again"
        ) from error


def picture_header(data: bytes, name: str, *, most_pixels: int) -> tuple[int, int, bool]:
    """Height, width and whether a picture has colour, without decoding its pixels."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
            _check_size(opened.size, name, most_pixels)
            width, height = opened.size
            turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # EXIF orientation by a quarter turn
            grey = (opened.mode in ("1", "L") and "transparency" not in opened.info) or opened.mode.startswith("I")
    except (InvalidInput, TooLarge):
        raise
    except Exception as error:  # as above
        raise InvalidInput(
            f"{name} is no whole PNG or JPEG picture ({type(error).__name__}); upload it again"
        ) from error
    return (width, height, not grey) if turned else (height, width, not grey)


def _no_picture(name: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"{name} is no whole PNG or JPEG picture ({type(error).__name__}); upload it again")


def _check_size(size: tuple[int, int], name: str, most_pixels: int) -> None:
    if size[0] * size[1] > most_pixels:
        raise TooLarge(f"{name} has {size[0]}×{size[1]} pixels; at most {most_pixels} are allowed")


def _layout(row: tuple[int, ...], said: ImageOverride) -> Layout:
    if len(row) == 2:
        return Layout("hw", row[0], row[1], 1)
    if len(row) == 3 and row[2] in (1, 3):
        return Layout("hwc", *row)
    if len(row) == 3 and row[0] in (1, 3):
        return Layout("chw", row[1], row[2], row[0])
    if len(row) == 1 and said.height is not None and said.width is not None:
        channels = said.channels or 1
        if said.height * said.width * channels != row[0]:
            raise InvalidInput(
                f"rows have {row[0]} values, and {said.height}×{said.width}×{channels} pixels were declared",
                errors=[FieldProblem(location="overrides.image", message=f"must multiply to {row[0]}")],
            )
        return Layout("flat", said.height, said.width, channels)
    if len(row) <= 1:
        raise InvalidInput("rows of one axis become images by overrides: image: {height, width, channels}")
    raise InvalidInput(f"images need the shape (height, width) or (height, width, 1 or 3), not {row}")


def _extremes(pixels: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest pixel; InvalidInput, naming the row, where one is no whole number."""
    low, high = math.inf, -math.inf
    step = max(1, CHUNK_PIXELS // max(1, math.prod(pixels.shape[1:])))
    for start in range(0, len(pixels), step):
        block = np.asarray(pixels[start : start + step])
        if block.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                wrong = ~np.isfinite(block) | (block != np.floor(block))
            if wrong.any():
                row = start + int(np.argwhere(wrong)[0][0])
                raise InvalidInput(
                    f"row {row + 1} has a pixel that is no whole number; scale the images to whole numbers in 0..255",
                    errors=[FieldProblem(location=f"rows[{row}]", message="pixels must be whole numbers in 0..255")],
                )
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    return low, high


def shape_of(height: int, width: int, channels: int, levels: int) -> ImageShape:
    """The stored shape; InvalidInput where a side is longer than what is stored."""
    if max(height, width) > LARGEST_SIDE:
        raise InvalidInput(
            f"images have {height}×{width} pixels; at most {LARGEST_SIDE} a side are stored, so resize them by "
            "overrides: image: {height, width}"
        )
    return ImageShape(height=height, width=width, channels=3 if channels == 3 else 1, levels=levels)
