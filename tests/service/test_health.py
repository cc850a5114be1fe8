"""Health, readiness and metrics; what goes on while Redis is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from contracts.errors import NotReady
from service.gateway import of


def metrics(client: TestClient) -> dict[str, list[Any]]:
    response = client.get("/metrics")
    assert response.status_code == 200
    return {family.name: family.samples for family in text_string_to_metric_families(response.text)}


def test_health_is_trivial(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}


def test_without_redis_and_workers_it_is_degraded_and_goes_on(start: Callable[..., TestClient], kit: Any) -> None:
    client = start(cache_url="redis://127.0.0.1:1/0", probe_seconds=0.5)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    checks = answer.json()["checks"]
    assert (checks["store"]["ok"], checks["queue"]["ok"], checks["cache"]["ok"]) == (True, False, False)
    assert "train" in checks["workers"]["detail"]
    client.post("/datasets?name=d&filename=d.csv", content=kit.csv(30))
    body = {"name": "m", "dataset": "d", "config": {"family": "pca"}}
    assert client.post("/train", json=body).status_code == 202


def test_with_everything_it_is_ready(start: Callable[..., TestClient], valkey_pair: Any) -> None:
    client = start(queue_url=valkey_pair.queue_url, cache_url=valkey_pair.cache_url)
    catalogue = of(client.app).store.catalogue
    catalogue.heartbeat("one", ["train"], {})
    assert client.get("/readyz").json()["status"] == "degraded"
    catalogue.heartbeat("two", ["batch"], {})
    answer = client.get("/readyz").json()
    assert answer["status"] == "ready"
    assert [worker["queues"] for worker in answer["workers"]] == [["train"], ["batch"]]


@pytest.mark.parametrize("error", [NotReady("the database is away"), RuntimeError("broken")])
def test_without_a_store_it_is_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(of(client.app).store.catalogue, "ping", fail)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].startswith("store:")


def test_requests_batches_cache_and_memory_are_counted(client: TestClient) -> None:
    row = [[0.123, 4.0, 5.0]]
    for _ in range(3):
        assert client.post("/encode", json={"model": "reals", "inputs": row}).status_code == 200
    assert client.post("/sample", json={"model": "nobody"}).status_code == 404
    assert client.post("/encode", content=b" " * (5 << 20)).status_code == 413
    found = metrics(client)
    labels = {"model": "reals", "version": "1", "op": "encode", "status": "200"}
    counted = [s.value for s in found["latentserve_requests"] if s.name.endswith("_total") and s.labels == labels]
    assert counted[0] >= 3
    for name in ("request_duration_seconds", "queue_duration_seconds", "inference_duration_seconds", "batch_size"):
        assert found[f"latentserve_{name}"], name
    for name in ("queue_size", "model_resident_bytes", "batch_release", "jobs", "job_attempts", "rejected"):
        assert f"latentserve_{name}" in found, name
    rows = sum(
        s.value
        for name in ("hits", "misses", "bypasses")
        for s in found.get(f"latentserve_cache_{name}", [])
        if s.name.endswith("_total") and s.labels == {"op": "encode"}
    )
    assert rows >= 3
    models = {s.labels["model"] for s in found["latentserve_requests"]}
    assert "nobody" not in models, "a name that does not exist must not become a label"


def test_a_heartbeat_has_an_age(client: TestClient) -> None:
    of(client.app).store.catalogue.heartbeat("aged", ["train"], {})
    ages = metrics(client)["latentserve_job_heartbeat_age_seconds"]
    assert [s.value >= 0 for s in ages if s.labels["worker"] == "aged"] == [True]


def test_metrics_come_without_jobs_where_the_catalogue_is_away(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("away")

    monkeypatch.setattr(of(client.app).store.catalogue, "count_jobs", fail)
    found = metrics(client)
    assert "latentserve_jobs" not in found
    assert "latentserve_queue_size" in found


def test_a_cache_answers_again_what_it_answered_before(
    start: Callable[..., TestClient], kit: Any, valkey_pair: Any, tmp_path: Any
) -> None:
    client = start(cache_url=valkey_pair.cache_url)
    kit.write_latent(tmp_path / "m", kit.pictures, 1.0)
    kit.publish(of(client.app), "m", tmp_path / "m")
    body = {"model": "m", "inputs": [[[1] * 5] * 4], "samples": 2000, "seed": 3}
    answers = [client.post("/log_prob", json=body).json() for _ in range(12)]
    assert {answer["log_prob"][0] for answer in answers} == {answers[0]["log_prob"][0]}
    assert {answer["kind"] for answer in answers} == {"lower_bound"}
    assert sum(answer["cache"]["hit"] for answer in answers) > 0
