"""JSON text of the catalogue's document columns."""

from __future__ import annotations

import math
from typing import Any

import orjson

from contracts.errors import InvalidInput


def dump(document: Any) -> str:
    """JSON with sorted keys, so that equal documents are equal texts; NaN and infinities become null."""
    try:
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()
    except (TypeError, orjson.JSONEncodeError) as error:
        raise InvalidInput(f"the document cannot be written as JSON: {error}") from error


def load(text: str) -> Any:
    return orjson.loads(text)


def finite(document: Any) -> Any:
    """Drop the entries of dicts that are NaN or infinite: a typed reader would refuse the null they become."""
    if isinstance(document, dict):
        return {key: finite(value) for key, value in document.items() if not _infinite(value)}
    return document


def _infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
