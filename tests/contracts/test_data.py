from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from contracts.data import Column, ColumnType, DataSpec, ImageShape, Measure, Role, SplitRule
from contracts.errors import InvalidInput

TABLE = DataSpec(
    modality="table",
    columns=(
        Column(name="length", type=ColumnType.REAL),
        Column(name="count", type=ColumnType.INTEGER, minimum=-2, maximum=9),
        Column(name="class", type=ColumnType.CATEGORICAL, role=Role.LABEL, categories=("no", "yes")),
        Column(name="colour", type=ColumnType.CATEGORICAL, categories=("blue", "red", "green")),
        Column(name="fresh", type=ColumnType.BOOLEAN),
        Column(name="open", type=ColumnType.INTEGER),
    ),
)
IMAGE = DataSpec(modality="image", image=ImageShape(height=2, width=3, channels=3, levels=17))


def test_shapes() -> None:
    assert [column.name for column in TABLE.features] == ["length", "count", "colour", "fresh", "open"]
    assert TABLE.label is not None
    assert TABLE.label.name == "class"
    assert (TABLE.row_shape, TABLE.cells, TABLE.dtype) == ((5,), 5, np.float64)
    assert (IMAGE.row_shape, IMAGE.cells, IMAGE.dtype, IMAGE.label) == ((2, 3, 3), 18, np.uint8, None)
    with pytest.raises(InvalidInput, match="no fixed shape"):
        _ = DataSpec(modality="text").row_shape


def test_cells() -> None:
    np.testing.assert_array_equal(TABLE.discrete, [False, True, True, True, True])
    low, high = TABLE.bounds
    np.testing.assert_array_equal(low, [-np.inf, -2, 0, 0, -np.inf])
    np.testing.assert_array_equal(high, [np.inf, 9, 2, 1, np.inf])
    assert IMAGE.discrete.all()
    np.testing.assert_array_equal(IMAGE.bounds[1], np.full(18, 16))
    assert [TABLE.cell_name(1), IMAGE.cell_name(0), IMAGE.cell_name(17)] == ["count", "pixel[0,0,0]", "pixel[1,2,2]"]


def test_measures() -> None:
    assert TABLE.measure is Measure.MIXED
    assert IMAGE.measure is Measure.PROBABILITY
    assert DataSpec(modality="table", columns=TABLE.columns[:1]).measure is Measure.DENSITY


def test_quantise() -> None:
    x = np.array([[0.25, 3.9, 2.99, 1.2, -7.5], [-0.75, 99.0, -1.0, -0.1, 7.0]])
    np.testing.assert_array_equal(TABLE.quantise(x), [[0.25, 3, 2, 1, -8], [-0.75, 9, 0, 0, 7]])
    drawn = np.zeros((4, 1, 2, 3, 3))
    drawn[...] = 20.5
    quantised = IMAGE.quantise(drawn)
    assert (quantised.dtype, quantised.shape) == (np.uint8, drawn.shape)
    assert (quantised == 16).all()


def test_reals_may_have_a_range() -> None:
    price = Column(name="price", type=ColumnType.REAL, minimum=0)
    share = Column(name="share", type=ColumnType.REAL, minimum=0, maximum=1)
    spec = DataSpec(modality="table", columns=(price, share, Column(name="free", type=ColumnType.REAL)))
    np.testing.assert_array_equal(spec.quantise(np.array([[-0.5, 1.5, -9.0], [7.25, 0.25, 9.0]])), [
        [0, 1, -9], [7.25, 0.25, 9]
    ])  # fmt: skip
    spec.check(np.array([[0.5, 1.0, -4.5]]))
    with pytest.raises(InvalidInput, match=r"price is -0.5 but must lie in 0\.\.inf"):
        spec.check(np.array([[-0.5, 1.0, -4.5]]))
    with pytest.raises(InvalidInput, match=r"share is 1.5 but must lie in 0\.\.1"):
        spec.check(np.array([[0.5, 1.5, -4.5]]))


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        (0, np.nan, "length is nan; send null or a mask"),
        (0, np.inf, "length is inf"),
        (1, 1.5, "count is 1.5 but must be a whole number"),
        (1, 10, r"count is 10 but must lie in -2\.\.9"),
        (2, 3, r"colour is 3 but must lie in 0\.\.2"),
        (3, -1, r"fresh is -1 but must lie in 0\.\.1"),
    ],
)
def test_check_names_the_cell(column: int, value: float, told: str) -> None:
    x = np.zeros((3, 5))
    TABLE.check(x)
    x[1, column] = value
    with pytest.raises(InvalidInput, match=told) as caught:
        TABLE.check(x)
    assert caught.value.errors[0].location.startswith("inputs[1].")
    hidden = np.zeros((3, 5), bool)
    hidden[1, column] = True
    TABLE.check(x, hidden)


def test_check_of_shapes_and_images() -> None:
    with pytest.raises(InvalidInput, match=r"must have shape \(5,\), got \(4,\)"):
        TABLE.check(np.zeros((3, 4)))
    IMAGE.check(np.full((2, 2, 3, 3), 16, np.uint8))
    with pytest.raises(InvalidInput, match=r"36 cells .*pixel\[0,0,0\] is 17") as caught:
        IMAGE.check(np.full((2, 2, 3, 3), 17, np.uint8))
    assert len(caught.value.errors) == 20


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"modality": "image"}, "`image` is set"),
        ({"modality": "table", "columns": TABLE.columns, "image": ImageShape(height=1, width=1)}, "`image` is set"),
        ({"modality": "table", "columns": TABLE.columns[:1] * 2}, "differ"),
        ({"modality": "table"}, "at least one feature"),
        (
            {"modality": "text", "columns": tuple(Column(name=n, type="text", role="label") for n in "ab")},
            "at most one column",
        ),
    ],
)
def test_specs_that_make_no_sense(values: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DataSpec.model_validate(values)


def test_specs_survive_json() -> None:
    for spec in (TABLE, IMAGE, DataSpec(modality="text", split=SplitRule(by="tail", valid=0, test=0.2))):
        assert DataSpec.model_validate_json(spec.model_dump_json()) == spec
