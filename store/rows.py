"""Rows of a table as objects by column name, and back; null stands for a hidden cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import Column, ColumnType, DataSpec
from contracts.errors import FieldProblem, InvalidInput

MOST_PROBLEMS = 20
_EPOCH = date(1970, 1, 1)


def rows_from_objects(
    spec: DataSpec, objects: Sequence[Mapping[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read objects as feature rows.

    Args:
        spec: of a table; its columns of other roles may be present and are ignored.
        objects: one per row; numbers, booleans, category names, dates as ``2024-12-31``; null hides a cell.

    Returns:
        ``x (B, D)`` float64 with NaN where hidden, and ``hidden (B, D)``.

    Raises:
        InvalidInput: naming row and column of a missing or unknown column, an unseen category, a wrong value.
    """
    if spec.modality != "table":
        raise InvalidInput(f"rows by column name are for tables; this model's data are {spec.modality}")
    features = spec.features
    known = {column.name for column in spec.columns}
    categories = {column.name: {name: code for code, name in enumerate(column.categories or ())} for column in features}
    x = np.full((len(objects), len(features)), np.nan)
    problems: list[FieldProblem] = []
    values: Any  # what a client sent is checked, whatever the caller promised
    for row, values in enumerate(objects):
        if not isinstance(values, Mapping):
            problems.append(FieldProblem(location=f"inputs[{row}]", message="must be an object by column name"))
            continue
        for name in values:
            if name not in known:
                problems.append(
                    FieldProblem(
                        location=f"inputs[{row}].{name}",
                        message=f"is no column; columns are {', '.join(column.name for column in features[:20])}",
                    )
                )
        for index, column in enumerate(features):
            if column.name not in values:
                problems.append(
                    FieldProblem(location=f"inputs[{row}].{column.name}", message="is missing; send null to hide it")
                )
                continue
            try:
                x[row, index] = _number(column, values[column.name], categories[column.name])
            except ValueError as error:
                problems.append(FieldProblem(location=f"inputs[{row}].{column.name}", message=str(error)))
        if len(problems) >= MOST_PROBLEMS:
            break
    if problems:
        first = problems[0]
        raise InvalidInput(f"{first.location} {first.message}", errors=problems[:MOST_PROBLEMS])
    return x, np.isnan(x)


def cell_value(column: Column, value: Any) -> float:
    """One value of a column, as `rows_from_objects` takes it, as it stands in the array.

    Raises ValueError, whose text goes on after the name of the place: "is 'pink', a category never seen; …".
    """
    return _number(column, value, {name: code for code, name in enumerate(column.categories or ())})


def objects_from_rows(spec: DataSpec, x: NDArray[Any]) -> list[dict[str, Any]]:
    """Feature rows ``(B, D)`` as objects by column name; NaN becomes null.

    Cells of discrete columns that are not whole (expected values) are answered as numbers where the
    column is a number, and as the nearest category, truth value or day where it is not.
    """
    if spec.modality != "table":
        raise InvalidInput(f"rows by column name are for tables; these data are {spec.modality}")
    features = spec.features
    if x.shape[1:] != (len(features),):
        raise InvalidInput(f"rows must have shape ({len(features)},), got {x.shape[1:]}")
    cells = np.asarray(x, dtype=np.float64).tolist()
    return [{column.name: _value(column, cell) for column, cell in zip(features, row, strict=True)} for row in cells]


def _number(column: Column, value: Any, categories: Mapping[str, int]) -> float:
    """One cell as it stands in the array; ValueError says what is wrong with it."""
    if value is None:
        return math.nan
    if column.type is ColumnType.CATEGORICAL:
        name = _category_name(value)
        if name not in categories:
            shown = ", ".join(list(categories)[:10])
            raise ValueError(f"is {value!r}, a category never seen; categories are {shown}")
        return float(categories[name])
    if column.type is ColumnType.DATE and isinstance(value, str):
        try:
            return float((date.fromisoformat(value) - _EPOCH).days)
        except ValueError:
            raise ValueError(f"is {value!r}, which is no date; write dates as 2024-12-31") from None
    if isinstance(value, bool) and column.type is not ColumnType.BOOLEAN:
        raise ValueError(f"is {value!r} but must be a number")
    if not isinstance(value, int | float):
        kind = "true or false" if column.type is ColumnType.BOOLEAN else "a number"
        raise ValueError(f"is {value!r} but must be {kind}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("is too large a number") from None
    if not math.isfinite(number):
        raise ValueError(f"is {number}; send null for a hidden cell")
    if column.discrete and number != math.floor(number):
        raise ValueError(f"is {number:g} but must be a whole number")
    if column.type is ColumnType.BOOLEAN and number not in (0.0, 1.0):
        raise ValueError(f"is {number:g} but must be true or false")
    return number


def _category_name(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _value(column: Column, cell: float) -> Any:
    if not math.isfinite(cell):
        return None
    if column.type is ColumnType.CATEGORICAL:
        categories = column.categories or ()
        return categories[min(max(round(cell), 0), len(categories) - 1)]
    if column.type is ColumnType.BOOLEAN:
        return cell >= 0.5
    if column.type is ColumnType.DATE:
        return (_EPOCH + timedelta(days=round(cell))).isoformat()
    if column.type is ColumnType.INTEGER and cell.is_integer():
        return int(cell)
    return cell
