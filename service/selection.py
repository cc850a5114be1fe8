"""Rows of datasets for a model to read: whether they fit it, and which have a label or fulfil a condition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.data import Column, ColumnType, Part
from contracts.errors import InvalidInput
from service.schemas.directions import ColumnCondition, DatasetRows
from service.schemas.inputs import Given
from service.tensors import wrong
from store.catalogue import ModelVersion
from store.datasets import DatasetReader
from store.rows import cell_value

# Cells that are looked at together while a condition is checked, so that a dataset's size does not matter.
STREAM_CELLS = 1 << 21
MOST_NAMES_IN_A_MESSAGE = 20


def check_fits(reader: DatasetReader, version: ModelVersion) -> None:
    """Raise InvalidInput unless the rows of a dataset are those that a model reads."""
    spec, theirs = version.manifest.data, reader.spec
    columns = [(column.name, column.type, column.categories) for column in spec.features]
    if spec.modality == theirs.modality == "text":
        return
    if (
        theirs.modality != spec.modality
        or theirs.image != spec.image
        or (columns != [(column.name, column.type, column.categories) for column in theirs.features])
    ):
        raise InvalidInput(
            f"the rows of dataset {reader.dataset.name} are not those that {version.reference} reads; "
            "take one with the same columns or image shape"
        )


def keeps_labels(reader: DatasetReader, version: ModelVersion, given: Given | None) -> bool:
    """Whether a conditional model reads the rows with the dataset's own labels, as no other is given."""
    condition, label = version.manifest.condition, reader.spec.label
    return condition is not None and given is None and label is not None and label.categories == condition


def select(reader: DatasetReader, choice: DatasetRows, location: str) -> NDArray[np.int64]:
    """Places, within the chosen part, of the rows that ``choice`` means, ascending.

    Raises InvalidInput where the dataset has no such label or column, or a value does not fit the column.
    """
    part, condition, label = None if choice.part is None else Part(choice.part), choice.column, reader.spec.label
    if condition is None:
        return _labelled(reader, part, choice.label, f"{location}.label")
    place = f"{location}.column"
    if label is not None and label.name == condition.name:
        if condition.equals is None:
            raise wrong(place, f"{label.name} is the label: say `equals`, not `above` or `below`")
        return _labelled(reader, part, condition.equals, f"{place}.equals")
    column, index = _feature(reader, condition.name, f"{place}.name")
    low, high = _bounds(column, condition, place)
    found, start = [], 0
    for batch in reader.batches(part, max(1, STREAM_CELLS // reader.spec.cells)):
        cells = batch.x[:, index]
        # A cell without a value is NaN, which lies within no bounds.
        holds = (cells == low) if condition.equals is not None else (cells > low) & (cells < high)
        found.append(start + np.flatnonzero(holds))
        start += len(batch)
    return np.concatenate(found)


def _labelled(reader: DatasetReader, part: Part | None, value: object, place: str) -> NDArray[np.int64]:
    label, codes = reader.spec.label, reader.labels(part)
    if label is None or codes is None or not label.categories:
        raise wrong(place, f"dataset {reader.dataset.name} has no labels; choose rows by a `column`, or send them")
    return np.flatnonzero(codes == _cell(label, value, place))


def _feature(reader: DatasetReader, name: str, place: str) -> tuple[Column, int]:
    features = reader.spec.features if reader.spec.modality == "table" else ()
    for index, column in enumerate(features):
        if column.name == name:
            return column, index
    label = reader.spec.label
    known = [column.name for column in features] + ([label.name] if label is not None else [])
    shown = ", ".join(known[:MOST_NAMES_IN_A_MESSAGE]) + (", …" if len(known) > MOST_NAMES_IN_A_MESSAGE else "")
    raise wrong(place, f"dataset {reader.dataset.name} has no such column; " + (f"use one of {shown}" if known else ""))


def _bounds(column: Column, condition: ColumnCondition, place: str) -> tuple[float, float]:
    """What a cell lies between, bounds left out; the value itself, twice, for `equals`."""
    if condition.equals is not None:
        return (_cell(column, condition.equals, f"{place}.equals"),) * 2
    if column.type in (ColumnType.CATEGORICAL, ColumnType.BOOLEAN):
        raise wrong(place, f"{column.name} is {column.type}, which has no order: say `equals`")
    # A bound of whole numbers need not be whole.
    ordered = column if column.type is ColumnType.DATE else column.model_copy(update={"type": ColumnType.REAL})
    low = -np.inf if condition.above is None else _cell(ordered, condition.above, f"{place}.above")
    high = np.inf if condition.below is None else _cell(ordered, condition.below, f"{place}.below")
    return low, high


def _cell(column: Column, value: object, place: str) -> float:
    try:
        return cell_value(column, value)
    except ValueError as error:
        raise wrong(place, str(error)) from None
