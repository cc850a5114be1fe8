"""Rows from files and standard input, answers to files."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.cli.files import (
    FileError,
    format_of,
    hide_columns,
    hide_unknown,
    read_array,
    read_inputs,
    tensor,
    write_bytes,
    write_rows,
)


def put(folder: Path, name: str, data: str | bytes) -> str:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return str(folder / name)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def untensor(value: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(value["base64"]), dtype=value["dtype"]).reshape(value["shape"])


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 3), 7).save(buffer, "PNG")
    return buffer.getvalue()


def test_csv_with_a_header_makes_objects_and_empty_cells_null(tmp_path: Path) -> None:
    file = put(tmp_path, "a.csv", "\ufeffage,city\n31,Bern\n,\n2.5,Ulm\n")
    assert read_inputs([file]) == [
        {"age": 31, "city": "Bern"},
        {"age": None, "city": None},
        {"age": 2.5, "city": "Ulm"},
    ]


def test_csv_cells_keep_their_kind(tmp_path: Path) -> None:
    file = put(tmp_path, "a.csv", "v\n007\n-3\n0\n1e3\nTrue\nNaN\ninf\n1_000\n 4 \n")
    assert [row["v"] for row in read_inputs([file])] == ["007", -3, 0, 1000.0, True, None, "inf", "1_000", 4]


def test_csv_without_a_header_makes_numbers(tmp_path: Path) -> None:
    assert read_inputs([put(tmp_path, "a.csv", "1,2.5\n3,\n")]) == [[1, 2.5], [3, None]]


def test_json_lists_requests_and_single_rows(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"a": None}]
    assert read_inputs([put(tmp_path, "a.json", json.dumps(rows))]) == rows
    assert read_inputs([put(tmp_path, "b.json", json.dumps({"inputs": rows, "model": "m"}))]) == rows
    assert read_inputs([put(tmp_path, "c.json", '{"a": 1}')]) == [{"a": 1}]
    assert read_inputs([put(tmp_path, "d.jsonl", '{"a": 1}\n\n[2]\n')]) == [{"a": 1}, [2]]


def test_arrays_travel_bit_for_bit(tmp_path: Path) -> None:
    array = np.array([[0.1, -0.0], [1e-310, 3.0]])
    read = read_inputs([put(tmp_path, "a.npy", npy(array))])
    assert isinstance(read, dict)
    assert untensor(read).tobytes() == array.tobytes()
    assert untensor(tensor(array.astype(">f4"))).tolist() == array.astype("<f4").tolist()
    assert read_array(str(tmp_path / "a.npy")).tobytes() == array.tobytes()


def test_several_pictures_make_several_rows(tmp_path: Path) -> None:
    files = [put(tmp_path, name, png()) for name in ("a.png", "b.png")]
    assert read_inputs(files) == [{"image": base64.b64encode(png()).decode()}] * 2


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a,b\n1,2\n", [{"a": 1, "b": 2}]),
        (b'[{"a": 1},\n {"a": 2}]', [{"a": 1}, {"a": 2}]),
        (b'{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        (b"[1, 2]\n[3, 4]\n", [[1, 2], [3, 4]]),
        (b'{"inputs": [[1]]}', [[1]]),
        (png(), [{"image": base64.b64encode(png()).decode()}]),
        (npy(np.ones((1, 2), np.float32)), tensor(np.ones((1, 2), np.float32))),
    ],
)
def test_standard_input_is_recognised(data: bytes, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read_inputs(["-"]) == expected


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2), min_size=1))
def test_numbers_survive_csv_and_json(rows: list[list[float]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.csv", "a.json", "a.jsonl"):
            target = str(Path(folder) / name)
            write_rows(target, rows)
            assert read_inputs([target]) == rows


def test_nan_cells_become_a_mask() -> None:
    inputs, mask = hide_unknown(tensor(np.array([[1.0, np.nan]])))
    assert isinstance(inputs, dict)
    assert mask is not None
    assert untensor(inputs).tolist() == [[1.0, 0.0]]
    assert untensor(mask).tolist() == [[False, True]]
    whole = tensor(np.array([[1.0]]))
    assert hide_unknown(whole) == (whole, None)
    assert hide_unknown([[1.0, None]]) == ([[1.0, None]], None)


def test_columns_are_hidden_by_name() -> None:
    assert hide_columns([{"a": 1, "b": 2}], ["b"]) == [{"a": 1, "b": None}]
    assert hide_columns([[1, 2]], []) == [[1, 2]]
    with pytest.raises(FileError, match="by column name"):
        hide_columns([[1, 2]], ["b"])


def test_rows_are_written_by_the_suffix(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    rows = [{"a": 1, "b": None}, {"a": 2, "c": "x"}]
    write_rows(str(tmp_path / "a.csv"), rows)
    assert (tmp_path / "a.csv").read_text() == "a,b,c\n1,,\n2,,x\n"
    write_rows(str(tmp_path / "b.csv"), [[[1, 2], [3, 4]]])
    assert (tmp_path / "b.csv").read_text() == "1,2,3,4\n"
    write_bytes("-", b"raw\n")
    assert capfdbinary.readouterr().out == b"raw\n"
    with pytest.raises(FileError, match="not to"):
        write_rows(str(tmp_path / "a.png"), rows)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", "{", "does not hold json"),
        ("a.json", "3", "list of rows"),
        ("a.csv", "a,b\n1\n", "line 2 has 1 cells"),
        ("a.csv", "", "is empty"),
        ("a.npy", "no array", "does not hold npy"),
        ("a.parquet", "x", "cannot tell the format"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, data: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        read_inputs([put(tmp_path, name, data)])


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    file = put(tmp_path, "a.npy", npy(np.array([{"a": 1}], dtype=object)))
    with pytest.raises(FileError):
        read_inputs([file])
    with pytest.raises(FileError):
        read_array(file)


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot read"):
        read_inputs([str(tmp_path / "absent.csv")])
    with pytest.raises(FileError, match="cannot write"):
        write_bytes(str(tmp_path / "no" / "folder.json"), b"")
    with pytest.raises(FileError, match="name a file"):
        read_inputs([])
    two = [put(tmp_path, name, npy(np.ones((1, 1)))) for name in ("a.npy", "b.npy")]
    with pytest.raises(FileError, match=r"one \.npy"):
        read_inputs(two)
    with pytest.raises(FileError, match="cannot tell"):
        format_of("rows")
