"""Pictures and captions over HTTP, from a dataset with captions to a card: trained for a few steps as a job would."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from contracts.artifact import Card
from contracts.data import Part
from contracts.families import config_adapter
from contracts.jobs import Budget
from engine.kinds import program
from engine.model import Model
from engine.tokeniser import TOKENISER_FILE
from models import build
from service.app import create_app
from service.gateway import of
from service.settings import GatewaySettings
from store import Store
from store.datasets import DatasetReader, UploadedFile
from store.settings import StoreSettings
from workers import likeness
from workers.evaluate import evaluate
from workers.export import export
from workers.parity import parity
from workers.publish import assemble
from workers.training.captions import Captions, has_captions, prepare_captions
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}
SHAPES = ("square", "bar")
CONFIG = {"family": "clip", "tokens": "bpe", "vocabulary": 270, "width": 8, "dimensions": 16, "batch_size": 32}


def pictures(count: int = 240) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    x, captions = rng.integers(0, 30, (count, 10, 10, 3)), []
    for row in range(count):
        colour, shape = list(COLOURS)[row % 3], SHAPES[row // 3 % 2]
        x[row, 3:7, 3:7] = COLOURS[colour]
        if shape == "bar":
            x[row, 4:6, :] = COLOURS[colour]
        captions.append(f"a {colour} {shape}")
    return np.clip(x, 0, 255).astype(np.uint8), captions


X, CAPTIONS = pictures()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def store(home: Path) -> Iterator[Store]:
    with Store.open(StoreSettings(home=home / "home"), migrate=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def readers(store: Store, home: Path) -> dict[str, DatasetReader]:
    np.savez(home / "captions.npz", images=X, captions=CAPTIONS)
    np.savez(home / "labels.npz", images=X, labels=[caption.split()[1] for caption in CAPTIONS])
    found = {}
    for name in ("captions", "labels"):
        store.datasets.ingest(name, [UploadedFile(f"{name}.npz", home / f"{name}.npz")], {"modality": "image"})
        found[name] = store.datasets.open(name)
    return found


def publish(store: Store, name: str, config: dict[str, Any], reader: DatasetReader, folder: Path, steps: int) -> None:
    asked: Any = config_adapter.validate_python(config)
    asked.check_data(reader.spec)
    rows: Any = reader
    if asked.reads_captions and has_captions(reader.spec):
        asked, rows = prepare_captions(reader, asked)
    family = build_seeded(asked, rows.spec, rows.profile(), 0)
    result = train(family, rows, Plan(Budget(steps=steps), 0, accelerator="cpu", threads=1))
    graphs = export(family, folder)
    errors = parity(family, folder, graphs, rows.read(Part.TRAIN, slice(0, 7)))
    about: dict[str, Any] = {"graphs": graphs, "seed": 0, "steps": result.steps, "dataset": reader.dataset.digest}
    if isinstance(rows, Captions) and (content := rows.tokeniser.content()) is not None:
        about["more_files"] = {TOKENISER_FILE: content}
    assemble(family, folder, **about)
    answers = program(Model.load(folder))
    figures = evaluate(answers, reader, seconds=1.0).metrics | family.figures()
    card = Card(metrics=figures, parity=errors, timings={}, rows={}, history=result.history)
    manifest = assemble(family, folder, card=card, preview=likeness.neighbours(answers, reader), **about)
    digest, size = store.artifacts.publish(folder)
    store.catalogue.import_version(name=name, digest=digest, manifest=manifest, card=card, size=size)


@pytest.fixture(scope="module")
def client(store: Store, readers: dict[str, DatasetReader], home: Path) -> Iterator[TestClient]:
    publish(store, "pair", CONFIG, readers["captions"], home / "pair", 150)
    publish(
        store, "words", CONFIG | {"tokens": "bytes", "template": "a {label} thing"}, readers["labels"], home / "w", 30
    )
    publish(store, "plain", {"family": "simclr", "width": 8, "dimensions": 8}, readers["labels"], home / "plain", 5)
    publish(store, "pca", {"family": "pca", "components": 2}, readers["labels"], home / "pca", 1)
    settings = GatewaySettings(home=home / "home", queue_url="redis://127.0.0.1:1/0", cache_url=None, reap_seconds=3600)
    with TestClient(create_app(settings), raise_server_exceptions=False) as running:
        of(running.app).resolver.forget()
        yield running


def ask(client: TestClient, path: str, status: int = 200, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def test_pictures_are_recognised_by_captions(client: TestClient) -> None:
    captions = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    answer = ask(client, "/predict", model="pair", inputs=X[:30].tolist(), captions=captions)
    assert np.mean([a == b for a, b in zip(answer["best"], CAPTIONS[:30], strict=True)]) > 0.8
    np.testing.assert_allclose(np.sum(answer["probabilities"], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.exp(answer["log_prob"]), answer["probabilities"], rtol=1e-5)
    assert answer["captions"] == captions
    stream = io.BytesIO()
    Image.fromarray(X[0]).save(stream, "PNG")
    one = [{"image": base64.b64encode(stream.getvalue()).decode()}]
    again = ask(client, "/predict", model="pair", inputs=one, captions=captions)
    np.testing.assert_allclose(again["probabilities"][0], answer["probabilities"][0], atol=1e-5)
    labelled = ask(client, "/predict", model="words", inputs=X[:2].tolist(), captions=["a red thing", "a blue thing"])
    assert len(labelled["best"]) == 2


def test_texts_stand_where_rows_do(client: TestClient) -> None:
    texts = {"texts": CAPTIONS[:4]}
    vectors = ask(client, "/encode", model="pair", inputs=texts)
    pictures = ask(client, "/encode", model="pair", inputs=X[:4].tolist())
    assert vectors["space"] == pictures["space"]
    assert vectors["dimensions"] == pictures["dimensions"] == 16
    expected = np.asarray(vectors["vectors"]) @ np.asarray(pictures["vectors"]).T
    scores = ask(client, "/similarity", model="pair", a=texts, b=X[:4].tolist())["scores"]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    found = ask(client, "/similarity", model="pair", query=texts, against={"dataset": "captions"}, top_k=3)
    nearest = [[CAPTIONS[place] for place in line] for line in found["indices"]]
    assert np.mean([caption in line for caption, line in zip(CAPTIONS[:4], nearest, strict=True)]) >= 0.75
    captions = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    back = ask(
        client, "/similarity", model="pair", query=X[:3].tolist(), against={"inputs": {"texts": captions}}, top_k=1
    )
    assert np.mean([captions[line[0]] == CAPTIONS[row] for row, line in enumerate(back["indices"])]) > 0.5


def test_bad_requests_say_what_to_send(client: TestClient) -> None:
    rows, captions = X[:1].tolist(), ["a", "b"]
    for path, status, body, words in (
        ("/predict", 422, {"model": "pair", "inputs": rows, "captions": ["a"]}, "at least two captions"),
        ("/predict", 422, {"model": "pair", "inputs": rows, "captions": ["a", "a"]}, "holds a caption twice"),
        ("/predict", 422, {"model": "pair", "inputs": rows, "captions": captions, "mask": rows}, "has no meaning"),
        ("/predict", 422, {"model": "pair", "inputs": rows, "captions": ["a", "b" * 500]}, "texts[1] has"),
        ("/predict", 422, {"model": "plain", "inputs": rows, "captions": captions}, "plain@1 reads no captions"),
        ("/predict", 422, {"model": "pca", "inputs": rows, "captions": captions}, "pca@1 reads no captions"),
        ("/predict", 409, {"model": "pair", "inputs": rows}, "send `captions`"),
        ("/encode", 422, {"model": "plain", "inputs": {"texts": ["a"]}}, "plain@1 reads no captions or texts"),
        ("/encode", 422, {"model": "pair", "inputs": {"texts": []}}, "inputs.texts"),
        ("/encode", 422, {"model": "pair", "inputs": {"texts": ["a"]}, "codes": True}, "neither codes nor labels"),
        ("/encode", 422, {"model": "pair", "inputs": {"texts": ["  "]}}, "texts[0] is empty"),
        ("/similarity", 422, {"model": "plain", "a": {"texts": ["a"]}, "b": rows}, "reads no captions"),
        ("/sample", 409, {"model": "pair"}, "does not sample"),
        ("/log_prob", 409, {"model": "plain", "inputs": rows}, "has no density"),
    ):
        assert words in ask(client, path, status, **body)["detail"], words


def test_cards_tell_retrieval_and_recognition(client: TestClient) -> None:
    metrics = client.get("/models/pair").json()["card"]["metrics"]
    for way in ("text_to_image", "image_to_text"):
        for k in ("1", "5", "10"):
            entry = metrics["recall"][way][k]
            assert 0 <= entry["chance"] <= 1
            assert 0 <= entry["value"] <= 1
    assert metrics["recall"]["image_to_text"]["1"]["value"] > metrics["recall"]["image_to_text"]["1"]["chance"]
    assert metrics["recall"]["captions"] == 6
    assert metrics["logit_scale"] > 1
    assert 0 <= client.get("/models/words").json()["card"]["metrics"]["zero_shot_accuracy"] <= 1
    assert "log_prob_nats" not in client.get("/models/plain").json()["card"]["metrics"]
    for name in ("pair", "plain"):
        assert client.get(f"/models/{name}/preview.png").content.startswith(b"\x89PNG")


def test_training_goes_on_from_the_same_vocabulary(
    store: Store, readers: dict[str, DatasetReader], client: TestClient
) -> None:
    from engine.tokeniser import read_tokeniser

    version = store.catalogue.resolve("pair")
    folder = store.artifacts.fetch(version.digest)
    known = read_tokeniser(folder, version.manifest.files)
    config, rows = prepare_captions(readers["captions"], config_adapter.validate_python(version.manifest.config), known)
    family = build(config, rows.spec, rows.profile())
    assert family.state_dict()["texts.symbols.weight"].shape[0] == known.size + 1
