"""ZIP and TAR: members are streamed one by one and never written under names of the archive's choosing.

Refused: absolute names, ``..``, links, devices, encrypted members, and whatever expands beyond the limits
(counted while it expands; headers are not believed).
"""

from __future__ import annotations

import errno
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from contracts.errors import BadRequest, InvalidInput, TooLarge, UnsupportedMedia
from store.datasets.content import Content
from store.datasets.overrides import Overrides
from store.datasets.uploads import CHUNK_BYTES, READ_FORMATS, Format, Piece
from store.settings import StoreSettings

LARGEST_MEMBER_BYTES = 64 << 20  # members are decoded in memory
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError,
    ValueError, OverflowError, KeyError, IndexError,
)  # fmt: skip


class Members:
    """The plain files of an archive; each iteration reads it again from the start."""

    def __init__(self, pieces: Sequence[Piece], settings: StoreSettings) -> None:
        self._pieces = pieces
        self._settings = settings

    def names(self) -> list[str]:
        """Names of the plain files, in the archive's order."""
        return [name for name, _ in self._walk()]

    def read(self, wanted: set[str] | None = None) -> Iterator[tuple[str, bytes]]:
        """``(name, bytes)`` of the wanted members (None: all)."""
        for name, opened in self._walk():
            if wanted is None or name in wanted:
                yield name, self._whole(name, opened)

    def _whole(self, name: str, opened: _Opened) -> bytes:
        parts, size = [], 0
        with _damage_named(name), opened.stream() as stream:
            while chunk := stream.read(CHUNK_BYTES):
                opened.count(len(chunk))
                size += len(chunk)
                if size > LARGEST_MEMBER_BYTES:
                    raise TooLarge(f"{name} is over {LARGEST_MEMBER_BYTES} bytes; upload smaller pictures")
                parts.append(chunk)
        return b"".join(parts)

    def _walk(self) -> Iterator[tuple[str, _Opened]]:
        piece = self._pieces[0]
        piece.expansion.restart()
        with _damage_named(piece.name):
            if piece.format is Format.IMAGE:
                for each in self._pieces:
                    yield each.name, _Opened(each, None)
            elif piece.format is Format.TAR:
                yield from self._tar(piece)
            else:
                yield from self._zip(piece)

    def _zip(self, piece: Piece) -> Iterator[tuple[str, _Opened]]:
        with zipfile.ZipFile(piece.path) as archive:
            entries = archive.infolist()
            if len(entries) > self._settings.max_archive_members:
                raise TooLarge(f"the archive holds {len(entries)} files; at most {self._settings.max_archive_members}")
            for entry in entries:
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise BadRequest(
                        f"the archive holds {entry.filename[:200]!r}, a link or device; only files are taken"
                    )
                # ZipFile turns backslashes and cuts at NUL on reading; judge the name as it was written.
                check_name(entry.orig_filename)
                if entry.flag_bits & 0x1:
                    raise InvalidInput("the archive is encrypted; upload it without a password")
                if not entry.is_dir():
                    yield entry.filename, _Opened(piece, (archive, entry))

    def _tar(self, piece: Piece) -> Iterator[tuple[str, _Opened]]:
        count = 0
        with tarfile.open(piece.path, "r:") as archive:
            for entry in archive:
                count += 1
                if count > self._settings.max_archive_members:
                    raise TooLarge(f"the archive holds over {self._settings.max_archive_members} files")
                check_name(entry.name)
                if not (entry.isreg() or entry.isdir()) or entry.sparse is not None:
                    raise _no_file(entry.name)
                if entry.isreg():
                    yield entry.name.removeprefix("./"), _Opened(piece, (archive, entry))
            end = archive.offset
        with piece.path.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise InvalidInput(f"{piece.name} is cut short: its end mark is missing; upload it again")


class _Opened:
    """A member that can be read."""

    def __init__(
        self,
        piece: Piece,
        entry: tuple[zipfile.ZipFile, zipfile.ZipInfo] | tuple[tarfile.TarFile, tarfile.TarInfo] | None,
    ) -> None:
        self._piece, self._entry = piece, entry

    def stream(self) -> IO[bytes]:
        if self._entry is None:
            return self._piece.path.open("rb")
        archive, entry = self._entry
        if isinstance(archive, zipfile.ZipFile):
            assert isinstance(entry, zipfile.ZipInfo)
            return archive.open(entry)
        assert isinstance(entry, tarfile.TarInfo)
        opened = archive.extractfile(entry)
        assert opened is not None
        return opened

    def count(self, size: int) -> None:
        # What a tar or a picture holds is no expansion of it; gzip around them was counted before.
        if self._entry is not None and isinstance(self._entry[0], zipfile.ZipFile):
            self._piece.expansion.count(size)


def _no_file(name: str) -> BadRequest:
    return BadRequest(f"the archive holds {name[:200]!r}, a link or device; only plain files are taken")


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """Whatever the archive libraries raise on damaged bytes, as one error of ours."""
    try:
        yield
    except _DAMAGED as error:
        raise InvalidInput(f"{name} is damaged or cut short ({error}); upload it again") from error
    except OSError as error:
        # A directory that points before the file's beginning; other failures of the disk are not the archive's.
        if error.errno != errno.EINVAL:
            raise
        raise InvalidInput(f"{name} is damaged: it points outside of itself; upload it again") from error


def check_name(name: str) -> None:
    """BadRequest for a member's name that leads out of the archive."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name) or "\0" in name:
        raise BadRequest(f"the archive holds {name[:200]!r}, a path that leads out of it; pack it with relative paths")


def unpack_npz(piece: Piece, folder: Path) -> dict[str, Path]:
    """Unpack the arrays of an NPZ archive to numbered files; answers array name → file."""
    folder.mkdir()
    files: dict[str, Path] = {}
    piece.expansion.restart()
    try:
        with zipfile.ZipFile(piece.path) as archive:
            for entry in archive.infolist():
                check_name(entry.orig_filename)
                if entry.flag_bits & 0x1 or not entry.filename.endswith(".npy"):
                    raise UnsupportedMedia(
                        f"{piece.name} holds {entry.filename[:100]!r}; an NPZ file holds plain arrays only"
                    )
                path = folder / f"{len(files)}.npy"
                with archive.open(entry) as stream, path.open("wb") as file:
                    piece.expansion.copy(stream, file)
                files[entry.filename.removesuffix(".npy")] = path
    except _DAMAGED as error:
        raise InvalidInput(f"{piece.name} is damaged or cut short ({error}); upload it again") from error
    if not files:
        raise InvalidInput(f"{piece.name} holds no arrays")
    return files


def understand_pictures(
    pieces: Sequence[Piece], overrides: Overrides, scratch: Path, settings: StoreSettings
) -> Content:
    """Pictures of an archive (or single ones); a ZIP that is an NPZ by its members is read as one."""
    from store.datasets.formats import numpy_files
    from store.datasets.named_arrays import understand_groups
    from store.datasets.pictures import PICTURE_SUFFIXES, understand_members

    members = Members(pieces, settings)
    names = members.names()
    if any(name.lower().endswith(PICTURE_SUFFIXES) for name in names):
        return understand_members(members, names, overrides, settings)
    if pieces[0].format is Format.ZIP and names and all(name.endswith(".npy") for name in names):
        return understand_groups(
            numpy_files.group_npz(unpack_npz(pieces[0], scratch / "npz"), wanted=overrides.named()), overrides
        )
    raise UnsupportedMedia(f"the archive holds no PNG or JPEG pictures; upload {READ_FORMATS}")
