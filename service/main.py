"""`python -m service.main`: the gateway under uvicorn, as the LATENTSERVE_* settings say."""

from __future__ import annotations

import logging
import sys

import uvicorn
from pydantic import ValidationError

from contracts.errors import LatentserveError
from service.app import create_app
from service.settings import GatewaySettings

SHUTDOWN_SECONDS = 5


def main() -> int:
    """Serve until SIGTERM or SIGINT; 2 where a setting is wrong."""
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
    config = uvicorn.Config(
        create_app(settings),
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
    try:
        uvicorn.Server(config).run()
    except LatentserveError as error:
        print(f"{error.title}: {error.detail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
