"""/healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response

from contracts.errors import LatentserveError, NotReady
from service.gateway import Gateway, of
from service.responses import write
from service.schemas.health import Alive, Check, LiveWorker, Readiness

router = APIRouter(tags=["health"])

METRICS_MEDIA = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz", operation_id="health", summary="Whether the process lives", response_model=Alive)
async def health() -> Response:
    """Answer at once."""
    return write(Alive())


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Whether requests can be answered",
    response_model=Readiness,
    responses={503: {"description": "The store is away: a problem document."}},
)
async def readiness(request: Request) -> Response:
    """200 `ready`; 200 `degraded` without Redis or workers (answers go on, jobs queue up); 503 without a store."""
    gateway = of(request.app)
    results: dict[str, Check] = {}
    workers: list[LiveWorker] = []

    async def check(name: str, probe: Callable[[], str]) -> None:
        detail = f"no answer within {gateway.settings.probe_seconds:g} s"
        with anyio.move_on_after(gateway.settings.probe_seconds + 0.5):
            detail = await anyio.to_thread.run_sync(probe, abandon_on_cancel=True)
        results[name] = Check(ok=not detail, detail=detail)

    def store() -> str:
        try:
            gateway.store.catalogue.ping()
            found = gateway.store.catalogue.live_workers(within_seconds=gateway.settings.worker_alive_seconds)
        except LatentserveError as error:
            return error.detail
        except Exception as error:
            return f"{type(error).__name__}: the catalogue does not answer"
        workers.extend(LiveWorker(name=each.name, queues=list(each.queues), seen_at=each.seen_at) for each in found)
        return ""

    async with anyio.create_task_group() as group:
        group.start_soon(check, "store", store)
        group.start_soon(check, "queue", lambda: ping(gateway.settings.queue_url, gateway.settings.probe_seconds))
        group.start_soon(check, "cache", lambda: _cache(gateway))
    if not results["store"].ok:
        raise NotReady(f"store: {results['store'].detail}", retry_after_seconds=2.0)
    served = {queue for worker in workers for queue in worker.queues}
    missing = sorted({"train", "batch"} - served)
    results["workers"] = Check(ok=not missing, detail=f"no live worker for {', '.join(missing)}" if missing else "")
    ready = all(result.ok for result in results.values())
    return write(Readiness(status="ready" if ready else "degraded", checks=results, workers=workers))


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    responses={200: {"description": "Prometheus text format.", "content": {"text/plain": {}}}},
)
def metrics(request: Request) -> Response:
    """Counters and gauges in the Prometheus text format."""
    return Response(of(request.app).metrics.page(), media_type=METRICS_MEDIA)


def ping(url: str, timeout_seconds: float) -> str:
    """What is wrong with the Redis at ``url``; empty where it answers."""
    import redis

    try:
        with redis.Redis.from_url(
            url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds
        ) as client:
            client.ping()
    except (redis.RedisError, ValueError, OSError) as error:
        return f"the server does not answer ({type(error).__name__})"
    return ""


def _cache(gateway: Gateway) -> str:
    url = gateway.settings.cache_url
    return "" if url is None else ping(url, gateway.settings.probe_seconds)
