"""Rows in and answers out: files and standard streams of the formats that the verbs take.

In: ``.csv`` ``.json`` ``.jsonl`` ``.npy`` ``.png`` ``.jpg`` ``.txt`` (one text), or ``-`` for standard input, whose
format is recognised by its first bytes. Out: ``.json`` ``.jsonl`` ``.csv`` ``.npy`` ``.png``, or ``-``.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = list[Any] | dict[str, Any]
FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npy": "npy",
    ".png": "picture",
    ".jpg": "picture",
    ".jpeg": "picture",
    ".txt": "text",
}


class FileError(Exception):
    """A file cannot be read or written as asked; the message names it and says what would do."""


def read_inputs(sources: Sequence[str]) -> Inputs:
    """Read rows for a request's ``inputs`` from files or ``-``; several pictures make several rows."""
    if not sources:
        raise FileError("name a file with rows, or - for standard input")
    parts = [_parse(*_load(source)) for source in sources]
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, dict) for part in parts):
        raise FileError("only one .npy file can be read at a time; several files must be pictures, CSV or JSON")
    return [row for part in parts for row in part]


def read_bytes(source: str) -> bytes:
    """Read a file, or standard input for ``-``."""
    return _load(source)[1]


def read_array(source: str) -> NDArray[np.generic]:
    """Read a .npy file (never a pickled one)."""
    name, data = _load(source)
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except ValueError as error:
        raise FileError(f"{name} is not a .npy file: {error}") from error


def tensor(array: NDArray[np.generic]) -> dict[str, Any]:
    """The array as a request carries it: dtype, shape and little-endian bytes in base64."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "base64": base64.b64encode(little.tobytes()).decode(),
    }


def hide_unknown(inputs: Inputs) -> tuple[Inputs, dict[str, Any] | None]:
    """For a tensor with NaN cells return it zero-filled with the mask of those cells; else (inputs, None)."""
    if not isinstance(inputs, dict) or not inputs["dtype"].startswith("float"):
        return inputs, None
    flat = np.frombuffer(base64.b64decode(inputs["base64"]), dtype=np.dtype(inputs["dtype"]).newbyteorder("<"))
    array = flat.reshape(inputs["shape"])
    hidden = np.isnan(array)
    return (tensor(np.where(hidden, 0, array)), tensor(hidden)) if hidden.any() else (inputs, None)


def hide_columns(inputs: Inputs, columns: Sequence[str]) -> Inputs:
    """Set the named columns of rows given as objects to null."""
    if not columns:
        return inputs
    if not isinstance(inputs, list) or not all(isinstance(row, dict) for row in inputs):
        raise FileError("--hide names columns, so the rows must come by column name: CSV with a header, or objects")
    return [row | dict.fromkeys(columns) for row in inputs]


def write_bytes(target: str, data: bytes) -> None:
    """Write to a file, or to standard output for ``-``."""
    if target == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        Path(target).write_bytes(data)
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}") from error


def write_rows(target: str, rows: Sequence[Any]) -> None:
    """Write rows (objects, lists or numbers) as .csv, .json or .jsonl by the target's name."""
    kind = format_of(target)
    if kind == "json":
        text = json.dumps(list(rows)) + "\n"
    elif kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif kind == "csv":
        text = _as_csv(rows)
    else:
        raise FileError(f"rows are written to .csv, .json or .jsonl, not to {target}")
    write_bytes(target, text.encode())


def format_of(name: str) -> str:
    """The format that a file name promises; raises FileError for an unknown one."""
    kind = FORMATS.get(Path(name).suffix.lower())
    if kind is None:
        raise FileError(f"cannot tell the format of {name}; use one of {', '.join(FORMATS)}")
    return kind


def _load(source: str) -> tuple[str, bytes]:
    if source == "-":
        return "standard input", sys.stdin.buffer.read()
    try:
        return source, Path(source).read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {source}: {error.strerror or error}") from error


def _parse(name: str, data: bytes) -> Inputs:
    kind = _recognise(data) if name == "standard input" else format_of(name)
    if not data.strip():
        raise FileError(f"{name} is empty")
    try:
        if kind == "npy":
            return tensor(np.load(io.BytesIO(data), allow_pickle=False))
        if kind == "picture":
            return [{"image": base64.b64encode(data).decode()}]
        if kind == "csv":
            return _texts(_from_csv(data.decode("utf-8-sig")))
        if kind == "text":
            return [data.decode("utf-8-sig")]
        if kind == "jsonl":
            return _texts([json.loads(line) for line in data.splitlines() if line.strip()])
        value = json.loads(data)
    except ValueError as error:
        raise FileError(f"{name} does not hold {kind}: {error}") from error
    if isinstance(value, dict) and "inputs" in value:
        value = value["inputs"]
    if isinstance(value, dict) and "base64" not in value:
        value = [value]
    if not isinstance(value, (list, dict)):
        raise FileError(f"{name} must hold a list of rows")
    return _texts(value) if isinstance(value, list) else value


def _texts(rows: list[Any]) -> list[Any]:
    """Rows of a dataset of texts as the strings that its models read; other rows as they are."""
    documents = bool(rows) and all(isinstance(row, dict) and isinstance(row.get("text"), str) for row in rows)
    return [row["text"] for row in rows] if documents else rows


def _recognise(data: bytes) -> str:
    start = data.lstrip()[:1]
    if data.startswith(b"\x93NUMPY"):
        return "npy"
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "picture"
    if start in (b"[", b"{"):
        lines = [line for line in data.splitlines() if line.strip()]
        whole = len(lines) == 1 or not (lines[0].rstrip().endswith((b"]", b"}")) and lines[1].lstrip()[:1] == start)
        return "json" if whole else "jsonl"
    return "csv"


def _from_csv(text: str) -> list[Any]:
    """Rows by column name; rows as plain lists where the first line is all numbers, so no header."""
    lines = [line for line in csv.reader(io.StringIO(text)) if line]
    if all(isinstance(value, float | int) and not isinstance(value, bool) for value in map(_value, lines[0])):
        return [[_value(cell) for cell in line] for line in lines]
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(lines[0]):
            raise ValueError(f"line {number} has {len(line)} cells, the header has {len(lines[0])}")
    return [dict(zip(lines[0], map(_value, line), strict=True)) for line in lines[1:]]


def _value(cell: str) -> float | int | bool | str | None:
    """A cell as JSON has it; what a number would not write back the same way (`007`, `1_000`) stays a word."""
    cell = cell.strip()
    if not cell or cell.lower() == "nan":
        return None
    if cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    if cell.lstrip("+-").isdigit():
        return cell if cell.lstrip("+-").startswith("0") and cell.lstrip("+-") != "0" else int(cell)
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) and "_" not in cell else cell


def _as_csv(rows: Sequence[Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if rows and isinstance(rows[0], dict):
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer.writerow(names)
        writer.writerows([row.get(name) for name in names] for row in rows)
    else:
        writer.writerows(np.ravel(np.asarray(row, dtype=object)).tolist() for row in rows)
    return out.getvalue()
