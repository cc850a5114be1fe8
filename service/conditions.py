"""`given.row` of /sample: cells that are known, as rows with the others hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import DataSpec, Role
from contracts.errors import FieldProblem, InvalidInput
from service.tensors import wrong
from store.rows import rows_from_objects

LOCATION = "given.row"


def given_rows(
    spec: DataSpec, row: Mapping[str, Any] | Sequence[Mapping[str, Any]], n: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read one object for all ``n`` rows, or one per row, as ``x (n, D)`` and ``hidden (n, D)``.

    Raises InvalidInput naming an unknown column, an unseen category, a value outside of its column's range.
    """
    if spec.modality != "table":
        raise wrong(LOCATION, "holds cells by column name, which only tables have; for pictures ask /predict")
    objects = [row] if isinstance(row, Mapping) else list(row)
    if not isinstance(row, Mapping) and len(objects) != n:
        raise wrong(LOCATION, f"has {len(objects)} objects for {n} rows; give one, or one per row")
    places = [LOCATION] if isinstance(row, Mapping) else [f"{LOCATION}[{index}]" for index in range(n)]
    _check_names(spec, objects, places)
    names = [column.name for column in spec.features]
    try:
        x, hidden = rows_from_objects(spec, [{name: each.get(name) for name in names} for each in objects])
        spec.check(x, hidden)
    except InvalidInput as error:
        raise _moved(error, places) from None
    return np.broadcast_to(x, (n, x.shape[1])).copy(), np.broadcast_to(hidden, (n, x.shape[1])).copy()


def _check_names(spec: DataSpec, objects: Sequence[Mapping[str, Any]], places: Sequence[str]) -> None:
    roles = {column.name: column.role for column in spec.columns}
    for place, each in zip(places, objects, strict=True):
        for name in each:
            role = roles.get(name)
            if role is Role.LABEL:
                raise wrong(f"{place}.{name}", "is the label; a conditional model takes it as given.label")
            if role is not Role.FEATURE:
                known = ", ".join(column.name for column in spec.features[:20])
                raise wrong(f"{place}.{name}", f"is no column that the model draws; columns are {known}")


def _moved(error: InvalidInput, places: Sequence[str]) -> InvalidInput:
    """The error with `inputs[i]` as the place where the client put it."""

    def move(text: str) -> str:
        for index, place in enumerate(places):
            text = text.replace(f"inputs[{index}].", f"{place}.")
        return text

    problems = [FieldProblem(location=move(each.location), message=each.message) for each in error.errors]
    return InvalidInput(move(str(error)), errors=problems)
