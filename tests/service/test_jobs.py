"""Training, jobs, events and batches over HTTP, with a worker played by hand."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient

from contracts.errors import NotReady
from contracts.jobs import JobKind, JobStatus, Progress
from service.gateway import Reaper, of
from store.catalogue import Claim


@pytest.fixture(scope="module", autouse=True)
def table(client: TestClient, kit: Any) -> None:
    assert client.post("/datasets?name=jobs&filename=t.csv", content=kit.csv(50, seed=77)).status_code == 201


def train(client: TestClient, headers: dict[str, str] | None = None, **more: Any):
    body = {"name": "made", "dataset": "jobs", "config": {"family": "pca"}} | more
    return client.post("/train", json=body, headers=headers or {})


def claim(client: TestClient, job_id: str) -> Claim:
    taken = of(client.app).store.catalogue.claim_job(job_id, "test")
    assert taken is not None
    return taken


def test_train_queues_a_job(client: TestClient) -> None:
    response = train(client, seed=7, budget={"steps": 3})
    assert response.status_code == 202, response.text
    job = client.get(response.headers["location"]).json()
    assert job["id"] == response.json()["id"]
    assert (job["kind"], job["status"]) == ("train", "queued")
    assert job["request"]["budget"]["steps"] == 3


def test_an_idempotency_key_makes_one_job(client: TestClient) -> None:
    first = train(client, {"Idempotency-Key": "once"})
    assert train(client, {"Idempotency-Key": "once"}).json()["id"] == first.json()["id"]
    assert train(client, {"Idempotency-Key": "once"}, seed=1).status_code == 409
    assert train(client, {"Idempotency-Key": "x" * 256}).status_code == 422
    assert train(client).json()["id"] != first.json()["id"]


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"config": {"family": "oracle"}}, 422, "config"),
        ({"config": {"family": "pca", "components": 0}}, 422, "components"),
        ({"config": {"family": "pca", "depth": 3}}, 422, "depth"),
        ({"config": {}}, 422, "family"),
        ({"config": {"family": "vae", "condition": "label"}}, 422, "label"),
        ({"dataset": "nothing"}, 404, "nothing"),
        ({"name": "Bad Name"}, 422, "name"),
        ({"seed": -1}, 422, "seed"),
        ({"seed": "1"}, 422, "seed"),
        ({"budget": {"steps": 1, "seconds": 1}}, 422, "one of"),
        ({"budget": {"steps": 0}}, 422, "steps"),
        ({"start_from": "reals@77"}, 404, "77"),
        ({"start_from": "reals", "config": {"family": "flow"}}, 422, "same family"),
        ({"start_from": "pictures"}, 422, "shape"),
        ({"unknown": 1}, 422, "unknown"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_is_queued(
    client: TestClient, more: dict[str, Any], status: int, words: str
) -> None:
    before = len(client.get("/jobs?limit=1000").json()["items"])
    response = train(client, **more)
    assert response.status_code == status, response.text
    assert words in response.text
    assert len(client.get("/jobs?limit=1000").json()["items"]) == before


def test_start_from_is_fixed_to_the_version_that_it_meant(client: TestClient) -> None:
    response = train(client, start_from="reals@new")
    assert response.status_code == 202, response.text
    assert response.json()["request"]["start_from"] == "reals@2"


def test_jobs_are_listed_newest_first_by_pages(client: TestClient) -> None:
    newest = train(client).json()["id"]
    ids, after = [], None
    while True:
        page = client.get("/jobs", params={"limit": 2, "kind": "train"} | ({"after": after} if after else {})).json()
        ids += [job["id"] for job in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert ids[0] == newest
    assert len(ids) == len(set(ids)) > 2
    queued = client.get("/jobs?status=queued&limit=1000").json()["items"]
    assert {job["status"] for job in queued} == {"queued"}


def test_cancel_ends_a_queued_job_and_flags_a_running_one(client: TestClient) -> None:
    job_id = train(client).json()["id"]
    assert client.post(f"/jobs/{job_id}/cancel", json={}).json()["status"] == "cancelled"
    assert client.post(f"/jobs/{job_id}/cancel").status_code == 409
    running = train(client).json()["id"]
    claim(client, running)
    answer = client.post(f"/jobs/{running}/cancel").json()
    assert (answer["status"], answer["cancel_requested"]) == ("running", True)


def read(lines: Iterator[str]) -> list[dict[str, Any]]:
    events, fields = [], {}
    for line in lines:
        if line.startswith(":"):
            events.append({"comment": line})
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "data" in fields:
                events.append({"id": int(fields["id"]), "type": fields["event"], "data": orjson.loads(fields["data"])})
            fields = {}
    return events


def test_events_stream_to_the_end_and_resume(client: TestClient) -> None:
    catalogue = of(client.app).store.catalogue
    job_id = train(client).json()["id"]
    taken = claim(client, job_id)

    def work() -> None:
        for step in range(3):
            catalogue.record_progress(taken, Progress(stage="train", step=step, steps=3))
        catalogue.finish_job(taken, JobStatus.SUCCEEDED, result={"model": "made"})

    worker = threading.Timer(0.3, work)
    worker.start()
    with client.stream("GET", f"/jobs/{job_id}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [event for event in read(response.iter_lines()) if "id" in event]
    worker.join()
    assert [event["type"] for event in events] == ["queued", "claimed", "progress", "progress", "progress", "succeeded"]
    assert [event["id"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[3]["data"]["step"] == 1
    with client.stream("GET", f"/jobs/{job_id}/events", headers={"Last-Event-ID": "4"}) as response:
        assert [event["id"] for event in read(response.iter_lines()) if "id" in event] == [5, 6]
    page = client.get(f"/jobs/{job_id}/events?limit=4", headers={"Accept": "application/json"}).json()
    assert [event["id"] for event in page["items"]] == [1, 2, 3, 4]
    rest = client.get(f"/jobs/{job_id}/events?after={page['next']}", headers={"Accept": "application/json"}).json()
    assert [event["id"] for event in rest["items"]] == [5, 6]
    assert client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": "x"}).status_code == 400


def test_a_stream_with_nothing_to_say_sends_comments(start: Callable[..., TestClient], kit: Any) -> None:
    client = start(event_poll_seconds=0.05, event_heartbeat_seconds=0.1)
    assert client.post("/datasets?name=jobs&filename=t.csv", content=kit.csv(50)).status_code == 201
    job_id = train(client).json()["id"]
    ending = threading.Timer(0.5, lambda: client.post(f"/jobs/{job_id}/cancel"))
    ending.start()
    with client.stream("GET", f"/jobs/{job_id}/events") as response:
        events = read(response.iter_lines())
    ending.join()
    assert {"comment": ": alive"} in events
    assert events[-1]["type"] == "cancelled"


def test_streams_end_when_the_gateway_goes_down(start: Callable[..., TestClient], kit: Any) -> None:
    client = start(event_poll_seconds=0.05)
    assert client.post("/datasets?name=jobs&filename=t.csv", content=kit.csv(50)).status_code == 201
    job_id = train(client).json()["id"]
    closing = threading.Timer(0.4, of(client.app).closing.set)
    closing.start()
    with client.stream("GET", f"/jobs/{job_id}/events") as response:
        events = [event for event in read(response.iter_lines()) if "id" in event]
    closing.join()
    assert [event["type"] for event in events] == ["queued"]


def test_batches_are_checked_queued_and_answered_as_parquet(client: TestClient) -> None:
    body = {"model": "reals@new", "verb": "log_prob", "dataset": "jobs", "parameters": {"samples": 3}}
    response = client.post("/batches", json=body, headers={"Idempotency-Key": "batch-once"})
    assert response.status_code == 202, response.text
    job = response.json()
    assert job["request"]["model"] == "reals@2"
    assert job["request"]["parameters"] == {"seed": 0, "samples": 3}
    again = client.post("/batches", json=body, headers={"Idempotency-Key": "batch-once"})
    assert again.json()["id"] == job["id"]
    assert client.get(f"/batches/{job['id']}").json()["id"] == job["id"]
    assert job["id"] in [each["id"] for each in client.get("/batches").json()["items"]]
    assert client.get(f"/batches/{job['id']}/result").status_code == 409
    gateway = of(client.app)
    gateway.store.blobs.put("batches/test.parquet", b"PAR1 and so on")
    taken = claim(client, job["id"])
    gateway.store.catalogue.finish_job(taken, JobStatus.SUCCEEDED, result={"key": "batches/test.parquet", "rows": 1})
    result = client.get(f"/batches/{job['id']}/result")
    assert (result.status_code, result.content) == (200, b"PAR1 and so on")
    assert "parquet" in result.headers["content-type"]
    gateway.store.blobs.delete("batches/test.parquet")
    assert client.get(f"/batches/{job['id']}/result").status_code == 404
    assert client.get(f"/batches/{train(client).json()['id']}").status_code == 404


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"verb": "sample"}, 422, "log_prob"),
        ({"verb": "dream"}, 422, "verb"),
        ({"model": "none"}, 404, "none"),
        ({"model": "mute"}, 409, "train something else"),
        ({"dataset": "none"}, 404, "none"),
        ({"model": "pictures"}, 422, "reads"),
        ({"parameters": {"seed": -1}}, 422, "seed"),
        ({"parameters": {"draws": 1}}, 422, "draws"),
    ],
)
def test_batches_that_cannot_be_answered_are_refused(
    client: TestClient, more: dict[str, Any], status: int, words: str
) -> None:
    body = {"model": "reals", "verb": "log_prob", "dataset": "jobs"} | more
    response = client.post("/batches", json=body)
    assert response.status_code == status, response.text
    assert words in response.text


def test_parquet_of_a_real_worker_is_what_is_streamed(client: TestClient) -> None:
    """The key of the result is the worker's to choose; whatever bytes stand there are the answer."""
    gateway = of(client.app)
    job, _ = gateway.store.catalogue.insert_job(JobKind.BATCH, {"model": "reals@1"})
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"row": [0, 1], "log_prob": [-1.0, -2.0]}), sink)
    gateway.store.blobs.put("batches/real.parquet", sink.getvalue())
    taken = claim(client, job.id)
    gateway.store.catalogue.finish_job(taken, JobStatus.SUCCEEDED, result={"key": "batches/real.parquet", "rows": 2})
    table = pq.read_table(io.BytesIO(client.get(f"/batches/{job.id}/result").content))
    assert table.column("log_prob").to_pylist() == [-1.0, -2.0]


def test_the_reaper_rings_for_jobs_that_nobody_claimed(
    start: Callable[..., TestClient], kit: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(reap_seconds=0.05)
    gateway = of(client.app)
    rung: list[str] = []
    monkeypatch.setattr(gateway.doorbell, "ring", lambda job: rung.append(job.id))
    job, _ = gateway.store.catalogue.insert_job(JobKind.BATCH, {"model": "reals@1"})
    until(lambda: job.id in rung, 20, "the bell of a waiting job is rung again")


def test_the_reaper_outlives_trouble(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = of(client.app)
    reaper = Reaper(gateway)
    for error in (RuntimeError("broken"), NotReady("away")):

        def fail(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(gateway.store.catalogue, "reap", fail)
        assert reaper.look() == 0
