"""What a column holds: looked over once, chunk by chunk.

Cells of a text format are text, and a type is tried on all of them: integer, real, boolean, date, else a
category (few different values) or text. Typed formats (Parquet, NPY) keep their types.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from contracts.data import Column, ColumnType, Role
from contracts.errors import InvalidInput
from store.datasets import splits
from store.datasets.cells import (
    LARGEST_WHOLE,
    arrow_type,
    bad_cell,
    cast_or_none,
    category_name,
    floats,
    name_by_value,
    plain,
    to_days,
)
from store.datasets.overrides import MOST_CATEGORIES, ColumnOverride

# Strings with more different values than this, or than this share of the rows, are text and not a category.
CATEGORY_VALUES = 1000
CATEGORY_SHARE = 0.5
LARGEST_NUMBER = 1e100  # beyond it a variance has no float64

LABEL_NAMES = ("label", "labels", "class")
CAPTION_NAMES = ("caption", "captions")
ID_NAMES = re.compile(r"(row_?|example_?)?(id|index|uuid|key)", re.IGNORECASE)
_BOOLEANS = ("true", "false", "True", "False", "TRUE", "FALSE")


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
            days = pc.cast(to_days(present), pa.int32())
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
            self._candidates = [arrow_type(present.type, self.name)]
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
            ColumnType.DATE: lambda: to_days(present) is not None,
            ColumnType.TEXT: lambda: True,
        }
        while not fits[candidates[0]]():
            candidates = candidates[1:]
        self._candidates = candidates

    def _bound(self, array: Any, present: Any, start: int) -> None:
        values = floats(present)
        finite = np.isfinite(values)
        if not finite.all() and self._first_infinite is None:
            self._first_infinite = start + int(np.flatnonzero(np.isinf(floats(array)))[0])
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
        missing = bool(said.missing)
        if self._first_missing is not None and not missing and role is not Role.CAPTION:
            # Models learn from the cells that are there; a label or a name that is not there is nothing to learn from.
            learned = role is Role.FEATURE and self._kind(said, rows) is not ColumnType.TEXT
            missing = learned and said.missing is None
            if not missing:
                raise bad_cell(
                    self._first_missing,
                    self.name,
                    "is empty; fill it, or allow empty cells by columns: "
                    f"[{{name: {self.name!r}, missing: true}}], or drop the column",
                )
        if role is Role.LABEL:
            categories = said.categories or self.categories()
            return Column(
                name=self.name, type=ColumnType.CATEGORICAL, role=role, categories=categories, missing=missing
            )
        if role is not Role.FEATURE:
            return Column(name=self.name, type=ColumnType.TEXT, role=role, missing=missing)
        return self._feature(said, rows, missing=missing)

    def _feature(self, said: ColumnOverride, rows: int, *, missing: bool) -> Column:
        kind = self._kind(said, rows)
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
            low, high = self._limits(said, self._low, self._high)
            if kind is ColumnType.INTEGER and max(abs(low), abs(high)) > LARGEST_WHOLE:
                raise InvalidInput(
                    f"column {self.name!r} holds integers beyond ±2**53; give it the type `real` or the role `id`"
                )
        elif kind is ColumnType.REAL and not (said.minimum is None and said.maximum is None):
            low, high = self._limits(said, -np.inf, np.inf)
            low, high = (None if np.isinf(low) else low), (None if np.isinf(high) else high)
        return Column(name=self.name, type=kind, categories=categories, minimum=low, maximum=high, missing=missing)

    def _limits(self, said: ColumnOverride, low: float, high: float) -> tuple[float, float]:
        """The range said, ``low`` or ``high`` where it is not; every value must lie within."""
        low = low if said.minimum is None else said.minimum
        high = high if said.maximum is None else said.maximum
        if low > self._low or high < self._high:
            raise InvalidInput(
                f"column {self.name!r} holds values {self._low:g}..{self._high:g}, outside the given {low:g}..{high:g}"
            )
        return low, high

    def _kind(self, said: ColumnOverride, rows: int) -> ColumnType:
        return said.type or (ColumnType.CATEGORICAL if said.categories else self._inferred(rows))

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
        return self._distinct is not None and {category_name(value) for value in self._distinct} <= {"0", "1"}

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
        names = {
            name_by_value(value) if numeric and isinstance(value, str) else category_name(value)
            for value in self._distinct
        }
        try:
            return tuple(sorted(names, key=lambda name: (float(name), name)))
        except ValueError:
            return tuple(sorted(names))
