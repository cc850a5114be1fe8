"""Which rows of a dataset a label or a condition on a column means."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from contracts.data import Part
from contracts.errors import InvalidInput
from service.gateway import of
from service.schemas.directions import DatasetRows
from service.selection import select
from store.datasets import DatasetReader

# day is 2024-01-01 and the days after it; height has gaps; count is the row, colour and open go around.
DAYS = [f"2024-01-{day:02d}" for day in range(1, 25)]
COLOURS = ("red", "green", "blue")
LINES = [
    ",".join(
        (
            "" if row % 4 == 0 else str(row / 2),
            str(row),
            COLOURS[row % 3],
            "true" if row % 2 else "false",
            day,
            "y" if row < 6 else "x",
        )
    )
    for row, day in enumerate(DAYS)
]


@pytest.fixture(scope="module")
def reader(client: TestClient) -> Iterator[DatasetReader]:
    content = "\n".join(["height,count,colour,open,day,kind", *LINES]).encode()
    answer = client.post(
        "/datasets",
        data={"name": "chosen", "spec": '{"label": "kind"}'},
        files={"files": ("chosen.csv", content, "text/csv")},
    )
    assert answer.status_code == 201, answer.text
    yield of(client.app).store.datasets.open("chosen")  # type: ignore[arg-type]
    client.delete("/datasets/chosen")


def rows(reader: DatasetReader, **choice: object) -> list[int]:
    chosen = select(reader, DatasetRows.model_validate({"dataset": "chosen", **choice}, strict=True), "positive")
    # `count` is the number of the row.
    part = choice.get("part")
    return reader.read(Part(part) if part else None, chosen).x[:, 1].astype(int).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"name": "count", "above": 20.5}, [21, 22, 23]),
        ({"name": "count", "above": 20, "below": 23}, [21, 22]),
        ({"name": "count", "equals": 7}, [7]),
        ({"name": "colour", "equals": "blue"}, list(range(2, 24, 3))),
        ({"name": "open", "equals": True}, list(range(1, 24, 2))),
        ({"name": "day", "above": "2024-01-22"}, [22, 23]),
        ({"name": "day", "equals": "2024-01-03"}, [2]),
        ({"name": "height", "below": 3}, [1, 2, 3, 5]),
        ({"name": "kind", "equals": "y"}, [0, 1, 2, 3, 4, 5]),
        ({"name": "count", "above": 1000}, []),
    ],
)
def test_conditions_choose_their_rows(reader: DatasetReader, condition: dict, expected: list[int]) -> None:
    assert rows(reader, column=condition) == expected


def test_labels_choose_their_rows_of_a_part(reader: DatasetReader) -> None:
    assert rows(reader, label="y") == [0, 1, 2, 3, 4, 5]
    parts = [rows(reader, label="x", part=part) for part in ("train", "valid", "test")]
    assert sorted(row for part in parts for row in part) == list(range(6, 24))
    assert all(part == sorted(part) for part in parts)
    by_column = [rows(reader, column={"name": "count", "above": 5}, part=part) for part in ("train", "valid", "test")]
    assert by_column == parts


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"label": "z"}, "positive.label: is 'z'"),
        ({"column": {"name": "colour", "equals": "pink"}}, "positive.column.equals: is 'pink', a category never seen"),
        ({"column": {"name": "colour", "above": 1}}, "colour is categorical, which has no order"),
        ({"column": {"name": "open", "below": 1}}, "open is boolean, which has no order"),
        ({"column": {"name": "day", "above": "soon"}}, "positive.column.above: is 'soon', which is no date"),
        ({"column": {"name": "count", "below": "many"}}, "positive.column.below: is 'many' but must be a number"),
        ({"column": {"name": "kind", "below": 1}}, "kind is the label"),
        ({"column": {"name": "size", "equals": 1}}, "use one of height, count, colour, open, day, kind"),
    ],
)
def test_what_chooses_nothing_is_told(reader: DatasetReader, choice: dict, told: str) -> None:
    with pytest.raises(InvalidInput) as failure:
        rows(reader, **choice)
    assert told in failure.value.detail
    assert failure.value.errors[0].location.startswith("positive.")


def test_a_dataset_without_labels_says_so(client: TestClient, kit: object) -> None:
    client.post("/datasets?name=bare&filename=a.csv", content=kit.csv())  # type: ignore[attr-defined]
    bare = of(client.app).store.datasets.open("bare")  # type: ignore[arg-type]
    assert bare.labels() is None
    with pytest.raises(InvalidInput, match="has no labels; choose rows by a `column`"):
        select(bare, DatasetRows(dataset="bare", label="x"), "negative")
    client.delete("/datasets/bare")
