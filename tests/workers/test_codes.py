"""Codes over HTTP and from the command line: a two-level model of handwritten digits, trained for a few steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sklearn.datasets import load_digits

from contracts.artifact import Card
from contracts.data import DataProfile, DataSpec, ImageShape
from contracts.families import config_adapter
from models import build
from service.app import create_app
from service.cli.reconstructions import code_pictures
from service.gateway import of
from service.settings import GatewaySettings
from store import Store
from store.settings import StoreSettings
from workers.export import export
from workers.publish import assemble

GREY = DataSpec(modality="image", image=ImageShape(height=8, width=8, levels=17))
DIGITS = load_digits().images.astype(np.uint8)[..., None]
CONFIGS: dict[str, dict[str, Any]] = {
    "codes": {"family": "vqvae", "levels": 2, "network": "convolutional", "codes": 8, "width": 8, "prior_width": 16},
    "plain": {"family": "autoencoder", "width": 8, "latents": 2},
}


def publish(store: Store, name: str, folder: Path) -> None:
    flat = DIGITS.reshape(len(DIGITS), -1).astype(np.float64)
    profile = DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))
    family = build(config_adapter.validate_python(CONFIGS[name]), GREY, profile).eval()
    about: dict[str, Any] = {"graphs": export(family, folder), "seed": 0, "steps": 1, "dataset": "0" * 64}
    card = Card(metrics={}, parity={}, timings={}, rows={})
    manifest = assemble(family, folder, card=card, **about)
    digest, size = store.artifacts.publish(folder)
    store.catalogue.import_version(name=name, digest=digest, manifest=manifest, card=card, size=size)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("codes")
    with Store.open(StoreSettings(home=home / "home"), migrate=True) as store:
        for name in CONFIGS:
            publish(store, name, home / name)
    settings = GatewaySettings(home=home / "home", queue_url="redis://127.0.0.1:1/0", cache_url=None, reap_seconds=3600)
    with TestClient(create_app(settings), raise_server_exceptions=False) as running:
        of(running.app).resolver.forget()
        yield running


def ask(client: TestClient, path: str, status: int = 200, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def test_codes_are_numbers_by_level_and_decode_to_the_same_rows(client: TestClient) -> None:
    rows = DIGITS[:5].tolist()
    vectors = ask(client, "/encode", model="codes", inputs=rows)
    coded = ask(client, "/encode", model="codes", inputs=rows, codes=True)
    assert "vectors" not in coded
    assert coded["grids"] == [[2, 2], [4, 4]]
    assert coded["codebook_size"] == 8
    assert coded["dimensions"] == 20
    assert np.asarray(coded["codes"]).shape == (5, 20)
    assert {type(code) for row in coded["codes"] for code in row} == {int}
    assert vectors["groups"] == [4 * 16, 16 * 16]
    assert vectors["dimensions"] == 320
    assert coded["space"] == vectors["space"]
    by_codes = ask(client, "/decode", model="codes", codes=coded["codes"])["rows"]
    by_vectors = ask(client, "/decode", model="codes", vectors=vectors["vectors"])["rows"]
    np.testing.assert_allclose(by_codes, by_vectors, atol=1e-4)
    again = ask(client, "/encode", model="codes", inputs=rows, codes=True)
    assert again["codes"] == coded["codes"]
    as_bytes = ask(client, "/encode", model="codes", inputs=rows, codes=True, format="base64")["codes"]
    assert as_bytes["dtype"] == "int64"
    np.testing.assert_allclose(ask(client, "/decode", model="codes", codes=as_bytes)["rows"], by_codes, atol=1e-6)


def test_codes_come_as_npy_and_pictures_from_them(client: TestClient) -> None:
    coded = client.post(
        "/encode", json={"model": "codes", "inputs": DIGITS[:2].tolist(), "codes": True},
        headers={"accept": "application/x-npy"},
    )  # fmt: skip
    assert coded.content.startswith(b"\x93NUMPY")
    picture = client.post(
        "/decode", json={"model": "codes", "codes": [[0] * 20, [1] * 20]}, headers={"accept": "image/png"}
    )
    assert picture.content.startswith(b"\x89PNG")


def test_wrong_codes_are_named(client: TestClient) -> None:
    for body, words in (
        ({"codes": [[0] * 19]}, "codes: must have shape (rows, 20)"),
        ({"codes": [[0] * 19 + [8]]}, "codes[0][19] is 8 but must lie in 0..7"),
        ({"codes": [[0.5] * 20]}, "whole numbers"),
        ({"codes": [[0] * 20], "vectors": [[0.0] * 320]}, "exactly one of `vectors` and `codes`"),
        ({}, "exactly one of `vectors` and `codes`"),
        ({"codes": [[0] * 20], "directions": {"smile": 1}}, "move vectors"),
    ):
        assert words in json.dumps(ask(client, "/decode", 422, model="codes", **body)).replace("\\", "")
    plain = ask(client, "/encode", 422, model="plain", inputs=DIGITS[:1].tolist(), codes=True)
    assert "plain@1 has no codes" in plain["detail"]
    assert "no codes" in ask(client, "/decode", 422, model="plain", codes=[[0, 1]])["detail"]
    both = ask(client, "/encode", 422, model="codes", inputs=DIGITS[:1].tolist(), codes=True, directions={"a": 1})
    assert both["errors"][0]["location"] == "directions"


def test_each_level_has_a_temperature(client: TestClient) -> None:
    rows = ask(client, "/sample", model="codes", n=3, seed=1, temperature=[0.5, 1.0])["rows"]
    assert np.asarray(rows).shape == (3, 8, 8, 1)
    assert (
        "one for each of 2 groups" in ask(client, "/sample", 422, model="codes", n=1, temperature=[1, 1, 1])["detail"]
    )


def test_expected_rows_of_drawn_codes(client: TestClient) -> None:
    clean = ask(client, "/sample", model="codes", n=2, seed=1, expected=True)["rows"]
    assert clean != ask(client, "/sample", model="codes", n=2, seed=1)["rows"]
    refused = ask(client, "/sample", 422, model="plain", n=1, expected=True)
    assert "plain@1 has no codes" in refused["detail"]


def test_codes_are_drawn_as_blocks_of_grey() -> None:
    shape = ImageShape(height=5, width=4, channels=3, levels=17)
    top, bottom = code_pictures(np.array([[0, 7, 3, 1, 0, 0]]), [[1, 2], [2, 2]], 8, shape)
    assert top.shape == bottom.shape == (1, 5, 4, 3)
    assert np.unique(top[0, :, :2]).tolist() == [2.0]  # code 0 is dark, not black
    assert np.unique(top[0, :, 2:]).tolist() == [16.0]
    assert bottom[0, 0, 0, 0] == 8
    assert bottom[0, 4, 3, 2] == 2
