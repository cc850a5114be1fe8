"""Cells in Arrow arrays: simple types out of the many, numbers, days and the names of categories."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import ColumnType
from contracts.errors import FieldProblem, InvalidInput

LARGEST_WHOLE = 2**53  # beyond it float64 does not hold every integer


def bad_cell(row: int, name: str, what: str) -> InvalidInput:
    """An error that names the row (counted from 0 in the location, from 1 in words) and the column."""
    message = f"row {row + 1}, column {name!r} {what}"
    return InvalidInput(message, errors=[FieldProblem(location=f"rows[{row}].{name}", message=message)])


def cast_or_none(array: Any, kind: Any) -> Any:
    """The array as another Arrow type, or None where some cell has no such value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.cast(array, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def plain(array: Any, name: str) -> Any:
    """Unpack chunked and dictionary arrays, put times and decimals on simple types, refuse nested ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InvalidInput(f"column {name!r} holds {kind} values, which are not read; drop it")
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return pc.cast(array, pa.float64(), safe=False)
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        return pc.cast(array, pa.date32(), safe=False)
    if pa.types.is_uint64(kind):
        converted = cast_or_none(array, pa.int64())
        if converted is None:
            raise InvalidInput(f"column {name!r} holds integers beyond ±2**53; drop it")
        return converted
    return array


def match_categories(array: Any, categories: tuple[str, ...]) -> Any:
    """Strings as they are; the text of a boolean or number is matched by value where it is no category itself."""
    import pyarrow as pa

    known = set(categories)
    encoded = array.dictionary_encode()
    names = [
        None if value is None else value if value in known else name_by_value(value)
        for value in encoded.dictionary.to_pylist()
    ]
    return pa.array(names, pa.string()).take(encoded.indices)


def name_by_value(text: str) -> str:
    try:
        return category_name(float(text))
    except ValueError:
        return text


def category_name(value: Any) -> str:
    """A value as a category's name: 3 and 3.0 are `3`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_WHOLE:
        return str(int(value))
    return str(value)


def arrow_type(kind: Any, name: str) -> ColumnType:
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return ColumnType.BOOLEAN
    if pa.types.is_integer(kind):
        return ColumnType.INTEGER
    if pa.types.is_floating(kind):
        return ColumnType.REAL
    if pa.types.is_date(kind):
        return ColumnType.DATE
    if is_string(kind):
        return ColumnType.TEXT
    raise InvalidInput(f"column {name!r} holds {kind} values, which are not read; drop it")


def floats(array: Any) -> NDArray[np.float64]:
    """Numbers as float64, NaN where empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def is_string(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def to_days(array: Any) -> Any:
    """Days; ISO texts, with or without a time of day (which is left out); None where some cell is no date."""
    import pyarrow as pa

    if not is_string(array.type):
        return array
    found = cast_or_none(array, pa.date32())
    if found is not None:
        return found
    moments = cast_or_none(array, pa.timestamp("us"))
    return None if moments is None else moments.cast(pa.date32(), safe=False)
