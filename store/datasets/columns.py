"""What a column holds: looked over once in chunks (`ColumnScan`), then encoded (`Encoder`).

Cells of a text format are text, and a type is tried on all of them: integer, real, boolean, date, else a
category (few different values) or text. Typed formats (Parquet, NPY) keep their types.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import Column, ColumnType, Role
from contracts.errors import FieldProblem, InvalidInput
from store.datasets import splits
from store.datasets.overrides import MOST_CATEGORIES, ColumnOverride

# Strings with more different values than this, or than this share of the rows, are text and not a category.
CATEGORY_VALUES = 1000
CATEGORY_SHARE = 0.5
LARGEST_NUMBER = 1e100  # beyond it a variance has no float64
LARGEST_WHOLE = 2**53  # beyond it float64 does not hold every integer

LABEL_NAMES = ("label", "labels", "class")
CAPTION_NAMES = ("caption", "captions")
ID_NAMES = re.compile(r"(row_?|example_?)?(id|index|uuid|key)", re.IGNORECASE)
_BOOLEANS = ("true", "false", "True", "False", "TRUE", "FALSE")


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


class ColumnScan:
    """Everything the spec needs to know of a column, gathered chunk by chunk."""

    def __init__(self, name: str, *, textual: bool) -> None:
        self.name = name
        self._textual = textual
        self._candidates: list[ColumnType] | None = None
        self._rows = 0
        self._values = 0
        self._first_missing: int | None = None
        self._first_infinite: int | None = None
        self._low, self._high = np.inf, -np.inf
        self._whole = True
        self._distinct: set[Any] | None = set()

    def add(self, array: Any) -> None:
        """Take in an Arrow array; floating NaN counts as an empty cell."""
        import pyarrow as pa
        import pyarrow.compute as pc

        array = plain(array, self.name)
        if pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_nan(array), None, array)
        if array.null_count and self._first_missing is None:
            self._first_missing = self._rows + int(np.flatnonzero(pc.is_null(array).to_numpy(zero_copy_only=False))[0])
        start = self._rows
        self._rows += len(array)
        present = array.drop_null()
        self._values += len(present)
        if not len(present):
            return
        if self._candidates is None or self._textual:
            self._narrow(present)
        kind = self.type
        if kind in (ColumnType.REAL, ColumnType.INTEGER):
            self._bound(array, present, start)
        elif kind is ColumnType.DATE:
            days = pc.cast(_dates(present), pa.int32())
            self._low = min(self._low, pc.min(days).as_py())
            self._high = max(self._high, pc.max(days).as_py())
        if self._distinct is not None:
            unique = pc.unique(present)
            if len(unique) <= MOST_CATEGORIES:
                self._distinct.update(unique.to_pylist())
            if max(len(unique), len(self._distinct)) > MOST_CATEGORIES:
                self._distinct = None

    @property
    def type(self) -> ColumnType | None:
        """The narrowest type that every cell so far fits; None before the first value."""
        return self._candidates[0] if self._candidates else None

    @property
    def first_missing(self) -> int | None:
        return self._first_missing

    def _narrow(self, present: Any) -> None:
        import pyarrow as pa

        if not self._textual:
            self._candidates = [_typed(present.type, self.name)]
            return
        candidates = self._candidates or [
            ColumnType.INTEGER, ColumnType.REAL, ColumnType.BOOLEAN, ColumnType.DATE, ColumnType.TEXT
        ]  # fmt: skip
        fits: dict[ColumnType, Callable[[], bool]] = {
            # Arrow reads `0x1F` as an integer but not as a float: such cells are no numbers here.
            ColumnType.INTEGER: lambda: all(
                cast_or_none(present, kind) is not None for kind in (pa.int64(), pa.float64())
            ),
            ColumnType.REAL: lambda: cast_or_none(present, pa.float64()) is not None,
            ColumnType.BOOLEAN: lambda: set(present.unique().to_pylist()) <= set(_BOOLEANS),
            ColumnType.DATE: lambda: _dates(present) is not None,
            ColumnType.TEXT: lambda: True,
        }
        while not fits[candidates[0]]():
            candidates = candidates[1:]
        self._candidates = candidates

    def _bound(self, array: Any, present: Any, start: int) -> None:
        values = _floats(present)
        finite = np.isfinite(values)
        if not finite.all() and self._first_infinite is None:
            self._first_infinite = start + int(np.flatnonzero(np.isinf(_floats(array)))[0])
        if finite.any():
            self._low = min(self._low, float(values[finite].min()))
            self._high = max(self._high, float(values[finite].max()))
            self._whole = self._whole and bool((values[finite] == np.floor(values[finite])).all())

    @property
    def distinct(self) -> int | None:
        """How many different values there are; None: more than can be categories."""
        return None if self._distinct is None else len(self._distinct)

    def column(self, said: ColumnOverride, role: Role, rows: int) -> Column:
        """The column as the spec states it; raises InvalidInput where cells or overrides do not fit."""
        if self._values == 0:
            raise InvalidInput(f"column {self.name!r} has no values; leave it out by drop: [{self.name!r}]")
        if self._first_missing is not None and not said.missing and role is not Role.CAPTION:
            raise bad_cell(
                self._first_missing,
                self.name,
                "is empty; fill it, or allow empty cells by columns: "
                f"[{{name: {self.name!r}, missing: true}}], or drop the column",
            )
        if role is Role.LABEL:
            categories = said.categories or self.categories()
            return Column(
                name=self.name, type=ColumnType.CATEGORICAL, role=role, categories=categories, missing=said.missing
            )
        if role is not Role.FEATURE:
            return Column(name=self.name, type=ColumnType.TEXT, role=role, missing=said.missing)
        return self._feature(said, rows)

    def _feature(self, said: ColumnOverride, rows: int) -> Column:
        kind = said.type or (ColumnType.CATEGORICAL if said.categories else self._inferred(rows))
        categories = None
        low = high = None
        if kind is ColumnType.CATEGORICAL:
            categories = said.categories or self.categories()
        elif kind in (ColumnType.INTEGER, ColumnType.REAL):
            if self.type not in (ColumnType.INTEGER, ColumnType.REAL):
                raise InvalidInput(f"column {self.name!r} is to be {kind} but holds values that are no numbers")
            if self._first_infinite is not None:
                raise bad_cell(self._first_infinite, self.name, "is infinite; every number must be finite")
            if max(abs(self._low), abs(self._high)) > LARGEST_NUMBER:
                raise InvalidInput(f"column {self.name!r} holds numbers beyond ±{LARGEST_NUMBER:g}; rescale or drop it")
            if kind is ColumnType.INTEGER and not self._whole:
                raise InvalidInput(f"column {self.name!r} is to be integer but holds numbers that are not whole")
        elif kind is ColumnType.DATE and self.type is not ColumnType.DATE:
            raise InvalidInput(
                f"column {self.name!r} is to be a date but holds other values; write dates as 2024-12-31"
            )
        elif kind is ColumnType.BOOLEAN and not self._boolean():
            raise InvalidInput(f"column {self.name!r} is to be boolean but holds more than true/false or 0/1")
        if kind in (ColumnType.INTEGER, ColumnType.DATE):
            low, high = self._limits(said)
            if kind is ColumnType.INTEGER and max(abs(low), abs(high)) > LARGEST_WHOLE:
                raise InvalidInput(
                    f"column {self.name!r} holds integers beyond ±2**53; give it the type `real` or the role `id`"
                )
        return Column(name=self.name, type=kind, categories=categories, minimum=low, maximum=high, missing=said.missing)

    def _limits(self, said: ColumnOverride) -> tuple[float, float]:
        low = self._low if said.minimum is None else said.minimum
        high = self._high if said.maximum is None else said.maximum
        if low > self._low or high < self._high:
            raise InvalidInput(
                f"column {self.name!r} holds values {self._low:g}..{self._high:g}, outside the given {low:g}..{high:g}"
            )
        return low, high

    def _inferred(self, rows: int) -> ColumnType:
        kind = self.type
        assert kind is not None
        if kind is ColumnType.TEXT and self._distinct is not None:
            few = len(self._distinct) <= min(CATEGORY_VALUES, max(2, CATEGORY_SHARE * rows))
            return ColumnType.CATEGORICAL if few else ColumnType.TEXT
        return kind

    def _boolean(self) -> bool:
        if self.type is ColumnType.BOOLEAN:
            return True
        return self._distinct is not None and {_name(value) for value in self._distinct} <= {"0", "1"}

    def role(self) -> Role:
        """The role that the name suggests, where the values can play it."""
        name = self.name.lower()
        if (
            name == "split"
            and self._distinct is not None
            and all(isinstance(value, str) and splits.part_code(value) is not None for value in self._distinct)
        ):
            return Role.SPLIT
        if name in LABEL_NAMES and self._distinct is not None:
            return Role.LABEL
        if name in CAPTION_NAMES and self.type is ColumnType.TEXT:
            return Role.CAPTION
        if ID_NAMES.fullmatch(self.name) and self.type in (ColumnType.TEXT, ColumnType.INTEGER):
            return Role.ID
        return Role.FEATURE

    def categories(self) -> tuple[str, ...]:
        """The different values as strings; numbers in their order, strings in theirs."""
        if self._distinct is None:
            raise InvalidInput(
                f"column {self.name!r} has more than {MOST_CATEGORIES:,} different values, too many for categories; "
                "give it another type or role, or drop it"
            )
        numeric = self.type in (ColumnType.INTEGER, ColumnType.REAL)
        names = {_by_value(value) if numeric and isinstance(value, str) else _name(value) for value in self._distinct}
        try:
            return tuple(sorted(names, key=lambda name: (float(name), name)))
        except ValueError:
            return tuple(sorted(names))


@dataclass(frozen=True)
class Encoder:
    """Turns a column's cells into what is stored: floats, codes or strings."""

    column: Column

    def numbers(self, array: Any, start: int) -> NDArray[np.float64]:
        """Features as float64, NaN where empty."""
        import pyarrow as pa
        import pyarrow.compute as pc

        array = plain(array, self.column.name)
        kind = self.column.type
        if kind is ColumnType.CATEGORICAL:
            codes = self.codes(array, start).astype(np.float64)
            codes[codes < 0] = np.nan
            return codes
        if kind is ColumnType.BOOLEAN and _is_string(array.type):
            array = pc.cast(pc.utf8_lower(array), pa.bool_())
        if kind is ColumnType.BOOLEAN:
            array = pc.cast(array, pa.float64()) if not pa.types.is_boolean(array.type) else pc.cast(array, pa.uint8())
        elif kind is ColumnType.DATE:
            array = pc.cast(_dates(array), pa.int32())
        return _floats(array)

    def codes(self, array: Any, start: int) -> NDArray[np.int64]:
        """Codes into the categories, -1 where empty; a value that is no category is an error."""
        import pyarrow as pa
        import pyarrow.compute as pc

        strings = self.strings_or_null(array)
        found = pc.index_in(strings, value_set=pa.array(list(self.column.categories or ()), pa.string()))
        unknown = pc.and_(pc.is_null(found), pc.is_valid(strings)).to_numpy(zero_copy_only=False)
        if unknown.any():
            row = int(np.flatnonzero(unknown)[0])
            raise bad_cell(
                start + row, self.column.name, f"is {strings[row].as_py()!r}, which is none of its categories"
            )
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int64)

    def strings(self, array: Any) -> list[str]:
        """Cells as strings, "" where empty."""
        import pyarrow.compute as pc

        return list(pc.fill_null(self.strings_or_null(array), "").to_pylist())

    def strings_or_null(self, array: Any) -> Any:
        """Cells as Arrow strings, named as `ColumnScan.categories` names them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        array = plain(array, self.column.name)
        if _is_string(array.type):
            if self.column.categories is not None and array.null_count < len(array):
                return _canonical(array, self.column.categories)
            return pc.cast(array, pa.string())
        unique = array.dictionary_encode()
        names = pa.array(
            [None if value is None else _name(value) for value in unique.dictionary.to_pylist()], pa.string()
        )
        return pc.take(names, unique.indices)

    def parts(self, array: Any, start: int) -> NDArray[np.uint8]:
        """Part codes of a split column, `OPEN` where empty."""
        codes = []
        for row, name in enumerate(self.strings(array)):
            code = splits.OPEN if not name else splits.part_code(name)
            if code is None:
                raise bad_cell(start + row, self.column.name, f"is {name!r}; use train, valid or test")
            codes.append(code)
        return np.array(codes, dtype=np.uint8)


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


def _canonical(array: Any, categories: tuple[str, ...]) -> Any:
    """Strings as they are; the text of a boolean or number is matched by value where it is no category itself."""
    import pyarrow as pa

    known = set(categories)
    encoded = array.dictionary_encode()
    names = [
        None if value is None else value if value in known else _by_value(value)
        for value in encoded.dictionary.to_pylist()
    ]
    return pa.array(names, pa.string()).take(encoded.indices)


def _by_value(text: str) -> str:
    try:
        return _name(float(text))
    except ValueError:
        return text


def _name(value: Any) -> str:
    """A value as a category's name: 3 and 3.0 are `3`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_WHOLE:
        return str(int(value))
    return str(value)


def _typed(kind: Any, name: str) -> ColumnType:
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return ColumnType.BOOLEAN
    if pa.types.is_integer(kind):
        return ColumnType.INTEGER
    if pa.types.is_floating(kind):
        return ColumnType.REAL
    if pa.types.is_date(kind):
        return ColumnType.DATE
    if _is_string(kind):
        return ColumnType.TEXT
    raise InvalidInput(f"column {name!r} holds {kind} values, which are not read; drop it")


def _floats(array: Any) -> NDArray[np.float64]:
    """Numbers as float64, NaN where empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _dates(array: Any) -> Any:
    """Days; ISO texts, with or without a time of day (which is left out); None where some cell is no date."""
    import pyarrow as pa

    if not _is_string(array.type):
        return array
    days = cast_or_none(array, pa.date32())
    if days is not None:
        return days
    moments = cast_or_none(array, pa.timestamp("us"))
    return None if moments is None else moments.cast(pa.date32(), safe=False)
