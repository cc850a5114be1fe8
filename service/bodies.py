"""Bodies of requests that are no uploads: read under limits, parsed once, checked against their schema."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError

from contracts.errors import BadRequest, InvalidInput, Overloaded, TooLarge, UnsupportedMedia
from service.forms import FORM, parse_form
from service.inputs import RAW_MEDIA, RawBody
from service.problems import invalid
from service.schemas.verbs import VerbRequest

JSON = "application/json"

Model = TypeVar("Model", bound=BaseModel)
Verb = TypeVar("Verb", bound=VerbRequest)


class BodyBudget:
    """Bytes of bodies held at one time: many large requests together must not use the memory up."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Reserve bytes; Overloaded where they are not to be had."""
        with self._lock:
            if self._held + count > self._most:
                raise Overloaded("large requests are being answered already; try again shortly", retry_after_seconds=1)
            self._held += count

    def give_back(self, count: int) -> None:
        with self._lock:
            self._held -= count


def media_type(request: Request) -> str:
    """The media type of the body without its parameters, in lower case; JSON where none is given."""
    return request.headers.get("content-type", JSON).partition(";")[0].strip().lower()


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; TooLarge by its Content-Length before a byte is read, or once it is over ``limit``."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding not in ("", "identity"):
        raise UnsupportedMedia(f"bodies are not read with Content-Encoding {encoding}; send the plain bytes")
    check_length(request, limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def check_length(request: Request, limit: int, too_large: TooLarge | None = None) -> int | None:
    """The Content-Length, if there is one; ``too_large`` where it is over ``limit``."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise BadRequest(f"Content-Length {text[:50]!r} is no number of bytes")
    if int(text) > limit:
        raise too_large or _too_large(limit)
    return int(text)


def parse_json(body: bytes) -> Any:
    """Parse JSON; BadRequest where it is none (NaN and Infinity are none)."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def parse_verb(schema: type[Verb], body: bytes, media: str, query: Mapping[str, str], content_type: str = "") -> Verb:
    """Read a verb's request from a JSON body, from raw bytes with everything else in the query, or from a form."""
    if media == JSON:
        fields = parse_json(body)
        if not isinstance(fields, dict):
            raise InvalidInput("the body must be a JSON object; see /openapi.json")
        return validate(schema, fields, strict=True)
    if media == FORM and schema.takes_form():
        form = parse_form(body, content_type)
        return validate(schema, {name: _field(value) for name, value in form.items() if value}, strict=False)
    if schema.body_field is None or media not in RAW_MEDIA:
        known = ", ".join((JSON, *(RAW_MEDIA if schema.body_field else ()), *((FORM,) if schema.takes_form() else ())))
        raise UnsupportedMedia(f"bodies come as {known}, not {media}; set Content-Type")
    fields = {name: _field(text) for name, text in query.items() if text}
    if schema.body_field in fields:
        raise InvalidInput(f"`{schema.body_field}` is the body already; leave it out of the query")
    return validate(schema, {**fields, schema.body_field: RawBody(media, body)}, strict=False)


def _field(value: Any) -> Any:
    """Text that is a JSON object or list is read as such."""
    return parse_json(value.encode()) if isinstance(value, str) and value[:1] in "{[" else value


def validate(schema: type[Model], fields: object, *, strict: bool) -> Model:
    """Check against a schema; InvalidInput gives each wrong place."""
    try:
        return schema.model_validate(fields, strict=strict)
    except ValidationError as error:
        raise invalid(error) from None


async def read_model(request: Request, schema: type[Model], *, limit: int) -> Model:
    """Read a small JSON body as ``schema``: types are checked strictly, unknown fields refused."""
    media = media_type(request)
    if media != JSON:
        raise UnsupportedMedia(f"the body comes as {JSON}, not {media}; set Content-Type")
    body = await read_body(request, limit)
    parse_json(body)  # refuses NaN and Infinity, which pydantic's own parser would let pass
    try:
        return schema.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise invalid(error) from None


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over the limit of {limit} bytes; send fewer rows at a time, or use /batches")
