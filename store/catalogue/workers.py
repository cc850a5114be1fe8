"""Workers by their heartbeats: who is there to do the queued jobs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from store.catalogue import documents
from store.catalogue.database import Database
from store.catalogue.records import Worker, moment
from store.catalogue.tables import workers

FORGOTTEN_AFTER_SECONDS = 86_400


class Workers:
    """The heartbeats of a catalogue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def heartbeat(self, worker: str, queues: list[str], info: dict[str, Any]) -> None:
        """Say that a worker lives and which queues it serves; rows unseen for a day are forgotten."""
        from sqlalchemy.dialects import postgresql, sqlite

        insert = postgresql.insert(workers) if self._database.postgres else sqlite.insert(workers)
        with self._database.write() as connection:
            now = self._database.now(connection)
            values = {"queues": documents.dump(queues), "info": documents.dump(info), "seen_at": now}
            connection.execute(
                insert.values(name=worker, **values).on_conflict_do_update(index_elements=["name"], set_=values)
            )
            connection.execute(workers.delete().where(workers.c.seen_at < now - FORGOTTEN_AFTER_SECONDS))

    def live_workers(self, *, within_seconds: float = 15) -> list[Worker]:
        """Workers whose last heartbeat is at most so old, by name."""
        with self._database.read() as connection:
            since = self._database.now(connection) - within_seconds
            rows = connection.execute(sa.select(workers).where(workers.c.seen_at >= since).order_by(workers.c.name))
            return [
                Worker(
                    name=row.name,
                    queues=tuple(documents.load(row.queues)),
                    seen_at=moment(row.seen_at),
                    info=documents.load(row.info),
                )
                for row in rows
            ]
