"""A verb's request as a form: pictures as files, every other field as text.

``curl -F model=digits -F inputs=@digit.png -F mask=@mask.png …/predict``; files under one name are a row each.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from contracts.errors import BadRequest, UnsupportedMedia

FORM = "multipart/form-data"
PICTURES = ("image/png", "image/jpeg")
MOST_PARTS = 1000
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


@dataclass
class _Part:
    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)


def parse_form(body: bytes, content_type: str) -> dict[str, Any]:
    """Read a form: text by name, files as lists of ``{"image": base64}``.

    Raises BadRequest where it is no whole form, UnsupportedMedia where a file is no picture.
    """
    fields: dict[str, Any] = {}
    for part in _parts(body, content_type):
        name, filename = _names(part)
        data = bytes(part.data)
        if filename is None and not data.startswith(_SIGNATURES):
            try:
                fields[name] = data.decode()
            except UnicodeDecodeError:
                raise BadRequest(f"the field {name!r} of the form is not UTF-8") from None
            continue
        if not data.startswith(_SIGNATURES):
            raise UnsupportedMedia(f"the file {name!r} of the form is no PNG or JPEG; send other rows as JSON or raw")
        fields.setdefault(name, [])
        if not isinstance(fields[name], list):
            raise BadRequest(f"the form holds {name!r} as text and as a file")
        fields[name].append({"image": base64.b64encode(data).decode()})
    return fields


def _parts(body: bytes, content_type: str) -> list[_Part]:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind.decode("latin-1").lower() != FORM or not boundary:
        raise BadRequest(f"Content-Type {FORM} needs a boundary")
    parts: list[_Part] = []
    header: list[bytearray] = []
    ended: list[bool] = []

    def begin() -> None:
        if len(parts) >= MOST_PARTS:
            raise BadRequest(f"the form has more than {MOST_PARTS} parts")
        parts.append(_Part())

    def name(data: bytes, start: int, end: int) -> None:
        header[0].extend(data[start:end])

    def value(data: bytes, start: int, end: int) -> None:
        header[1].extend(data[start:end])

    def header_begin() -> None:
        header[:] = [bytearray(), bytearray()]

    def header_end() -> None:
        parts[-1].headers[header[0].decode("latin-1").lower()] = header[1].decode("latin-1")

    def content(data: bytes, start: int, end: int) -> None:
        parts[-1].data.extend(data[start:end])

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_header_begin": header_begin,
            "on_header_field": name,
            "on_header_value": value,
            "on_header_end": header_end,
            "on_part_data": content,
            "on_end": lambda: ended.append(True),
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"the form cannot be read: {error}") from None
    if not ended:
        raise BadRequest("the form is cut short: its end mark is missing")
    return parts


def _names(part: _Part) -> tuple[str, str | None]:
    _, options = parse_options_header(part.headers.get("content-disposition", "").encode("latin-1"))
    name, filename = options.get(b"name"), options.get(b"filename")
    if not name:
        raise BadRequest("a part of the form has no name")
    return name.decode("utf-8", "replace"), None if filename is None else filename.decode("utf-8", "replace")
