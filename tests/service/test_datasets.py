"""Datasets over HTTP: forms and raw bodies, what is refused, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.requests import ClientDisconnect, Request

from contracts.errors import StoreFull
from contracts.jobs import JobKind
from service.gateway import clear_uploads, of
from service.uploads import receive


def leftovers(client: TestClient) -> list[Path]:
    scratch = of(client.app).settings.scratch
    return [path for path in scratch.rglob("*") if path.is_file()]


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes())


def test_a_form_makes_a_dataset_once(client: TestClient, kit: Any) -> None:
    files = [("files", ("t.csv", kit.csv(60), "text/csv"))]
    made = client.post("/datasets", data={"name": "formed"}, files=files)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/datasets/formed"
    answer = made.json()
    assert answer["rows"] == 60
    assert sum(answer["parts"].values()) == 60
    again = client.post("/datasets", data={"name": "formed"}, files=files)
    assert again.status_code == 200
    assert again.json()["digest"] == answer["digest"]
    other = client.post("/datasets", data={"name": "formed"}, files=[("files", ("t.csv", kit.csv(61), "text/csv"))])
    assert other.status_code == 409
    assert client.get(f"/datasets/{answer['digest']}").json()["name"] == "formed"
    assert leftovers(client) == []


def test_overrides_of_the_spec_come_as_json(client: TestClient, kit: Any) -> None:
    spec = '{"columns": [{"name": "c", "role": "label"}]}'
    text = b"a,b,c\n" + b"".join(b"%d.5,%d.25,%d\n" % (i, 2 * i, i % 3) for i in range(40))
    made = client.post("/datasets", data={"name": "spec", "spec": spec}, files=[("files", ("t.csv", text))])
    assert made.status_code == 201, made.text
    roles = {column["name"]: column["role"] for column in made.json()["spec"]["columns"]}
    assert roles == {"a": "feature", "b": "feature", "c": "label"}
    page = client.get("/datasets/spec/rows?limit=2").json()
    assert page["items"][0] == {"a": 0.5, "b": 0.25, "c": "0"}
    assert client.get(f"/datasets/spec/rows?limit=2&after={page['next']}").json()["items"][0]["a"] == 2.5
    held_out = client.get("/datasets/spec/rows?part=test&limit=1000").json()
    assert len(held_out["items"]) == made.json()["parts"]["test"]
    assert held_out["next"] is None
    assert client.get("/datasets/spec/rows?after=1000").json()["items"] == []


def test_several_parts_make_one_dataset_of_pictures(client: TestClient) -> None:
    rng = np.random.default_rng(0)
    files = [
        ("files", (f"{part}-{what}", data))
        for part, count in (("train", 30), ("t10k", 12))
        for what, data in (
            ("images-idx3-ubyte.gz", idx(rng.integers(0, 256, (count, 4, 5)))),
            ("labels-idx1-ubyte.gz", idx(rng.integers(0, 3, count))),
        )
    ]
    made = client.post("/datasets", data={"name": "parts"}, files=files)
    assert made.status_code == 201, made.text
    assert made.json()["parts"]["test"] == 12
    row = client.get("/datasets/parts/rows?limit=1").json()["items"][0]
    assert Image.open(io.BytesIO(base64.b64decode(row["image"]))).size == (5, 4)
    assert row["label"] in ("0", "1", "2")


def test_lists_page_and_deleting_is_refused_in_use(client: TestClient, kit: Any) -> None:
    for number in range(3):
        body = kit.csv(30, seed=number + 10)
        assert client.post(f"/datasets?name=page{number}&filename=x.csv", content=body).status_code == 201
    names, after = [], None
    while True:
        page = client.get("/datasets", params={"limit": 2} | ({"after": after} if after else {})).json()
        assert len(page["items"]) <= 2
        names += [each["name"] for each in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert names == sorted(set(names))
    assert {"page0", "page1", "page2"} <= set(names)
    body = {"name": "user", "dataset": "page0", "config": {"family": "pca"}}
    job = client.post("/train", json=body).json()["id"]
    assert client.delete("/datasets/page0").status_code == 409
    client.post(f"/jobs/{job}/cancel")
    assert client.delete("/datasets/page0").status_code == 204
    assert client.get("/datasets/page0").status_code == 404


def form(*parts: bytes, end: bytes = b"--B--\r\n") -> tuple[bytes, dict[str, str]]:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + end, {
        "Content-Type": "multipart/form-data; boundary=B"
    }


NAME = b'Content-Disposition: form-data; name="name"\r\n\r\nx'
FILE = b'Content-Disposition: form-data; name="files"; filename="x.csv"\r\n\r\na,b\n1,2\n'

FORMS = {
    "no name": (form(FILE), 422),
    "bad name": (form(NAME + b"/../X", FILE), 422),
    "no file": (form(NAME), 422),
    "unknown field": (form(NAME, b'Content-Disposition: form-data; name="colour"\r\n\r\nred'), 422),
    "file of another name": (form(NAME, FILE.replace(b'"files"', b'"upload"')), 422),
    "part without a name": (form(b"Content-Type: text/plain\r\n\r\nx"), 400),
    "cut off": (form(NAME, FILE, end=b""), 400),
    "no form at all": ((b"hello", {"Content-Type": "multipart/form-data; boundary=B"}), 400),
    "no boundary": ((b"hello", {"Content-Type": "multipart/form-data"}), 400),
    "long header": (form(b"X: " + b"x" * 20_000 + b"\r\n\r\nx"), 400),
    "many headers": (form(b"".join(b"X%d: x\r\n" % i for i in range(40)) + b"\r\nx"), 400),
    "long field": (form(NAME + b"x" * (1 << 21), FILE), 413),
    "name in another encoding": (form(NAME + b"\xff", FILE), 400),
    "spec that is no JSON": (form(NAME, FILE, NAME.replace(b'"name"', b'"spec"')), 400),
    "spec that is a list": (form(NAME, FILE, b'Content-Disposition: form-data; name="spec"\r\n\r\n[1]'), 422),
    "many files": (form(NAME, *[FILE] * 65), 422),
    "too few rows": (form(NAME, FILE), 422),
}


@pytest.mark.parametrize("case", FORMS)
def test_broken_uploads_leave_nothing(client: TestClient, case: str) -> None:
    (body, headers), status = FORMS[case]
    before = client.get("/datasets?limit=1000").json()
    response = client.post("/datasets", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert leftovers(client) == []
    assert client.get("/datasets?limit=1000").json() == before


def test_uploads_over_the_limit_are_refused_early_and_while_they_stream(start: Callable[..., TestClient]) -> None:
    client = start(max_upload_bytes=1 << 20)
    assert client.post("/datasets?name=x", content=b"x" * (2 << 20)).status_code == 413

    def stream():
        for _ in range(40):
            yield b"1,2,3\n" * 10_000

    assert client.post("/datasets?name=x", content=stream()).status_code == 413
    assert leftovers(client) == []


def test_large_uploads_are_ingested_by_a_job(start: Callable[..., TestClient], kit: Any) -> None:
    client = start(inline_upload_bytes=1000)
    response = client.post("/datasets", data={"name": "large"}, files=[("files", ("t.csv", kit.csv(500)))])
    assert response.status_code == 202, response.text
    job = client.get(response.headers["location"]).json()
    assert (job["kind"], job["status"]) == ("ingest", "queued")
    [(filename, key)] = job["request"]["files"]
    assert filename == "t.csv"
    store = of(client.app).store
    assert store.blobs.get(key) == kit.csv(500)
    assert leftovers(client) == []


def test_a_job_that_cannot_be_queued_leaves_no_blob(
    start: Callable[..., TestClient], kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(inline_upload_bytes=1000)
    store = of(client.app).store

    def full(kind: JobKind, *_: object, **__: object) -> None:
        raise StoreFull("no room")

    monkeypatch.setattr(store.catalogue, "insert_job", full)
    response = client.post("/datasets?name=large&filename=t.csv", content=kit.csv(500))
    assert response.status_code == 507
    assert store.blobs.list("uploads") == []


def test_a_full_disk_is_a_507_that_leaves_nothing(
    client: TestClient, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.uploads._Raw.write", full)
    response = client.post("/datasets?name=fullness&filename=t.csv", content=kit.csv(50))
    assert response.status_code == 507, response.text
    assert response.json()["type"].endswith("store-full")
    assert leftovers(client) == []


def _request(messages: list[dict[str, Any]], headers: dict[str, str]) -> Request:
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/datasets",
        "query_string": b"name=x",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    waiting = iter(messages)

    async def hear() -> dict[str, Any]:
        return next(waiting)

    return Request(scope, hear)


def test_a_client_that_leaves_leaves_nothing(client: TestClient) -> None:
    settings = of(client.app).settings
    parts = [{"type": "http.request", "body": b"a,b\n1,2\n", "more_body": True}, {"type": "http.disconnect"}]

    async def upload() -> None:
        async with receive(_request(parts, {}), settings, limit=1000):
            raise AssertionError("an upload that was cut off must not be taken")

    with pytest.raises(ClientDisconnect):
        asyncio.run(upload())
    assert leftovers(client) == []


def test_fewer_bytes_than_announced_are_refused(client: TestClient) -> None:
    parts = [{"type": "http.request", "body": b"a,b\n1,2\n", "more_body": False}]
    settings = of(client.app).settings

    async def upload() -> None:
        async with receive(_request(parts, {"content-length": "900"}), settings, limit=1000):
            raise AssertionError("an upload that was cut off must not be taken")

    with pytest.raises(Exception, match="900 were announced"):
        asyncio.run(upload())
    assert leftovers(client) == []


def test_uploads_of_a_killed_process_are_cleared_when_the_next_starts(kit: Any, tmp_path: Path) -> None:
    settings = kit.settings(tmp_path / "home")
    uploads = settings.scratch / "uploads"
    (uploads / "999999999-dead").mkdir(parents=True)
    (uploads / "1-alive").mkdir()
    (uploads / "strange").mkdir()
    clear_uploads(settings)
    assert [path.name for path in uploads.iterdir()] == ["1-alive"]
    clear_uploads(kit.settings(tmp_path / "none"))
