"""CSV: comma, semicolon, tab or bar separated, with or without a header, streamed by Arrow."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts.data import Role
from contracts.errors import InvalidInput
from store.datasets import splits
from store.datasets.tables import SplitBy

DELIMITERS = (",", "\t", ";", "|")
BLOCK_BYTES = 2 << 20
SNIFFED_BYTES = 1 << 20
# Cells that stand for "no value"; matched after the surrounding blanks are gone.
EMPTY_CELLS = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?")


class DelimitedSource:
    """A CSV file as columns of text."""

    textual = True
    split_by: SplitBy = "hash"

    def __init__(self, path: Path, *, header: bool | None = None) -> None:
        """Raises InvalidInput where the file is no rectangular UTF-8 text."""
        self._path = path
        self.roles: dict[str, Role] = {}
        lines = _first_lines(path)
        self.delimiter = _delimiter(lines)
        first = next(csv.reader(lines[:1], delimiter=self.delimiter))
        self.header = _is_header(first) if header is None else header
        self.names = (
            [name.strip() or f"x{index}" for index, name in enumerate(first)]
            if self.header
            else [f"x{index}" for index in range(len(first))]
        )

    def batches(self) -> Iterator[tuple[Any, int]]:
        import pyarrow as pa

        try:
            for batch in self._open():
                columns = [_cleaned(batch.column(index)) for index in range(batch.num_columns)]
                yield pa.RecordBatch.from_arrays(columns, names=self.names), splits.OPEN
        except pa.ArrowInvalid as error:
            raise self._explain(error) from error

    def _open(self) -> Any:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        return arrow_csv.open_csv(
            self._path,
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=BLOCK_BYTES,
                column_names=[str(index) for index in range(len(self.names))],
                skip_rows=1 if self.header else 0,
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types={str(index): pa.string() for index in range(len(self.names))},
                strings_can_be_null=False,
            ),
        )

    def _explain(self, error: Exception) -> InvalidInput:
        """Name the line of a ragged row; Arrow counts rows, not lines."""
        text = str(error)
        if "UTF8" in text or "UTF-8" in text:
            return InvalidInput("the file is not UTF-8 text; save it as UTF-8")
        if "Expected" in text and "columns" in text:
            found = _ragged_line(self._path, self.delimiter, len(self.names))
            if found is not None:
                line, cells = found
                return InvalidInput(
                    f"line {line} has {cells} cells, but the first line has {len(self.names)}; "
                    "every row needs the same number"
                )
        if "straddling" in text or "block" in text:
            return InvalidInput(f"a row is longer than {BLOCK_BYTES} bytes, or a quote is never closed")
        return InvalidInput(f"the file is no CSV: {re.sub(r'[^ -~]', '?', text.splitlines()[0])[:200]}")


def _first_lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        head = file.read(SNIFFED_BYTES)
    whole = len(head) < SNIFFED_BYTES
    if not whole:
        head = head[: head.rfind(b"\n") + 1] or head
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput("the file is not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:
        raise InvalidInput("the file holds NUL bytes and is no text")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InvalidInput("the file is empty")
    return lines


def _delimiter(lines: list[str]) -> str:
    """The delimiter that cuts the first lines into the same number of cells, the more the better."""

    def score(delimiter: str) -> tuple[bool, int]:
        counts = [len(row) for row in csv.reader(lines[:20], delimiter=delimiter)]
        return (len(set(counts)) == 1, counts[0])

    try:
        best = max(DELIMITERS, key=lambda delimiter: (score(delimiter)[1] > 1, *score(delimiter)))
    except csv.Error as error:
        raise InvalidInput(f"the file is no CSV: {error}") from error
    return best if score(best)[1] > 1 else ","


def _is_header(first: list[str]) -> bool:
    """A header has no number in it, unless it is the very count 0, 1, 2, … that table libraries write."""
    cells = [cell.strip() for cell in first]
    if len(cells) > 1 and cells == [str(index) for index in range(len(cells))]:
        return True
    return any(cells) and not any(_is_number(cell) for cell in cells if cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cleaned(array: Any) -> Any:
    """Without the blanks around each cell; null where a cell says that it has no value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(array)
    empty = pc.is_in(trimmed, value_set=pa.array(EMPTY_CELLS, pa.string()))
    return pc.if_else(empty, pa.scalar(None, pa.string()), trimmed)


def _ragged_line(path: Path, delimiter: str, width: int) -> tuple[int, int] | None:
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for row in reader:
                if row and len(row) != width:
                    return reader.line_num, len(row)
        except csv.Error:
            return None
    return None
