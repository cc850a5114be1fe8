"""Directions: one row per name within an embedding space, whichever version's vectors live there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from contracts.errors import Conflict, NameTaken, NotFound
from store.catalogue import documents
from store.catalogue.database import Database
from store.catalogue.records import Direction, DirectionRows, moment
from store.catalogue.tables import directions

MOST_NAMES_IN_A_MESSAGE = 20
_FLOAT64 = np.dtype("<f8")


class Directions:
    """The directions of a catalogue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert_direction(self, direction: Direction, *, replace: bool = False) -> tuple[Direction, bool]:
        """Add a direction, or with ``replace`` put it in the place of its namesake; answers ``(direction, written)``.

        A name that holds one of the same digest answers it as it is; one that holds another (other rows, another
        method) raises NameTaken. The time is the catalogue's own.
        """
        from sqlalchemy.dialects import postgresql, sqlite

        with self._database.write() as connection:
            values = _values(direction) | {"created_at": self._database.now(connection)}
            insert = postgresql.insert(directions) if self._database.postgres else sqlite.insert(directions)
            added = insert.values(values).on_conflict_do_nothing().returning(directions)
            row = connection.execute(added).one_or_none()
            if row is not None:
                return _direction(row), True
            here = (directions.c.space == direction.space) & (directions.c.name == direction.name)
            earlier = connection.execute(sa.select(directions).where(here).with_for_update()).one_or_none()
            if earlier is None:  # PostgreSQL: another request deleted it between the two statements
                raise Conflict(f"the direction {direction.name!r} was just deleted; ask again to make it anew")
            if earlier.digest == direction.digest:
                return _direction(earlier), False
            if not replace:
                raise NameTaken(
                    f"a direction named {direction.name!r} made in another way exists in space {direction.space}; "
                    "choose another name, or say `replace: true`"
                )
            changed = connection.execute(directions.update().where(here).values(values).returning(directions))
            return _direction(changed.one()), True

    def get_direction(self, space: str, name: str) -> Direction:
        """The direction of that name; NotFound says which there are in the space."""
        return self.get_directions(space, [name])[0]

    def get_directions(self, space: str, names: Iterable[str]) -> list[Direction]:
        """The directions of those names, in their order; NotFound says which there are in the space."""
        wanted = list(names)
        query = sa.select(directions).where(directions.c.space == space, directions.c.name.in_(wanted))
        with self._database.read() as connection:
            found = {row.name: _direction(row) for row in connection.execute(query)}
            unknown = [name for name in wanted if name not in found]
            if unknown:
                raise NotFound(_what_exists(connection, space, unknown))
        return [found[name] for name in wanted]

    def list_directions(
        self, *, space: str | None = None, limit: int = 50, after: tuple[str, str] | None = None
    ) -> list[Direction]:
        """By space and name; ``after`` is the last ``(space, name)`` of the page before."""
        query = sa.select(directions).order_by(directions.c.space, directions.c.name).limit(limit)
        if space is not None:
            query = query.where(directions.c.space == space)
        if after is not None:
            later = (directions.c.space == after[0]) & (directions.c.name > after[1])
            query = query.where((directions.c.space > after[0]) | later)
        with self._database.read() as connection:
            return [_direction(row) for row in connection.execute(query)]

    def delete_direction(self, space: str, name: str) -> None:
        """Forget a direction; NotFound says which there are in the space."""
        with self._database.write() as connection:
            here = (directions.c.space == space) & (directions.c.name == name)
            if not connection.execute(directions.delete().where(here)).rowcount:
                raise NotFound(_what_exists(connection, space, [name]))


def _what_exists(connection: Connection, space: str, unknown: list[str]) -> str:
    """A sentence for NotFound: what is lacking, and what there is instead."""
    query = sa.select(directions.c.name).where(directions.c.space == space).order_by(directions.c.name)
    names = list(connection.execute(query.limit(MOST_NAMES_IN_A_MESSAGE + 1)).scalars())
    shown = ", ".join(names[:MOST_NAMES_IN_A_MESSAGE]) + (", …" if len(names) > MOST_NAMES_IN_A_MESSAGE else "")
    lacking = ", ".join(repr(name[:100]) for name in unknown[:MOST_NAMES_IN_A_MESSAGE])
    return f"space {space[:100]} has no direction {lacking}; " + (
        f"its directions are: {shown}" if names else "none has been made there yet, see POST /directions"
    )


def _values(direction: Direction) -> dict[str, Any]:
    return {
        "space": direction.space,
        "name": direction.name,
        "digest": direction.digest,
        "method": direction.method,
        "vector": np.ascontiguousarray(direction.vector, dtype=_FLOAT64).tobytes(),
        "bias": direction.bias,
        "scale": direction.scale,
        "distance": direction.distance,
        "accuracy": direction.accuracy,
        "rows": documents.dump(asdict(direction.rows)),
        "model": direction.model,
    }


def _direction(row: Row[Any]) -> Direction:
    return Direction(
        space=row.space,
        name=row.name,
        digest=row.digest,
        method=row.method,
        vector=np.frombuffer(row.vector, dtype=_FLOAT64).astype(np.float64),
        bias=row.bias,
        scale=row.scale,
        distance=row.distance,
        accuracy=row.accuracy,
        rows=DirectionRows(**documents.load(row.rows)),
        model=row.model,
        created_at=moment(row.created_at),
    )
