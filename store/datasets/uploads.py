"""Uploaded files: what each one is, by its first bytes before its name, and how much it may expand to."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from contracts.errors import InvalidInput, TooLarge, UnsupportedMedia
from store.settings import StoreSettings

READERS_VERSION = 1  # raised when the same bytes come to mean other rows; part of every digest
CHUNK_BYTES = 1 << 20
ALLOWED_BYTES = 1 << 20  # small uploads may expand by any ratio to this size


class Format(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"
    NPY = "npy"
    NPZ = "npz"
    IDX = "idx"
    ZIP = "zip"
    TAR = "tar"
    TEXT = "text"
    JSONL = "jsonl"
    IMAGE = "image"


READ_FORMATS = "CSV, Parquet, NPY, NPZ, IDX, ZIP or TAR of PNG/JPEG, TXT and JSONL (each may be gzipped)"

_BY_SUFFIX = {
    ".csv": Format.CSV, ".tsv": Format.CSV, ".tab": Format.CSV, ".data": Format.CSV,
    ".txt": Format.TEXT, ".text": Format.TEXT, ".md": Format.TEXT,
    ".jsonl": Format.JSONL, ".ndjson": Format.JSONL,
}  # fmt: skip
_BINARY_SUFFIXES = {
    ".parquet": Format.PARQUET, ".npy": Format.NPY, ".npz": Format.NPZ, ".zip": Format.ZIP, ".tar": Format.TAR,
    ".idx": Format.IDX, ".png": Format.IMAGE, ".jpg": Format.IMAGE, ".jpeg": Format.IMAGE,
}  # fmt: skip


@dataclass(frozen=True)
class UploadedFile:
    """A file as the user named it, and where its bytes are now."""

    filename: str
    path: Path


@dataclass(frozen=True)
class Piece:
    """An uncompressed file of a known format; ``name`` has no folder and no ``.gz``."""

    name: str
    path: Path
    format: Format
    expansion: Expansion


class SupportsRead(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Expansion:
    """Counts what comes out of compressed bytes, and stops bombs while they expand, whatever headers say."""

    def __init__(self, settings: StoreSettings, compressed_bytes: int) -> None:
        self._ratio = settings.max_expansion_ratio
        self._limit = min(
            settings.max_expanded_bytes, max(ALLOWED_BYTES, int(settings.max_expansion_ratio * compressed_bytes))
        )
        self._total = 0

    def count(self, expanded_bytes: int) -> None:
        """Add bytes; TooLarge once they are over the limits."""
        self._total += expanded_bytes
        if self._total > self._limit:
            raise TooLarge(
                f"the upload expands to more than {self._limit} bytes (at most {self._ratio:g} times its size); "
                "upload less, or uncompressed files"
            )

    def restart(self) -> None:
        """Begin to count again, for another pass over the same bytes."""
        self._total = 0

    def copy(self, source: SupportsRead, target: IO[bytes]) -> None:
        """Copy a decompressing stream, counting."""
        while chunk := source.read(CHUNK_BYTES):
            self.count(len(chunk))
            target.write(chunk)


def prepare(files: Sequence[UploadedFile], scratch: Path, settings: StoreSettings) -> list[Piece]:
    """Check sizes, unpack gzip and find each file's format.

    Raises InvalidInput for an empty or damaged file, TooLarge over the limits, UnsupportedMedia for what is not read.
    """
    if not files:
        raise InvalidInput("the upload holds no file")
    total = sum(file.path.stat().st_size for file in files)
    if total > settings.max_upload_bytes:
        raise TooLarge(f"the upload has {total} bytes; at most {settings.max_upload_bytes} are allowed")
    return [_piece(file, scratch / f"{index}", settings) for index, file in enumerate(files)]


def _piece(file: UploadedFile, unpacked: Path, settings: StoreSettings) -> Piece:
    name = PurePosixPath(file.filename.replace("\\", "/")).name
    size = file.path.stat().st_size
    if size == 0:
        raise InvalidInput(f"{name or 'the file'} is empty")
    expansion = Expansion(settings, size)
    path = file.path
    with path.open("rb") as opened:
        compressed = opened.read(2) == b"\x1f\x8b"
    if compressed:
        name = name[:-3] if name.lower().endswith(".gz") else name
        name = name[:-4] + ".tar" if name.lower().endswith(".tgz") else name
        _gunzip(path, unpacked, name, expansion)
        path = unpacked
        if path.stat().st_size == 0:
            raise InvalidInput(f"{name or 'the file'} is empty")
    return Piece(name=name, path=path, format=_sniff(path, name), expansion=expansion)


def _gunzip(source: Path, target: Path, name: str, expansion: Expansion) -> None:
    try:
        with gzip.open(source) as compressed, target.open("wb") as file:
            expansion.copy(compressed, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInput(f"{name} is damaged or cut short ({error}); upload it again") from error


def _sniff(path: Path, name: str) -> Format:
    with path.open("rb") as file:
        head = file.read(4096)
    suffix = PurePosixPath(name).suffix.lower()
    found = _by_magic(head, suffix)
    if found is not None:
        return found
    if suffix in _BINARY_SUFFIXES:
        raise InvalidInput(f"{name} is named as {_BINARY_SUFFIXES[suffix]} but does not begin like one; is it damaged?")
    if b"\0" in head or (suffix and suffix not in _BY_SUFFIX and not suffix[1:].isdigit()):
        raise UnsupportedMedia(f"{name or 'the file'} is in no format that is read here; upload {READ_FORMATS}")
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    return _sniff_text(head, name)


def _by_magic(head: bytes, suffix: str) -> Format | None:
    if head.startswith(b"\x93NUMPY"):
        return Format.NPY
    if head.startswith(b"PAR1"):
        return Format.PARQUET
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Format.NPZ if suffix == ".npz" else Format.ZIP
    if head[257:262] == b"ustar":
        return Format.TAR
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return Format.IMAGE
    if head[:2] == b"\0\0" and len(head) >= 4 and head[2] in range(8, 15) and 1 <= head[3] <= 4:
        return Format.IDX
    return None


def _sniff_text(head: bytes, name: str) -> Format:
    """A text without a telling name: JSONL, CSV where the first lines have the same number of commas, else text."""
    text = head.decode("utf-8", errors="ignore").lstrip("\ufeff")
    try:
        head[:-4].decode("utf-8")  # a character may be cut at the end
    except UnicodeDecodeError as error:
        if error.start < len(head) - 8:
            raise UnsupportedMedia(
                f"{name or 'the file'} is in no format that is read here; upload {READ_FORMATS}"
            ) from error
    lines = [line for line in text.splitlines()[:20] if line.strip()]
    if lines and lines[0].lstrip().startswith(("{", '"')) and _is_json(lines[0]):
        return Format.JSONL
    whole = lines[:-1] if len(lines) > 1 else lines
    for delimiter in ",\t;":
        counts = {line.count(delimiter) for line in whole}
        if len(counts) == 1 and counts != {0}:
            return Format.CSV
    return Format.TEXT


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def digest(pieces: Sequence[tuple[Piece, Path]], overrides: dict[str, Any]) -> str:
    """The dataset's digest: sha256 over what each file is (format, part it gives) and its bytes, and the overrides.

    The order of the files does not count, nor does a name that says nothing.
    """
    parts = []
    for piece, original in pieces:
        with original.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        parts.append([str(piece.format), _telling(piece), content])
    document = {"version": READERS_VERSION, "files": sorted(parts), "overrides": overrides}
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _telling(piece: Piece) -> str:
    """What a file's name adds to its bytes."""
    from store.datasets.formats.idx import part_by_name

    if piece.format is Format.IDX:
        return str(part_by_name(piece.name))
    return piece.name if piece.format is Format.IMAGE else ""
