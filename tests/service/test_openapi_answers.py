"""What the gateway answers is what openapi.json says, for every operation: status, media type, and each field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from service import openapi

DOCUMENT: dict[str, Any] = json.loads(openapi.text())
PATHS = {
    (method, re.compile(re.sub(r"\{\w+\}", "[^/]+", path))): operation
    for path, operations in sorted(DOCUMENT["paths"].items(), key=lambda each: each[0].count("{"))
    for method, operation in operations.items()
}
PNG = "image/png"
ROWS = [[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]]
MIXED = {"height": 1.5, "count": 3, "colour": "green", "open": True, "day": "1970-01-11"}
PIXELS = [[[index % 17 for index in range(start, start + 5)] for start in range(4)]]


def operation_of(method: str, path: str) -> dict[str, Any]:
    return next(each for (verb, pattern), each in PATHS.items() if verb == method and pattern.fullmatch(path))


def undeclared(schema: dict[str, Any], answer: object) -> set[str]:
    """Fields of an answer that its schema does not name."""
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return set(answer) - set(schema["properties"]) if isinstance(answer, dict) and "properties" in schema else set()


def hold(response: Any, operation: dict[str, Any]) -> None:
    """Assert that a response is one that its operation documents."""
    documented = operation["responses"].get(str(response.status_code), operation["responses"]["default"])
    content = documented.get("content", {})
    if not response.content:
        assert not content
        return
    media = response.headers["content-type"].partition(";")[0]
    assert media in content, (media, list(content))
    if not media.endswith("json"):
        return
    schema = content[media]["schema"]
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(response.json())
    assert undeclared(schema, response.json()) == set()


def requests(kit: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """At least one request of every operation that needs no worker, those that are refused included."""
    yield "post", "/datasets?name=held&filename=a.csv", {"content": kit.csv()}
    yield "post", "/datasets?name=held&filename=a.csv", {"content": kit.csv()}
    yield "post", "/datasets?name=held&filename=a.csv", {"content": b""}
    for path in ("/datasets", "/datasets/held", "/datasets/held/rows", "/datasets/none", "/families"):
        yield "get", path, {}
    told = "".join(f"{i % 7}.5,{i % 5}.25,{i}.125,{'uv'[i % 2]}\n" for i in range(60))
    yield "post", "/datasets?name=told&filename=t.csv", {"content": f"a,b,c,label\n{told}".encode()}
    for dataset in ("told", "held"):
        yield "post", "/probes", {"json": {"model": "reals", "dataset": dataset, "labels_per_class": [5]}}
    config = {"family": "pca"}
    for path in ("/train", "/train?again=1"):
        yield "post", path, {"json": {"name": "m", "dataset": "held", "config": config}}
    yield "post", "/train", {"json": {"name": "m", "dataset": "none", "config": config}}
    yield "post", "/batches", {"json": {"model": "reals", "verb": "encode", "dataset": "held"}}
    for path in ("/jobs", "/batches", "/models", "/models?limit=1", "/healthz", "/readyz", "/metrics"):
        yield "get", path, {}
    for model in ("reals", "mixed", "pictures", "labelled"):
        for rest in ("", "/card", "/manifest", "/versions", "/versions/1", "/aliases", "/preview.png", "/download"):
            yield "get", f"/models/{model}{rest}", {}
    yield "put", "/models/mixed/aliases/held", {"json": {"version": 1}}
    yield "delete", "/models/mixed/aliases/held", {}
    yield "delete", "/models/mixed/versions/9", {}
    for form in ("numbers", "base64", "rows"):
        yield "post", "/sample", {"json": {"model": "mixed", "n": 2, "format": form}}
        yield "post", "/decode", {"json": {"model": "mixed", "vectors": [[1.0, 2.0]], "format": form}}
        hidden = {**MIXED, "count": None, "colour": None}
        yield "post", "/predict", {"json": {"model": "mixed", "inputs": [hidden], "draws": 2, "format": form}}
    for form in ("numbers", "base64"):
        yield "post", "/encode", {"json": {"model": "reals", "inputs": ROWS, "format": form}}
        yield "post", "/sample", {"json": {"model": "pictures", "n": 2, "format": form}}
    for media in ("application/x-npy", "application/vnd.apache.arrow.stream", "image/png"):
        yield "post", "/sample", {"json": {"model": "pictures", "n": 2}, "headers": {"Accept": media}}
    yield "post", "/encode", {"json": {"model": "reals", "inputs": [[1e308, 1.0, 2.0]]}}
    yield "post", "/encode", {"json": {"model": "pictures", "inputs": PIXELS}}
    yield "post", "/log_prob", {"json": {"model": "reals", "inputs": [[None] * 3, *ROWS]}}
    yield "post", "/log_prob", {"json": {"model": "pictures", "inputs": PIXELS}}
    yield "post", "/log_prob", {"json": {"model": "labelled", "inputs": ROWS, "given": {"label": "one"}}}
    yield "post", "/log_prob", {"json": {"model": "mute", "inputs": ROWS}}
    yield "post", "/similarity", {"json": {"model": "reals", "a": ROWS, "b": ROWS, "metric": "symmetric_kl"}}
    yield "post", "/similarity", {"json": {"model": "reals", "query": ROWS, "against": {"dataset": "held"}}}
    for more in ({"name": "held"}, {"name": "held", "method": "linear_probe"}, {"name": "HELD"}):
        for _ in range(2):
            sides = {"positive": [[9.0, 1.0, 2.0]] * 9, "negative": [[0.0, 3.0, 1.0], *ROWS * 4]}
            yield "post", "/directions", {"json": {"model": "reals", **sides, "replace": True, **more}}
    yield "post", "/directions", {"json": {"model": "reals", "name": "m", "positive": ROWS, "negative": ROWS}}
    for path in ("/directions", "/directions?model=reals&limit=1", "/directions/none/held"):
        yield "get", path, {}
    yield "delete", "/directions/none/held", {}
    for form in ("numbers", "base64", "rows"):
        pair = {"a": [MIXED], "b": [{**MIXED, "height": 9.0}], "steps": 3, "format": form}
        yield "post", "/interpolate", {"json": {"model": "mixed", **pair}}
    yield "post", "/interpolate", {"json": {"model": "pictures", "a": PIXELS, "b": PIXELS}, "headers": {"Accept": PNG}}
    yield "post", "/encode", {"json": {"model": "reals", "inputs": ROWS, "directions": {"held": 1.5}}}
    yield "post", "/decode", {"json": {"model": "reals", "vectors": [[1.0, 2.0]], "directions": {"held": -1}}}
    yield "delete", "/datasets/held", {}  # a queued job uses it
    yield "post", "/models/import", {"content": b"no archive"}


def test_answers_are_what_the_document_says(client: TestClient, kit: Any) -> None:
    asked, jobs = set(), []
    for method, path, more in requests(kit):
        operation = operation_of(method, path.partition("?")[0])
        asked.add(operation["operationId"])
        response = client.request(method, path, **more)
        try:
            hold(response, operation)
        except Exception as error:
            pytest.fail(f"{method} {path} answered {response.status_code} {response.text[:300]}: {error}")
        if response.status_code == 202:
            jobs.append(response.json())
    archive = client.get("/models/reals/download").content
    hold(client.post("/models/import?name=held", content=archive), operation_of("post", "/models/import"))
    hold(client.delete("/models/held/versions/1"), operation_of("delete", "/models/held/versions/1"))
    made = client.get("/directions?model=reals").json()["items"][0]
    where = f"/directions/{made['space']}/{made['name']}"
    for method in ("get", "delete"):
        hold(client.request(method, where), operation_of(method, where))
    for job in jobs:
        page = {"headers": {"Accept": "application/json"}}
        rest = (("get", "", {}), ("get", "/events", page), ("post", "/cancel", {}), ("get", "/events", {}))
        batch = (("get", "", {}), ("get", "/result", {}))
        kinds = [("jobs", rest), *([("batches", batch)] if job["kind"] == "batch" else [])]
        for noun, steps in kinds:
            for method, end, more in steps:
                path = f"/{noun}/{job['id']}{end}"
                asked.add(operation_of(method, path)["operationId"])
                hold(client.request(method, path, **more), operation_of(method, path))
    hold(client.delete("/datasets/held"), operation_of("delete", "/datasets/held"))
    every = {operation["operationId"] for operation in PATHS.values()}
    assert every - asked == set()


def test_what_differs_from_the_document_is_noticed(client: TestClient) -> None:
    response = client.get("/healthz")
    with pytest.raises(Exception, match="is not one of"):
        hold(response, operation_of("get", "/readyz"))
