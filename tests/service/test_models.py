"""Models over HTTP: versions, aliases, cards, pictures, export and import."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from contracts.families import CONFIG_CLASSES
from service.gateway import of
from service.routes.models import _archive

ROW = [[1.0, 2.0, 3.0]]


@pytest.fixture
def stocked(start: Callable[..., TestClient], kit: Any, tmp_path: Path) -> TestClient:
    """A gateway of one's own with `m` in two versions."""
    client = start()
    for number in (1, 2):
        kit.write_latent(tmp_path / f"m{number}", kit.reals, float(number))
        kit.publish(of(client.app), "m", tmp_path / f"m{number}")
    return client


def test_models_and_versions_are_listed_and_shown(client: TestClient) -> None:
    models = client.get("/models?limit=1000").json()["items"]
    reals = next(model for model in models if model["name"] == "reals")
    assert reals["versions"] == [1, 2]
    assert (reals["latest"], reals["aliases"]["new"]) == (1, 2)
    first = client.get("/models?limit=1").json()
    assert first["next"] == first["items"][0]["name"]
    shown = client.get("/models/reals@new").json()
    assert (shown["reference"], shown["version"], shown["aliases"]) == ("reals@2", 2, ["new"])
    assert client.get("/models/reals/versions/2").json() == shown
    page = client.get("/models/reals/versions?limit=1").json()
    assert [version["version"] for version in page["items"]] == [2]
    rest = client.get(f"/models/reals/versions?after={page['next']}").json()
    assert [version["version"] for version in rest["items"]] == [1]
    assert rest["next"] is None
    assert client.get("/models/reals/versions?after=x").status_code == 422
    assert client.get("/models/reals/aliases").json()["items"]["latest"] == 1


def test_card_manifest_and_preview(client: TestClient) -> None:
    assert client.get("/models/reals/card").json()["metrics"] == {"log_prob_nats": -1.0}
    manifest = client.get("/models/reals/manifest").json()
    assert manifest["graphs"]["posterior"]["file"] == "posterior.onnx"
    assert client.get("/models/pictures/preview.png").content.startswith(b"\x89PNG")
    assert client.get("/models/reals/preview.png").status_code == 404


def test_aliases_are_set_moved_and_deleted(stocked: TestClient) -> None:
    assert stocked.put("/models/m/aliases/live", json={"version": 1}).json()["version"] == 1
    assert stocked.post("/encode", json={"model": "m@live", "inputs": ROW}).json()["model"] == "m@1"
    assert stocked.put("/models/m/aliases/live", json={"version": 2}).status_code == 200
    assert stocked.post("/encode", json={"model": "m@live", "inputs": ROW}).json()["model"] == "m@2"
    assert stocked.put("/models/m/aliases/live", json={"version": 9}).status_code == 404
    assert stocked.put("/models/m/aliases/7", json={"version": 1}).status_code == 422
    assert stocked.put("/models/m/aliases/live", json={"version": "1"}).status_code == 422
    assert stocked.delete("/models/m/aliases/live").status_code == 204
    assert stocked.delete("/models/m/aliases/live").status_code == 404
    assert stocked.delete("/models/m/aliases/latest").status_code == 409


def test_a_version_is_deleted_unless_it_is_used(stocked: TestClient) -> None:
    stocked.put("/models/m/aliases/live", json={"version": 1})
    assert stocked.post("/encode", json={"model": "m@1", "inputs": ROW}).status_code == 200
    assert stocked.delete("/models/m/versions/1").status_code == 409
    stocked.delete("/models/m/aliases/live")
    assert len(of(stocked.app).pool.loaded()) == 1
    assert stocked.delete("/models/m/versions/1").status_code == 204
    assert of(stocked.app).pool.loaded() == []
    assert stocked.post("/encode", json={"model": "m@1", "inputs": ROW}).status_code == 404
    assert stocked.post("/encode", json={"model": "m", "inputs": ROW}).json()["model"] == "m@2"


def test_an_export_is_imported_as_the_same_artifact(stocked: TestClient) -> None:
    archive = stocked.get("/models/m@1/download")
    assert archive.headers["content-type"] == "application/x-tar"
    assert "m-1.tar" in archive.headers["content-disposition"]
    media = {"Content-Type": "application/x-tar"}
    made = stocked.post("/models/import?name=copy", content=archive.content, headers=media)
    assert made.status_code == 201, made.text
    assert made.json()["digest"] == stocked.get("/models/m@1").json()["digest"]
    assert stocked.post("/encode", json={"model": "copy", "inputs": ROW}).json()["model"] == "copy@1"
    form = stocked.post("/models/import", files={"files": ("m.tar", archive.content)}, data={"name": "formed"})
    assert form.json()["name"] == "formed"
    unnamed = stocked.post("/models/import", content=archive.content, headers=media)
    assert unnamed.json()["name"] == "pca"


def test_archives_that_are_damaged_or_hostile_are_refused(stocked: TestClient) -> None:
    archive = stocked.get("/models/m@1/download").content
    media = {"Content-Type": "application/x-tar"}
    assert stocked.post("/models/import?name=x", content=b"no tar", headers=media).status_code == 400
    assert stocked.post("/models/import?name=x", content=archive[:2000], headers=media).status_code == 400
    at = archive.index(b"posterior.onnx", 512) + 600
    damaged = archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]
    assert stocked.post("/models/import?name=x", content=damaged, headers=media).status_code in (400, 422)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../escape"), io.BytesIO())
    assert stocked.post("/models/import?name=x", content=sink.getvalue(), headers=media).status_code == 400
    two = [("files", ("a", b"x")), ("files", ("b", b"x"))]
    assert stocked.post("/models/import", files=two).status_code == 422
    assert stocked.get("/models/x").status_code == 404


def test_an_export_that_breaks_off_breaks_the_stream(stocked: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = of(stocked.app)
    digest = stocked.get("/models/m@1").json()["digest"]

    def fail(_: str, target: Any) -> None:
        target.write(b"half")
        raise RuntimeError("the disk went away")

    monkeypatch.setattr(gateway.store.artifacts, "export", fail)
    stream = _archive(gateway, digest)
    assert next(stream) == b"half"
    with pytest.raises(RuntimeError, match="went away"):
        next(stream)


def test_a_client_that_leaves_ends_the_export(stocked: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = of(stocked.app)

    def forever(_: str, target: Any) -> None:
        while True:
            target.write(b"x" * (1 << 20))

    monkeypatch.setattr(gateway.store.artifacts, "export", forever)
    stream = _archive(gateway, "digest")
    assert next(stream)
    stream.close()  # type: ignore[attr-defined]  # joins the writer, which would never end by itself


def test_families_are_the_menu(client: TestClient) -> None:
    items = client.get("/families").json()["items"]
    assert [item["family"] for item in items] == list(CONFIG_CLASSES)
    for item in items:
        assert item["summary"]
        assert item["config"]["properties"]["family"]["const"] == item["family"]
        assert set(item["verbs"]) == {"encode", "decode", "sample", "log_prob", "predict", "similarity"}
        for verb in item["verbs"].values():
            assert verb["supported"] or verb["refusal"]
