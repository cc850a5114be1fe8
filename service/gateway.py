"""What every request of a gateway shares: the store, the models in memory, the cache, the threads, the counters."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contracts.errors import LatentserveError, NotReady
from engine.cache import AnswerCache
from engine.options import SessionOptions, threads_from_cgroup
from engine.pool import ModelPool
from service.bodies import BodyBudget
from service.doorbell import Doorbell
from service.execution import Execution
from service.inputs import RowLimits
from service.metrics import Metrics
from service.resolver import Resolver
from service.settings import GatewaySettings
from store import Store

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("latentserve.gateway")

# How many bodies of the largest size may be in memory together.
BODIES_AT_ONCE = 4


@dataclass
class Gateway:
    """The parts; made by `open_gateway`."""

    settings: GatewaySettings
    store: Store
    pool: ModelPool
    cache: AnswerCache
    execution: Execution
    resolver: Resolver
    doorbell: Doorbell
    metrics: Metrics
    limits: RowLimits
    bodies: BodyBudget
    closing: threading.Event = field(default_factory=threading.Event)
    """Set when the process goes down, so that event streams end."""

    def close(self) -> None:
        """Let everything go."""
        self.doorbell.close()
        self.pool.close()
        self.cache.close()
        self.store.close()


def open_gateway(settings: GatewaySettings) -> Gateway:
    """Open the store (bringing its schema up to date) and set the parts up; loads no model and no torch."""
    store = _open_store(settings)
    cores = threads_from_cgroup()
    pool = ModelPool(
        store.artifacts, memory_budget_bytes=settings.memory_budget_bytes, options=SessionOptions(threads=cores)
    )
    execution = Execution(
        # A thread may wait on a batch, on the catalogue or on a file, so there are more of them than cores.
        threads=settings.worker_threads or max(4, 2 * cores),
        max_waiting=settings.max_waiting,
        deadline_seconds=settings.deadline_seconds,
    )
    cache = AnswerCache(local_bytes=settings.cache_bytes, redis_url=settings.cache_url)
    return Gateway(
        settings=settings,
        store=store,
        pool=pool,
        cache=cache,
        execution=execution,
        resolver=Resolver(store.catalogue, seconds=settings.resolve_seconds),
        doorbell=Doorbell(settings.queue_url),
        metrics=Metrics(pool=pool, execution=execution, catalogue=store.catalogue),
        limits=RowLimits(max_rows=settings.max_rows, max_pixels=settings.max_image_pixels),
        bodies=BodyBudget(BODIES_AT_ONCE * settings.max_body_bytes),
    )


def _open_store(settings: GatewaySettings) -> Store:
    """Open the store; its schema is brought up to date only where it is not, for Alembic takes long to import."""
    try:
        return Store.open(settings)
    except NotReady:
        return Store.open(settings, migrate=True)


class Reaper:
    """Takes back jobs whose lease ran out and rings for those that nobody claimed."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.wait(self._gateway.settings.reap_seconds):
            self.look()

    def look(self) -> int:
        """Look once and return how many bells were rung; trouble is logged, for the next look may go well."""
        try:
            waiting = self._gateway.store.catalogue.reap()
        except LatentserveError as error:
            log.warning("the catalogue cannot be reaped now: %s", error)
            return 0
        except Exception:
            log.exception("the reaper failed")
            return 0
        for job in waiting:
            self._gateway.doorbell.ring(job)
        return len(waiting)


def of(app: FastAPI) -> Gateway:
    """The gateway of an application that is running."""
    gateway = app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway


def clear_uploads(settings: GatewaySettings) -> None:
    """Delete uploads that an earlier process of this home left half-done when it was killed."""
    with contextlib.suppress(OSError):
        for folder in (settings.scratch / "uploads").iterdir():
            if not _alive(folder.name):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(name: str) -> bool:
    """Whether the process that an upload's folder is named after (``<pid>-<id>``) still runs."""
    import os

    pid = name.partition("-")[0]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return int(pid) != os.getpid()
