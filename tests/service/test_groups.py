"""A model whose latents stand in groups: sizes in the encode answer, a temperature for each in sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from contracts.artifact import Card, FileEntry
from service.app import create_app
from service.gateway import of
from service.schemas.answers import EncodeResponse, SampleResponse
from tests.engine.conftest import LADDER, table, write_linear_gaussian

ROWS = [[0.5, -1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Iterator[TestClient]:
    """A gateway with one model of two groups of one latent each."""
    home = tmp_path_factory.mktemp("groups")
    folder = home / "artifact"
    oracle = write_linear_gaussian(folder, table("real", "real", "real", "real"), grouped=True)
    card = folder / "card.json"
    card.write_text(Card(metrics={}, parity={}, timings={}, rows={"train": 1}).model_dump_json())
    entry = FileEntry(sha256=hashlib.sha256(card.read_bytes()).hexdigest(), size=card.stat().st_size)
    told = {"latent_groups": (1, 1), "files": oracle.manifest.files | {card.name: entry}}
    (folder / "manifest.json").write_text(oracle.manifest.model_copy(update=told).model_dump_json())
    app = create_app(kit.settings(home / "home"))
    with TestClient(app, raise_server_exceptions=False) as client:
        kit.publish(of(app), "ladder", folder)
        yield client


def sample(client: TestClient, temperature: object) -> Any:
    return client.post("/sample", json={"model": "ladder", "n": 400, "seed": 1, "temperature": temperature})


def test_encode_answers_the_sizes_of_the_groups(ladder: TestClient, client: TestClient) -> None:
    answer = ladder.post("/encode", json={"model": "ladder", "inputs": ROWS})
    assert answer.status_code == 200, answer.text
    assert EncodeResponse.model_validate_json(answer.content).groups == [1, 1]
    assert answer.json()["dimensions"] == 2
    assert client.post("/encode", json={"model": "reals", "inputs": [[1.0, 2.0, 3.0]]}).json()["groups"] is None


def test_each_group_takes_a_temperature(ladder: TestClient) -> None:
    answer = sample(ladder, [1.0, 1e-6])
    assert answer.status_code == 200, answer.text
    assert SampleResponse.model_validate_json(answer.content).temperature == [1.0, 1e-6]
    one = np.asarray(sample(ladder, 1e-6).json()["rows"])
    both, same = (np.asarray(sample(ladder, each).json()["rows"]) for each in ([1.0, 1.0], 1.0))
    np.testing.assert_array_equal(both, same)
    centre = np.asarray(ladder.post("/decode", json={"model": "ladder", "vectors": [[0.0, 0.0]]}).json()["rows"])
    top = np.asarray(ladder.post("/decode", json={"model": "ladder", "vectors": LADDER[:1].tolist()}).json()["rows"])
    # with the second group frozen, all that moves beside the noise lies in the direction of the first
    moved = np.asarray(answer.json()["rows"]) - one
    direction = (top - centre)[0]
    along = np.outer(moved @ direction, direction) / (direction @ direction)
    np.testing.assert_allclose(moved, along, atol=1e-4)
    assert moved.std() > 0.1


@pytest.mark.parametrize("temperature", [[], [1.0, 1.0, 1.0], [1.0, 0.0], [1.0, 11.0], ["hot", 1.0], "hot", [1.0] * 65])
def test_wrong_temperatures_are_refused(ladder: TestClient, temperature: object) -> None:
    answer = sample(ladder, temperature)
    assert answer.status_code == 422
    assert "temperature" in answer.text
