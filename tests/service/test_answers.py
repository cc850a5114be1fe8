"""Answers in every form, and how a gateway behaves under load."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from contracts.errors import InvalidInput, NotAcceptable, Overloaded, TooLarge
from service.answers import Answer, check_cells, negotiate, respond
from service.bodies import BodyBudget
from service.gateway import of
from service.tensors import read_tensor

NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
ROWS = [[1.0, 2.0, 3.0], [0.1, -1.0, 4.0]]
GREEN = {"height": 1.5, "count": 3, "colour": "green", "open": True, "day": "1970-01-11"}


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*;q=0.5, image/png", "image/png"),
        ("application/x-npy, */*;q=0.1", NPY),
        ("application/json;q=0.2, application/x-npy;q=0.3", NPY),
        ("image/*", "image/png"),
        ("application/json;q=x, application/x-npy", NPY),
    ],
)
def test_accept_is_negotiated(accept: str | None, media: str) -> None:
    assert negotiate(accept, pictures=True) == media


def test_what_is_not_offered_is_not_acceptable() -> None:
    for accept in ("text/html", "application/json;q=0", "image/png"):
        with pytest.raises(NotAcceptable):
            negotiate(accept, pictures=False)


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/encode", {"model": "reals", "inputs": ROWS}, "vectors"),
        ("/decode", {"model": "reals", "vectors": [[1.0, 2.0]]}, "rows"),
        ("/sample", {"model": "pictures", "n": 3, "seed": 1}, "rows"),
        ("/log_prob", {"model": "reals", "inputs": ROWS}, "log_prob"),
        ("/predict", {"model": "reals", "inputs": [[None, 1.0, 2.0]]}, "mean"),
        ("/similarity", {"model": "reals", "a": ROWS, "b": ROWS}, "scores"),
    ],
)
def test_json_and_npy_hold_the_same_numbers(client: TestClient, path: str, body: dict[str, Any], key: str) -> None:
    as_json = client.post(path, json=body).json()
    response = client.post(path, json=body, headers={"Accept": NPY})
    assert response.headers["content-type"] == NPY
    assert response.headers["x-model"] == as_json["model"]
    array = np.load(io.BytesIO(response.content))
    np.testing.assert_array_equal(array, np.array(as_json[key], dtype=array.dtype))
    if "format" not in body and path in ("/encode", "/decode", "/sample", "/predict"):
        tensor = client.post(path, json={**body, "format": "base64"}).json()[key]
        again = read_tensor(tensor, key)
        assert again.dtype == array.dtype
        assert again.tobytes() == array.tobytes()


def test_raw_in_and_raw_out(client: TestClient, kit: Any) -> None:
    headers = {"Content-Type": NPY, "Accept": NPY}
    response = client.post("/encode?model=reals@new", content=kit.npy(np.float32(ROWS)), headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["x-model"] == "reals@2"
    assert response.headers["x-space"] == client.get("/models/reals@2").json()["space"]
    np.testing.assert_allclose(np.load(io.BytesIO(response.content)), np.array(ROWS)[:, :2], rtol=1e-6)
    mask = orjson.dumps([[False, True, True]] * 2).decode()
    hidden = client.post(
        "/predict", params={"model": "reals", "mask": mask, "draws": 2, "seed": "3"}, content=kit.npy(ROWS),
        headers={"Content-Type": NPY},
    )  # fmt: skip
    assert hidden.status_code == 200, hidden.text
    assert hidden.json()["mean"]["dtype"] == "float64"
    labelled = client.post(
        "/log_prob", params={"model": "labelled", "given": '{"label": "one"}'}, content=kit.npy(ROWS),
        headers={"Content-Type": NPY, "Accept": NPY},
    )  # fmt: skip
    assert np.load(io.BytesIO(labelled.content)).shape == (2,)


def test_minus_infinity_stays_in_npy(client: TestClient, kit: Any) -> None:
    rows = kit.npy([[1.0, 1.0, 1.0], [1e200, 1.0, 1.0]])
    response = client.post("/log_prob?model=reals", content=rows, headers={"Content-Type": NPY, "Accept": NPY})
    assert np.isneginf(np.load(io.BytesIO(response.content))).tolist() == [False, True]
    assert response.headers["x-zero-density"] == "[1]"


def table(client: TestClient, path: str, body: dict[str, Any]) -> pa.Table:
    response = client.post(path, json=body, headers={"Accept": ARROW})
    assert response.status_code == 200, response.text
    return pa.ipc.open_stream(response.content).read_all()


def test_arrow_answers_have_columns_by_name(client: TestClient) -> None:
    encoded = table(client, "/encode", {"model": "reals", "inputs": ROWS})
    assert encoded.column("vectors").to_pylist() == [row[:2] for row in ROWS]
    assert encoded.schema.metadata[b"model"] == b"reals@1"
    scored = table(client, "/log_prob", {"model": "mixed", "inputs": [GREEN]})
    assert set(scored.column_names) == {"log_prob", "bits_per_dim", "standard_error"}
    sampled = table(client, "/sample", {"model": "mixed", "n": 5, "seed": 1})
    assert sampled.column_names == ["height", "count", "colour", "open", "day"]
    assert set(sampled.column("colour").to_pylist()) <= {"red", "green", "blue"}
    raw = client.post("/log_prob?model=mixed&seed=4", content=_stream(sampled), headers={"Content-Type": ARROW})
    assert raw.status_code == 200, raw.text
    objects = client.post("/sample", json={"model": "mixed", "n": 5, "seed": 1, "format": "rows"}).json()["rows"]
    by_name = client.post("/log_prob", json={"model": "mixed", "inputs": objects, "seed": 4}).json()
    assert raw.json()["log_prob"] == by_name["log_prob"]


def _stream(sampled: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, sampled.schema) as writer:
        writer.write_table(sampled)
    return sink.getvalue()


def test_numbers_out_of_range_are_null_and_listed() -> None:
    vectors = np.array([[1.0, 2.0], [np.inf, 0.0]], dtype=np.float32)
    answer = Answer({"model": "m@1"}, {"vectors": vectors}, "vectors", vectors=frozenset({"vectors"}))
    document = orjson.loads(respond(answer, "application/json", max_picture_cells=1).body)
    assert document == {"model": "m@1", "vectors": [[1.0, 2.0], [None, 0.0]], "non_finite": {"vectors": [1]}}


def test_pictures_have_a_limit_and_tables_are_none(kit: Any) -> None:
    rows = np.zeros((2, 4, 5, 1), np.uint8)
    pictures = Answer({}, {"rows": rows}, "rows", spec=kit.pictures, rows=frozenset({"rows"}))
    assert bytes(respond(pictures, "image/png", max_picture_cells=40).body).startswith(b"\x89PNG")
    with pytest.raises(TooLarge):
        respond(pictures, "image/png", max_picture_cells=39)
    with pytest.raises(NotAcceptable):
        respond(Answer({}, {"rows": rows}, "rows", spec=kit.reals), "image/png", max_picture_cells=40)
    with pytest.raises(InvalidInput, match="fewer draws"):
        check_cells(11, 10, "draws")


def test_bodies_together_have_a_limit() -> None:
    budget = BodyBudget(10)
    budget.take(6)
    with pytest.raises(Overloaded):
        budget.take(6)
    budget.give_back(6)
    budget.take(10)


def test_a_length_that_is_no_number_is_refused(client: TestClient) -> None:
    response = client.post("/encode", content=b"{}", headers={"Content-Length": "abc"})
    assert response.status_code == 400


def test_answers_do_not_depend_on_who_else_asks(client: TestClient) -> None:
    rng = np.random.default_rng(0)
    asked = [rng.integers(0, 17, (int(rng.integers(1, 6)), 4, 5)).tolist() for _ in range(40)]
    bodies = [{"model": "pictures", "inputs": rows, "samples": 5, "seed": 9} for rows in asked]
    alone = [client.post("/log_prob", json=body).json()["log_prob"] for body in bodies]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda body: client.post("/log_prob", json=body).json()["log_prob"], bodies))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_overload_is_told_at_once_and_lateness_in_time(
    start: Callable[..., TestClient], kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(worker_threads=1, max_waiting=0, deadline_seconds=0.5)
    gateway = of(client.app)
    kit.write_latent(tmp_path / "m", kit.reals, 1.0)
    kit.publish(gateway, "m", tmp_path / "m")
    free, busy = threading.Event(), threading.Event()
    resolve = gateway.resolver.resolve

    def slow(reference: str) -> Any:
        busy.set()
        free.wait(20)
        return resolve(reference)

    monkeypatch.setattr(gateway.resolver, "resolve", slow)
    body = {"model": "m", "inputs": ROWS}
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(client.post, "/encode", json=body)
        assert busy.wait(20)
        refused = client.post("/encode", json=body)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert late.result().status_code == 504
        free.set()


def test_an_evicted_model_is_loaded_again(start: Callable[..., TestClient], kit: Any, tmp_path: Path) -> None:
    client = start()
    gateway = of(client.app)
    kit.write_latent(tmp_path / "m", kit.reals, 1.0)
    version = kit.publish(gateway, "m", tmp_path / "m")
    body = {"model": "m", "vectors": [[1.0, 2.0]]}
    gateway.execution._hop_seconds = 10.0  # whatever is known to be cheap runs inline from now on
    for _ in range(8):
        assert client.post("/decode", json=body).status_code == 200
    gateway.pool.evict(version.digest)
    assert client.post("/decode", json=body).status_code == 200
    assert [model.digest for model in gateway.pool.loaded()] == [version.digest]


def test_two_models_share_a_small_memory_budget(start: Callable[..., TestClient], kit: Any, tmp_path: Path) -> None:
    client = start(memory_budget_bytes=5 << 20)
    gateway = of(client.app)
    for number in (1, 2):
        kit.write_latent(tmp_path / f"m{number}", kit.reals, float(number))
        kit.publish(gateway, f"m{number}", tmp_path / f"m{number}")
    for number in (1, 2, 1, 2):
        response = client.post("/encode", json={"model": f"m{number}", "inputs": ROWS})
        assert response.json()["model"] == f"m{number}@1", response.text
        assert len(gateway.pool.loaded()) == 1
