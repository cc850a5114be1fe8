from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.data import Column, ColumnType, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput
from store.rows import objects_from_rows, rows_from_objects

SPEC = DataSpec(
    modality="table",
    columns=(
        Column(name="length", type=ColumnType.REAL),
        Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
        Column(name="label", type=ColumnType.CATEGORICAL, role=Role.LABEL, categories=("no", "yes")),
        Column(name="colour", type=ColumnType.CATEGORICAL, categories=("blue", "red", "3")),
        Column(name="fresh", type=ColumnType.BOOLEAN),
        Column(name="day", type=ColumnType.DATE),
    ),
)
ROW = {"length": 1.5, "count": 3, "colour": "red", "fresh": True, "day": "1970-01-11"}


def test_objects_to_rows() -> None:
    x, hidden = rows_from_objects(
        SPEC, [ROW, {**ROW, "length": None, "colour": 3, "fresh": 0, "day": -1, "label": "no"}]
    )
    np.testing.assert_array_equal(x, [[1.5, 3, 1, 1, 10], [math.nan, 3, 2, 0, -1]])
    np.testing.assert_array_equal(hidden, [[False] * 5, [True, False, False, False, False]])
    SPEC.check(x, hidden)


def test_rows_to_objects() -> None:
    x = np.array([[1.5, 3, 1, 1, 10], [math.nan, math.nan, math.nan, math.nan, math.nan]])
    assert objects_from_rows(SPEC, x) == [ROW, dict.fromkeys(ROW)]


def test_expected_values_of_discrete_columns() -> None:
    (values,) = objects_from_rows(SPEC, np.array([[0.25, 2.5, 1.7, 0.4, 10.4]]))
    assert values == {"length": 0.25, "count": 2.5, "colour": "3", "fresh": False, "day": "1970-01-11"}


def test_nothing_is_nothing() -> None:
    x, hidden = rows_from_objects(SPEC, [])
    assert x.shape == hidden.shape == (0, 5)
    assert objects_from_rows(SPEC, x) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"length": "long"}, r"inputs\[1\]\.length is 'long' but must be a number"),
        ({"length": math.inf}, r"inputs\[1\]\.length is inf"),
        ({"length": True}, r"inputs\[1\]\.length is True but must be a number"),
        ({"length": 10**400}, r"inputs\[1\]\.length is too large"),
        ({"length": [1]}, r"inputs\[1\]\.length"),
        ({"count": 2.5}, r"inputs\[1\]\.count is 2.5 but must be a whole number"),
        ({"colour": "green"}, r"inputs\[1\]\.colour is 'green', a category never seen; categories are blue, red, 3"),
        ({"colour": True}, r"inputs\[1\]\.colour"),
        ({"fresh": 2}, r"inputs\[1\]\.fresh is 2 but must be true or false"),
        ({"fresh": "yes"}, r"inputs\[1\]\.fresh is 'yes' but must be true or false"),
        ({"day": "yesterday"}, r"inputs\[1\]\.day is 'yesterday', which is no date; write dates as 2024-12-31"),
        ({"weight": 1}, r"inputs\[1\]\.weight is no column; columns are length, count"),
    ],
)
def test_wrong_cells_are_named(change: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        rows_from_objects(SPEC, [ROW, {**ROW, **change}])
    assert len(caught.value.errors) == 1


def test_missing_columns_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"inputs\[0\]\.day is missing; send null to hide it"):
        rows_from_objects(SPEC, [{key: value for key, value in ROW.items() if key != "day"}])


def test_rows_that_are_no_objects_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"inputs\[0\] must be an object"):
        rows_from_objects(SPEC, [[1, 2]])  # type: ignore[list-item]


def test_problems_are_limited() -> None:
    with pytest.raises(InvalidInput) as caught:
        rows_from_objects(SPEC, [{}] * 1000)
    assert len(caught.value.errors) == 20


def test_only_tables_have_columns() -> None:
    images = DataSpec(modality="image", image=ImageShape(height=2, width=2))
    with pytest.raises(InvalidInput, match="image"):
        rows_from_objects(images, [{}])
    with pytest.raises(InvalidInput, match="image"):
        objects_from_rows(images, np.zeros((1, 2, 2, 1), np.uint8))
    with pytest.raises(InvalidInput, match="shape"):
        objects_from_rows(SPEC, np.zeros((1, 3)))


cells = st.fixed_dictionaries(
    {
        "length": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "count": st.none() | st.integers(0, 9),
        "colour": st.none() | st.sampled_from(["blue", "red", "3"]),
        "fresh": st.none() | st.booleans(),
        "day": st.none() | st.dates().map(str),
    }
)


@given(st.lists(cells, max_size=5))
def test_objects_come_back(objects: list[dict[str, object]]) -> None:
    x, hidden = rows_from_objects(SPEC, objects)
    assert objects_from_rows(SPEC, x) == objects
    np.testing.assert_array_equal(hidden, np.isnan(x))
