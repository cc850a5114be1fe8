"""Model versions: immutable, numbered from 1 by name; aliases point at them, `latest` moves by publication.

A number is never given twice, so ``name@3`` means the same for ever, even after a deletion.
"""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from contracts.artifact import Card, Manifest
from contracts.errors import Conflict, InvalidInput, NotFound
from contracts.jobs import NAME_PATTERN, JobStatus
from store.catalogue.database import Database
from store.catalogue.jobs import append_event, end_job
from store.catalogue.records import LATEST, Claim, ModelSummary, ModelVersion, moment
from store.catalogue.tables import aliases, models, parents, versions

MOST_NAMES_IN_A_MESSAGE = 10


class Models:
    """The model versions of a catalogue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def publish_version(
        self, claim: Claim, *, name: str, digest: str, manifest: Manifest, card: Card, size: int
    ) -> ModelVersion | None:
        """Publish what an attempt made: version, alias `latest` and the job's success in one transaction.

        None: the attempt was superseded or the job has ended, and nothing changed.
        """
        _check_name(name)
        with self._database.write() as connection:
            now = self._database.now(connection)
            number = _next_number(connection, self._database, name)
            reference = f"{name}@{number}"
            result = {"model": name, "version": number, "reference": reference, "digest": digest}
            # before the job's end, after which nobody listens; a superseded attempt takes it back with the rest
            append_event(connection, claim.job.id, "published", result, now)
            if not end_job(connection, claim, JobStatus.SUCCEEDED, now, result=result):
                connection.rollback()
                return None
            return _insert(connection, self._database, name, number, digest, manifest, card, size, now)

    def import_version(self, *, name: str, digest: str, manifest: Manifest, card: Card, size: int) -> ModelVersion:
        """Add a version that no job made; `latest` moves to it."""
        _check_name(name)
        with self._database.write() as connection:
            now = self._database.now(connection)
            number = _next_number(connection, self._database, name)
            return _insert(connection, self._database, name, number, digest, manifest, card, size, now)

    def resolve(self, reference: str) -> ModelVersion:
        """The version that ``name`` (= ``name@latest``), ``name@3`` or ``name@alias`` means; NotFound."""
        name, _, selector = reference.partition("@")
        selector = selector if "@" in reference else LATEST
        with self._database.read() as connection:
            if selector.isascii() and selector.isdigit():
                number = int(selector)
            else:
                pointed = connection.execute(
                    sa.select(aliases.c.version).where(aliases.c.name == name, aliases.c.alias == selector)
                ).scalar_one_or_none()
                if pointed is None:
                    raise NotFound(_what_exists(connection, name, f"has no alias {selector!r}"))
                number = pointed
            # PostgreSQL refuses integers that its column cannot hold instead of finding nothing.
            row = _version_row(connection, name, number) if number < 2**31 else None
            if row is None:
                raise NotFound(_what_exists(connection, name, f"has no version {selector}"))
            return _version(connection, row)

    def list_models(self, *, limit: int = 50, after: str | None = None) -> list[ModelSummary]:
        """Models with at least one version, by name; ``after`` is the last name of the page before."""
        query = sa.select(versions.c.name).distinct().order_by(versions.c.name).limit(limit)
        if after is not None:
            query = query.where(versions.c.name > after)
        with self._database.read() as connection:
            return [_summary(connection, name) for name in connection.execute(query).scalars()]

    def list_versions(self, name: str) -> list[ModelVersion]:
        """Every version of a model, newest first; NotFound."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(versions).where(versions.c.name == name).order_by(versions.c.version.desc())
            ).all()
            if not rows:
                raise NotFound(_what_exists(connection, name, "does not exist"))
            return [_version(connection, row) for row in rows]

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias at a version; ``latest`` may be pointed back (the next publication moves it again)."""
        if not re.fullmatch(NAME_PATTERN, alias) or alias.isdigit():
            raise InvalidInput(
                f"{alias!r} is no alias: use lower-case letters, digits, dots, dashes and underscores, "
                "and more than digits alone"
            )
        with self._database.write() as connection:
            if not 0 < version < 2**31 or _version_row(connection, name, version) is None:
                raise NotFound(_what_exists(connection, name, f"has no version {version}"))
            _point(connection, self._database, name, alias, version)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias; NotFound; Conflict for `latest`."""
        if alias == LATEST:
            raise Conflict("`latest` always names a version; point it at another one instead")
        with self._database.write() as connection:
            gone = connection.execute(aliases.delete().where(aliases.c.name == name, aliases.c.alias == alias)).rowcount
            if not gone:
                raise NotFound(_what_exists(connection, name, f"has no alias {alias!r}"))

    def delete_version(self, name: str, version: int) -> None:
        """Delete a version's row; `latest` falls back to the newest version left.

        Conflict while an alias other than `latest` points at it, or a child was trained on it and no
        other version holds the same artifact.
        """
        with self._database.write() as connection:
            row = _version_row(connection, name, version) if 0 < version < 2**31 else None
            if row is None:
                raise NotFound(_what_exists(connection, name, f"has no version {version}"))
            pointing = _aliases_of(connection, name, version)
            others = [alias for alias in pointing if alias != LATEST]
            if others:
                raise Conflict(f"{name}@{version} has the alias {', '.join(others)}; move or delete the alias first")
            self._refuse_parent(connection, row)
            connection.execute(aliases.delete().where(aliases.c.name == name, aliases.c.version == version))
            connection.execute(versions.delete().where(versions.c.name == name, versions.c.version == version))
            newest = connection.execute(
                sa.select(sa.func.max(versions.c.version)).where(versions.c.name == name)
            ).scalar_one()
            if pointing and newest is not None:
                _point(connection, self._database, name, LATEST, newest)

    def uses_artifact(self, digest: str) -> bool:
        """Whether any version is, or was trained on, the artifact of that digest."""
        with self._database.read() as connection:
            return any(
                connection.execute(sa.select(sa.literal(1)).where(column == digest).limit(1)).one_or_none() is not None
                for column in (versions.c.digest, parents.c.digest)
            )

    @staticmethod
    def _refuse_parent(connection: Connection, row: Row[Any]) -> None:
        twins = connection.execute(
            sa.select(sa.func.count()).select_from(versions).where(versions.c.digest == row.digest)
        ).scalar_one()
        child = connection.execute(
            sa.select(parents.c.name, parents.c.version).where(parents.c.digest == row.digest).limit(1)
        ).one_or_none()
        if twins == 1 and child is not None:
            raise Conflict(
                f"{row.name}@{row.version} is a parent of {child.name}@{child.version}; delete that version first"
            )


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidInput(
            f"{name!r} is no model name: use 1 to 63 lower-case letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit"
        )


def _upsert(database: Database, table: sa.Table) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite

    return postgresql.insert(table) if database.postgres else sqlite.insert(table)


def _next_number(connection: Connection, database: Database, name: str) -> int:
    statement = (
        _upsert(database, models)
        .values(name=name, last_version=1)
        .on_conflict_do_update(index_elements=["name"], set_={"last_version": models.c.last_version + 1})
        .returning(models.c.last_version)
    )
    return int(connection.execute(statement).scalar_one())


def _insert(
    connection: Connection,
    database: Database,
    name: str,
    number: int,
    digest: str,
    manifest: Manifest,
    card: Card,
    size: int,
    now: float,
) -> ModelVersion:
    connection.execute(
        versions.insert().values(
            name=name,
            version=number,
            digest=digest,
            manifest=manifest.model_dump_json(),
            card=card.model_dump_json(),
            size=size,
            created_at=now,
        )
    )
    for role, parent in manifest.parents.items():
        connection.execute(parents.insert().values(name=name, version=number, role=role, digest=parent))
    _point(connection, database, name, LATEST, number)
    row = _version_row(connection, name, number)
    assert row is not None
    return _version(connection, row)


def _point(connection: Connection, database: Database, name: str, alias: str, version: int) -> None:
    connection.execute(
        _upsert(database, aliases)
        .values(name=name, alias=alias, version=version)
        .on_conflict_do_update(index_elements=["name", "alias"], set_={"version": version})
    )


def _version_row(connection: Connection, name: str, version: int) -> Row[Any] | None:
    return connection.execute(
        sa.select(versions).where(versions.c.name == name, versions.c.version == version)
    ).one_or_none()


def _aliases_of(connection: Connection, name: str, version: int) -> list[str]:
    query = sa.select(aliases.c.alias).where(aliases.c.name == name, aliases.c.version == version)
    return list(connection.execute(query.order_by(aliases.c.alias)).scalars())


def _version(connection: Connection, row: Row[Any]) -> ModelVersion:
    return ModelVersion(
        name=row.name,
        version=row.version,
        digest=row.digest,
        manifest=Manifest.model_validate_json(row.manifest),
        card=Card.model_validate_json(row.card),
        size=row.size,
        created_at=moment(row.created_at),
        aliases=tuple(_aliases_of(connection, row.name, row.version)),
    )


def _summary(connection: Connection, name: str) -> ModelSummary:
    numbers = connection.execute(
        sa.select(versions.c.version).where(versions.c.name == name).order_by(versions.c.version)
    ).scalars()
    pointed = connection.execute(sa.select(aliases).where(aliases.c.name == name).order_by(aliases.c.alias))
    return ModelSummary(name=name, versions=tuple(numbers), aliases={row.alias: row.version for row in pointed})


def _what_exists(connection: Connection, name: str, lack: str) -> str:
    """A sentence for NotFound: what is lacking, and what there is instead."""
    summary = _summary(connection, name)
    if summary.versions:
        numbers = ", ".join(map(str, summary.versions[-MOST_NAMES_IN_A_MESSAGE:]))
        return f"model {name!r} {lack}; it has the versions {numbers} and the aliases {', '.join(summary.aliases)}"
    query = sa.select(versions.c.name).distinct().order_by(versions.c.name).limit(MOST_NAMES_IN_A_MESSAGE)
    names = ", ".join(connection.execute(query).scalars())
    return f"there is no model {name!r}; " + (f"models are: {names}" if names else "none has been trained yet")
