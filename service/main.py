"""`python -m service.main`: the gateway under uvicorn, as the LATENTSERVE_* settings say."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from service.app import create_app
from service.settings import GatewaySettings

SHUTDOWN_SECONDS = 5


class _Server(uvicorn.Server):
    """uvicorn waits for open streams before it ends the application, so they are told to end first."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._service = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        gateway = getattr(self._service.state, "gateway", None)
        if gateway is not None:
            gateway.closing.set()
        super().handle_exit(sig, frame)


def main() -> int:
    """Serve until SIGTERM or SIGINT; 2 where a setting is wrong, uvicorn's 3 where the gateway does not start."""
    try:
        settings = GatewaySettings()
    except ValidationError as error:
        for each in error.errors():
            name = "_".join(str(step) for step in each["loc"]).upper()
            print(f"LATENTSERVE_{name}: {each['msg']}; see docs/settings.md", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        log_level=settings.log_level.lower(),
        access_log=settings.log_level.lower() == "debug",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has shut down; that is a good end, not a death by signal.
        signal.signal(number, lambda *_: sys.exit(0))
    _Server(config, app).run()  # exits with a code of its own where the gateway does not start
    return 0


if __name__ == "__main__":
    sys.exit(main())
