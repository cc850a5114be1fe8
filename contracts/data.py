"""What a dataset's rows look like, and how a row stands in memory.

A row's *features* are one array, the same for training, engine and HTTP:

====== ============================== ==================================================================
table  float64 ``(B, D)``             D feature columns in the order of the spec; categories as codes
                                      0..K-1, booleans 0/1, dates as days since 1970-01-01, NaN = no value
image  uint8 ``(B, H, W, C)``         values 0..levels-1
text   ``list[str]`` of length B      documents
====== ============================== ==================================================================

A *cell* is one scalar of a row; arrays of cells are flattened in C order where a count of
cells is meant. A cell is *discrete* (scored as a probability on a unit bin) unless its
column is real. ``hidden`` masks have the shape of the features; True = hidden.
Labels are int64 ``(B,)`` codes into the label column's categories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.errors import FieldProblem, InvalidInput


class ColumnType(StrEnum):
    """What a column's values are."""

    REAL = "real"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    CATEGORICAL = "categorical"
    DATE = "date"
    TEXT = "text"


class Role(StrEnum):
    """What a column is for."""

    FEATURE = "feature"
    LABEL = "label"
    CAPTION = "caption"
    ID = "id"
    SPLIT = "split"


class Part(StrEnum):
    """A part of a dataset: trained on, watched for early stopping, or held out for the card."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


class Measure(StrEnum):
    """What a ``log_prob`` is a density of: Lebesgue, counting, or (mixed columns) their product."""

    DENSITY = "density"
    PROBABILITY = "probability"
    MIXED = "mixed"


class Column(BaseModel):
    """A named column of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200, description="Name in the header, or `x0`, `x1`, … where none is.")
    type: ColumnType
    role: Role = Role.FEATURE
    categories: tuple[str, ...] | None = Field(
        default=None, description="The values of a categorical or label column, in the order of their codes."
    )
    minimum: float | None = Field(
        default=None, description="Smallest value: seen or allowed (integers, dates), allowed (real; None: open)."
    )
    maximum: float | None = Field(
        default=None, description="Largest value: seen or allowed (integers, dates), allowed (real; None: open)."
    )
    missing: bool = Field(default=False, description="Whether cells may have no value.")

    @property
    def discrete(self) -> bool:
        return self.type is not ColumnType.REAL


class ImageShape(BaseModel):
    """The shape of every image of a dataset, in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: Literal[1, 3] = 1
    levels: int = Field(default=256, ge=2, le=256, description="Values of a pixel: 0 … levels-1 (2 = binary).")

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, self.channels)


class SplitRule(BaseModel):
    """How rows are put into parts; the same row always falls into the same part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["hash", "column", "given", "tail"] = Field(
        default="hash",
        description="hash: by the row's content; column: by the column whose role is split; "
        "given: official train and test files (valid is cut from train by hash); tail: the last part of one text.",
    )
    valid: float = Field(default=0.1, ge=0, lt=0.5, description="Share of the rows that become `valid`.")
    test: float = Field(default=0.1, ge=0, lt=0.5, description="Share of the rows that become `test`.")


class _Derived:
    """What follows from the fields of a spec, computed once: a table may have thousands of columns, and a gateway asks
    at every request. Not to be changed by those who read it."""

    def __init__(self, modality: str, columns: tuple[Column, ...], image: ImageShape | None) -> None:
        self.modality, self.columns, self.image = modality, columns, image

    def __eq__(self, other: object) -> bool:
        # Specs are equal by their fields; pydantic compares what is cached beside them, which adds nothing.
        return isinstance(other, _Derived)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def features(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.role is Role.FEATURE)

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        if self.modality == "text":
            raise InvalidInput("text rows have no fixed shape")
        return self.image.shape if self.image is not None else (len(self.features),)

    @cached_property
    def cells(self) -> int:
        return math.prod(self.row_shape)

    @cached_property
    def discrete(self) -> NDArray[np.bool_]:
        if self.image is not None:
            return np.ones(self.cells, dtype=bool)
        return np.array([column.discrete for column in self.features], dtype=bool)

    @cached_property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.image is not None:
            return np.zeros(self.cells), np.full(self.cells, self.image.levels - 1.0)
        low, high = np.full(self.cells, -np.inf), np.full(self.cells, np.inf)
        for index, column in enumerate(self.features):
            if column.type is ColumnType.CATEGORICAL:
                low[index], high[index] = 0, len(column.categories or ()) - 1
            elif column.type is ColumnType.BOOLEAN:
                low[index], high[index] = 0, 1
            else:
                low[index] = -np.inf if column.minimum is None else column.minimum
                high[index] = np.inf if column.maximum is None else column.maximum
        return low, high


class DataSpec(BaseModel):
    """Columns, image shape and split of a dataset; with the bytes it makes the dataset's digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Literal["table", "image", "text"]
    columns: tuple[Column, ...] = Field(
        default=(), description="Every column with its role; images hold only labels, captions and ids here."
    )
    image: ImageShape | None = Field(default=None, description="Set where modality is image.")
    split: SplitRule = SplitRule()

    @model_validator(mode="after")
    def _consistent(self) -> DataSpec:
        if (self.modality == "image") != (self.image is not None):
            raise ValueError("`image` is set exactly where modality is `image`")
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("column names must differ from each other")
        for role in (Role.LABEL, Role.CAPTION, Role.SPLIT):
            if sum(column.role is role for column in self.columns) > 1:
                raise ValueError(f"at most one column may have the role `{role}`")
        if self.modality == "table" and not self.features:
            raise ValueError("a table needs at least one feature column")
        return self

    @cached_property
    def derived(self) -> _Derived:
        """What the properties below answer."""
        return _Derived(self.modality, self.columns, self.image)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; what was derived from the fields before is derived anew."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("derived", None)
        return copied

    @property
    def features(self) -> tuple[Column, ...]:
        """The feature columns, in the order of the array's columns (table only)."""
        return self.derived.features

    @property
    def label(self) -> Column | None:
        return next((column for column in self.columns if column.role is Role.LABEL), None)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row's features: ``(D,)`` or ``(H, W, C)``."""
        return self.derived.row_shape

    @property
    def cells(self) -> int:
        """Scalars in one row."""
        return self.derived.cells

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of the features: uint8 for images, float64 for tables, objects (strings) for texts."""
        if self.modality == "text":
            return np.dtype(object)
        return np.dtype(np.uint8) if self.image is not None else np.dtype(np.float64)

    def same_rows(self, other: DataSpec) -> bool:
        """Whether rows of ``other`` have the shape of rows of this spec; all texts do."""
        if self.modality != other.modality:
            return False
        return self.modality == "text" or self.row_shape == other.row_shape

    @property
    def row_name(self) -> str:
        """What a row is, for people."""
        return "texts" if self.modality == "text" else f"{self.modality} rows of shape {self.row_shape}"

    @property
    def discrete(self) -> NDArray[np.bool_]:
        """Per cell, flattened ``(cells,)``: True where the cell is scored as a probability."""
        return self.derived.discrete

    @property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Smallest and largest value of each cell, ``(cells,)`` each; ±inf where open."""
        return self.derived.bounds

    @property
    def measure(self) -> Measure:
        if self.modality == "text":
            return Measure.PROBABILITY
        discrete = self.discrete
        if discrete.all():
            return Measure.PROBABILITY
        return Measure.MIXED if discrete.any() else Measure.DENSITY

    def quantise(self, x: NDArray[np.floating]) -> NDArray[np.generic]:
        """Put dequantised values back on the grid.

        Discrete cells were spread over ``[v, v+1)``, so they are floored; every cell is clipped to its
        bounds, which real ones have where a range was given. ``x``: ``(..., *row_shape)`` float; returns ``dtype``.
        """
        flat = np.array(x, dtype=np.float64).reshape(*x.shape[: x.ndim - len(self.row_shape)], self.cells)
        discrete = self.discrete
        flat[..., discrete] = np.floor(flat[..., discrete])
        np.clip(flat, *self.bounds, out=flat)
        return flat.reshape(x.shape).astype(self.dtype)

    def check(self, x: NDArray[np.generic], hidden: NDArray[np.bool_] | None = None) -> None:
        """Raise InvalidInput, naming rows and columns, unless ``x`` holds rows of this spec.

        ``x``: ``(B, *row_shape)`` of ``dtype``; shown cells must be finite, discrete ones whole and in bounds. Texts
        are an array of strings ``(B,)``.
        """
        if self.modality == "text":
            row = next((row for row, text in enumerate(x.tolist()) if not isinstance(text, str)), None)
            if row is not None:
                raise InvalidInput(f"inputs[{row}] must be a string, since rows are texts")
            return
        if x.shape[1:] != self.row_shape:
            raise InvalidInput(f"rows must have shape {self.row_shape}, got {x.shape[1:]}")
        flat = x.reshape(len(x), self.cells).astype(np.float64, copy=False)
        shown = np.ones_like(flat, dtype=bool) if hidden is None else ~hidden.reshape(flat.shape)
        discrete = self.discrete
        low, high = self.bounds
        right = np.isfinite(flat)
        with np.errstate(invalid="ignore"):
            right &= (flat >= low) & (flat <= high)
            if discrete.any():
                right &= ~discrete | (flat == np.floor(flat))
        wrong = shown & ~right
        if not wrong.any():
            return
        problems = []
        for row, cell in np.argwhere(wrong)[:20]:
            value = flat[row, cell]
            name = self.cell_name(int(cell))
            if not np.isfinite(value):
                what = f"is {value}; send null or a mask for a hidden cell"
            elif discrete[cell] and value != np.floor(value):
                what = f"is {value:g} but must be a whole number"
            else:
                what = f"is {value:g} but must lie in {low[cell]:g}..{high[cell]:g}"
            problems.append(FieldProblem(location=f"inputs[{row}].{name}", message=what))
        raise InvalidInput(
            f"{int(wrong.sum())} cells hold values that the data spec does not allow; "
            f"first: {problems[0].location} {problems[0].message}",
            errors=problems,
        )

    def cell_name(self, cell: int) -> str:
        """The column's name, or ``pixel[h,w,c]``."""
        if self.image is None:
            return self.features[cell].name
        h, w, c = np.unravel_index(cell, self.image.shape)
        return f"pixel[{h},{w},{c}]"


@dataclass(frozen=True)
class DataProfile:
    """Statistics of the train part, per cell and flattened: all ``(cells,)`` float64.

    ``rows`` is the number of train rows. Discrete cells are described as they are (not dequantised).
    """

    rows: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
