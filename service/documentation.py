"""What routes say of themselves in OpenAPI where FastAPI cannot tell: bodies that are read raw, other media types.

A model that only stands in a raw body is named here and put under ``components`` by `service.openapi`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from contracts.errors import Problem
from service.forms import FORM
from service.inputs import ARROW, NPY, PNG, RAW_MEDIA
from service.problems import MEDIA_TYPE
from service.schemas.verbs import VerbRequest
from service.streams import STREAM

BINARY = {"type": "string", "format": "binary"}

documented: dict[str, type[BaseModel]] = {}
"""Models that raw bodies refer to."""


def reference(model: type[BaseModel]) -> dict[str, str]:
    """A ``$ref`` to a model, which is put under ``components``."""
    documented[model.__name__] = model
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def json_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads ``model`` itself."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": reference(model)}}}}


def verb_body(model: type[VerbRequest]) -> dict[str, Any]:
    """``openapi_extra`` of a verb: JSON, or raw bytes with the other fields in the query."""
    content: dict[str, Any] = {"application/json": {"schema": reference(model)}}
    extra: dict[str, Any] = {}
    if model.body_field is not None:
        media = (NPY,) if model.body_field == "vectors" else RAW_MEDIA
        content |= {each: {"schema": BINARY} for each in media}
        if model.takes_form():
            content[FORM] = {"schema": _form(model)}
        extra["parameters"] = [_query(model, name) for name in model.model_fields if name != model.body_field]
    return {"requestBody": {"required": True, "content": content}, **extra}


def _form(model: type[VerbRequest]) -> dict[str, Any]:
    """A form of pictures: the fields of the JSON body, with files as inputs and masks."""
    files = {"type": "array", "items": BINARY, "description": "PNG or JPEG files."}
    text = {"type": "string"}
    fields = {name: files if name in (model.body_field, "mask") else text for name in model.model_fields}
    return {"type": "object", "properties": fields, "required": ["model", model.body_field]}


def _query(model: type[VerbRequest], name: str) -> dict[str, Any]:
    text = model.model_fields[name].description or f"The field `{name}` of the JSON body."
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": {"type": "string"},
        "description": f"Only with a raw body; objects as JSON. {text}",
    }


def verb_responses(
    model: type[BaseModel],
    *,
    pictures: bool = False,
    texts: type[BaseModel] | None = None,
    captions: type[BaseModel] | None = None,
    streams: bool = False,
) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a verb: by `Accept` JSON, NPY, Arrow or a PNG grid; every error is a problem.

    ``texts``: what models of texts answer; ``streams``: whether these also come as server-sent events. ``captions``:
    what is answered where captions were sent.
    """
    media = (NPY, ARROW, PNG) if pictures else (NPY, ARROW)
    models = [reference(each) for each in (model, texts, captions) if each is not None]
    schema: dict[str, Any] = {"anyOf": models} if len(models) > 1 else models[0]
    content = {"application/json": {"schema": schema}} | {each: {"schema": BINARY} for each in media}
    if streams:
        content[STREAM] = {"schema": {"type": "string"}}
    return {200: {"description": "The answer.", "content": content}}


PROBLEM: dict[str, Any] = {
    "description": "A problem document (RFC 9457).",
    "content": {MEDIA_TYPE: {"schema": reference(Problem)}},
}


def file_response(media: str, text: str) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a download."""
    return {200: {"description": text, "content": {media: {"schema": BINARY}}}}


IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "Asking twice with one key makes one job; another request under the same key is a 409.",
}
