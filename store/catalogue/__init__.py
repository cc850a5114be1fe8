"""The catalogue: jobs, model versions, datasets, directions and workers in SQL, each method one transaction."""

from __future__ import annotations

import sqlalchemy as sa

from store.catalogue.database import Database
from store.catalogue.datasets import Datasets
from store.catalogue.directions import Directions
from store.catalogue.jobs import Jobs
from store.catalogue.models import Models
from store.catalogue.records import (
    Claim,
    Dataset,
    Direction,
    DirectionRows,
    ModelSummary,
    ModelVersion,
    Renewal,
    Worker,
)
from store.catalogue.workers import Workers
from store.settings import StoreSettings

__all__ = [
    "Catalogue",
    "Claim",
    "Dataset",
    "Direction",
    "DirectionRows",
    "ModelSummary",
    "ModelVersion",
    "Renewal",
    "Worker",
]


class Catalogue(Jobs, Models, Datasets, Directions, Workers):
    """Everything that lasts and is not a file; thread-safe."""

    def __init__(self, database: Database, *, lease_seconds: float, max_attempts: int) -> None:
        Jobs.__init__(self, database, lease_seconds=lease_seconds, max_attempts=max_attempts)

    @classmethod
    def open(cls, settings: StoreSettings, *, migrate: bool = False) -> Catalogue:
        """Connect; ``migrate`` brings the schema up to date first, else NotReady where it is not."""
        database = Database(settings.database_url, settings.home / "catalogue.sqlite")
        try:
            if migrate:
                database.migrate()
            database.require_schema()
        except BaseException:
            database.close()
            raise
        return cls(database, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts)

    def ping(self) -> None:
        """Raise NotReady unless the database answers."""
        with self._database.read() as connection:
            connection.execute(sa.text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self._database.close()
