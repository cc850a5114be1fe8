"""Parquet: columns of a table, or a column of encoded pictures with what stands beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contracts.data import Role
from contracts.errors import InvalidInput, LatentserveError, TooLarge
from store.datasets import splits, tables
from store.datasets.columns import CAPTION_NAMES, ID_NAMES, LABEL_NAMES
from store.datasets.content import Content
from store.datasets.encoding import Encoder
from store.datasets.overrides import Overrides
from store.datasets.uploads import Piece
from store.settings import StoreSettings

BATCH_ROWS = 4096
BATCH_CELLS = 1 << 22
BUFFER_BYTES = 1 << 18
# Run-length and dictionary pages hold constant columns in next to nothing, so small files may grow to this.
ALLOWED_BYTES = 64 << 20
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


class ParquetSource:
    """The columns of a Parquet file, read by row groups."""

    textual = False
    split_by: tables.SplitBy = "hash"

    def __init__(self, piece: Piece, settings: StoreSettings) -> None:
        self._piece = piece
        size = piece.path.stat().st_size
        self._limit = min(settings.max_expanded_bytes, max(ALLOWED_BYTES, int(settings.max_expansion_ratio * size)))
        with self._open() as file:
            self.schema = file.schema_arrow
            self.rows = file.metadata.num_rows
        self.names: list[str] = list(self.schema.names)
        self.roles: dict[str, Role] = {}
        if not self.names or self.rows == 0:
            raise InvalidInput("the Parquet file holds no rows")

    def batches(self, columns: list[str] | None = None) -> Iterator[tuple[Any, int]]:
        expanded = 0
        step = max(1, min(BATCH_ROWS, BATCH_CELLS // len(self.names)))
        with self._open() as file:
            for batch in self._guarded(file.iter_batches(batch_size=step, columns=columns)):
                expanded += batch.nbytes
                if expanded > self._limit:
                    raise TooLarge(f"the Parquet file expands to more than {self._limit} bytes; upload less")
                yield batch, splits.OPEN

    def _open(self) -> Any:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            # A row group may be the whole file: its pages are read as they are needed, not all ahead.
            return parquet.ParquetFile(self._piece.path, pre_buffer=False, buffer_size=BUFFER_BYTES)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(error) from error

    @staticmethod
    def _guarded(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (pa.ArrowException, OSError, ValueError) as error:
                raise _damaged(error) from error
            yield batch


def understand_parquet(piece: Piece, overrides: Overrides, settings: StoreSettings) -> Content:
    """Pictures where a column holds them, else a table."""
    source = ParquetSource(piece, settings)
    picture = _picture_column(source, overrides)
    if picture is None:
        if overrides.modality == "image":
            raise InvalidInput("modality is `image`, but no column holds PNG or JPEG bytes")
        return tables.understand(source, overrides)
    from store.datasets.pictures import understand_pictures

    others = [name for name in source.names if name != picture and name not in overrides.drop]
    overrides.check_names(source.names)
    roles = {name: role for name in others if (role := overrides.column(name).role or _role(name)) is not None}
    values = _strings(source, list(roles))
    return understand_pictures(_EncodedColumn(source, picture), None, values, roles, None, overrides, settings)


class _EncodedColumn:
    """A column of picture bytes, named by row."""

    def __init__(self, source: ParquetSource, column: str) -> None:
        self._source, self._column = source, column

    def read(self, wanted: set[str] | None = None) -> Iterator[tuple[str, bytes]]:
        row = 0
        for batch, _ in self._source.batches([self._column]):
            for value in batch.column(0).to_pylist():
                data = value.get("bytes") if isinstance(value, dict) else value
                if not data:
                    raise InvalidInput(f"row {row + 1} has no picture in column {self._column!r}")
                yield f"the picture of row {row + 1}", data
                row += 1


def _picture_column(source: ParquetSource, overrides: Overrides) -> str | None:
    import pyarrow as pa

    for name, kind in zip(source.names, source.schema.types, strict=True):
        binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        struct = pa.types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        if not (binary or struct) or name in overrides.drop:
            continue
        for batch, _ in source.batches([name]):
            value = batch.column(0)[0].as_py()
            data = value.get("bytes") if isinstance(value, dict) else value
            if isinstance(data, bytes) and data.startswith(_PICTURES):
                return name
            break
    return None


def _strings(source: ParquetSource, names: list[str]) -> dict[str, list[str | None]]:
    """Columns beside the pictures as strings; lists of strings are joined."""
    from contracts.data import Column, ColumnType

    values: dict[str, list[str | None]] = {name: [] for name in names}
    if names:
        for batch, _ in source.batches(names):
            for name in names:
                encoder = Encoder(Column(name=name, type=ColumnType.TEXT, role=Role.CAPTION))
                values[name] += encoder.strings_or_null(batch.column(name)).to_pylist()
    return values


def _role(name: str) -> Role | None:
    if name.lower() in LABEL_NAMES:
        return Role.LABEL
    if name.lower() in (*CAPTION_NAMES, "text"):
        return Role.CAPTION
    if name.lower() == "split":
        return Role.SPLIT
    return Role.ID if ID_NAMES.fullmatch(name) else None


def _damaged(error: Exception) -> LatentserveError:
    first = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return InvalidInput(f"the Parquet file is damaged or cut short ({first}); upload it again")
