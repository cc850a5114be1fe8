"""Answers of the verbs: arrays and facts, written once as bytes in the form that `Accept` asks for.

JSON never holds NaN or infinities: they are null, and the rows that hold one are listed under
``non_finite`` (``zero_density`` where they are log-densities of rows that cannot occur).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson
from fastapi import Response

from contracts.data import DataSpec
from contracts.errors import InvalidInput, NotAcceptable, TooLarge
from service.inputs import ARROW, NPY, PNG
from service.pictures import write_grid
from service.tensors import Array, write_arrow, write_npy, write_tensor, wrong
from store.rows import objects_from_rows

JSON = "application/json"
OFFERED = (JSON, NPY, ARROW, PNG)
Format = Literal["numbers", "base64", "rows"]


@dataclass
class Answer:
    """What a verb answers.

    ``arrays`` have a leading row dimension each (``single`` ones have none); ``main`` is the one that NPY and PNG
    hold. ``rows`` names the arrays that are rows of ``spec``, ``vectors`` those written as base64 on request.
    """

    facts: dict[str, object]
    arrays: dict[str, Array]
    main: str
    spec: DataSpec | None = None
    rows: frozenset[str] = frozenset()
    vectors: frozenset[str] = frozenset()
    spreads: frozenset[str] = frozenset()
    """Deviations of rows: by column name they stay numbers, whatever the column holds."""
    format: Format = "numbers"
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    across: int | None = None
    """Pictures on a line of a PNG; None: near square. Where ``main`` is (B, steps, *row), a line is one of B."""


def negotiate(accept: str | None, *, pictures: bool) -> str:
    """Pick the media type of an answer by `Accept` (RFC 9110, 12.5.1); NotAcceptable where none is offered."""
    offered = OFFERED if pictures else OFFERED[:-1]
    if not accept:
        return JSON
    best, quality = None, 0.0
    for media in offered:
        share = _quality(accept, media)
        if share > quality:
            best, quality = media, share
    if best is None:
        raise NotAcceptable(f"the answer comes as {', '.join(offered)}; `Accept: {accept[:100]}` takes none of them")
    return best


def _quality(accept: str, media: str) -> float:
    kind = media.partition("/")[0]
    best = (-1, 0.0)
    for clause in accept.split(","):
        wanted, *parameters = (part.strip().lower() for part in clause.split(";"))
        precision = {media: 2, f"{kind}/*": 1, "*/*": 0}.get(wanted, -1)
        if precision > best[0]:
            share = 1.0
            for parameter in parameters:
                if parameter.startswith("q="):
                    try:
                        share = float(parameter[2:])
                    except ValueError:
                        share = 0.0
            best = (precision, share)
    return best[1]


def respond(answer: Answer, media: str, *, max_picture_cells: int) -> Response:
    """Write ``answer`` as ``media``; its facts go into headers where the body cannot hold them."""
    if media == JSON:
        return Response(_json(answer), status_code=answer.status, media_type=JSON, headers=answer.headers)
    headers = {**answer.headers, **_fact_headers(answer.facts)}
    main = answer.arrays[answer.main]
    if media == NPY:
        if main.dtype.hasobject:
            raise NotAcceptable(f"this answer holds texts, which {NPY} does not; accept {JSON} or {ARROW}")
        body = write_npy(main)
    elif media == ARROW:
        body = write_arrow(_columns(answer), _metadata(answer.facts))
    else:
        body = _png(answer, max_picture_cells)
    return Response(body, status_code=answer.status, media_type=media, headers=headers)


def _json(answer: Answer) -> bytes:
    document: dict[str, object] = dict(answer.facts)
    for name, array in answer.arrays.items():
        if answer.format == "base64" and name in answer.rows | answer.vectors | answer.spreads:
            document[name] = write_tensor(array)
            continue
        if answer.format == "rows" and name in answer.rows | answer.spreads:
            document[name] = _objects(answer, array, spread=name in answer.spreads)
        else:
            document[name] = array.tolist() if array.dtype.hasobject else np.ascontiguousarray(array)
        if array.dtype.kind == "f" and name in answer.rows | answer.vectors:
            bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
            if len(bad):
                listed = document.setdefault("non_finite", {})
                assert isinstance(listed, dict)
                listed[name] = bad
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _objects(answer: Answer, array: Array, *, spread: bool) -> object:
    """Rows as objects; ``(B, draws, D)`` becomes a list of lists."""
    if answer.spec is None or answer.spec.modality != "table":
        raise wrong("format", "`rows` is for tables; take `numbers` or `base64`")
    if spread:
        names = [column.name for column in answer.spec.features]
        return [dict(zip(names, row, strict=True)) for row in array.tolist()]
    flat = objects_from_rows(answer.spec, array.reshape(-1, array.shape[-1]))
    if array.ndim == 2:
        return flat
    return [flat[start : start + array.shape[1]] for start in range(0, len(flat), array.shape[1])]


def _columns(answer: Answer) -> dict[str, Array | list[Any]]:
    """A table's rows as one column per feature, all else as one column per array."""
    main, spec = answer.arrays[answer.main], answer.spec
    columns: dict[str, Array | list[Any]] = {}
    if answer.main in answer.rows and spec is not None and spec.modality == "table":
        main = main.reshape(-1, *spec.row_shape)
        objects = objects_from_rows(spec, main)
        for index, column in enumerate(spec.features):
            words = column.categories is not None or isinstance(objects[0][column.name], str | bool)
            columns[column.name] = [row[column.name] for row in objects] if words else main[:, index]
        return columns
    return {name: array for name, array in answer.arrays.items() if len(array) == len(main)}


def _png(answer: Answer, max_cells: int) -> bytes:
    main, spec = answer.arrays[answer.main], answer.spec
    if spec is None or spec.image is None or answer.main not in answer.rows:
        raise NotAcceptable(f"this answer holds no pictures; accept {JSON}, {NPY} or {ARROW}")
    if main.size > max_cells:
        raise TooLarge(f"a grid of {main.size} pixels is over the limit of {max_cells}; ask for fewer, or for {NPY}")
    lines = main.ndim > 1 + len(spec.row_shape)
    return write_grid(main.reshape(-1, *spec.row_shape), spec.image, across=main.shape[1] if lines else answer.across)


def _metadata(facts: Mapping[str, object]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()
        for name, value in facts.items()
        if value is not None
    }


def _fact_headers(facts: Mapping[str, object]) -> dict[str, str]:
    """``X-Model``, ``X-Space``, ``X-Seed``, …: what a binary body says nothing about."""
    return {
        f"X-{name.replace('_', '-').title()}": value
        for name, value in _metadata(facts).items()
        if len(value) <= 256 and value.isascii()
    }


def check_cells(cells: int, limit: int, what: str) -> None:
    """Raise InvalidInput where an answer would hold more numbers than allowed."""
    if cells > limit:
        raise InvalidInput(f"the answer would hold {cells} numbers, over the limit of {limit}; ask for fewer {what}")
