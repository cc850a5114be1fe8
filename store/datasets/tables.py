"""Tables: columns by name from any format, understood in one pass and encoded in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from contracts.data import Column, ColumnType, DataSpec, Role
from contracts.errors import InvalidInput
from store.datasets.columns import ColumnScan
from store.datasets.content import Chunk, Content
from store.datasets.encoding import Encoder
from store.datasets.overrides import Overrides

MOST_COLUMNS = 20_000
SplitBy = Literal["hash", "column", "given", "tail"]


class TableSource(Protocol):
    """A format's columns; ``batches`` may be called again and starts from the first row."""

    names: list[str]
    textual: bool
    """Cells are text whose types are to be found out."""
    roles: dict[str, Role]
    """Roles that the format itself gives."""
    split_by: SplitBy

    def batches(self) -> Iterator[tuple[Any, int]]:
        """Arrow record batches, each with the part code that its file says (`splits.OPEN`: none)."""
        ...


def understand(source: TableSource, overrides: Overrides) -> Content:
    """Look every cell over and decide columns, roles and modality."""
    _check_columns(source.names, overrides)
    names = [name for name in source.names if name not in overrides.drop]
    if not names:
        raise InvalidInput("every column is dropped")
    scans = {name: ColumnScan(name, textual=source.textual) for name in names}
    rows = 0
    for batch, _ in source.batches():
        rows += batch.num_rows
        for name, scan in scans.items():
            scan.add(batch.column(name))
    if rows == 0:
        raise InvalidInput("the upload has no rows")
    roles = _roles(scans, source, overrides)
    columns = [scan.column(overrides.column(name), roles[name], rows) for name, scan in scans.items()]
    text = _text_column(columns, overrides)
    if text is not None:
        columns = [column for column in columns if column is text or column.role is not Role.FEATURE]
    else:
        columns = _place_texts(columns, scans, rows)
    by: SplitBy = "column" if any(column.role is Role.SPLIT for column in columns) else source.split_by
    try:
        spec = DataSpec(
            modality="table" if text is None else "text", columns=tuple(columns), split=overrides.split.rule(by)
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"the columns make no data set: {reason}") from error
    return TableContent(source, spec)


class TableContent:
    """Rows of a table (or of a text column with its labels and ids), encoded."""

    def __init__(self, source: TableSource, spec: DataSpec) -> None:
        self._source = source
        self.spec = spec

    def chunks(self) -> Iterator[Chunk]:
        by_role = {role: [Encoder(c) for c in self.spec.columns if c.role is role] for role in Role}
        start = 0
        for batch, part in self._source.batches():
            yield self._chunk(batch, part, start, by_role)
            start += batch.num_rows

    def _chunk(self, batch: Any, part: int, start: int, by_role: dict[Role, list[Encoder]]) -> Chunk:
        features = by_role[Role.FEATURE]
        text = self.spec.modality == "text"

        def cells(role: Role) -> tuple[Encoder, Any] | None:
            encoders = by_role[role]
            return (encoders[0], batch.column(encoders[0].column.name)) if encoders else None

        label, caption, identity, split = map(cells, (Role.LABEL, Role.CAPTION, Role.ID, Role.SPLIT))
        parts = np.full(batch.num_rows, part, dtype=np.uint8)
        if split is not None:
            parts = split[0].parts(split[1], start)
        return Chunk(
            x=None if text else self._numbers(batch, features, start),
            texts=features[0].strings(batch.column(features[0].column.name)) if text else None,
            y=None if label is None else label[0].codes(label[1], start),
            captions=None if caption is None else caption[0].strings(caption[1]),
            ids=None if identity is None else identity[0].strings(identity[1]),
            parts=parts,
        )

    @staticmethod
    def _numbers(batch: Any, features: list[Encoder], start: int) -> NDArray[np.float64]:
        x = np.empty((batch.num_rows, len(features)))
        for index, encoder in enumerate(features):
            x[:, index] = encoder.numbers(batch.column(encoder.column.name), start)
        return x


def _check_columns(names: list[str], overrides: Overrides) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    if twice:
        raise InvalidInput(f"two columns are named {twice[0]!r}; every column needs a name of its own")
    long = next((name for name in names if not 1 <= len(name) <= 200), None)
    if long is not None:
        raise InvalidInput(f"the column name {long[:50]!r}… has {len(long)} characters; at most 200 are allowed")
    if len(names) > MOST_COLUMNS:
        raise InvalidInput(f"the table has {len(names)} columns; at most {MOST_COLUMNS} are allowed")
    overrides.check_names(names)


def _roles(scans: dict[str, ColumnScan], source: TableSource, overrides: Overrides) -> dict[str, Role]:
    """Said by the user, else by the format, else by the name; roles that only one column may have go to the first."""
    roles = {name: role for name in scans if (role := overrides.column(name).role) is not None}
    suggestions: tuple[Callable[[str], Role | None], ...] = (source.roles.get, lambda name: scans[name].role())
    for suggest in suggestions:
        for name in scans:
            role = suggest(name)
            unique = role in (Role.LABEL, Role.CAPTION, Role.SPLIT)
            if name not in roles and role is not None and not (unique and role in roles.values()):
                roles[name] = role
    return {name: roles.get(name, Role.FEATURE) for name in scans}


def _text_column(columns: list[Column], overrides: Overrides) -> Column | None:
    """The column of documents, where the upload is text; None for a table."""
    if overrides.modality == "table":
        return None
    texts = [column for column in columns if column.role is Role.FEATURE and column.type is ColumnType.TEXT]
    features = [column for column in columns if column.role is Role.FEATURE]
    named = next((column for column in texts if column.name.lower() == "text"), None)
    if overrides.modality == "text":
        if not texts:
            raise InvalidInput("modality is `text`, but no column holds text; give one the type `text`")
        return named or texts[0]
    if named is not None:
        return named
    return texts[0] if len(texts) == 1 == len(features) else None


def _place_texts(columns: list[Column], scans: dict[str, ColumnScan], rows: int) -> list[Column]:
    """Free text is no feature of a table: one column becomes the id, one the caption, more are refused."""
    taken = {column.role for column in columns}
    placed = []
    for column in columns:
        if column.role is Role.FEATURE and column.type is ColumnType.TEXT:
            distinct = scans[column.name].distinct
            role = Role.ID if (distinct is None or distinct == rows) and Role.ID not in taken else Role.CAPTION
            if role in taken:
                raise InvalidInput(
                    f"column {column.name!r} is free text, which is no feature of a table; drop it by drop: "
                    f"[{column.name!r}], or give it the type `categorical`"
                )
            taken.add(role)
            column = column.model_copy(update={"role": role})
        placed.append(column)
    return placed
