"""Datasets: immutable, one row per name; names of the same digest are names of one dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from contracts.data import DataSpec, Part
from contracts.errors import Conflict, NameTaken, NotFound
from contracts.jobs import JobStatus
from store.catalogue import documents
from store.catalogue.database import Database
from store.catalogue.records import Dataset, moment
from store.catalogue.tables import datasets, jobs

MOST_NAMES_IN_A_MESSAGE = 10


class Datasets:
    """The datasets of a catalogue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert_dataset(self, dataset: Dataset) -> tuple[Dataset, bool]:
        """Add a dataset, or another name of one; answers ``(dataset, created)``.

        A name that holds the same digest answers its row; one that holds another raises NameTaken.
        """
        with self._database.write() as connection:
            return self._insert(connection, dataset)

    def name_dataset(self, digest: str, name: str) -> tuple[Dataset, bool]:
        """Give the dataset of ``digest`` another name; as `insert_dataset`, NotFound where there is none."""
        with self._database.write() as connection:
            # In the transaction of the insert: arrays are only deleted after the last row that names them.
            return self._insert(connection, replace(_dataset(_row(connection, digest)), name=name))

    def _insert(self, connection: Connection, dataset: Dataset) -> tuple[Dataset, bool]:
        from sqlalchemy.dialects import postgresql, sqlite

        insert = postgresql.insert(datasets) if self._database.postgres else sqlite.insert(datasets)
        row = connection.execute(
            insert.values(
                name=dataset.name,
                digest=dataset.digest,
                spec=dataset.spec.model_dump_json(),
                rows=dataset.rows,
                parts=documents.dump({str(part): count for part, count in dataset.parts.items()}),
                size=dataset.size,
                created_at=self._database.now(connection),
            )
            .on_conflict_do_nothing()
            .returning(datasets)
        ).one_or_none()
        if row is not None:
            return _dataset(row), True
        earlier = _row(connection, dataset.name)
        if earlier.digest != dataset.digest:
            raise name_taken(dataset.name)
        return _dataset(earlier), False

    def get_dataset(self, name_or_digest: str) -> Dataset:
        """The dataset of that name, or of that digest under its first name; NotFound says which names exist."""
        with self._database.read() as connection:
            return _dataset(_row(connection, name_or_digest))

    def list_datasets(self, *, limit: int = 50, after: str | None = None) -> list[Dataset]:
        """By name; ``after`` is the last name of the page before."""
        query = sa.select(datasets).order_by(datasets.c.name).limit(limit)
        if after is not None:
            query = query.where(datasets.c.name > after)
        with self._database.read() as connection:
            return [_dataset(row) for row in connection.execute(query)]

    def delete_dataset(self, name_or_digest: str) -> Dataset:
        """Delete a name, or by its digest a dataset under all its names, and answer what the row held.

        Conflict while a queued or running job uses what would go.
        """
        with self._database.write() as connection:
            row = _row(connection, name_or_digest)
            names = (
                connection.execute(sa.select(datasets.c.name).where(datasets.c.digest == row.digest)).scalars().all()
            )
            gone = names if name_or_digest == row.digest else [row.name]
            used = [*gone, row.digest] if len(gone) == len(names) else gone
            user = connection.execute(
                sa.select(jobs.c.id, jobs.c.status)
                .where(jobs.c.dataset.in_(used), jobs.c.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]))
                .limit(1)
            ).one_or_none()
            if user is not None:
                raise Conflict(f"job {user.id} is {user.status} on dataset {row.name!r}; cancel it or wait for its end")
            connection.execute(datasets.delete().where(datasets.c.name.in_(gone)))
            return _dataset(row)


def name_taken(name: str) -> NameTaken:
    return NameTaken(f"a dataset named {name!r} with other content exists; choose another name or delete it first")


def _row(connection: Connection, name_or_digest: str) -> Row[Any]:
    # A name has at most 63 characters and a digest 64, so the two never meet.
    column = datasets.c.digest if len(name_or_digest) == 64 else datasets.c.name
    first = sa.select(datasets).where(column == name_or_digest).order_by(datasets.c.created_at, datasets.c.name)
    row = connection.execute(first.limit(1)).one_or_none()
    if row is None:
        query = sa.select(datasets.c.name).order_by(datasets.c.name).limit(MOST_NAMES_IN_A_MESSAGE)
        names = ", ".join(connection.execute(query).scalars())
        raise NotFound(
            f"there is no dataset {name_or_digest!r}; "
            + (f"datasets are: {names}" if names else "none has been uploaded yet")
        )
    return row


def _dataset(row: Row[Any]) -> Dataset:
    return Dataset(
        name=row.name,
        digest=row.digest,
        spec=DataSpec.model_validate_json(row.spec),
        rows=row.rows,
        parts={Part(part): count for part, count in documents.load(row.parts).items()},
        size=row.size,
        created_at=moment(row.created_at),
    )
