"""The gateway as a real process over real HTTP: what it imports, how it grows, how it ends."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

MEBIBYTE = 1 << 20
UPLOAD_BYTES = 200 * MEBIBYTE
# The promise is 100 MB for a gigabyte; a stream whose memory grew with its size would show at this size too.
GROWTH_BYTES = 60 * MEBIBYTE


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gateway:
    def __init__(self, home: Path) -> None:
        self.port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LATENTSERVE_")}
        environment |= {
            "LATENTSERVE_HOME": str(home),
            "LATENTSERVE_PORT": str(self.port),
            "LATENTSERVE_QUEUE_URL": "redis://127.0.0.1:1/0",
            "LATENTSERVE_MAX_UPLOAD_BYTES": str(UPLOAD_BYTES + 4 * MEBIBYTE),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.main"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.http.get("/healthz")
                break
            except httpx.TransportError:
                assert self.process.poll() is None, self.process.communicate()[0]
                assert time.monotonic() < deadline, "the gateway does not come up"
                time.sleep(0.05)

    @property
    def resident_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self) -> int:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("process") / "home")
    try:
        yield running
    finally:
        running.stop()


def test_it_is_small_and_holds_no_torch(gateway: Gateway) -> None:
    assert gateway.resident_bytes < 150 * MEBIBYTE
    with open(f"/proc/{gateway.process.pid}/maps") as maps:
        libraries = maps.read()
    for library in ("libtorch", "libarrow", "_imaging"):
        assert library not in libraries, f"{library} is loaded before anybody needs it"


def test_importing_the_gateway_imports_no_torch() -> None:
    heavy = (
        "torch",
        "lightning_fabric",
        "onnx",
        "celery",
        "pyarrow",
        "PIL",
        "sklearn",
        "scipy",
        "alembic",
        "models",
        "workers",
    )
    code = f"import sys, service.main; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_large_upload_streams_through_little_memory(gateway: Gateway) -> None:
    rows = UPLOAD_BYTES // 400
    head = np.lib.format.header_data_from_array_1_0(np.empty((0, 50)))
    head["shape"] = (rows, 50)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, head)
    block = np.random.default_rng(0).normal(size=(2621, 50)).tobytes()
    most = before = gateway.resident_bytes

    def stream() -> Iterator[bytes]:
        nonlocal most
        yield header.getvalue()
        left = rows * 400
        while left:
            yield block[: min(left, len(block))]
            left -= min(left, len(block))
            most = max(most, gateway.resident_bytes)

    response = gateway.http.post("/datasets?name=large&filename=large.npy", content=stream())
    most = max(most, gateway.resident_bytes)
    assert response.status_code == 202, response.text
    assert most - before < GROWTH_BYTES, f"grew by {(most - before) / MEBIBYTE:.0f} MiB"
    assert gateway.http.get(response.headers["location"]).json()["kind"] == "ingest"


def test_an_upload_that_breaks_off_leaves_nothing(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> None:
    scratch = Path(psutil.Process(gateway.process.pid).environ()["LATENTSERVE_HOME"]) / "scratch"
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(
            b"POST /datasets?name=broken&filename=x.csv HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
            + b"1,2\n" * 500
        )
        deadline = time.monotonic() + 20
        while not list(scratch.rglob("uploads/*/0")):
            assert time.monotonic() < deadline, "the upload never began"
            time.sleep(0.02)
    while list(scratch.rglob("uploads/*")):
        assert time.monotonic() < deadline, "the broken upload is still there"
        time.sleep(0.02)
    assert gateway.http.get("/datasets/broken").status_code == 404


def test_bad_http_does_not_hurt(gateway: Gateway) -> None:
    for junk in (b"\x00\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /encode HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.sendall(junk)
            client.settimeout(10)
            client.recv(1000)
    assert gateway.http.get("/healthz").status_code == 200


def test_it_ends_when_told_even_while_a_client_watches(tmp_path: Path) -> None:
    running = Gateway(tmp_path / "home")
    try:
        text = "a,b\n" + "\n".join(f"{i}.5,{i * i}.25" for i in range(50))
        running.http.post("/datasets?name=d&filename=d.csv", content=text)
        body = {"name": "m", "dataset": "d", "config": {"family": "pca"}}
        job = running.http.post("/train", json=body).json()["id"]
        with running.http.stream("GET", f"/jobs/{job}/events") as events:
            lines = events.iter_lines()
            assert next(lines).startswith("retry")
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(20) == 0
    finally:
        running.stop()


def test_a_gateway_that_cannot_start_says_why_and_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    environment = {**os.environ, "LATENTSERVE_HOME": str(tmp_path / "file"), "LATENTSERVE_PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-m", "service.main"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "file" in done.stderr
