"""Strings of a request: lists of texts, checked."""

from __future__ import annotations

from typing import Any

from contracts.errors import TooLarge
from service.tensors import wrong


def listed(inputs: object, max_rows: int, location: str) -> list[Any]:
    """A list of at least one entry and at most ``max_rows``, whatever the entries are.

    Raises InvalidInput naming the place, TooLarge over the limit.
    """
    if not isinstance(inputs, list):
        raise wrong(location, "must be a list of strings in JSON: this model reads texts")
    if not inputs:
        raise wrong(location, "is empty; send at least one text")
    if len(inputs) > max_rows:
        raise TooLarge(f"{location} holds {len(inputs)} texts, over the limit of {max_rows}; send fewer")
    return inputs


def parse_strings(inputs: object, max_rows: int, location: str) -> list[str]:
    """A list of texts; raises as `listed`, and where an entry is no text."""
    return [parse_string(value, f"{location}[{row}]") for row, value in enumerate(listed(inputs, max_rows, location))]


def parse_string(value: object, location: str) -> str:
    """One text; InvalidInput where it is something else or no Unicode."""
    if not isinstance(value, str):
        raise wrong(location, "must be a string: this model reads texts")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise wrong(location, "holds half a surrogate pair, which is no Unicode text") from None
    return value
