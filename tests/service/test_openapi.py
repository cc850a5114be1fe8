"""The OpenAPI document: committed, complete, and fit for generated clients."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import openapi
from service.schemas.directions import DirectionRequest
from service.schemas.verbs import (
    DecodeRequest,
    EncodeRequest,
    InterpolateRequest,
    LogProbRequest,
    PredictRequest,
    SampleRequest,
    SimilarityRequest,
)

DOCUMENT: dict[str, Any] = json.loads(openapi.text())
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()}


def test_the_committed_document_is_what_the_code_says() -> None:
    assert openapi.main(["--check"]) == 0, "run `make openapi`"


def test_a_document_that_drifted_is_told_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(openapi, "FILE", tmp_path / "openapi" / "openapi.json")
    assert openapi.main(["--check"]) == 1
    assert "make openapi" in capsys.readouterr().err
    assert openapi.main([]) == 0
    assert openapi.main(["--check"]) == 0


def test_operation_ids_are_camel_case_and_their_own() -> None:
    assert len(OPERATIONS) == sum(len(path) for path in DOCUMENT["paths"].values())
    assert [name for name in OPERATIONS if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name)] == []


def test_every_operation_answers_errors_as_problems() -> None:
    for name, operation in OPERATIONS.items():
        assert "application/problem+json" in operation["responses"]["default"]["content"], name
        assert "422" not in operation["responses"], name
    assert "HTTPValidationError" not in SCHEMAS


def test_every_reference_leads_somewhere() -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))
    assert references <= set(SCHEMAS)


@pytest.mark.parametrize(
    ("operation", "schema"),
    [
        ("encode", EncodeRequest),
        ("decode", DecodeRequest),
        ("sample", SampleRequest),
        ("logProb", LogProbRequest),
        ("predict", PredictRequest),
        ("similarity", SimilarityRequest),
        ("interpolate", InterpolateRequest),
        ("createDirection", DirectionRequest),
    ],
)
def test_bodies_that_are_read_raw_are_documented_whole(operation: str, schema: type[Any]) -> None:
    content = OPERATIONS[operation]["requestBody"]["content"]
    assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{schema.__name__}"}
    assert set(SCHEMAS[schema.__name__]["properties"]) == set(schema.model_fields)
    assert SCHEMAS[schema.__name__]["additionalProperties"] is False
    if schema.body_field is not None:
        assert content["application/x-npy"]["schema"]["format"] == "binary"


def test_uploads_are_binary_and_configs_are_told_apart_by_family() -> None:
    form = OPERATIONS["uploadDataset"]["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"]
    files = SCHEMAS[form.rpartition("/")[2]]["properties"]["files"]
    assert files["items"] == {"type": "string", "format": "binary"}
    assert SCHEMAS["TrainRequest"]["properties"]["config"]["discriminator"]["propertyName"] == "family"


def test_lists_page_and_jobs_take_an_idempotency_key() -> None:
    for name in ("listDatasets", "listModels", "listVersions", "listJobs", "listBatches", "listDirections"):
        assert {"limit", "after"} <= {each["name"] for each in OPERATIONS[name]["parameters"]}
    for name in ("train", "createBatch"):
        assert "Idempotency-Key" in {each["name"] for each in OPERATIONS[name]["parameters"]}


def test_generator_configs_are_read() -> None:
    for name in ("python-client.yaml", "typescript-fetch.yaml"):
        assert isinstance(yaml.safe_load((openapi.FILE.parent / name).read_text()), dict)
