"""The catalogue's tables. Times are seconds since the epoch, documents are JSON text.

The same definitions stand, frozen, in ``store/migrations/versions``; a test compares both.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(column_0_label)s",
    }
)

# SQLite numbers rows by itself only in a column of type INTEGER.
_Sequence = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("sequence", _Sequence, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text),  # as the request names it: a dataset in use is not deleted
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("worker", sa.Text),
    sa.Column("lease_until", sa.Double),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("planned_steps", sa.BigInteger),
    sa.Column("progress", sa.Text, nullable=False),
    sa.Column("endings", sa.Text, nullable=False),  # how each attempt that did not finish the job ended
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("last_event", sa.BigInteger, nullable=False),
    sa.Column("rings", sa.Integer, nullable=False),  # doorbells asked for since it was queued
    sa.Column("ring_after", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Index("ix_jobs_status", "status", "kind"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("last_version", sa.Integer, nullable=False),  # never falls, so a number never changes its meaning
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("name", sa.Text, sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("card", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

parents = sa.Table(
    "parents",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], ondelete="CASCADE"),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"]),
)

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # rows of one digest are names of one dataset
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("parts", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

directions = sa.Table(
    "directions",
    metadata,
    # A space outlives the versions that live in it: they come and go, and an import may bring one back.
    sa.Column("space", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),  # of what it was made from: equal digests, equal directions
    sa.Column("method", sa.String(32), nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),  # float64, little-endian
    sa.Column("bias", sa.Double, nullable=False),
    sa.Column("scale", sa.Double, nullable=False),
    sa.Column("distance", sa.Double, nullable=False),
    sa.Column("accuracy", sa.Double),
    sa.Column("rows", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("queues", sa.Text, nullable=False),
    sa.Column("info", sa.Text, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
)
