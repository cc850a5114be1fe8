"""/directions: named directions of an embedding space, made from rows that have something and rows that lack it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray

from contracts.artifact import Verb
from contracts.data import Part
from contracts.errors import FieldProblem, InvalidInput
from metrics import directions as metrics
from service.answers import Answer, check_cells
from service.calls import Call, serve
from service.documentation import json_body
from service.gateway import of
from service.inputs import ParsedRows
from service.responses import page, write
from service.routes.datasets import Limit
from service.schemas.directions import DatasetRows, DirectionPage, DirectionRequest, DirectionResponse
from service.selection import check_fits, keeps_labels, select
from service.tensors import wrong
from store.catalogue import Direction, DirectionRows

router = APIRouter(tags=["directions"])

LEAST_ROWS = 2
# A space is named by a digest of 64 characters and a direction by at most 63.
MOST_CURSOR = 200


@dataclass(frozen=True)
class Side:
    """Rows of one side, at most `max_rows`, with their labels where the model is conditional."""

    rows: ParsedRows
    labels: NDArray[np.int64] | None


@router.post(
    "/directions",
    operation_id="createDirection",
    summary="Make a direction",
    status_code=201,
    openapi_extra=json_body(DirectionRequest),
    responses={
        200: {"model": DirectionResponse, "description": "It was made from the same rows already."},
        201: {"model": DirectionResponse, "description": "Made, or put in the place of its namesake."},
    },
)
async def create_direction(request: Request) -> Response:
    """Encode both sides, find the direction from `negative` to `positive`, and store it under the model's space."""
    return await serve(request, Verb.ENCODE, DirectionRequest, _create)


@router.get("/directions", operation_id="listDirections", summary="List directions", response_model=DirectionPage)
def list_directions(
    request: Request,
    model: Annotated[str | None, Query(max_length=200, description="Those of the space of this model.")] = None,
    space: Annotated[str | None, Query(max_length=64, description="Those of this space.")] = None,
    limit: Limit = 50,
    after: Annotated[str | None, Query(max_length=MOST_CURSOR, description="`next` of the page before.")] = None,
) -> Response:
    """List directions by space and name."""
    catalogue = of(request.app).store.catalogue
    if model is not None:
        theirs = catalogue.resolve(model).manifest.space
        if space not in (None, theirs):
            raise wrong("space", f"{model} lives in space {theirs}; name one of `model` and `space`")
        space = theirs
    cursor = None
    if after is not None:
        first, slash, name = after.partition("/")
        if not slash:
            raise wrong("after", "must be the `next` of a page, space/name")
        cursor = (first, name)
    found = catalogue.list_directions(space=space, limit=limit + 1, after=cursor)
    return page([DirectionResponse.of(each) for each in found], limit, lambda each: f"{each.space}/{each.name}")


@router.get(
    "/directions/{space}/{name}",
    operation_id="getDirection",
    summary="Show a direction",
    response_model=DirectionResponse,
)
def get_direction(request: Request, space: str, name: str) -> Response:
    """Show a direction with its vector."""
    return write(DirectionResponse.of(of(request.app).store.catalogue.get_direction(space, name)))


@router.delete(
    "/directions/{space}/{name}", operation_id="deleteDirection", summary="Delete a direction", status_code=204
)
def delete_direction(request: Request, space: str, name: str) -> Response:
    """Forget a direction."""
    of(request.app).store.catalogue.delete_direction(space, name)
    return Response(status_code=204)


def _create(call: Call[DirectionRequest]) -> Answer:
    asked, manifest = call.request, call.version.manifest
    positive, negative = _side(call, asked.positive, "positive"), _side(call, asked.negative, "negative")
    made = _fit(asked, _encoded(call, positive), _encoded(call, negative))
    direction = Direction(
        space=manifest.space,
        name=asked.name,
        digest=_digest(asked, positive, negative),
        method=asked.method,
        vector=made.vector,
        bias=made.bias,
        scale=made.scale,
        distance=made.distance,
        accuracy=made.accuracy,
        rows=DirectionRows(len(positive.rows), len(negative.rows), *made.held_out),
        model=call.version.reference,
        created_at=datetime.now(UTC),
    )
    stored, written = call.gateway.store.catalogue.insert_direction(direction, replace=asked.replace)
    facts = DirectionResponse.of(stored).model_dump(mode="json")
    return Answer(
        facts={name: value for name, value in facts.items() if name != "vector"},
        arrays={"vector": stored.vector},
        main="vector",
        headers={"Location": f"/directions/{stored.space}/{stored.name}"},
        status=201 if written else 200,
    )


def _fit(asked: DirectionRequest, positive: NDArray[np.floating], negative: NDArray[np.floating]) -> metrics.Direction:
    try:
        if asked.method == "linear_probe":
            return metrics.linear_probe(positive, negative, seed=asked.seed)
        return metrics.mean_difference(positive, negative)
    except InvalidInput as error:
        places = [FieldProblem(location=each, message=error.detail) for each in ("positive", "negative")]
        raise InvalidInput(error.detail, errors=places) from error


def _side(call: Call[DirectionRequest], source: object, place: str) -> Side:
    """Read one side; of more rows than `max_rows`, a choice by the seed, in their order."""
    asked = call.request
    if isinstance(source, DatasetRows):
        return _of_dataset(call, source, place)
    rows = call.rows(source, location=place, hideable=True)
    labels = call.labels(asked.given, len(rows))
    kept = _choice(np.arange(len(rows)), asked, place, f"{place} holds")
    hidden = None if rows.hidden is None else rows.hidden[kept]
    return Side(ParsedRows(rows.x[kept], hidden, rows.form), None if labels is None else labels[kept])


def _of_dataset(call: Call[DirectionRequest], source: DatasetRows, place: str) -> Side:
    asked = call.request
    reader = call.gateway.store.datasets.open(source.dataset)
    check_fits(reader, call.version)
    part = None if source.part is None else Part(source.part)
    kept = _choice(select(reader, source, place), asked, place, f"dataset {source.dataset} has")
    rows = reader.read(part, kept)
    x = np.array(rows.x, dtype=object) if reader.spec.modality == "text" else rows.x
    # A cell without a value is a hidden one.
    hidden = np.isnan(x) if x.dtype.kind == "f" else np.zeros(0, dtype=bool)
    labels = rows.y if keeps_labels(reader, call.version, asked.given) else call.labels(asked.given, len(rows))
    return Side(ParsedRows(x, hidden if hidden.any() else None, "numbers"), labels)


def _choice(places: NDArray[np.int64], asked: DirectionRequest, place: str, who: str) -> NDArray[np.int64]:
    """At most `max_rows` of the places, ascending."""
    if len(places) < LEAST_ROWS:
        raise wrong(place, f"{who} {len(places)} rows of this side; at least {LEAST_ROWS} are needed on each")
    if len(places) <= asked.max_rows:
        return places
    return np.sort(np.random.default_rng(asked.seed).permutation(places)[: asked.max_rows])


def _encoded(call: Call[DirectionRequest], side: Side) -> NDArray[np.floating]:
    """Vectors of one side; not through the cache, which has no use for rows that are asked for once."""
    length = call.version.manifest.latent_dimensions or 0
    check_cells(len(side.rows) * length, call.gateway.settings.max_cells, "rows")
    with call.program() as program:
        return program.encode(side.rows.x, hidden=side.rows.hidden, given=side.labels).vectors


def _digest(asked: DirectionRequest, positive: Side, negative: Side) -> str:
    """What a direction is made from, to the bit; the space stands beside it."""
    found = hashlib.sha256(f"{asked.method} {asked.seed if asked.method == 'linear_probe' else ''}".encode())
    for side in (positive, negative):
        for array in (side.rows.x, side.rows.hidden, side.labels):
            if array is None:
                found.update(b"none")
                continue
            # The bytes of an array of texts are addresses.
            content = orjson.dumps(array.tolist()) if array.dtype.hasobject else array.tobytes()
            found.update(f"{array.dtype.str}{array.shape}".encode() + content)
    return found.hexdigest()
