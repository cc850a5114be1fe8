"""What /metrics shows, in the Prometheus text format; every name starts with ``latentserve_``.

Requests are counted as they end; batches, the queue, memory and jobs are read when the page is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from engine.pool import ModelPool
from service.execution import Execution
from store.catalogue import Catalogue

log = logging.getLogger("latentserve.metrics")

PREFIX = "latentserve"
LABELS = ("model", "version", "op", "status")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one gateway."""

    def __init__(self, *, pool: ModelPool, execution: Execution, catalogue: Catalogue) -> None:
        self._registry = CollectorRegistry()
        self.started = time.time()

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"{PREFIX}_{name}_seconds", text, LABELS, buckets=SECONDS, registry=self._registry)

        def count(name: str, text: str, labels: Iterable[str]) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, tuple(labels), registry=self._registry)

        self._requests = count("requests", "Requests answered.", LABELS)
        self._duration = seconds("request_duration", "From the first byte of the request to the answer.")
        self._queue = seconds("queue_duration", "Waiting for a thread or a batch.")
        self._inference = seconds("inference_duration", "Running graphs.")
        self._rejected = count("rejected", "Requests refused before they ran.", ("reason",))
        self._hits = count("cache_hits", "Rows answered from the cache.", ("op",))
        self._misses = count("cache_misses", "Rows computed and put into the cache.", ("op",))
        self._bypasses = count("cache_bypasses", "Rows computed past the cache.", ("op",))
        self._registry.register(_Engine(pool, execution))
        self._registry.register(_Jobs(catalogue))

    def request(
        self,
        op: str,
        status: int,
        seconds: float,
        *,
        model: str = "",
        version: str = "",
        queue_seconds: float | None = None,
        run_seconds: float | None = None,
    ) -> None:
        """Count an answered request; ``model`` and ``version`` only where they exist, so that labels stay few."""
        labels = (model, version, op, str(status))
        self._requests.labels(*labels).inc()
        self._duration.labels(*labels).observe(seconds)
        if queue_seconds is not None:
            self._queue.labels(*labels).observe(queue_seconds)
        if run_seconds is not None:
            self._inference.labels(*labels).observe(run_seconds)
        if status in (413, 429, 504):
            self._rejected.labels({413: "too_large", 429: "overloaded", 504: "deadline"}[status]).inc()

    def cache(self, op: str, *, hit: int, miss: int, bypass: int) -> None:
        """Count rows by how the cache met them."""
        for counter, rows in ((self._hits, hit), (self._misses, miss), (self._bypasses, bypass)):
            if rows:
                counter.labels(op).inc(rows)

    def page(self) -> bytes:
        """The metrics page; parts whose source is away are left out."""
        return generate_latest(self._registry)


class _Engine(Collector):
    """Batches, queue and memory of the models."""

    def __init__(self, pool: ModelPool, execution: Execution) -> None:
        self._pool, self._execution = pool, execution

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(f"{PREFIX}_queue_size", "Waiting now.", labels=("kind",))
        batches = HistogramMetricFamily(f"{PREFIX}_batch_size", "Rows per run of a graph.", labels=("digest", "graph"))
        released = CounterMetricFamily(
            f"{PREFIX}_batch_release", "Runs by why the batch was closed.", labels=("reason",)
        )
        rejected = CounterMetricFamily(
            f"{PREFIX}_batch_rejected", "Requests that a batch queue refused or dropped.", labels=("reason",)
        )
        resident = GaugeMetricFamily(
            f"{PREFIX}_model_resident_bytes", "Estimated memory of loaded models.", labels=("digest", "family")
        )
        rows, releases, rejections = 0, dict[str, int](), dict[str, int]()
        for digest, graphs in self._pool.counters().items():
            for graph, counters in graphs.items():
                rows += counters.waiting_rows
                buckets, total = [], 0
                for size, runs in sorted(dict(counters.batch_rows).items()):
                    total += runs
                    buckets.append((str(float(size)), float(total)))
                batches.add_metric((digest[:12], graph), [*buckets, ("+Inf", float(total))], float(counters.rows))
                for counted, into in ((counters.released, releases), (counters.rejected, rejections)):
                    for reason, number in dict(counted).items():
                        into[reason] = into.get(reason, 0) + number
        for reason, number in releases.items():
            released.add_metric((reason,), number)
        for reason, number in rejections.items():
            rejected.add_metric((reason,), number)
        for model in self._pool.loaded():
            resident.add_metric((model.digest[:12], model.family), model.resident_bytes)
        waiting.add_metric(("requests",), self._execution.waiting)
        waiting.add_metric(("rows",), rows)
        yield from (waiting, batches, released, rejected, resident)


class _Jobs(Collector):
    """Jobs, their attempts and the age of heartbeats, as the catalogue says; left out where it is away."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        try:
            jobs = self._catalogue.count_jobs()
            workers = self._catalogue.live_workers(within_seconds=3600)
        except Exception as error:  # a page without them is better than none
            log.warning("metrics without jobs: %s", error)
            return
        states = GaugeMetricFamily(f"{PREFIX}_jobs", "Jobs by how they are.", labels=("kind", "status"))
        attempts = CounterMetricFamily(f"{PREFIX}_job_attempts", "Claims of jobs.", labels=("kind",))
        ages = GaugeMetricFamily(
            f"{PREFIX}_job_heartbeat_age_seconds", "Since a worker's last heartbeat.", labels=("worker", "queues")
        )
        claims: dict[str, int] = {}
        for (kind, status), (count, claimed) in jobs.items():
            states.add_metric((kind, status), count)
            claims[kind] = claims.get(kind, 0) + claimed
        for name, total in claims.items():
            attempts.add_metric((name,), total)
        now = datetime.now(UTC)
        for worker in workers:
            age = max(0.0, (now - worker.seen_at).total_seconds())
            ages.add_metric((worker.name, ",".join(worker.queues)), age)
        yield from (states, attempts, ages)
