"""POST /probes on real models of handwritten digits: accuracy by labels, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sklearn.datasets import load_digits, load_wine

from contracts.artifact import Card
from contracts.data import Part
from contracts.families import config_adapter
from contracts.jobs import Budget
from service.app import create_app
from service.gateway import of
from service.settings import GatewaySettings
from store import Store
from store.datasets import UploadedFile
from store.settings import StoreSettings
from workers.export import export
from workers.publish import assemble
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("probes")
    data, wine = load_digits(), load_wine()
    x = data.images.astype(np.uint8)
    np.savez(home / "digits.npz", images=x, labels=data.target.astype(str))
    np.savez(home / "plain.npz", images=x)
    np.savez(home / "one.npz", images=x, labels=np.full(len(x), "same"))
    holes = wine.data.copy()
    holes[::7, 3] = np.nan
    lines = [",".join([*(f"c{i}" for i in range(13)), "label"])]
    lines += [",".join([*("" if np.isnan(v) else f"{v}" for v in row), f"w{y}"])
              for row, y in zip(holes, wine.target, strict=True)]  # fmt: skip
    (home / "wine.csv").write_text("\n".join(lines))
    with Store.open(StoreSettings(home=home / "home"), migrate=True) as store:
        for name, file in (("digits", "digits.npz"), ("plain", "plain.npz"), ("one", "one.npz"), ("wine", "wine.csv")):
            said: Any = {} if name == "wine" else {"image": {"levels": 17}}
            store.datasets.ingest(name, [UploadedFile(file, home / file)], said)
        for name, dataset, config in (
            ("pca", "digits", {"family": "pca", "components": 20}),
            ("wine", "wine", {"family": "pca", "components": 6}),
            ("wines", "wine", {"family": "vae", "width": 16}),
            ("labelled", "digits", {"family": "vae", "condition": "label", "width": 16, "latents": 4}),
            ("gan", "digits", {"family": "gan", "width": 8}),
        ):
            publish(store, name, dataset, config, home / f"m-{name}")
    settings = GatewaySettings(home=home / "home", queue_url="redis://127.0.0.1:1/0", cache_url=None, reap_seconds=3600)
    with TestClient(create_app(settings), raise_server_exceptions=False) as running:
        of(running.app).resolver.forget()
        yield running


def publish(store: Store, name: str, dataset: str, config: dict[str, Any], folder: Path) -> None:
    reader = store.datasets.open(dataset)
    family = build_seeded(config_adapter.validate_python(config), reader.spec, reader.profile(), 0)
    train(family, reader, Plan(Budget(steps=3), 0, accelerator="cpu", threads=1))
    about: dict[str, Any] = {"graphs": export(family, folder), "seed": 0, "steps": 1, "dataset": reader.dataset.digest}
    card = Card(metrics={}, parity={}, timings={}, rows={str(part): reader.count(part) for part in Part})
    manifest = assemble(family, folder, card=card, **about)
    digest, size = store.artifacts.publish(folder)
    store.catalogue.import_version(name=name, digest=digest, manifest=manifest, card=card, size=size)


def ask(client: TestClient, status: int = 200, **body: Any) -> Any:
    response = client.post("/probes", json=body)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_accuracy_by_the_number_of_labels(client: TestClient, method: str) -> None:
    answer = ask(client, model="pca", dataset="digits", method=method, labels_per_class=[20, 5])
    assert [each["labels_per_class"] for each in answer["results"]] == [5, 20, None]
    assert [each["rows"] for each in answer["results"][:2]] == [50, 200]
    few, _, every = (each["accuracy"] for each in answer["results"])
    assert 0.4 < few < every
    assert every > 0.85
    assert all(each["raw_accuracy"] > 0.4 for each in answer["results"])
    assert answer["part"] == "test"
    assert answer["classes"] == sorted("0123456789")
    assert 0.05 < answer["majority"] < 0.2
    assert answer["model"] == "pca@1"
    again = ask(client, model="pca", dataset="digits", method=method, labels_per_class=[20, 5], baseline=False)
    assert [each["accuracy"] for each in again["results"]] == answer["accuracy"]
    assert all(each.get("raw_accuracy") is None for each in again["results"])


def test_tables_with_empty_cells_are_probed(client: TestClient) -> None:
    """A pca encodes complete rows only, a vae any."""
    left = ask(client, model="wine", dataset="wine", labels_per_class=[3])
    assert left["rows_left_out"] > 5
    assert left["results"][-1]["accuracy"] > 0.6
    answer = ask(client, model="wines", dataset="wine", labels_per_class=[3], max_rows=60, max_test_rows=10)
    assert answer["rows_left_out"] == 0
    assert answer["results"][-1]["rows"] == 60
    assert answer["test_rows"] == 10


def test_conditional_models_are_told_one_label_for_all(client: TestClient) -> None:
    refused = ask(client, 422, model="labelled", dataset="digits")
    assert "theirs tell the answer" in refused["detail"]
    answer = ask(client, model="labelled", dataset="digits", given={"label": "3"}, baseline=False, max_rows=200)
    assert answer["results"][0]["accuracy"] > 0


def test_what_cannot_be_probed_is_said(client: TestClient) -> None:
    for status, body, words in (
        (422, {"model": "pca", "dataset": "plain"}, "has no labels to probe"),
        (422, {"model": "pca", "dataset": "wine"}, "are not those that pca@1 reads"),
        (404, {"model": "pca", "dataset": "nothing"}, "nothing"),
        (404, {"model": "nothing", "dataset": "digits"}, "nothing"),
        (409, {"model": "gan", "dataset": "digits"}, "train an autoencoder"),
        (422, {"model": "pca", "dataset": "digits", "labels_per_class": [0]}, "labels_per_class"),
        (422, {"model": "pca", "dataset": "digits", "method": "tree"}, "method"),
        (422, {"model": "pca", "dataset": "one"}, "at least two classes"),
    ):
        assert words in ask(client, status, **body)["detail"], words
