"""The Celery application: a doorbell in front of the catalogue, nothing more.

A message carries a job's id. It is acknowledged on receipt and may be lost, late or doubled: the row decides who
works. JSON is the only content, results are not kept, and a message that nobody took expires, since the reaper
rings again.
"""

from __future__ import annotations

from celery import Celery

from contracts.jobs import JobKind

TASKS = {JobKind.TRAIN: "latentserve.train", JobKind.INGEST: "latentserve.ingest", JobKind.BATCH: "latentserve.batch"}
QUEUES = {JobKind.TRAIN: "train", JobKind.INGEST: "batch", JobKind.BATCH: "batch"}
DOORBELL_EXPIRES_SECONDS = 60


def make_app(queue_url: str) -> Celery:
    """Return an application that speaks to the broker at ``queue_url``; connects to nothing yet."""
    app = Celery("latentserve", broker=queue_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_create_missing_queues=True,
        task_routes={TASKS[kind]: {"queue": QUEUES[kind]} for kind in TASKS},
        # one message at a time, and none while a job runs: a waiting message belongs to whoever is free
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2.0,
        broker_transport_options={
            "visibility_timeout": 3600,  # matters only between receipt and early acknowledgement
            "socket_connect_timeout": 2.0,
            "socket_timeout": 10.0,  # a half-open connection after a restart of the server is seen, not waited on
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


def ring(app: Celery, kind: JobKind, job_id: str) -> None:
    """Put a job's doorbell into its queue; raises kombu's OperationalError where the broker is away."""
    app.send_task(
        TASKS[kind],
        args=[job_id],
        queue=QUEUES[kind],
        expires=DOORBELL_EXPIRES_SECONDS,
        retry=False,
        ignore_result=True,
    )
