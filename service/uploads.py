"""Uploads: a body streamed to the scratch folder, whatever its size, in bounded memory.

Multipart (fields ``name``, ``spec``, any number of ``files``) or one raw file with ``name``,
``filename`` and ``spec`` in the query. Parsing and writing happen in a thread, a mebibyte at a time.
Whatever goes wrong (a client that leaves, a full disk, a body over the limit), the folder is deleted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import anyio.to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from contracts.errors import BadRequest, InvalidInput, StoreFull, TooLarge, UnsupportedMedia
from service.bodies import check_length, media_type, parse_json
from service.settings import GatewaySettings
from store.blobs import disk_full
from store.datasets import UploadedFile

CHUNK_BYTES = 1 << 20
MOST_FIELD_BYTES = 1 << 20
MOST_HEADER_BYTES = 16 << 10
MOST_FILES = 64
FIELDS = ("name", "spec")
FORM = "multipart/form-data"
NOT_FILES = ("application/x-www-form-urlencoded", "application/json")


@dataclass
class Upload:
    """What came: files in the scratch folder and the fields beside them."""

    folder: Path
    files: list[UploadedFile] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    size: int = 0

    @property
    def name(self) -> str:
        name = self.fields.get("name")
        if not name:
            raise InvalidInput("`name` is missing: send it as a field of the form, or in the query of a raw body")
        return name

    @property
    def spec(self) -> dict[str, Any]:
        """Overrides of the inferred spec; `{}` where none came."""
        text = self.fields.get("spec")
        if not text:
            return {}
        spec = parse_json(text.encode())
        if not isinstance(spec, dict):
            raise InvalidInput('`spec` must be a JSON object, say {"columns": [{"name": "y", "role": "label"}]}')
        return spec


class _Raw:
    """A body that is one file."""

    def __init__(self, upload: Upload, filename: str) -> None:
        self._file = _create(upload, filename)

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def finish(self) -> None:
        self._file.close()

    close = finish


class _Form:
    """A multipart body; callbacks of the parser, which keeps nothing itself."""

    def __init__(self, upload: Upload, boundary: bytes) -> None:
        self._upload = upload
        self._headers: dict[str, bytes] = {}
        self._header, self._value = bytearray(), bytearray()
        self._field: str | None = None
        self._text = bytearray()
        self._file: IO[bytes] | None = None
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        self._parser.write(data)

    def finish(self) -> None:
        self._parser.finalize()
        if not self._ended:
            raise BadRequest("the form ends before its last boundary: the upload was cut off, send it again")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._headers = {}

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._bound_header()

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound_header()

    def _bound_header(self) -> None:
        if len(self._header) + len(self._value) > MOST_HEADER_BYTES or len(self._headers) > 32:
            raise BadRequest("a part of the form has headers that are too long")

    def _header_end(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get("content-disposition", b""))
        name = options.get(b"name", b"").decode(errors="replace")
        if disposition != b"form-data" or not name:
            raise BadRequest("a part of the form has no name")
        filename = options.get(b"filename")
        if filename is None:
            if name not in FIELDS:
                raise InvalidInput(f"the form has an unknown field {name[:100]!r}; fields are name, spec and files")
            self._field = name
        elif name not in ("files", "file"):
            raise InvalidInput(f"files of the form are called `files`, not {name[:100]!r}")
        else:
            self._file = _create(self._upload, filename.decode(errors="replace"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MOST_FIELD_BYTES:
            raise TooLarge(f"the field {self._field} is over {MOST_FIELD_BYTES} bytes; send data as `files`")

    def _part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._field is not None:
            try:
                self._upload.fields[self._field] = self._text.decode()
            except UnicodeDecodeError:
                raise BadRequest(f"the field {self._field} is not UTF-8") from None
            self._text.clear()
            self._field = None

    def _end(self) -> None:
        self._ended = True


@asynccontextmanager
async def receive(request: Request, settings: GatewaySettings, *, limit: int) -> AsyncIterator[Upload]:
    """Stream the body of ``request`` to disk and yield it; everything is deleted when the block ends.

    Raises TooLarge (by Content-Length before a byte is read), BadRequest for a broken form, StoreFull.
    """
    if request.headers.get("content-encoding", "identity") not in ("", "identity"):
        raise UnsupportedMedia("uploads are not read with a Content-Encoding; send the file as it is (.gz files too)")
    announced = check_length(request, limit, _too_large(limit))
    folder = settings.scratch / "uploads" / f"{os.getpid()}-{uuid.uuid4().hex}"
    upload = Upload(folder)
    try:
        with _translated():
            await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True))
            sink = _sink(request, upload)
            try:
                await _drain(request, sink, upload, limit)
                if announced is not None and upload.size != announced:
                    raise BadRequest(f"{upload.size} bytes came, and {announced} were announced; send it again")
                await anyio.to_thread.run_sync(sink.finish)
            finally:
                sink.close()
        yield upload
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _drain(request: Request, sink: _Raw | _Form, upload: Upload, limit: int) -> None:
    waiting = bytearray()
    async for chunk in request.stream():
        upload.size += len(chunk)
        if upload.size > limit:
            raise _too_large(limit)
        waiting += chunk
        if len(waiting) >= CHUNK_BYTES:
            await anyio.to_thread.run_sync(sink.write, bytes(waiting))
            waiting.clear()
    if waiting:
        await anyio.to_thread.run_sync(sink.write, bytes(waiting))


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the upload is over the limit of {limit} bytes")


def _sink(request: Request, upload: Upload) -> _Raw | _Form:
    media = media_type(request)
    if media == FORM:
        _, options = parse_options_header(request.headers["content-type"])
        boundary = options.get(b"boundary")
        if not boundary:
            raise BadRequest("the form has no boundary in its Content-Type")
        return _Form(upload, boundary)
    if "content-type" in request.headers and media in NOT_FILES:
        raise UnsupportedMedia(f"an upload is {FORM} or the file itself as application/octet-stream, not {media}")
    for name in FIELDS:
        if name in request.query_params:
            upload.fields[name] = request.query_params[name]
    return _Raw(upload, request.query_params.get("filename") or upload.fields.get("name") or "upload")


def _create(upload: Upload, filename: str) -> IO[bytes]:
    """A file whose place on disk owes nothing to the name that the client gave it."""
    if len(upload.files) >= MOST_FILES:
        raise InvalidInput(f"an upload has at most {MOST_FILES} files; put more into a ZIP or TAR")
    name = PurePosixPath(filename.replace("\\", "/")).name[:200]
    path = upload.folder / str(len(upload.files))
    upload.files.append(UploadedFile(name or "upload", path))
    return path.open("wb")


class _translated(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a statement
    """Errors of the parser and of the disk as errors of our tree."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FormParserError):
            raise BadRequest(f"the form cannot be read: {error}") from None
        if isinstance(error, OSError) and disk_full(error):
            raise StoreFull("the disk is full; nothing of the upload was kept. Delete datasets or add space") from None
