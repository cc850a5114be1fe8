"""Bad requests: each gets a problem document with the right status and a detail that says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient

from contracts.errors import Problem
from service.gateway import of

ROW = [1.0, 2.0, 3.0]
GOOD = {"height": 1.5, "count": 3, "colour": "green", "open": True, "day": "1970-01-11"}


def refused(response, status: int, *words: str) -> Problem:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content)
    assert problem.status == status
    assert problem.type.startswith("urn:latentserve:problem:")
    assert problem.request_id == response.headers["x-request-id"]
    text = problem.detail + " ".join(f"{each.location} {each.message}" for each in problem.errors)
    for word in words:
        assert word in text, text
    return problem


INPUTS = {
    "wrong column": ("mixed", [{**GOOD, "width": 1}], ("width",)),
    "missing column": ("mixed", [{k: v for k, v in GOOD.items() if k != "count"}], ("count",)),
    "unseen category": ("mixed", [{**GOOD, "colour": "pink"}], ("pink",)),
    "text in a number": ("mixed", [{**GOOD, "height": "tall"}], ("height",)),
    "out of bounds": ("mixed", [{**GOOD, "count": 99}], ("count", "99")),
    "fraction": ("mixed", [[1.5, 2.5, 0, 0, 1]], ("count", "whole")),
    "mixed rows": ("mixed", [GOOD, 3], ("inputs[1]",)),
    "wrong shape": ("reals", [[1.0, 2.0]], ("[3]",)),
    "flat": ("reals", [1.0, 2.0, 3.0], ("shape",)),
    "ragged": ("reals", [[1.0, 2.0, 3.0], [1.0]], ("ragged",)),
    "deeper": ("reals", [[[1.0, 2.0, 3.0]]], ("shape",)),
    "strings in numbers": ("reals", [["1", "2", "3"]], ("numbers",)),
    "strings": ("reals", ["abc"], ("string",)),
    "a number": ("reals", 3, ("list",)),
    "a string": ("reals", "abc", ("list",)),
    "objects within": ("reals", [[{}, {}, {}]], ("numbers",)),
    "empty list": ("reals", [], ("empty",)),
    "empty row": ("reals", [[]], ("shape",)),
    "null in encode": ("reals", [[1.0, None, 2.0]], ("hidden",)),
    "pixel over its level": ("pictures", np.full((1, 4, 5), 17).tolist(), ("pixel", "0..16")),
    "negative pixel": ("pictures", np.full((1, 4, 5), -1).tolist(), ("pixel",)),
    "picture of another size": ("pictures", np.zeros((1, 5, 4), int).tolist(), ("shape",)),
    "no picture": ("pictures", [{"image": "AAAA"}], ("PNG",)),
    "no base64": ("pictures", [{"image": "?"}], ("base64",)),
    "object for a picture": ("pictures", [{"picture": "AAAA"}], ("image",)),
    "tensor without bytes": ("reals", {"dtype": "float64", "shape": [1, 3]}, ("base64",)),
    "tensor with more": ("reals", {"dtype": "float64", "shape": [1, 3], "base64": "", "x": 1}, ("x",)),
    "tensor of strings": ("reals", {"dtype": "str", "shape": [1, 3], "base64": ""}, ("dtype",)),
    "tensor too short": ("reals", {"dtype": "float64", "shape": [1, 3], "base64": "AAAA"}, ("24 bytes",)),
    "tensor of negative shape": ("reals", {"dtype": "float64", "shape": [-1, 3], "base64": ""}, ("shape",)),
    "tensor of odd shape": ("reals", {"dtype": "float64", "shape": "1,3", "base64": ""}, ("shape",)),
    "tensor of no base64": ("reals", {"dtype": "float64", "shape": [1, 3], "base64": 3}, ("base64",)),
    "empty tensor": ("reals", {"dtype": "float64", "shape": [0, 3], "base64": ""}, ("empty",)),
    "scalar tensor": ("reals", {"dtype": "uint8", "shape": [], "base64": "AA=="}, ()),
}


@pytest.mark.parametrize("case", INPUTS)
def test_wrong_inputs(client: TestClient, case: str) -> None:
    model, inputs, words = INPUTS[case]
    response = client.post("/encode", json={"model": model, "inputs": inputs})
    refused(response, 400 if case == "no picture" else 422, *words)


def test_a_nan_that_is_not_masked_names_its_row(kit, client: TestClient) -> None:
    array = np.array([ROW, [1.0, np.nan, 2.0]])
    raw = client.post("/log_prob?model=reals", content=kit.npy(array), headers={"Content-Type": "application/x-npy"})
    refused(raw, 422, "inputs[1].b", "nan")
    infinite = kit.npy(np.array([[np.inf, 1, 2]]))
    raw = client.post("/log_prob?model=reals", content=infinite, headers={"Content-Type": "application/x-npy"})
    refused(raw, 422, "inputs[0].a")


@pytest.mark.parametrize(
    ("mask", "words"),
    [([[True]], ("shape",)), ([[0.5, 0, 1]], ("true and false",)), ([[2, 0, 1]], ("true",)), (["x"], ("mask",))],
)
def test_wrong_masks(client: TestClient, mask: object, words: tuple[str, ...]) -> None:
    refused(client.post("/predict", json={"model": "reals", "inputs": [ROW], "mask": mask}), 422, *words)


BODIES = {
    "negative n": ("/sample", {"model": "reals", "n": -1}, 422, ("n",)),
    "n over the limit": ("/sample", {"model": "reals", "n": 501}, 422, ("500",)),
    "n as text": ("/sample", {"model": "reals", "n": "3"}, 422, ("n",)),
    "n as a fraction": ("/sample", {"model": "reals", "n": 1.5}, 422, ("n",)),
    "negative seed": ("/sample", {"model": "reals", "seed": -1}, 422, ("seed",)),
    "huge seed": ("/sample", {"model": "reals", "seed": 2**63}, 422, ("seed",)),
    "cold": ("/sample", {"model": "reals", "temperature": 0}, 422, ("temperature",)),
    "rows of pictures": ("/sample", {"model": "pictures", "format": "rows"}, 422, ("format",)),
    "unknown field": ("/encode", {"model": "reals", "inputs": [ROW], "input": 1}, 422, ("input",)),
    "no model": ("/encode", {"inputs": [ROW]}, 422, ("model",)),
    "no inputs": ("/encode", {"model": "reals"}, 422, ("inputs",)),
    "list": ("/encode", [1], 422, ("object",)),
    "unknown model": ("/encode", {"model": "nobody", "inputs": [ROW]}, 404, ("nobody",)),
    "unknown version": ("/encode", {"model": "reals@9", "inputs": [ROW]}, 404, ("9",)),
    "unknown alias": ("/encode", {"model": "reals@old", "inputs": [ROW]}, 404, ("old",)),
    "unsupported verb": ("/log_prob", {"model": "mute", "inputs": [ROW]}, 409, ("train something else",)),
    "samples over the limit": ("/log_prob", {"model": "reals", "inputs": [ROW], "samples": 10**6}, 422, ("10000",)),
    "draws over the limit": ("/predict", {"model": "reals", "inputs": [[None, 1, 2]], "draws": 10**6}, 422, ("draws",)),
    "vectors of another length": ("/decode", {"model": "reals", "vectors": [[1.0]]}, 422, ("2",)),
    "no vectors": ("/decode", {"model": "reals", "vectors": []}, 422, ("at least one",)),
    "null in a vector": ("/decode", {"model": "reals", "vectors": [[1.0, None]]}, 422, ("finite",)),
    "a alone": ("/similarity", {"model": "reals", "a": [ROW]}, 422, ("`b`",)),
    "both pairs": ("/similarity", {"model": "reals", "a": [ROW], "b": [ROW], "query": [ROW]}, 422, ("query",)),
    "empty against": ("/similarity", {"model": "reals", "query": [ROW], "against": {}}, 422, ("exactly one",)),
    "unknown metric": ("/similarity", {"model": "reals", "a": [ROW], "b": [ROW], "metric": "l7"}, 422, ("metric",)),
    "unknown dataset": (
        "/similarity", {"model": "reals", "query": [ROW], "against": {"dataset": "none"}}, 404, ("none",),
    ),
    "scaleless metric": (
        "/similarity", {"model": "flow", "a": [ROW], "b": [ROW], "metric": "wasserstein2"}, 409, ("cosine",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_wrong_bodies(client: TestClient, case: str) -> None:
    path, body, status, words = BODIES[case]
    refused(client.post(path, json=body), status, *words)


def test_more_rows_than_the_limit(kit, client: TestClient) -> None:
    refused(client.post("/encode", json={"model": "reals", "inputs": [ROW] * 1001}), 413, "1000", "/batches")
    million = kit.npy(np.zeros((1_000_000, 3), dtype=np.uint8))
    raw = client.post("/encode?model=reals", content=million, headers={"Content-Type": "application/x-npy"})
    refused(raw, 413)


def test_a_body_over_the_limit_is_refused_early_and_while_it_streams(client: TestClient) -> None:
    big = b"[" + b" " * (5 << 20)
    refused(client.post("/encode", content=big, headers={"Content-Type": "application/json"}), 413, "limit")

    def stream():
        for _ in range(10):
            yield b" " * (1 << 19)

    refused(client.post("/encode", content=stream(), headers={"Content-Type": "application/json"}), 413, "limit")


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b"\xff", b"[" * 5000, b'{"inputs": [[Infinity]]}'])
def test_what_is_not_json(client: TestClient, body: bytes) -> None:
    for path in ("/encode", "/train"):
        refused(client.post(path, content=body, headers={"Content-Type": "application/json"}), 400, "JSON")


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/encode?model=reals", "text/plain"),
        ("/sample?model=reals", "application/x-npy"),
        ("/train", "application/x-www-form-urlencoded"),
        ("/datasets?name=x", "application/json"),
        ("/decode?model=reals", "image/png"),
        ("/encode?model=reals", "image/png"),
    ],
)
def test_wrong_content_types(client: TestClient, path: str, media: str) -> None:
    refused(client.post(path, content=b"{}", headers={"Content-Type": media}), 415)


def test_encoded_bodies_are_refused(client: TestClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused(client.post("/encode", content=b"x", headers=headers), 415, "gzip")
    refused(client.post("/datasets?name=x", content=b"x", headers={"Content-Encoding": "gzip"}), 415)


def test_raw_bodies_that_are_not_what_they_claim(kit, client: TestClient) -> None:
    good = kit.npy(np.array([ROW]))
    headers = {"Content-Type": "application/x-npy"}
    for body in (b"", b"\x93NUMPY", good[:-1], good + b"x", good[:20], b"\x93NUMPY\x07\x00" + good[8:]):
        refused(client.post("/encode?model=reals", content=body, headers=headers), 400, "NPY")
    for array in (np.array([["a"]]), np.array([[1j, 1, 1]]), np.array([[None, 1, 2]], dtype=object)):
        refused(client.post("/encode?model=reals", content=kit.npy(array), headers=headers), 422)
    refused(client.post("/encode?model=reals&inputs=[[1]]", content=good, headers=headers), 422, "inputs")
    refused(client.post("/encode?model=reals&color=red", content=good, headers=headers), 422, "color")
    refused(client.post("/encode", content=good, headers=headers), 422, "model")
    refused(client.post("/encode?model=reals&given={x", content=good, headers=headers), 400)
    arrow = {"Content-Type": "application/vnd.apache.arrow.stream"}
    refused(client.post("/encode?model=reals", content=b"nothing", headers=arrow), 400, "Arrow")
    picture = client.post("/encode?model=pictures", content=b"\x89PNG\r\n\x1a\n", headers={"Content-Type": "image/png"})
    assert "0x" not in refused(picture, 400, "PNG").detail
    refused(client.post("/decode?model=reals", content=kit.npy([[1.0, 2.0]])[:-1], headers=headers), 400)


def test_accept_that_nothing_fits(client: TestClient) -> None:
    response = client.post("/encode", json={"model": "reals", "inputs": [ROW]}, headers={"Accept": "text/html"})
    refused(response, 406, "application/json")


def test_unknown_paths_and_methods(client: TestClient) -> None:
    refused(client.get("/nowhere"), 404, "/nowhere")
    problem = refused(client.get("/encode"), 405, "POST")
    assert problem.type.endswith("method-not-allowed")
    refused(client.get("/jobs?limit=0"), 422, "limit")
    refused(client.get("/jobs?status=tired"), 422, "status")
    refused(client.get("/jobs/none"), 404)
    refused(client.get("/models/none"), 404)
    refused(client.get("/models/reals/versions/x"), 422, "version")
    refused(client.get("/datasets/none"), 404)
    refused(client.get("/jobs/none/events"), 404)


def test_a_damaged_artifact_is_refused_and_others_go_on(kit, start: Callable[..., TestClient], tmp_path: Path) -> None:
    client = start()
    gateway = of(client.app)
    kit.write_latent(tmp_path / "good", kit.reals, 1.0)
    kit.write_latent(tmp_path / "bad", kit.reals, 2.0)
    kit.write_latent(tmp_path / "gone", kit.reals, 3.0)
    kit.publish(gateway, "good", tmp_path / "good")
    for name in ("bad", "gone"):
        version = kit.publish(gateway, name, tmp_path / name)
        folder = gateway.store.blobs.local(f"artifacts/{version.digest}")
        assert folder is not None
        if name == "bad":
            content = bytearray((folder / "posterior.onnx").read_bytes())
            content[-1] ^= 1
            (folder / "posterior.onnx").chmod(0o644)
            (folder / "posterior.onnx").write_bytes(content)
        else:
            shutil.rmtree(folder)
    for _ in range(2):
        refused(client.post("/encode", json={"model": "bad", "inputs": [ROW]}), 500, "posterior.onnx")
        assert client.post("/encode", json={"model": "gone", "inputs": [ROW]}).status_code in (404, 500)
        assert client.post("/encode", json={"model": "good", "inputs": [ROW]}).status_code == 200
    refused(client.get("/models/bad/download"), 500, "posterior.onnx")


def test_a_defect_is_a_500_that_tells_nothing_of_it(
    start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = start()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(of(client.app).store.catalogue, "list_jobs", fail)
    problem = refused(client.get("/jobs"), 500)
    assert "secret" not in problem.model_dump_json()
    assert "secret of the house" in caplog.text
    assert problem.request_id is not None
    assert problem.request_id in caplog.text


def test_errors_name_places_as_paths(kit, client: TestClient) -> None:
    client.post("/datasets?name=places&filename=x.csv", content=kit.csv())
    body = {"name": "m", "dataset": "places", "config": {"family": "vae", "width": 1}}
    problem = refused(client.post("/train", json=body), 422)
    assert [each.location for each in problem.errors] == ["config.width"]
    two = client.post("/train", json={**body, "config": {"family": "vae"}, "budget": {"steps": 1, "epochs": 1}})
    assert refused(two, 422).errors[0].message == "give one of steps, epochs or seconds"
    assert orjson.loads(problem.model_dump_json())["errors"]
