from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

import store.catalogue.database
from contracts.errors import InvalidInput, NotReady, StoreFull
from contracts.jobs import JobKind
from store import StoreSettings
from store.catalogue import Catalogue
from store.catalogue.database import HEAD, Database
from store.catalogue.tables import metadata


def test_the_migrations_make_the_tables(catalogue: Catalogue) -> None:
    with catalogue._database.write() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert catalogue._database.revision() == HEAD


def test_a_catalogue_without_tables_is_not_ready(catalogue_settings: StoreSettings) -> None:
    with pytest.raises(NotReady, match="no tables yet"):
        Catalogue.open(catalogue_settings)
    database = Database(catalogue_settings.database_url, catalogue_settings.home / "catalogue.sqlite")
    with pytest.raises(NotReady, match="no tables yet"):
        Catalogue(database, lease_seconds=1, max_attempts=1).list_jobs()
    database.close()


def test_a_catalogue_of_another_revision_is_not_ready(catalogue: Catalogue, catalogue_settings: StoreSettings) -> None:
    with catalogue._database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NotReady, match="9999"):
        Catalogue.open(catalogue_settings)


def test_migrating_again_changes_nothing(catalogue: Catalogue, catalogue_settings: StoreSettings) -> None:
    job, _ = catalogue.insert_job(JobKind.TRAIN, {})
    again = Catalogue.open(catalogue_settings, migrate=True)
    assert again.get_job(job.id) == job
    again.close()


def test_a_catalogue_of_the_first_revision_is_brought_up_to_date(catalogue_settings: StoreSettings) -> None:
    database = Database(catalogue_settings.database_url, catalogue_settings.home / "catalogue.sqlite")
    config = Config()
    config.set_main_option("script_location", str(Path(store.catalogue.database.__file__).parent.parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("INSERT INTO models (name, last_version) VALUES ('kept', 7)"))
    assert database.revision() == "0001"
    with database.read() as connection:
        assert not sa.inspect(connection).has_table("directions")
    with pytest.raises(NotReady, match="at revision 0001"):
        Catalogue.open(catalogue_settings)

    catalogue = Catalogue.open(catalogue_settings, migrate=True)
    assert database.revision() == HEAD
    assert catalogue.list_directions() == []
    with database.write() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.execute(sa.text("SELECT last_version FROM models WHERE name = 'kept'")).scalar_one() == 7
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    assert database.revision() == "0001"
    catalogue.close()
    database.close()


def test_an_error_rolls_back(catalogue: Catalogue) -> None:
    def fail() -> None:
        with catalogue._database.write() as connection:
            connection.execute(sa.text("DELETE FROM alembic_version"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert catalogue._database.revision() == HEAD


def test_sqlite_is_durable_and_waits(tmp_path: Path) -> None:
    database = Database(None, tmp_path / "catalogue.sqlite")
    with database.read() as connection:
        pragmas = {
            name: connection.execute(sa.text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    database.close()
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 30000}


def test_a_server_that_is_away_is_not_ready(tmp_path: Path) -> None:
    settings = StoreSettings(home=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(NotReady, match="does not answer"):
        Catalogue.open(settings, migrate=True)


@pytest.mark.parametrize("url", ["mysql://h/d", "no url"])
def test_other_databases_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidInput, match=r"(?i)postgresql"):
        Catalogue.open(StoreSettings(home=tmp_path, database_url=url))


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    catalogue = Catalogue.open(StoreSettings(home=tmp_path), migrate=True)
    with catalogue._database.write() as connection:
        pages = connection.execute(sa.text("PRAGMA page_count")).scalar_one()
        connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StoreFull, match="disk"):
        catalogue.insert_job(JobKind.TRAIN, {"long": "x" * 1_000_000})
    assert catalogue.list_jobs() == []
    catalogue.close()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "catalogue.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises((NotReady, sqlite3.DatabaseError, sa.exc.DatabaseError)):
        Catalogue.open(StoreSettings(home=tmp_path))


def test_opening_a_migrated_store_imports_no_heavy_library(tmp_path: Path) -> None:
    Catalogue.open(StoreSettings(home=tmp_path), migrate=True).close()
    heavy = ("alembic", "pyarrow", "PIL", "scipy", "torch", "pandas", "psycopg")
    code = (
        "import sys; from store import *; import store.rows; from pathlib import Path;"
        f"Store.open(StoreSettings(home=Path({str(tmp_path)!r})), migrate=True);"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
