"""From a column's cells to what is stored: floats, codes, strings or parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import Column, ColumnType
from store.datasets import splits
from store.datasets.cells import bad_cell, category_name, floats, is_string, match_categories, plain, to_days


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
        if kind is ColumnType.BOOLEAN and is_string(array.type):
            array = pc.cast(pc.utf8_lower(array), pa.bool_())
        if kind is ColumnType.BOOLEAN:
            array = pc.cast(array, pa.float64()) if not pa.types.is_boolean(array.type) else pc.cast(array, pa.uint8())
        elif kind is ColumnType.DATE:
            array = pc.cast(to_days(array), pa.int32())
        return floats(array)

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
        if is_string(array.type):
            if self.column.categories is not None and array.null_count < len(array):
                return match_categories(array, self.column.categories)
            return pc.cast(array, pa.string())
        unique = array.dictionary_encode()
        names = pa.array(
            [None if value is None else category_name(value) for value in unique.dictionary.to_pylist()], pa.string()
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
