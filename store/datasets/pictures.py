"""Collections of PNG and JPEG pictures with what is known of each: folders, or a file of labels and captions.

Folders named train, valid and test give the parts; the folder that a picture stands in is its label,
where there are two or more such folders. A ``.csv``, ``.tsv`` or ``.jsonl`` file beside the pictures (or a
``captions.txt``, ``labels.txt``) takes precedence: one row per picture, a column of file names, and columns of
labels, captions, ids, parts.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np

from contracts.data import Role
from contracts.errors import InvalidInput
from store.datasets import splits
from store.datasets.columns import CAPTION_NAMES, ID_NAMES, LABEL_NAMES
from store.datasets.content import CHUNK_ROWS, Chunk, Content
from store.datasets.images import (
    CHUNK_PIXELS,
    companions,
    decode_picture,
    describe_columns,
    image_spec,
    picture_header,
    reshape_images,
    shape_of,
)
from store.datasets.overrides import Overrides
from store.settings import StoreSettings

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
METADATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
METADATA_TEXTS = ("captions.txt", "caption.txt", "labels.txt", "label.txt", "annotations.txt", "metadata.txt")
FILE_COLUMNS = ("file", "filename", "file_name", "filepath", "path", "image", "image_id", "name")


class PictureSource(Protocol):
    """Encoded pictures in a fixed order, each with its name."""

    def read(self, wanted: set[str] | None = None) -> Iterator[tuple[str, bytes]]: ...


class Pictures:
    """Pictures of one size, decoded chunk by chunk."""

    def __init__(
        self,
        source: PictureSource,
        wanted: set[str] | None,
        spec: Any,
        values: dict[str, list[str | None]],
        parts: np.ndarray[Any, np.dtype[np.uint8]],
        most_pixels: int,
    ) -> None:
        self._source, self._wanted, self.spec = source, wanted, spec
        self._values, self._parts, self._most_pixels = values, parts, most_pixels

    def chunks(self) -> Iterator[Chunk]:
        step = max(1, min(CHUNK_ROWS, CHUNK_PIXELS // math.prod(self.spec.image.shape)))
        block: list[Any] = []
        start = 0
        for name, data in self._source.read(self._wanted):
            block.append(self._decode(name, data))
            if len(block) == step:
                yield self._chunk(block, start)
                start, block = start + len(block), []
        if block:
            yield self._chunk(block, start)

    def _decode(self, name: str, data: bytes) -> Any:
        shape = self.spec.image
        picture = decode_picture(data, name, most_pixels=self._most_pixels, levels=shape.levels)
        picture = picture.convert("L" if shape.channels == 1 else "RGB")
        pixels = np.asarray(picture).reshape(1, picture.size[1], picture.size[0], shape.channels)
        pixels = reshape_images(pixels, shape)[0]
        if pixels.max() >= shape.levels:
            raise InvalidInput(f"{name} has a pixel of {pixels.max()}, over the {shape.levels} levels declared")
        return pixels

    def _chunk(self, block: list[Any], start: int) -> Chunk:
        import pyarrow as pa

        rows = slice(start, start + len(block))
        values = {name: pa.array(each[rows], pa.string()) for name, each in self._values.items()}
        fields = companions(self.spec, values, start, len(block), splits.OPEN)
        if not any(column.role is Role.SPLIT for column in self.spec.columns):
            fields["parts"] = self._parts[rows]
        return Chunk(x=np.stack(block), **fields)


def understand_members(
    members: PictureSource, names: list[str], overrides: Overrides, settings: StoreSettings
) -> Content:
    """The pictures of an archive with what its folders or its metadata file say."""
    visible = [name for name in names if not _hidden(name)]
    pictures = [name for name in visible if name.lower().endswith(PICTURE_SUFFIXES)]
    metadata = [name for name in visible if _describes(name.lower())]
    if len(metadata) > 1:
        raise InvalidInput(f"the archive holds several files of labels: {', '.join(metadata[:5])}; keep one")
    if len(set(pictures)) != len(pictures):
        raise InvalidInput("the archive holds two pictures of one name")
    folders, parts = _folders(pictures)
    values: Mapping[str, Sequence[str | None]] = {}
    roles: dict[str, Role] = {}
    if metadata:
        (text,) = (data for _, data in members.read({metadata[0]}))
        values, roles = _metadata(metadata[0], text, pictures)
    elif len(set(folders)) > 1 and "" not in folders:
        values, roles = {"label": folders}, {"label": Role.LABEL}
    return understand_pictures(members, set(pictures), values, roles, parts, overrides, settings)


def understand_pictures(
    source: PictureSource,
    wanted: set[str] | None,
    values: Mapping[str, Sequence[str | None]],
    roles: dict[str, Role],
    parts: list[int] | None,
    overrides: Overrides,
    settings: StoreSettings,
) -> Content:
    """Look every picture's size over, and the columns beside them."""
    import pyarrow as pa

    most = settings.max_image_pixels
    height, width, colour = _common_size(source.read(wanted), overrides, most)
    channels = overrides.image.channels or (3 if colour else 1)
    shape = shape_of(height, width, channels, overrides.image.levels or 256)
    columns = {name: [pa.array(each, pa.string())] for name, each in values.items()}
    rows = len(next(iter(values.values()))) if values else 0
    described = describe_columns(columns, roles, overrides, rows)
    given = np.array(parts if parts is not None else [], dtype=np.uint8)
    by: Any = "given" if len(given) and (given != splits.OPEN).any() else "hash"
    spec = image_spec(shape, described, overrides, by)
    kept = {name: list(each) for name, each in values.items()}
    return Pictures(source, wanted, spec, kept, given, most)


def _common_size(pictures: Iterable[tuple[str, bytes]], overrides: Overrides, most: int) -> tuple[int, int, bool]:
    """The declared size, else the one size that all have; and whether any has colour."""
    said = overrides.image
    common: tuple[int, int] | None = None
    first_name = ""
    colour = False
    for name, data in pictures:
        height, width, coloured = picture_header(data, name, most_pixels=most)
        colour = colour or coloured
        if common is None:
            common, first_name = (height, width), name
        if (height, width) != common and (said.height is None or said.width is None):
            raise InvalidInput(
                f"{first_name} has {common[0]}×{common[1]} pixels (height × width) and {name} {height}×{width}; "
                "bring all to one size by overrides: image: {height, width}"
            )
    if common is None:
        raise InvalidInput("the upload holds no pictures")
    return said.height or common[0], said.width or common[1], colour


def _describes(name: str) -> bool:
    """Whether a file holds labels or captions; other texts (a licence, a read-me) only stand beside the pictures."""
    return name.endswith(METADATA_SUFFIXES) or PurePosixPath(name).name in METADATA_TEXTS


def _hidden(name: str) -> bool:
    """Files that operating systems put into archives."""
    return any(segment.startswith(".") or segment == "__MACOSX" for segment in name.split("/"))


def _folders(pictures: list[str]) -> tuple[list[str], list[int]]:
    """Each picture's innermost folder ("" where it stands in none) and its part code by a folder's name."""
    folders, parts = [], []
    for name in pictures:
        segments = list(PurePosixPath(name).parts[:-1])
        named = [index for index, segment in enumerate(segments) if splits.part_code(segment) is not None]
        code = splits.OPEN
        if named:
            code = splits.part_code(segments.pop(named[0])) or splits.TRAIN
        folders.append(segments[-1] if segments else "")
        parts.append(code)
    return folders, parts


def _metadata(name: str, data: bytes, pictures: list[str]) -> tuple[dict[str, list[str | None]], dict[str, Role]]:
    """Columns in the order of the pictures, and the roles that their names suggest."""
    header, rows = _json_rows(name, data) if name.endswith(("l", "json")) else _csv_rows(name, data)
    file_column = next((column for column in header if column.lower() in FILE_COLUMNS), header[0])
    by_name: dict[str, dict[str, str | None]] = {}
    for row in rows:
        key = row.get(file_column)
        if key is None:
            raise InvalidInput(f"{name} has a row without a file name in column {file_column!r}")
        if key in by_name:
            raise InvalidInput(f"{name} describes {key!r} twice")
        by_name[key] = row
    base = PurePosixPath(name).parent
    found = []
    for picture in pictures:
        path = PurePosixPath(picture)
        keys = [picture, path.name, path.stem]
        if path.is_relative_to(base):
            keys.insert(1, str(path.relative_to(base)))
        match = next((by_name[key] for key in keys if key in by_name), None)
        if match is None:
            raise InvalidInput(f"{name} says nothing of the picture {picture!r}; add a row for it")
        found.append(match)
    others = [column for column in header if column != file_column]
    values = {column: [row.get(column) for row in found] for column in others}
    return values, {column: role for column in others if (role := _role(column, values[column], others)) is not None}


def _role(column: str, values: list[str | None], others: list[str]) -> Role | None:
    name = column.lower()
    if name in LABEL_NAMES or name in ("category", "target", "y"):
        return Role.LABEL
    if name in CAPTION_NAMES or name in ("text", "description", "title"):
        return Role.CAPTION
    if name == "split":
        return Role.SPLIT
    if ID_NAMES.fullmatch(column):
        return Role.ID
    if len(others) == 1:  # one column whose name says nothing: few different values are labels
        return Role.LABEL if len(set(values)) <= max(2, len(values) // 2) else Role.CAPTION
    return None


def _csv_rows(name: str, data: bytes) -> tuple[list[str], list[dict[str, str | None]]]:
    text = _decoded(name, data)
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = "\t" if "\t" in first else max(",;|", key=first.count)  # captions may have many commas
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except csv.Error as error:
        raise InvalidInput(f"{name} is no CSV: {error}") from error
    if not rows:
        raise InvalidInput(f"{name} is empty")
    header = rows[0]
    if header[0].lower().endswith(PICTURE_SUFFIXES):  # no header
        header = ["file", *(f"column{index}" for index in range(1, len(rows[0])))]
    else:
        rows = rows[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InvalidInput(f"row {number} of {name} has {len(row)} cells instead of {len(header)}")
    return header, [{column: cell.strip() or None for column, cell in zip(header, row, strict=True)} for row in rows]


def _json_rows(name: str, data: bytes) -> tuple[list[str], list[dict[str, str | None]]]:
    from store.datasets.formats.json_lines import parse_line, text_of

    header: dict[str, None] = {}
    rows = []
    for number, line in enumerate(_decoded(name, data).splitlines(), start=1):
        if line.strip():
            values = parse_line(line, number)
            header.update(dict.fromkeys(values))
            rows.append({key: text_of(value, key, number) for key, value in values.items()})
    if not rows:
        raise InvalidInput(f"{name} is empty")
    return list(header), rows


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} is not UTF-8 text; save it as UTF-8") from error
