"""JSONL: one object of scalars a line (or one string, a document); read twice, never whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from contracts.data import Role
from contracts.errors import FieldProblem, InvalidInput
from store.datasets import splits
from store.datasets.content import CHUNK_ROWS
from store.datasets.tables import SplitBy

LONGEST_LINE_BYTES = 16 << 20
CHUNK_CHARACTERS = 32 << 20


class JsonLinesSource:
    """The lines' fields as columns of text; a field that a line lacks is an empty cell."""

    textual = True
    split_by: SplitBy = "hash"

    def __init__(self, path: Path) -> None:
        self._path = path
        names: dict[str, None] = {}
        for number, line in self._lines():
            names.update(dict.fromkeys(parse_line(line, number)))
        self.names = list(names)
        self.roles: dict[str, Role] = {}

    def batches(self) -> Iterator[tuple[Any, int]]:
        columns: dict[str, list[str | None]] = {name: [] for name in self.names}
        rows = size = 0
        for number, line in self._lines():
            values = parse_line(line, number)
            for name, cells in columns.items():
                cells.append(text_of(values.get(name), name, number))
            rows, size = rows + 1, size + len(line)
            if rows == CHUNK_ROWS or size > CHUNK_CHARACTERS:
                yield self._batch(columns)
                rows = size = 0
        if rows:
            yield self._batch(columns)

    def _batch(self, columns: dict[str, list[str | None]]) -> tuple[Any, int]:
        import pyarrow as pa

        arrays = [pa.array(cells, pa.string()) for cells in columns.values()]
        for cells in columns.values():
            cells.clear()
        return pa.RecordBatch.from_arrays(arrays, names=self.names), splits.OPEN

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                if len(line) > LONGEST_LINE_BYTES:
                    raise InvalidInput(f"line {number} is longer than {LONGEST_LINE_BYTES} bytes")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
        if number == 0:
            raise InvalidInput("the file is empty")


def parse_line(line: bytes | str, number: int) -> dict[str, Any]:
    """One line as an object; a bare string is a document."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"line {number} is no JSON: {error}") from error
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise InvalidInput(f"line {number} holds a {type(value).__name__}; each line holds one object or one string")
    return value


def text_of(value: Any, name: str, number: int) -> str | None:
    """A scalar as the text of a cell; None for null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    message = f"line {number} holds a {type(value).__name__} in {name!r}; only texts, numbers and booleans are read"
    raise InvalidInput(message, errors=[FieldProblem(location=f"lines[{number}].{name}", message=message)])
