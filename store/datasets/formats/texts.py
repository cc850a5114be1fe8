"""TXT: one text, whose lines are the rows (with their line ends, so that joining them gives the text back).

The text is split by its tail: the last tenth of its characters is `test`, the tenth before is `valid`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from contracts.data import Column, ColumnType, DataSpec
from contracts.errors import InvalidInput
from store.datasets.content import CHUNK_ROWS, Chunk, Content
from store.datasets.overrides import Overrides

BLOCK_BYTES = 1 << 20
LONGEST_ROW = 1 << 16  # characters; longer lines are cut into rows


def understand_lines(path: Path, overrides: Overrides) -> Content:
    """One UTF-8 text as rows; InvalidInput where it is none."""
    if overrides.modality == "table":
        raise InvalidInput("a plain text is no table; upload it as CSV (with the ending .csv)")
    overrides.check_names(["text"])
    spec = DataSpec(
        modality="text",
        columns=(Column(name="text", type=ColumnType.TEXT),),
        split=overrides.split.rule("tail"),
    )
    return Lines(path, spec)


class Lines:
    """The lines of a text."""

    def __init__(self, path: Path, spec: DataSpec) -> None:
        self._path, self.spec = path, spec

    def chunks(self) -> Iterator[Chunk]:
        rows: list[str] = []
        for line in self._lines():
            rows.append(line)
            if len(rows) == CHUNK_ROWS:
                yield Chunk(texts=rows)
                rows = []
        if rows:
            yield Chunk(texts=rows)

    def _lines(self) -> Iterator[str]:
        rest = ""
        for text in self._blocks():
            lines = (rest + text).splitlines(keepends=True)
            rest = lines.pop() if lines else ""
            for line in lines:
                yield from _cut(line)
            if len(rest) > LONGEST_ROW:
                whole = len(rest) // LONGEST_ROW * LONGEST_ROW
                yield from _cut(rest[:whole])
                rest = rest[whole:]
        if rest:
            yield from _cut(rest)

    def _blocks(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        read = 0
        try:
            with self._path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    if b"\0" in block:
                        raise InvalidInput("the file holds NUL bytes and is no text")
                    yield decoder.decode(block)
                    read += len(block)
                yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"the file is not UTF-8 text (near byte {max(0, read + error.start)}); save it as UTF-8"
            ) from error


def _cut(line: str) -> Iterator[str]:
    for start in range(0, len(line), LONGEST_ROW):
        yield line[start : start + LONGEST_ROW]
