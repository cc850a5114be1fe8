"""The SQL engine: one transaction per call, the same words for SQLite and PostgreSQL.

SQLite runs in WAL mode with foreign keys; writers begin IMMEDIATE, so that a transaction that reads
and then writes never meets a snapshot error, and wait for each other up to the busy timeout.
PostgreSQL runs READ COMMITTED through psycopg 3; the guarded updates carry the conditions.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, ProgrammingError

from contracts.errors import InvalidInput, LatentserveError, NotReady, StoreFull

BUSY_TIMEOUT_SECONDS = 30
MIGRATION_LOCK = 0x6C617473  # any constant that no one else uses as an advisory lock of this database
HEAD = "0002"  # the newest revision under store/migrations/versions


class Database:
    """An engine with `read` and `write` transactions.

    Args:
        url: None for SQLite at ``path``, else a URL of PostgreSQL.
        path: file of the embedded catalogue.
    """

    def __init__(self, url: str | None, path: Path) -> None:
        self.engine = _sqlite_engine(path) if url is None else _postgres_engine(url)
        self.postgres = self.engine.dialect.name == "postgresql"
        self._reader = self.engine.execution_options(sqlite_begin="DEFERRED")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with _translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits unless the body raises."""
        with _translated(), self.engine.begin() as connection:
            yield connection

    def now(self, connection: Connection) -> float:
        """Seconds since the epoch by the one clock that every process of this catalogue shares."""
        if self.postgres:
            return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        return time.time()

    def revision(self) -> str | None:
        """The migration that the database stands at; None where there is none."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()

    def migrate(self) -> None:
        """Bring the schema to `HEAD`; safe when several processes start at once."""
        if self.revision() == HEAD:
            return
        # Imported here: a gateway that finds its schema in place starts without it.
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
        config.set_main_option("path_separator", "os")
        with self.write() as connection:
            if self.postgres:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def require_schema(self) -> None:
        """Raise NotReady unless the schema is the one this code was written for."""
        revision = self.revision()
        if revision != HEAD:
            state = "has no tables yet" if revision is None else f"is at revision {revision}, not {HEAD}"
            raise NotReady(f"the catalogue {state}; start the gateway first (it migrates), or open with migrate=True")

    def close(self) -> None:
        self.engine.dispose()


def _sqlite_engine(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver's own implicit BEGIN would come too late and deferred
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _postgres_engine(url: str) -> Engine:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise InvalidInput("database_url is no URL; write postgresql://user:password@host/database") from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidInput(
            f"database_url names {parsed.get_backend_name()!r}; use PostgreSQL, or leave it unset for SQLite"
        )
    # A dead server shows itself at the next checkout instead of in the middle of a request.
    return sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args={"connect_timeout": 5}
    )


@contextmanager
def _translated() -> Iterator[None]:
    """Turn trouble of the database itself into our errors; programming errors stay what they are."""
    try:
        yield
    except LatentserveError:
        raise
    except (OperationalError, InterfaceError) as error:
        if _full(error):
            raise StoreFull("the disk of the catalogue is full; nothing was written") from error
        if "no such table" in str(error.orig):
            raise NotReady("the catalogue has no tables yet; open it with migrate=True") from error
        raise NotReady(f"the catalogue does not answer: {_first_line(error)}") from error
    except DataError as error:
        if "NUL" in str(error.orig):  # PostgreSQL takes no such character in text; no name holds one
            raise InvalidInput("a name holds the character U+0000; leave it out") from error
        raise
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) == "42P01":
            raise NotReady("the catalogue has no tables yet; open it with migrate=True") from error
        raise


def _full(error: DBAPIError) -> bool:
    text = str(error.orig).lower()
    return getattr(error.orig, "sqlstate", None) == "53100" or (
        "disk is full" in text or "no space left" in text or getattr(error.orig, "errno", None) == errno.ENOSPC
    )


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
