"""Jobs: queued → running → succeeded | failed | cancelled, each transition one guarded UPDATE.

Every statement that a worker's claim leads to carries ``id = … AND attempt = … AND status =
'running'``: once an attempt is superseded, nothing that its holder still says changes the row.
"""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from contracts.errors import Conflict, InvalidInput, NotFound, Problem
from contracts.jobs import Job, JobEvent, JobKind, JobStatus, Progress
from store.catalogue import documents
from store.catalogue.database import Database
from store.catalogue.records import Claim, Renewal, moment
from store.catalogue.tables import events, jobs

PROGRESS_EVENTS_KEPT = 1000
MOST_RINGS_AT_ONCE = 1000
FIRST_RING_SECONDS = 2.0
# A queued job that waits behind a long one is rung again and again; the pause grows so that the queue does not.
SLOWEST_RING_SECONDS = 15.0


class Jobs:
    """The jobs of a catalogue."""

    def __init__(self, database: Database, *, lease_seconds: float, max_attempts: int) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._max_attempts = max_attempts

    def insert_job(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        idempotency_key: str | None = None,
        max_attempts: int | None = None,
    ) -> tuple[Job, bool]:
        """Queue a job; answers ``(job, created)``.

        With a key that is in use, the same request answers the earlier job; another one raises Conflict.
        """
        insert = _insert_ignoring_conflicts(self._database)
        text = documents.dump(request)
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = connection.execute(
                insert.values(
                    id=uuid.uuid4().hex,
                    kind=kind,
                    status=JobStatus.QUEUED,
                    request=text,
                    dataset=request["dataset"] if isinstance(request.get("dataset"), str) else None,
                    idempotency_key=idempotency_key,
                    attempt=0,
                    max_attempts=self._max_attempts if max_attempts is None else max_attempts,
                    cancel_requested=False,
                    progress=documents.dump({}),
                    endings=documents.dump([]),
                    last_event=0,
                    rings=0,
                    ring_after=now + FIRST_RING_SECONDS,
                    created_at=now,
                ).returning(jobs)
            ).one_or_none()
            if row is not None:
                append_event(connection, row.id, "queued", {}, now)
                return _job(row), True
            earlier = connection.execute(sa.select(jobs).where(jobs.c.idempotency_key == idempotency_key)).one()
            if earlier.kind != kind or earlier.request != text:
                raise Conflict(
                    f"the Idempotency-Key was used for job {earlier.id} with another request; send a new key with it"
                )
            return _job(earlier), False

    def get_job(self, job_id: str) -> Job:
        """The job of that id; NotFound."""
        with self._database.read() as connection:
            return _job(_row(connection, job_id))

    def list_jobs(
        self,
        *,
        status: JobStatus | None = None,
        kind: JobKind | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[Job]:
        """Newest first; ``after`` is the id of the last job of the page before."""
        query = sa.select(jobs).order_by(jobs.c.sequence.desc()).limit(limit)
        if status is not None:
            query = query.where(jobs.c.status == status)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        with self._database.read() as connection:
            if after is not None:
                query = query.where(jobs.c.sequence < _row(connection, after).sequence)
            return [_job(row) for row in connection.execute(query)]

    def count_jobs(self) -> dict[tuple[JobKind, JobStatus], tuple[int, int]]:
        """How many jobs there are of each kind and status, and how often they were claimed in all."""
        query = sa.select(jobs.c.kind, jobs.c.status, sa.func.count(), sa.func.sum(jobs.c.attempt)).group_by(
            jobs.c.kind, jobs.c.status
        )
        with self._database.read() as connection:
            return {
                (JobKind(kind), JobStatus(status)): (int(count), int(attempts))
                for kind, status, count, attempts in connection.execute(query)
            }

    def claim_job(self, job_id: str, worker: str) -> Claim | None:
        """Take a queued job, or a running one whose lease ran out; None where it is not to be had.

        The attempt number rises by one and the lease runs for ``lease_seconds``.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = _row(connection, job_id)
            expired = row.status == JobStatus.RUNNING and row.lease_until < now
            if (row.status != JobStatus.QUEUED and not expired) or row.cancel_requested:
                return None
            if row.attempt >= row.max_attempts:
                return None  # `reap` or `release_job` fails it and says why
            taken = connection.execute(
                _guarded(job_id, row.attempt, JobStatus(row.status))
                .where(*([jobs.c.lease_until == row.lease_until] if expired else []))
                .values(
                    status=JobStatus.RUNNING,
                    attempt=row.attempt + 1,
                    worker=worker,
                    lease_until=now + self._lease_seconds,
                    started_at=sa.func.coalesce(jobs.c.started_at, now),
                    endings=_with_ending(row, "its lease ran out") if expired else row.endings,
                )
                .returning(jobs)
            ).one_or_none()
            if taken is None:
                return None
            append_event(connection, job_id, "claimed", {"attempt": taken.attempt, "worker": worker}, now)
            return Claim(job=_job(taken), worker=worker, attempt=taken.attempt)

    def renew_lease(self, claim: Claim) -> Renewal:
        """Prolong the lease and learn whether the job is to be cancelled."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = connection.execute(
                _held(claim).values(lease_until=now + self._lease_seconds).returning(jobs.c.cancel_requested)
            ).one_or_none()
            return Renewal(held=row is not None, cancel_requested=row is not None and row.cancel_requested)

    def record_progress(self, claim: Claim, progress: Progress, *, event: bool = True) -> bool:
        """Store how far the attempt is, by default as an event too; False: the attempt is no longer ours.

        Non-finite figures are left out. About the last 1,000 progress events of a job are kept.
        """
        document = documents.finite(progress.model_dump(mode="python"))
        document["terms"] = documents.finite(progress.terms)
        with self._database.write() as connection:
            now = self._database.now(connection)
            held = connection.execute(_held(claim).values(progress=documents.dump(document))).rowcount == 1
            if held and event:
                number = append_event(connection, claim.job.id, "progress", document, now)
                connection.execute(
                    events.delete().where(
                        events.c.job_id == claim.job.id,
                        events.c.id <= number - PROGRESS_EVENTS_KEPT,
                        events.c.type == "progress",
                    )
                )
            return held

    def plan_steps(self, claim: Claim, steps: int) -> int:
        """Store the planned steps unless an earlier attempt did; answers what the row holds."""
        with self._database.write() as connection:
            connection.execute(_held(claim).where(jobs.c.planned_steps.is_(None)).values(planned_steps=steps))
            planned = _row(connection, claim.job.id).planned_steps
        if planned is None:
            raise Conflict(f"attempt {claim.attempt} of job {claim.job.id} was superseded before it planned its steps")
        return int(planned)

    def finish_job(
        self, claim: Claim, status: JobStatus, *, result: dict[str, Any] | None = None, error: Problem | None = None
    ) -> bool:
        """End a running job as succeeded, failed or cancelled; False: the attempt is no longer ours."""
        if not status.ended:
            raise InvalidInput(f"a job is finished as succeeded, failed or cancelled, not {status}")
        with self._database.write() as connection:
            return end_job(connection, claim, status, self._database.now(connection), result=result, error=error)

    def release_job(self, claim: Claim, reason: str) -> JobStatus:
        """Give up an attempt that died: back to queued, or failed when the attempts are used up.

        A job that was to be cancelled becomes cancelled. Answers the status that the row has then.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = _row(connection, claim.job.id)
            if row.status != JobStatus.RUNNING or row.attempt != claim.attempt:
                return JobStatus(row.status)
            return _take_back(connection, row, reason, now) or JobStatus(_row(connection, row.id).status)

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once, ask a running one to end; Conflict where it has ended."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            stopped = connection.execute(
                jobs.update()
                .where(jobs.c.id == job_id, jobs.c.status == JobStatus.QUEUED)
                .values(status=JobStatus.CANCELLED, cancel_requested=True, finished_at=now)
            ).rowcount
            if stopped:
                append_event(connection, job_id, "cancelled", {}, now)
            else:
                flagged = connection.execute(
                    jobs.update()
                    .where(jobs.c.id == job_id, jobs.c.status == JobStatus.RUNNING)
                    .values(cancel_requested=True)
                ).rowcount
                row = _row(connection, job_id)
                if not flagged:
                    raise Conflict(f"job {job_id} has ended as {row.status}; only a queued or running job is cancelled")
            return _job(_row(connection, job_id))

    def reap(self) -> list[Job]:
        """Take back running jobs whose lease ran out; answer the queued jobs whose doorbell is to be rung.

        Those are the ones taken back just now and the ones that wait for 2 s or more since they were
        queued (their doorbell may be lost); a job that goes on waiting is answered again after 4, 8,
        then every 15 s.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            lost = connection.execute(
                sa.select(jobs).where(jobs.c.status == JobStatus.RUNNING, jobs.c.lease_until < now)
            ).all()
            for row in lost:
                _take_back(connection, row, f"its lease ran out (worker {row.worker})", now)
            due = connection.execute(
                sa.select(jobs)
                .where(jobs.c.status == JobStatus.QUEUED, jobs.c.ring_after <= now)
                .order_by(jobs.c.sequence)
                .limit(MOST_RINGS_AT_ONCE)
            ).all()
            for row in due:
                pause = min(FIRST_RING_SECONDS * 2 ** (row.rings + 1), SLOWEST_RING_SECONDS)
                connection.execute(
                    jobs.update().where(jobs.c.id == row.id).values(rings=row.rings + 1, ring_after=now + pause)
                )
            return [_job(row) for row in due]

    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        """Events with ids above ``after``, in order; NotFound where there is no such job."""
        with self._database.read() as connection:
            _row(connection, job_id)
            query = (
                sa.select(events)
                .where(events.c.job_id == job_id, events.c.id > after)
                .order_by(events.c.id)
                .limit(limit)
            )
            return [
                JobEvent(id=row.id, type=row.type, at=moment(row.at), data=documents.load(row.data))
                for row in connection.execute(query)
            ]

    def record_event(self, job_id: str, type: str, data: dict[str, Any]) -> None:
        """Add an event of the job's own, say ``resumed``; NotFound."""
        with self._database.write() as connection:
            append_event(connection, job_id, type, data, self._database.now(connection))


def append_event(connection: Connection, job_id: str, type: str, data: dict[str, Any], now: float) -> int:
    """Add an event and answer its number; the job's row is the counter and the lock."""
    number = connection.execute(
        jobs.update().where(jobs.c.id == job_id).values(last_event=jobs.c.last_event + 1).returning(jobs.c.last_event)
    ).scalar_one_or_none()
    if number is None:
        raise NotFound(f"there is no job {job_id!r}")
    connection.execute(events.insert().values(job_id=job_id, id=number, type=type, at=now, data=documents.dump(data)))
    return int(number)


def end_job(
    connection: Connection,
    claim: Claim,
    status: JobStatus,
    now: float,
    *,
    result: dict[str, Any] | None = None,
    error: Problem | None = None,
) -> bool:
    """End the job inside the caller's transaction if the claim's attempt is still the present one."""
    ended = connection.execute(
        _held(claim).values(
            status=status,
            finished_at=now,
            lease_until=None,
            result=None if result is None else documents.dump(result),
            error=None if error is None else error.model_dump_json(),
        )
    ).rowcount
    if not ended:
        return False
    data = {"result": result} if error is None else {"error": error.model_dump(mode="json")}
    append_event(connection, claim.job.id, str(status), data, now)
    return True


def _guarded(job_id: str, attempt: int, status: JobStatus) -> sa.Update:
    return jobs.update().where(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.status == status)


def _held(claim: Claim) -> sa.Update:
    return _guarded(claim.job.id, claim.attempt, JobStatus.RUNNING)


def _insert_ignoring_conflicts(database: Database) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite

    insert = postgresql.insert(jobs) if database.postgres else sqlite.insert(jobs)
    return insert.on_conflict_do_nothing(index_elements=["idempotency_key"])


def _row(connection: Connection, job_id: str) -> Row[Any]:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id!r}")
    return row


def _with_ending(row: Row[Any], reason: str) -> str:
    return documents.dump([*documents.load(row.endings), f"attempt {row.attempt}: {reason}"])


def _take_back(connection: Connection, row: Row[Any], reason: str, now: float) -> JobStatus | None:
    """Move a running job on after its attempt died; None if someone else moved it first."""
    endings = _with_ending(row, reason)
    values: dict[str, Any] = {"lease_until": None, "endings": endings}
    data: dict[str, Any] = {"attempt": row.attempt, "reason": reason}
    if row.cancel_requested:
        status = JobStatus.CANCELLED
        values |= {"finished_at": now}
    elif row.attempt >= row.max_attempts:
        status = JobStatus.FAILED
        problem = Problem(
            type="urn:latentserve:problem:attempts-exhausted",
            title="Every attempt ended early",
            status=500,
            detail=f"{row.attempt} of {row.max_attempts} attempts were made; " + "; ".join(documents.load(endings)),
        )
        values |= {"finished_at": now, "error": problem.model_dump_json()}
        data = {"error": problem.model_dump(mode="json")}
    else:
        status = JobStatus.QUEUED
        values |= {"worker": None, "rings": 0, "ring_after": now}
    guard = _guarded(row.id, row.attempt, JobStatus.RUNNING).where(jobs.c.lease_until == row.lease_until)
    if connection.execute(guard.values(status=status, **values)).rowcount != 1:
        return None
    append_event(connection, row.id, str(status), data, now)
    return status


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        kind=JobKind(row.kind),
        status=JobStatus(row.status),
        request=documents.load(row.request),
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        cancel_requested=row.cancel_requested,
        progress=Progress.model_validate(documents.load(row.progress)),
        result=None if row.result is None else documents.load(row.result),
        error=None if row.error is None else Problem.model_validate_json(row.error),
        created_at=moment(row.created_at),
        started_at=None if row.started_at is None else moment(row.started_at),
        finished_at=None if row.finished_at is None else moment(row.finished_at),
    )
