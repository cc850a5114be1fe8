"""A worker process: ``python -m workers.main --queues train`` (or ``batch``, or ``train,batch``).

The Celery pool is one thread: the work is done by a child process per attempt, and the main thread stays free to
keep the broker connection alive (a solo pool would leave it alone for hours; prefork would put a daemonic process
between the worker and the child, which lives on when the worker is killed). On SIGTERM the running child is ended
and its job released to another worker at once; that counts as one of the job's attempts.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time

from celery import signals

from contracts.errors import NotReady
from store import Store
from workers.app import QUEUES, make_app
from workers.reaper import Periodic, Reaper, heartbeat
from workers.settings import WorkerSettings
from workers.tasks import Attendant, register

log = logging.getLogger("workers")

STORE_WAIT_SECONDS = 60.0


def main(argv: list[str] | None = None) -> int:
    """Serve queues until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m workers.main", description="Serve jobs of some queues.")
    parser.add_argument("--queues", required=True, help=f"comma-separated: {', '.join(sorted(set(QUEUES.values())))}")
    queues = parser.parse_args(argv).queues.split(",")
    unknown = sorted(set(queues) - set(QUEUES.values()))
    if unknown:
        parser.error(f"there is no queue {', '.join(unknown)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = WorkerSettings()
    with open_store(settings) as store:
        return serve(store, settings, queues)


def open_store(settings: WorkerSettings, wait_seconds: float = STORE_WAIT_SECONDS) -> Store:
    """Open the store; a schema that is not there yet is waited for, since who migrates may start later."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return Store.open(settings)
        except NotReady:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def serve(store: Store, settings: WorkerSettings, queues: list[str]) -> int:
    """Run the worker in the main thread; returns the exit code."""
    name = f"{'-'.join(queues)}@{socket.gethostname()}.{os.getpid()}"
    attendant = Attendant(store, settings, name, queues)
    app = make_app(settings.queue_url)
    register(app, attendant)
    reaper = Reaper(attendant, app)
    threads = [
        Periodic("heartbeat", settings.heartbeat_seconds, heartbeat(attendant, queues)),
        Periodic("reaper", settings.reap_seconds, reaper),
    ]

    def stop(**_: object) -> None:
        attendant.stopping.set()

    signals.worker_shutting_down.connect(stop, weak=False)
    for thread in threads:
        thread.start()
    try:
        worker = app.Worker(
            hostname=name,
            pool="threads",
            concurrency=1,
            queues=queues,
            loglevel="INFO",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        worker.start()
        return int(worker.exitcode or 0)
    finally:
        attendant.stopping.set()
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.join()
        reaper.join()
        signals.worker_shutting_down.disconnect(stop)


if __name__ == "__main__":
    sys.exit(main())
