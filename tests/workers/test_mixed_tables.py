"""Every family of tables on one that has it all: types of every kind, a range, and empty cells; asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from contracts.artifact import Card, Verb
from contracts.families import CONFIG_CLASSES, config_adapter
from contracts.jobs import Budget
from engine.kinds import program
from engine.model import Model
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
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded

pytestmark = pytest.mark.slow

SMALL = {"width": 16, "depth": 1, "layers": 2, "latents": 3, "groups": 2, "batch_size": 64, "patience": 1000}
TABLES = [name for name, config in CONFIG_CLASSES.items() if "table" in config.modalities]
CASES: dict[str, dict[str, Any]] = {name: {"family": name} for name in TABLES}
CASES["any_order"] = {"family": "autoregressive", "any_order": True}
COLOURS = ("blue", "green", "red")
FIRST, LAST = date(2024, 1, 1), date(2024, 3, 29)


def mixed_csv(rows: int = 240) -> str:
    """Prices that follow size and colour, with a fifth of three columns empty."""
    rng = np.random.default_rng(0)
    lines = ["price,size,colour,open,day"]
    for row in range(rows):
        size, colour = int(rng.integers(0, 10)), int(rng.integers(0, 3))
        price = max(0.05, 2 + 3 * size + 10 * colour + rng.normal())
        day = date.fromordinal(FIRST.toordinal() + (row % 88 if row else 88)).isoformat()
        cells = [f"{price:.3f}", str(size), COLOURS[colour], str(price > 20).lower(), day]
        for hole in (0, 2, 4):
            if row > 1 and rng.random() < 0.2:
                cells[hole] = ""
        lines.append(",".join(cells))
    return "\n".join(lines)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixed")


@pytest.fixture(scope="module")
def store(home: Path) -> Iterator[Store]:
    with Store.open(StoreSettings(home=home / "home"), migrate=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def reader(store: Store, home: Path) -> DatasetReader:
    (home / "mixed.csv").write_text(mixed_csv())
    said = {"columns": [{"name": "price", "minimum": 0}]}
    store.datasets.ingest("mixed", [UploadedFile("mixed.csv", home / "mixed.csv")], said)
    return store.datasets.open("mixed")


@pytest.fixture(scope="module")
def client(store: Store, home: Path) -> Iterator[TestClient]:
    settings = GatewaySettings(home=home / "home", queue_url="redis://127.0.0.1:1/0", cache_url=None, reap_seconds=3600)
    with TestClient(create_app(settings), raise_server_exceptions=False) as running:
        yield running


@pytest.fixture(scope="module", params=list(CASES))
def model(request: pytest.FixtureRequest, store: Store, reader: DatasetReader, client: TestClient, home: Path) -> str:
    """A version of the family, trained for a few steps and published as a job would."""
    name, said = request.param, CASES[request.param]
    known = CONFIG_CLASSES[said["family"]].model_fields
    config = config_adapter.validate_python(said | {k: v for k, v in SMALL.items() if k in known})
    config.check_data(reader.spec)
    family = build_seeded(config, reader.spec, reader.profile(), 0)
    result = train(family, reader, Plan(Budget(steps=30), 0, accelerator="cpu", threads=1))
    folder = home / name
    graphs = export(family, folder)
    errors = parity(family, folder, graphs, reader.read(None, slice(0, 7)))
    about: dict[str, Any] = {"graphs": graphs, "seed": 0, "steps": result.steps, "dataset": reader.dataset.digest}
    assemble(family, folder, **about)
    loaded = Model.load(folder)
    answers = program(loaded)
    figures = evaluate(answers, reader, seconds=1.0).metrics
    figures |= likeness.measure(likeness.draw(answers, {}), reader, reader.profile())
    loaded.close()
    card = Card(metrics=figures, parity=errors, timings={}, rows={})
    manifest = assemble(family, folder, card=card, **about)
    digest, size = store.artifacts.publish(folder)
    store.catalogue.import_version(name=name, digest=digest, manifest=manifest, card=card, size=size)
    of(client.app).resolver.forget()
    return name


def ask(client: TestClient, path: str, status: int = 200, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    assert "NaN" not in response.text
    return response.json()


def supports(client: TestClient, model: str, verb: Verb) -> bool:
    return bool(client.get(f"/models/{model}").json()["manifest"]["verbs"][verb]["supported"])


def assert_whole(row: dict[str, Any]) -> None:
    """The row has a value of its column's type, range and categories in every cell."""
    assert isinstance(row["price"], int | float)
    assert row["price"] >= 0
    assert isinstance(row["size"], int)
    assert 0 <= row["size"] <= 9
    assert row["colour"] in COLOURS
    assert isinstance(row["open"], bool)
    assert FIRST <= date.fromisoformat(row["day"]) <= LAST


ROWS = [
    {"price": None, "size": 3, "colour": None, "open": True, "day": None},
    {"price": 12.5, "size": 3, "colour": "red", "open": None, "day": "2024-02-01"},
    {"price": None, "size": 9, "colour": "blue", "open": True, "day": "2024-02-01"},
]


def test_empty_cells_are_allowed_and_told(reader: DatasetReader) -> None:
    assert [column.name for column in reader.spec.columns if column.missing] == ["price", "colour", "day"]


def test_the_card_counts_rows_with_missing_cells(client: TestClient, model: str, reader: DatasetReader) -> None:
    metrics = client.get(f"/models/{model}").json()["card"]["metrics"]
    assert "NaN" not in json.dumps(metrics)
    if supports(client, model, Verb.LOG_PROB):
        assert metrics.get("rows_with_missing_cells", 0) + metrics.get("rows_left_out", 0) > 0
        assert np.isfinite(metrics["log_prob_nats"])
    if supports(client, model, Verb.SAMPLE):
        assert np.isfinite(metrics["samples_mmd_squared"]["value"])


def test_samples_are_rows_of_the_table(client: TestClient, model: str) -> None:
    if not supports(client, model, Verb.SAMPLE):
        ask(client, "/sample", 409, model=model, n=1)
        return
    for row in ask(client, "/sample", model=model, n=60, seed=1, format="rows")["rows"]:
        assert_whole(row)


def test_samples_keep_what_is_given(client: TestClient, model: str) -> None:
    given = {"row": {"colour": "red", "size": 3}}
    if not supports(client, model, Verb.PREDICT):
        assert ask(client, "/sample", 409, model=model, n=2, given=given)["detail"]
        return
    response = client.post("/sample", json={"model": model, "n": 20, "seed": 1, "format": "rows", "given": given})
    if response.status_code == 409:  # a model of one order: what is given must come first in it
        assert "any_order" in response.text
        return
    assert response.status_code == 200, response.text
    answer = response.json()
    for row in answer["rows"]:
        assert_whole(row)
        assert (row["colour"], row["size"]) == ("red", 3)
    assert len({row["price"] for row in answer["rows"]}) > 10
    assert answer["kind"] in ("exact", "estimate")
    again = ask(client, "/sample", model=model, n=5, seed=1, format="rows", given=given)["rows"]
    for row, same in zip(answer["rows"], again, strict=False):
        assert row["price"] == pytest.approx(same["price"], rel=1e-6)


def test_three_columns_of_nulls_are_predicted(client: TestClient, model: str) -> None:
    if not supports(client, model, Verb.PREDICT):
        ask(client, "/predict", 409, model=model, inputs=ROWS)
        return
    response = client.post("/predict", json={"model": model, "inputs": ROWS, "draws": 5})
    if response.status_code == 409:
        assert "any_order" in response.text
        return
    assert response.status_code == 200, response.text
    assert "NaN" not in response.text
    answer = response.json()
    for given, mean, std, draws in zip(ROWS, answer["mean"], answer["std"], answer["draws"], strict=True):
        for draw in draws:
            assert_whole(draw)
        for name, value in given.items():
            if value is not None:
                assert mean[name] == value
                assert std[name] == 0
                assert {draw[name] for draw in draws} == {value}
        assert mean["price"] >= 0
        assert mean["colour"] in COLOURS
    assert all(np.isfinite(value) for value in answer["log_prob"])
    assert answer["std"][0]["price"] > 0


def test_shown_cells_are_scored(client: TestClient, model: str) -> None:
    if not supports(client, model, Verb.LOG_PROB):
        ask(client, "/log_prob", 409, model=model, inputs=ROWS)
        return
    response = client.post("/log_prob", json={"model": model, "inputs": ROWS})
    assert response.status_code in (200, 409), response.text
    if response.status_code == 200:
        assert all(np.isfinite(value) for value in response.json()["log_prob"])


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"colour": "pink"}, "inputs[1].colour is 'pink', a category never seen"),
        ({"price": -1}, "inputs[1].price is -1 but must lie in 0..inf"),
        ({"size": 10}, "inputs[1].size is 10 but must lie in 0..9"),
    ],
)
def test_what_was_never_allowed_is_named(client: TestClient, model: str, cell: dict[str, Any], words: str) -> None:
    whole = {"price": 12.5, "size": 3, "colour": "red", "open": True, "day": "2024-02-01"}
    if not supports(client, model, Verb.ENCODE):
        ask(client, "/encode", 409, model=model, inputs=[whole])
        return
    problem = ask(client, "/encode", 422, model=model, inputs=[whole, whole | cell])
    assert words in problem["detail"]
