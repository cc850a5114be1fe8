from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from contracts.data import ColumnType, Part, Role
from contracts.errors import InvalidInput
from tests.store.datasets.conftest import Ingest, lines


def test_one_text_is_split_by_its_tail(ingest: Ingest) -> None:
    text = lines(1000, lambda i: f"line {i:05} ä")
    reader = ingest(text, "input.txt")
    assert (reader.spec.modality, reader.spec.split.by) == ("text", "tail")
    assert "".join(reader.read(None, slice(None)).x) == text
    parts = [reader.read(part, slice(None)).x for part in (Part.TRAIN, Part.VALID, Part.TEST)]
    assert "".join("".join(part) for part in parts) == text
    assert [len(part) for part in parts] == [800, 100, 100]


def test_long_lines_and_odd_line_ends(ingest: Ingest) -> None:
    text = "x" * 300_000 + "\r\n" + "ä" * 2_000_000 + "\n\n" + "end"
    reader = ingest(text, "input.txt")
    rows = reader.read(None, slice(None)).x
    assert "".join(rows) == text
    assert max(map(len, rows)) <= 1 << 16


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a\n" * 20 + b"\xff\n", "UTF-8"),
        (b"a\n" * 20 + b"\xc3", "UTF-8"),
        (b"a\n" * 20_000 + b"\0\n", "NUL"),
        (b"a\n", "1 rows"),
    ],
)
def test_bad_text(ingest: Ingest, clean: Any, content: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        ingest(content, "a.txt")
    clean()


def test_a_text_is_no_table(ingest: Ingest, clean: Any) -> None:
    with pytest.raises(InvalidInput, match="upload it as CSV"):
        ingest(lines(20, str), "a.txt", modality="table")
    with pytest.raises(InvalidInput, match="columns are: text"):
        ingest(lines(20, str), "a.txt", label="z")
    clean()


def test_json_lines_of_documents(ingest: Ingest) -> None:
    rows = [{"text": f"document\n{i}", "label": i % 2, "id": f"d{i}", "more": i} for i in range(20)]
    reader = ingest("\n".join(map(json.dumps, rows)), "a.jsonl")
    assert (reader.spec.modality, reader.spec.split.by) == ("text", "hash")
    assert {column.name: column.role for column in reader.spec.columns} == {
        "text": Role.FEATURE, "label": Role.LABEL, "id": Role.ID
    }  # fmt: skip
    loaded = reader.read(None, np.array([3, 0]))
    assert loaded.x == ["document\n3", "document\n0"]
    assert loaded.ids == ["d3", "d0"]
    np.testing.assert_array_equal(loaded.y, [1, 0])
    strings = ingest(lines(20, lambda i: json.dumps(f"document {i}")), "a.jsonl")
    assert strings.read(None, slice(0, 1)).x == ["document 0"]


def test_json_lines_of_rows(ingest: Ingest) -> None:
    rows = [{"a": i, "b": i + 0.5, "c": i % 2 == 0, "d": "uv"[i % 2]} for i in range(20)]
    reader = ingest("\ufeff" + "\n\n".join(map(json.dumps, rows)), "a.jsonl")
    assert [column.type for column in reader.spec.columns] == [
        ColumnType.INTEGER, ColumnType.REAL, ColumnType.BOOLEAN, ColumnType.CATEGORICAL
    ]  # fmt: skip
    np.testing.assert_array_equal(reader.read(None, slice(1, 2)).x, [[1, 1.5, 0, 1]])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1}\n{"a": 2', "line 2 is no JSON"),
        ('{"a": 1}\n[2]', "line 2 holds a list"),
        ('{"a": 1}\n{"a": {}}', "line 2 holds a dict in 'a'"),
        ('{"label": 1}\n{"b": 1}\n{"label": 1}', r"row 2, column 'label' is empty"),
        ('{"a": 1}\n{"a": NaN}', "line 2 is no JSON"),
        ("\n\n", "is empty|no rows|every column"),
    ],
)
def test_bad_json_lines(ingest: Ingest, clean: Any, text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        ingest(text, "a.jsonl")
    clean()
