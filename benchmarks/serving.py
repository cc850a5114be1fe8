"""What serving costs: reading and writing a request beside pydantic lists, and a real gateway over HTTP.

    python -m benchmarks.serving [--seconds S] [--connections C] [--upload-mib M]

Three tables. *Transports*: on one core, without HTTP and without a model, from the bytes of a request to one checked
array and from 32 vectors to the bytes of the answer, requests per second; the ratio is to pydantic models of nested
lists. *Gateway*: a process of its own (uvicorn, uvloop) that serves a pca with 32 components on 784 real columns,
asked by threads of this process over kept connections; client and server share the machine, so the figures are
floors. *Process*: seconds until /healthz answers, resident memory then, and its growth over an upload.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import orjson
import psutil
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from contracts.artifact import Card
from contracts.data import Column, ColumnType, DataProfile, DataSpec, Part
from contracts.families import config_adapter
from contracts.jobs import Budget
from models import build
from service.answers import Answer, respond
from service.bodies import parse_verb
from service.inputs import NPY, RowLimits, parse_rows
from service.parts import claim_port
from service.schemas.verbs import EncodeRequest
from service.settings import GatewaySettings
from service.tensors import write_npy, write_tensor
from store import Store
from workers.export import export
from workers.publish import assemble
from workers.training.trainer import Plan, train

CELLS, LATENTS, JSON = 784, 32, "application/json"
SPEC = DataSpec(modality="table", columns=tuple(Column(name=f"x{i}", type=ColumnType.REAL) for i in range(CELLS)))
QUERY = {"model": "m"}
LIMITS = RowLimits(max_rows=100_000, max_pixels=1)
MIB = 1 << 20
console = Console(width=120)


class ListRequest(BaseModel):
    """What a service without array parsing would declare."""

    model: str
    inputs: list[list[float]]


class ListResponse(BaseModel):
    model: str
    vectors: list[list[float]]


def rows(count: int) -> NDArray[np.float64]:
    """Rows on a 32-dimensional plane plus noise, so that pca has something to find."""
    rng = np.random.default_rng(count)
    plane = np.random.default_rng(0).normal(size=(LATENTS, CELLS))
    return rng.normal(size=(count, LATENTS)) @ plane + rng.normal(size=(count, CELLS))


# --- transports -------------------------------------------------------------------------------------------------------


def rate(work: Callable[[], object], seconds: float) -> float:
    """Calls per second, the median of five stretches."""
    work()
    rates = []
    for _ in range(5):
        calls, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds / 5:
            work()
            calls += 1
        rates.append(calls / (time.perf_counter() - began))
    return statistics.median(rates)


def lists(body: bytes, vectors: NDArray[np.float32]) -> bytes:
    asked = ListRequest.model_validate_json(body)
    x = np.array(asked.inputs)
    assert len(x) == len(vectors)
    return ListResponse(model=asked.model, vectors=vectors.tolist()).model_dump_json().encode()


def ours(body: bytes, media: str, vectors: NDArray[np.float32], accept: str) -> bytes:
    asked = parse_verb(EncodeRequest, body, media, QUERY)
    assert len(parse_rows(asked.inputs, SPEC, LIMITS)) == len(vectors)
    answer = Answer({"model": "m@1"}, {"vectors": vectors}, "vectors", vectors=frozenset({"vectors"}))
    return bytes(respond(answer, accept, max_picture_cells=0).body)


def transports(seconds: float) -> None:
    table = Table("rows of 784", "transport", "request bytes", "requests/s", "x pydantic lists", title="Transports")
    for count in (1, 32):
        x, vectors = rows(count), rows(count)[:, :LATENTS].astype(np.float32)
        as_json = orjson.dumps({"model": "m", "inputs": x}, option=orjson.OPT_SERIALIZE_NUMPY)
        as_tensor = orjson.dumps({"model": "m", "inputs": write_tensor(x.astype(np.float32))})
        as_npy = write_npy(x.astype(np.float32))
        base = rate(partial(lists, as_json, vectors), seconds)
        table.add_row(str(count), "pydantic lists", f"{len(as_json):,}", f"{base:,.0f}", "1.0")
        for name, body, media, accept in (
            ("JSON numbers", as_json, JSON, JSON),
            ("base64 float32", as_tensor, JSON, JSON),
            ("NPY float32 both ways", as_npy, NPY, NPY),
        ):
            found = rate(partial(ours, body, media, vectors, accept), seconds)
            table.add_row(str(count), name, f"{len(body):,}", f"{found:,.0f}", f"{found / base:.1f}")
    console.print(table)


# --- a real gateway ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    x: NDArray[np.float64]
    y: None = None


class _Source:
    """Rows as the trainer reads datasets."""

    spec = SPEC

    def __init__(self) -> None:
        self._parts = {Part.TRAIN: rows(3000), Part.VALID: rows(400), Part.TEST: rows(401)}

    def count(self, part: Part | None = None) -> int:
        return sum(len(found) for name, found in self._parts.items() if part in (None, name))

    def read(self, part: Part | None, indices: NDArray[np.int64] | slice) -> _Rows:
        return _Rows((np.concatenate(list(self._parts.values())) if part is None else self._parts[part])[indices])

    def profile(self) -> DataProfile:
        x = self._parts[Part.TRAIN]
        return DataProfile(len(x), x.mean(0), x.std(0), x.min(0), x.max(0))


def publish_pca(home: Path) -> None:
    """Train, export and import the model that is asked."""
    source = _Source()
    family = build(config_adapter.validate_python({"family": "pca", "components": LATENTS}), SPEC, source.profile())
    result = train(family, source, Plan(budget=Budget(), accelerator="cpu"))
    folder = home / "model"
    folder.mkdir(parents=True)
    card = Card(metrics={}, parity={}, timings={}, rows={"train": source.count(Part.TRAIN)})
    graphs = export(family, folder)
    manifest = assemble(family, folder, graphs=graphs, seed=0, steps=result.steps, dataset="0" * 64, card=card)
    with Store.open(GatewaySettings(home=home), migrate=True) as store:
        digest, size = store.artifacts.publish(folder)
        store.catalogue.import_version(name="pca", digest=digest, manifest=manifest, card=card, size=size)


@contextmanager
def gateway(home: Path) -> Iterator[tuple[int, psutil.Process, float]]:
    """A running gateway: its port, its process, and the seconds until it answered."""
    port = claim_port("127.0.0.1", 0)
    environment = {**os.environ, "LATENTSERVE_HOME": str(home), "LATENTSERVE_PORT": str(port)}
    environment |= {"LATENTSERVE_QUEUE_URL": "redis://127.0.0.1:1/0", "LATENTSERVE_LOG_LEVEL": "error"}
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "service.main"], env=environment)
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz")
                break
            except httpx.TransportError:
                if process.poll() is not None:
                    raise
                time.sleep(0.01)
        yield port, psutil.Process(process.pid), time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(30)


def load(port: int, connections: int, seconds: float, path: str, body: bytes, headers: dict[str, str]) -> list[float]:
    """Seconds of each request, asked by so many threads at the same time."""
    times: list[list[float]] = [[] for _ in range(connections)]
    stop = time.perf_counter() + seconds

    def ask(mine: list[float]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while (began := time.perf_counter()) < stop:
            connection.request("POST", path, body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise RuntimeError(answer.decode())
            mine.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(each for mine in times for each in mine)


def over_http(port: int, connections: int, seconds: float) -> None:
    table = Table(
        "verb", "rows", "transport", "connections", "requests/s", "rows/s", "p50 ms", "p99 ms", title="Gateway, pca 784"
    )
    for path in ("/encode", "/log_prob"):
        for count in (1, 32):
            x = rows(count)
            for transport in ("JSON", "NPY"):
                if transport == "JSON":
                    body = orjson.dumps({"model": "pca", "inputs": x}, option=orjson.OPT_SERIALIZE_NUMPY)
                    target, headers = path, {"Content-Type": JSON}
                else:
                    body = write_npy(x.astype(np.float32))
                    target, headers = f"{path}?model=pca", {"Content-Type": NPY, "Accept": NPY}
                for parallel in dict.fromkeys((1, connections)):
                    load(port, parallel, min(1.0, seconds), target, body, headers)
                    times = load(port, parallel, seconds, target, body, headers)
                    speed = len(times) / seconds
                    table.add_row(
                        path, str(count), transport, str(parallel), f"{speed:,.0f}", f"{speed * count:,.0f}",
                        f"{1e3 * times[len(times) // 2]:.2f}", f"{1e3 * times[int(0.99 * len(times))]:.2f}",
                    )  # fmt: skip
    console.print(table)


def upload(port: int, process: psutil.Process, mebibytes: int) -> tuple[float, float]:
    """Seconds of a streamed upload and the growth of the gateway's memory in MiB."""
    header = io.BytesIO()
    count = mebibytes * MIB // (8 * 64)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (count, 64)})
    block = np.random.default_rng(0).normal(size=(MIB // 512, 64)).tobytes()
    most = before = process.memory_info().rss

    def stream() -> Iterator[bytes]:
        nonlocal most
        yield header.getvalue()
        for _ in range(mebibytes):
            yield block
            most = max(most, process.memory_info().rss)

    began = time.perf_counter()
    answer = httpx.post(
        f"http://127.0.0.1:{port}/datasets?name=large&filename=large.npy", content=stream(), timeout=600
    )
    answer.raise_for_status()
    most = max(most, process.memory_info().rss)
    return time.perf_counter() - began, (most - before) / MIB


def main(arguments: list[str] | None = None) -> None:
    """Measure and print; ``arguments`` None reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="per figure")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--upload-mib", type=int, default=1024)
    given = parser.parse_args(arguments)
    transports(given.seconds)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        publish_pca(home)
        with gateway(home) as (port, process, ready_seconds):
            resident = process.memory_info().rss / MIB
            upload_seconds, growth = upload(port, process, given.upload_mib)
            over_http(port, given.connections, given.seconds)
        table = Table("what", "figure", title="Process")
        table.add_row("seconds until /healthz answers", f"{ready_seconds:.2f}")
        table.add_row("resident MiB then", f"{resident:.0f}")
        table.add_row(f"growth in MiB over an upload of {given.upload_mib} MiB", f"{growth:.0f}")
        table.add_row("MiB/s of that upload", f"{given.upload_mib / upload_seconds:.0f}")
        console.print(table)


if __name__ == "__main__":
    main()
