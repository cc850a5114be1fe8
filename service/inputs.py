"""Rows of a request, whatever way they came, as one checked array.

Nested numbers, base64 tensors, objects by column name and images stand in JSON; NPY, Arrow and image
bodies come raw. Each way ends in the same bits for the same rows: features as in `contracts.data`
and a mask of hidden cells. Parsed once, checked as arrays, never walked number by number.
"""

from __future__ import annotations

from array import array as packed
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.data import ColumnType, DataSpec
from contracts.errors import InvalidInput, TooLarge, UnsupportedMedia
from engine.kinds.tokens import objects
from service.image_rows import read_images, read_masks, stack
from service.pictures import decode_picture
from service.strings import parse_strings
from service.tensors import Array, read_arrow, read_npy, read_tensor, wrong
from store.rows import rows_from_objects

Form = Literal["numbers", "base64", "rows"]

NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
PNG, JPEG = "image/png", "image/jpeg"
RAW_MEDIA = (NPY, ARROW, PNG, JPEG)


@dataclass(frozen=True)
class RawBody:
    """A body that is not JSON."""

    media: str
    data: bytes


@dataclass(frozen=True)
class ParsedRows:
    """Rows ready for a program: ``x (B, *row_shape)`` of the spec's dtype; ``hidden`` like x, None if all is shown."""

    x: Array
    hidden: NDArray[np.bool_] | None
    form: Form
    """How they came, so that rows in are answered as rows out."""

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class RowLimits:
    max_rows: int
    max_pixels: int


def parse_rows(
    inputs: object,
    spec: DataSpec,
    limits: RowLimits,
    *,
    mask: object = None,
    location: str = "inputs",
    hideable: bool = False,
    scored: bool = False,
) -> ParsedRows:
    """Read ``inputs`` (and ``mask``) as rows of ``spec``.

    ``hideable``: whether the verb takes hidden cells. ``scored``: the values under the mask are used,
    so they are checked like shown ones. Raises InvalidInput naming the place, TooLarge over the row
    limit, BadRequest where bytes are not what they claim.
    """
    if spec.modality == "text":
        return ParsedRows(objects(parse_strings(inputs, limits.max_rows, location)), None, "numbers")
    array, nulls, form = _read(inputs, spec, limits, location, alpha=hideable)
    if array.ndim == 0:
        raise wrong(location, "is one number; send rows")
    if not len(array):
        raise wrong(location, "is empty; send at least one row")
    array = _shaped(array, spec, location)
    hidden = _hidden(nulls, mask, array.shape, location, spec, limits)
    if hidden is not None and not hideable:
        row, *_ = np.argwhere(hidden)[0]
        raise wrong(f"{location}[{row}]", "has hidden cells, which this verb does not take; /predict fills them")
    if scored and nulls is not None and nulls.any():
        row, *_ = np.argwhere(nulls.reshape(array.shape))[0]
        raise wrong(f"{location}[{row}]", "has no value under the mask to score; give it, or turn score_inputs off")
    spec.check(array, None if scored else hidden)
    if array.dtype.kind == "f" and hidden is not None and not scored:
        array = np.where(hidden, np.nan if spec.dtype.kind == "f" else 0, array)
    return ParsedRows(np.ascontiguousarray(array, dtype=spec.dtype), hidden, form)


def parse_vectors(inputs: object, length: int | None, limits: RowLimits, *, location: str = "vectors") -> ParsedRows:
    """Read ``(B, L)`` finite numbers for /decode."""
    if isinstance(inputs, RawBody):
        if inputs.media != NPY:
            raise UnsupportedMedia(f"vectors come as JSON or {NPY}, not {inputs.media}")
        array, form = _numeric(read_npy(inputs.data), "body"), "base64"
    elif isinstance(inputs, Mapping):
        array, form = _numeric(read_tensor(inputs, location), location), "base64"
    else:
        array, form = _numbers(inputs, location), "numbers"
    _bounded(len(array) if array.ndim else 0, limits, location)
    if array.ndim != 2 or not len(array) or (length is not None and array.shape[1] != length):
        raise wrong(location, f"must have shape (rows, {length or 'L'}) with at least one row, got {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise wrong(f"{location}[{row}][{column}]", "must be a finite number")
    return ParsedRows(np.ascontiguousarray(array, dtype=np.float64), None, "base64" if form == "base64" else "numbers")


def _read(
    inputs: object, spec: DataSpec, limits: RowLimits, location: str, *, alpha: bool
) -> tuple[Array, NDArray[np.bool_] | None, Form]:
    """The array as it came, the cells that are null (with ``alpha``: or transparent), and the way it came."""
    if isinstance(inputs, RawBody):
        return _raw(inputs, spec, limits, alpha=alpha)
    if isinstance(inputs, Mapping):
        tensor = _numeric(read_tensor(inputs, location), location)
        _bounded(len(tensor) if tensor.ndim else 0, limits, location)
        return tensor, None, "base64"
    if not isinstance(inputs, Sequence) or isinstance(inputs, str):
        raise wrong(location, "must be a list of rows or a tensor {dtype, shape, base64}")
    _bounded(len(inputs), limits, location)
    first = inputs[0] if inputs else None
    if isinstance(first, Mapping):
        if spec.image is not None:
            return *read_images(inputs, spec.image, location, max_pixels=limits.max_pixels, alpha=alpha), "numbers"
        x, hidden = rows_from_objects(spec, _objects(inputs, location))
        return x, hidden, "rows"
    if isinstance(first, str):
        raise wrong(f"{location}[0]", "is a string, and this model reads numbers, objects or images")
    array = _numbers(inputs, location)
    if array.dtype.kind != "f":
        return array, None, "numbers"
    nulls = np.isnan(array)  # JSON itself has no NaN: these were null
    return array, nulls if nulls.any() else None, "numbers"


def _raw(
    body: RawBody, spec: DataSpec, limits: RowLimits, *, alpha: bool
) -> tuple[Array, NDArray[np.bool_] | None, Form]:
    if body.media == NPY:
        array = _numeric(read_npy(body.data), "body")
        _bounded(len(array) if array.ndim else 0, limits, "body")
        return array, None, "base64"
    if body.media == ARROW:
        names, columns, count = read_arrow(body.data)
        _bounded(count, limits, "body")
        return _columns(names, columns, count, spec)
    if spec.image is None:
        raise UnsupportedMedia(f"{body.media} needs a model of images, and this one reads a table")
    picture = decode_picture(body.data, spec.image, "body", max_pixels=limits.max_pixels)
    return *stack([picture], alpha=alpha), "numbers"


def _columns(
    names: list[str], columns: dict[str, Array | list[Any]], count: int, spec: DataSpec
) -> tuple[Array, NDArray[np.bool_] | None, Form]:
    """Arrow columns: one array column of whole rows, numeric columns by name, or objects where values are words."""
    only = next(iter(columns.values()), None)
    if len(columns) == 1 and isinstance(only, np.ndarray) and only.ndim == 2:
        return only, None, "base64"
    features = spec.features
    by_name = {column.name: columns.get(column.name) for column in features}
    worded = {ColumnType.CATEGORICAL, ColumnType.DATE, ColumnType.BOOLEAN}
    plain = set(names) == set(by_name) and not any(column.type in worded for column in features)
    if plain and spec.image is None and all(isinstance(values, np.ndarray) for values in by_name.values()):
        array = np.stack([np.asarray(values, dtype=np.float64) for values in by_name.values()], axis=1)
        nulls = np.isnan(array)
        return array, nulls if nulls.any() else None, "base64"
    listed = {name: values.tolist() if isinstance(values, np.ndarray) else values for name, values in columns.items()}
    objects = [{name: _null(values[row]) for name, values in listed.items()} for row in range(count)]
    if spec.image is not None:
        raise wrong("body", "an Arrow body for images is one fixed-size-list column of pixels")
    x, hidden = rows_from_objects(spec, objects)
    return x, hidden, "base64"


def _null(value: Any) -> Any:
    """Arrow's numeric nulls arrive as NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


def _objects(inputs: Sequence[Any], location: str) -> list[Mapping[str, Any]]:
    for row, value in enumerate(inputs):
        if not isinstance(value, Mapping):
            raise wrong(f"{location}[{row}]", "must be an object like the rows before it")
    return list(inputs)


def _numbers(values: object, location: str) -> Array:
    """Nested lists to one array; null becomes NaN. Strings, objects and ragged lists are refused."""
    plain = _plain_rows(values)
    return _nested(values, location) if plain is None else plain


def _nested(values: object, location: str) -> Array:
    """Nested lists of any depth, in the dtype that NumPy finds in them."""
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        raise wrong(location, "is ragged: every row must have the same shape") from None
    if array.dtype.kind in "iufb":
        return array
    if array.dtype.kind == "O":
        kinds = {type(value) for value in array.reshape(-1).tolist()}
        if kinds <= {int, float, bool, type(None)}:
            return array.astype(np.float64)
        if list in kinds:
            raise wrong(location, "is ragged: every row must have the same shape")
    raise wrong(location, "must hold numbers and null only (strings belong into rows as objects)")


def _plain_rows(values: object) -> NDArray[np.float64] | None:
    """Rows of numbers alone, which is what nearly every request holds, half again as fast as NumPy reads them."""
    if not isinstance(values, list) or not values or not isinstance(values[0], list) or not values[0]:
        return None
    width, flat = len(values[0]), packed("d")
    try:
        for row in values:
            if len(row) != width:
                return None
            flat.fromlist(row)
    except (TypeError, OverflowError):  # null, deeper lists, words
        return None
    return np.frombuffer(flat, dtype=np.float64).reshape(len(values), width)


def _numeric(array: Array, location: str) -> Array:
    return array.astype(np.float64) if array.dtype == np.float16 else array


def _bounded(rows: int, limits: RowLimits, location: str) -> None:
    if rows > limits.max_rows:
        raise TooLarge(
            f"{location} holds {rows} rows, over the limit of {limits.max_rows}; send fewer, or use /batches"
        )


def _shaped(array: Array, spec: DataSpec, location: str) -> Array:
    """Bring flat or channel-less images to ``(B, H, W, C)``; refuse other shapes."""
    expected = spec.row_shape
    got = array.shape[1:]
    if got == expected:
        return array
    if spec.image is not None and (got == (spec.cells,) or (spec.image.channels == 1 and got == expected[:2])):
        return array.reshape(len(array), *expected)
    raise wrong(location, f"rows must have shape {list(expected)}, got {list(got)}")


def _hidden(
    nulls: NDArray[np.bool_] | None,
    mask: object,
    shape: tuple[int, ...],
    location: str,
    spec: DataSpec,
    limits: RowLimits,
) -> NDArray[np.bool_] | None:
    """Cells hidden by null or by the mask; None where every cell is shown."""
    hidden = None if nulls is None or not nulls.any() else nulls.reshape(shape)
    if mask is not None:
        where = "mask" if location == "inputs" else f"{location}.mask"
        marked: Array | None = None
        if spec.image is not None:
            marked = read_masks(mask, spec.image, shape[0], where, max_pixels=limits.max_pixels)
        if marked is None:
            marked = read_tensor(mask, where) if isinstance(mask, Mapping) else _nested(mask, where)
        if marked.dtype.kind == "f" or not np.isin(marked, (0, 1)).all():
            raise wrong(where, "must hold true and false only")
        if marked.shape != shape and marked.size == np.prod(shape) and len(marked) == shape[0]:
            marked = marked.reshape(shape)
        if marked.shape != shape:
            raise wrong(where, f"must have the shape of the rows, {list(shape)}, got {list(marked.shape)}")
        chosen = marked.astype(bool)
        hidden = chosen if hidden is None else hidden | chosen
    return hidden if hidden is not None and hidden.any() else None


def check_rows_limit(count: int, limit: int, location: str) -> None:
    """Raise InvalidInput where a wanted number of rows is over its limit."""
    if count > limit:
        raise InvalidInput(
            f"{location} is {count}, over the limit of {limit}",
            errors=[wrong(location, f"must be at most {limit}").errors[0]],
        )
