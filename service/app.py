"""The gateway as an ASGI application: `create_app(settings)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service import problems
from service.gateway import Reaper, clear_uploads, open_gateway
from service.middleware import Frame
from service.openapi import VERSION, document
from service.routes import (
    batches,
    datasets,
    decode,
    directions,
    encode,
    families,
    health,
    interpolate,
    jobs,
    log_prob,
    models,
    predict,
    probes,
    sample,
    similarity,
    train,
)
from service.settings import GatewaySettings

ROUTERS = (
    encode.router,
    decode.router,
    sample.router,
    log_prob.router,
    predict.router,
    similarity.router,
    interpolate.router,
    directions.router,
    probes.router,
    train.router,
    families.router,
    datasets.router,
    models.router,
    jobs.router,
    batches.router,
    health.router,
)


def create_app(settings: GatewaySettings) -> FastAPI:
    """Build the application; the store is opened (and migrated) when it starts, and closed when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gateway = await asyncio.to_thread(open_gateway, settings)
        app.state.gateway = gateway
        clear_uploads(settings)
        reaper = Reaper(gateway)
        reaper.start()
        try:
            yield
        finally:
            gateway.closing.set()
            await asyncio.to_thread(reaper.stop)
            await asyncio.to_thread(gateway.close)

    app = FastAPI(
        title="latentserve",
        version=VERSION,
        summary="Unsupervised learning as a service",
        lifespan=lifespan,
        separate_input_output_schemas=False,
        redoc_url=None,
    )
    problems.install(app)
    app.add_middleware(Frame, service=app)
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app
