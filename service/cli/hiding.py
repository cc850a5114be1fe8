"""Which cells are hidden, as the options of a command say: columns, sides of pictures, mask files; and known cells."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import typer

from service.cli.client import Json
from service.cli.files import (
    FileError,
    Inputs,
    format_of,
    hide_columns,
    hide_unknown,
    read_array,
    read_bytes,
    tensor,
)

SIDES = ("lower", "upper", "left", "right")


def hidden_inputs(inputs: Inputs, mask: str | None, hide: Sequence[str], image: Callable[[], Json | None]) -> Json:
    """The request's ``inputs`` and ``mask``: a mask file, named columns or sides, or NaN cells of a .npy.

    ``image`` answers the shape of the model's pictures, where sides are to be hidden.
    """
    by_name = isinstance(inputs, list) and all(isinstance(row, dict) and "image" not in row for row in inputs)
    if mask is not None:
        if by_name:
            raise FileError("--mask is for arrays and pictures; for rows by column name use --hide or empty cells")
        if hide:
            raise FileError("--mask and --hide both say what is hidden; give one of them")
        return {"inputs": inputs, "mask": read_mask(mask)}
    shape = image() if hide and not by_name else None
    if shape is not None:
        rows = inputs["shape"][0] if isinstance(inputs, dict) else len(inputs)
        return {"inputs": inputs, "mask": tensor(np.repeat(hidden_sides(shape, hide)[None], rows, axis=0))}
    shown, hidden = hide_unknown(hide_columns(inputs, hide))
    return {"inputs": shown, "mask": hidden}


def read_mask(source: str) -> Json:
    """A boolean .npy as a tensor, or a picture whose light pixels are hidden."""
    if source != "-" and format_of(source) == "picture":
        return {"image": base64.b64encode(read_bytes(source)).decode()}
    return tensor(read_array(source).astype(bool))


def hidden_sides(image: Json, sides: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask ``(H, W, C)`` that hides halves of a picture; the middle line of an odd side stays shown."""
    unknown = [side for side in sides if side not in SIDES]
    if unknown:
        raise typer.BadParameter(f"--hide {unknown[0]}: of pictures it hides {', '.join(SIDES)}; for more use --mask")
    y, x = np.ogrid[: int(image["height"]), : int(image["width"])]
    height, width = y.size, x.size
    halves = {
        "lower": (y >= (height + 1) // 2) & (x >= 0),
        "upper": (y < height // 2) & (x >= 0),
        "left": (x < width // 2) & (y >= 0),
        "right": (x >= (width + 1) // 2) & (y >= 0),
    }
    hidden = np.any([halves[side] for side in sides], axis=0)
    return np.repeat(hidden[..., None], int(image["channels"]), axis=2)


def read_given(pairs: Sequence[str], columns: Sequence[Json]) -> Json:
    """``column=value`` options as a row's known cells, each as its column's type has it."""
    types = {column["name"]: column["type"] for column in columns}
    row: Json = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"{pair!r} is not COLUMN=VALUE, say colour=red")
        row[name] = _cell(text, types.get(name))
    return row


def _cell(text: str, kind: str | None) -> Any:
    if kind == "boolean" and text.lower() in ("true", "false", "1", "0"):
        return text.lower() in ("true", "1")
    if kind in ("real", "integer"):
        try:
            number = float(text)
        except ValueError:
            return text  # the service says what is wrong with it
        return int(number) if number.is_integer() else number
    return text
