"""Autoregressive models over cells by HTTP: exact numbers, and the order under which they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from contracts.artifact import Card, FileEntry, Manifest
from service.app import create_app
from service.gateway import of
from service.schemas.answers import LogProbResponse
from tests.cell_models import STATES, TableOracle, write_table_model

HIDES_THE_FIRST = [[None, *row[1:]] for row in STATES[:3].tolist()]


def add_card(folder: Path) -> None:
    """What a published version has besides its graphs."""
    card = folder / "card.json"
    card.write_text(Card(metrics={}, parity={}, timings={}, rows={"train": 1}).model_dump_json())
    entry = FileEntry(sha256=hashlib.sha256(card.read_bytes()).hexdigest(), size=card.stat().st_size)
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    told = manifest.model_copy(update={"files": manifest.files | {card.name: entry}})
    (folder / "manifest.json").write_text(told.model_dump_json())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Iterator[tuple[TestClient, dict[str, TableOracle]]]:
    """A gateway with a model of one order and one of any order, both of known probabilities."""
    home = tmp_path_factory.mktemp("orders")
    oracles = {regime: write_table_model(home / regime, regime) for regime in ("fixed", "shown")}
    with TestClient(create_app(kit.settings(home / "home")), raise_server_exceptions=False) as client:
        for regime in oracles:
            add_card(home / regime)
            kit.publish(of(client.app), regime, home / regime)
        yield client, oracles


@pytest.mark.parametrize(("regime", "order"), [("fixed", "raster"), ("shown", "shown_first")])
def test_log_prob_is_exact_and_names_its_order(
    served: tuple[TestClient, dict[str, TableOracle]], regime: str, order: str
) -> None:
    client, oracles = served
    for _ in range(2):  # the second answer comes from the cache
        answer = client.post("/log_prob", json={"model": regime, "inputs": STATES.tolist()})
        found = LogProbResponse.model_validate_json(answer.content)
        assert (found.kind, found.order, found.samples) == ("exact", order, None)
        np.testing.assert_allclose(np.exp(np.array(found.log_prob, float)), oracles[regime].probabilities, rtol=1e-6)


def test_a_model_of_one_order_refuses_what_stands_before_shown_cells(
    served: tuple[TestClient, dict[str, TableOracle]],
) -> None:
    client, oracles = served
    body = {"inputs": HIDES_THE_FIRST, "draws": 1}
    answer = client.post("/predict", json={"model": "shown", **body})
    assert answer.status_code == 200, answer.text
    assert answer.json()["kind"] == "exact"
    hidden = np.array([[cell is None for cell in row] for row in HIDES_THE_FIRST])
    mean, _ = oracles["shown"].moments(STATES[:3], hidden)
    np.testing.assert_allclose(np.array(answer.json()["mean"])[hidden], mean[hidden], atol=1e-6)
    refused = client.post("/predict", json={"model": "fixed", **body})
    # the order of that model begins elsewhere, so the first column stands before a shown one
    assert refused.status_code == 409
    assert "any_order" in refused.json()["detail"]


def test_models_without_an_order_name_none(client: TestClient) -> None:
    assert "order" not in client.post("/log_prob", json={"model": "reals", "inputs": [[1.0, 2.0, 3.0]]}).json()
