"""The main job over real processes: upload, train, ask every verb, by the command line over HTTP."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA

Cli = Callable[..., Any]
QUERY = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}


@pytest.fixture(scope="module")
def flowers() -> str:
    """A name of its own for this module's dataset and models."""
    return f"flowers-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def trained(cli: Cli, flowers: str, iris_csv: Path, iris_spec: str) -> str:
    """A pca trained on the iris flowers; trained once, found the next times."""
    known = [model["name"] for model in cli("models", "list")] if cli("models", "list") else []
    if flowers not in known:
        added = cli("datasets", "add", flowers, str(iris_csv), "--spec", iris_spec)
        assert added["rows"] == sum(added["parts"].values())
        cli("train", flowers, "-d", flowers, "-f", "pca", "--set", "components=2", "--detach")
        job = next(job for job in cli("jobs", "list") if job["request"].get("name") == flowers)
        events = cli("jobs", "watch", job["id"])
        assert events[-1]["type"] == "succeeded"
        assert [event["id"] for event in events] == sorted({event["id"] for event in events})
    return flowers


def test_the_dataset_is_described(cli: Cli, trained: str) -> None:
    shown = cli("datasets", "show", trained, "--rows", "2")
    roles = {column["name"]: column["role"] for column in shown["spec"]["columns"]}
    assert roles["species"] == "label"
    assert list(roles.values()).count("feature") == 4
    assert len(shown["preview"]) == 2
    assert "species" in cli("datasets", "show", trained, "--rows", "1", as_json=False)
    assert trained in cli("datasets", "list", as_json=False)


def test_the_card_tells_what_was_measured(cli: Cli, trained: str) -> None:
    shown = cli("models", "show", trained)
    metrics = shown["card"]["metrics"]
    assert (metrics["kind"], metrics["measure"]) == ("exact", "density")
    assert np.isfinite(metrics["log_prob_nats"])
    assert max(shown["card"]["parity"].values()) < 1e-3
    text = cli("models", "show", trained, as_json=False)
    assert "log_prob_nats" in text
    assert "density" in text


def test_log_prob_ranks_an_impossible_flower_last(cli: Cli, trained: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([QUERY, QUERY | {"petal_length": 9.9}]))
    answer = cli("log-prob", trained, str(rows))
    assert answer["log_prob"][0] > answer["log_prob"][1]
    assert (answer["unit"], answer["kind"], answer["measure"]) == ("nats", "exact", "density")
    lowest = cli("log-prob", trained, str(rows), "--lowest", "1", as_json=False)
    assert lowest.splitlines()[1].split()[0] == "1"
    out = tmp_path / "scores.csv"
    cli("log-prob", trained, str(rows), "-o", str(out))
    assert [float(line.split(",")[1]) for line in out.read_text().splitlines()[1:]] == answer["log_prob"]
    cli("log-prob", trained, str(rows), "-o", str(tmp_path / "scores.npy"))
    assert np.load(tmp_path / "scores.npy").tolist() == answer["log_prob"]


def test_encode_is_the_projection_that_scikit_learn_finds(cli: Cli, trained: str, tmp_path: Path) -> None:
    data = load_iris().data
    np.save(tmp_path / "rows.npy", data)
    cli("encode", trained, str(tmp_path / "rows.npy"), "-o", str(tmp_path / "z.npy"))
    vectors = np.load(tmp_path / "z.npy")
    reference = PCA(2).fit_transform(data)
    # Fitted on the train rows and up to rotation: the plane is the same, so one predicts the other linearly.
    design = np.c_[reference, np.ones(len(data))]
    residual = vectors - design @ np.linalg.lstsq(design, vectors, rcond=None)[0]
    assert residual.std() < 0.1 * vectors.std()
    shown = cli("encode", trained, str(tmp_path / "rows.npy"), as_json=False)
    assert "space" in shown


def test_decode_brings_vectors_back(cli: Cli, trained: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([QUERY]))
    encoded = cli("encode", trained, str(tmp_path / "rows.json"))
    (tmp_path / "z.json").write_text(json.dumps(encoded["vectors"]))
    decoded = cli("decode", trained, str(tmp_path / "z.json"), "--space", encoded["space"])
    assert np.allclose(list(decoded["rows"][0].values()), list(QUERY.values()), atol=0.6)
    refused = cli("decode", trained, str(tmp_path / "z.json"), "--space", "another", code=1)
    assert refused["status"] == 409


def test_samples_repeat_by_their_seed(cli: Cli, trained: str, tmp_path: Path) -> None:
    first = cli("sample", trained, "-n", "5", "--seed", "3")
    assert first["rows"] == cli("sample", trained, "-n", "5", "--seed", "3")["rows"]
    assert first["rows"] != cli("sample", trained, "-n", "5", "--seed", "4")["rows"]
    cli("sample", trained, "-n", "400", "--seed", "3", "-o", str(tmp_path / "new.csv"))
    assert (tmp_path / "new.csv").read_text().startswith(",".join(QUERY))
    drawn = np.loadtxt(tmp_path / "new.csv", delimiter=",", skiprows=1)
    assert drawn.shape == (400, 4)
    assert np.allclose(drawn.mean(axis=0), load_iris().data.mean(axis=0), atol=0.4)


def test_predict_fills_the_holes(cli: Cli, trained: str, iris_csv: Path, tmp_path: Path) -> None:
    cli("predict", trained, str(iris_csv), "--hide", "petal_width", "-o", str(tmp_path / "mean.json"))
    filled = json.loads((tmp_path / "mean.json").read_text())
    guesses = np.array([row["petal_width"] for row in filled])
    truth = load_iris().data[:, 3]
    assert np.corrcoef(guesses, truth)[0, 1] > 0.9
    assert [row["sepal_length"] for row in filled] == load_iris().data[:, 0].tolist()


def test_similarity_finds_the_flower_itself(cli: Cli, trained: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([QUERY]))
    answer = cli("similarity", trained, str(tmp_path / "rows.json"), "--dataset", trained, "--metric", "euclidean")
    assert len(answer["indices"][0]) == 5
    assert answer["scores"][0][0] == pytest.approx(0, abs=1e-3)
    text = cli(
        "similarity", trained, str(tmp_path / "rows.json"), "--against", str(tmp_path / "rows.json"), as_json=False
    )
    assert text.splitlines()[1].split()[:3] == ["0", "1", "0"]


def test_a_version_travels_as_an_archive(cli: Cli, trained: str, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar"
    cli("models", "alias", f"{trained}@1", "production")
    assert cli("models", "show", f"{trained}@production")["version"] == 1
    written = cli("models", "export", f"{trained}@production", "-o", str(archive))
    assert written["bytes"] == archive.stat().st_size
    cli("models", "import", str(archive), "--name", f"{trained}-copy")
    draws = [cli("sample", name, "-n", "3", "--seed", "1")["rows"] for name in (trained, f"{trained}-copy")]
    assert draws[0] == draws[1]
    cli("models", "alias", f"{trained}@1", "production", "--delete")
    assert cli("models", "show", f"{trained}@production", code=1)["status"] == 404
    cli("models", "delete", f"{trained}-copy@1")
    assert f"{trained}-copy" not in [model["name"] for model in cli("models", "list")]
    assert trained in cli("models", "list", as_json=False)


def test_pictures_come_back_as_pictures(cli: Cli, flowers: str, digits_npy: Path, tmp_path: Path) -> None:
    name = f"{flowers}-digits"
    cli("datasets", "add", name, str(digits_npy), "--spec", '{"image": {"levels": 17}}')
    cli("train", name, "--dataset", name, "--family", "pca")
    cli("sample", name, "-n", "9", "--seed", "1", "-o", str(tmp_path / "new.png"))
    with Image.open(tmp_path / "new.png") as picture:
        assert picture.size[0] >= 3 * 8
    digits = np.load(digits_npy)[:2]
    hidden = np.zeros(digits.shape, dtype=bool)
    hidden[:, 4:] = True
    np.save(tmp_path / "digits.npy", digits)
    np.save(tmp_path / "hidden.npy", hidden)
    answer = cli("predict", name, str(tmp_path / "digits.npy"), "--mask", str(tmp_path / "hidden.npy"), "--draws", "2")
    mean = np.array(answer["mean"])[..., 0]
    assert np.array_equal(mean[:, :4], digits[:, :4])
    assert np.abs(mean - digits).mean() < np.abs(digits[:, 4:] - 8.0).mean()
    assert (answer["kind"], answer["measure"]) == ("estimate", "probability")
    levels = [np.rint(digit * (255 / 16)).astype(np.uint8) for digit in digits.astype(float)]
    files = [str(tmp_path / f"digit-{index}.png") for index in range(2)]
    for file, level in zip(files, levels, strict=True):
        Image.fromarray(level).save(file)
    Image.fromarray(np.where(hidden[0], 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    for options in (["--mask", str(tmp_path / "mask.png")], ["--hide", "lower"]):
        assert cli("predict", name, *files, *options)["mean"] == answer["mean"]
    cli("predict", name, *files, "--hide", "lower", "--draws", "3", "--picture", "draws", "-o", str(tmp_path / "d.png"))
    with Image.open(tmp_path / "d.png") as picture:
        assert picture.size == (3 * 9 - 1, 2 * 9 - 1)


def test_a_job_can_be_shown_listed_and_cancelled(cli: Cli, trained: str) -> None:
    asked = ["train", f"{trained}-long", "-d", trained, "-f", "vae", "--seconds", "300", "--idempotency-key", trained]
    job = cli(*asked, "--detach")
    assert cli(*asked, "--detach")["id"] == job["id"]
    cli("jobs", "cancel", job["id"])
    cli("jobs", "watch", job["id"], code=1, as_json=False)
    assert cli("jobs", "show", job["id"])["status"] == "cancelled"
    assert cli("jobs", "cancel", job["id"], code=1)["status"] == 409
    assert job["id"] in [each["id"] for each in cli("jobs", "list", "--status", "cancelled")]
    assert "cancelled" in cli("jobs", "list", as_json=False)


def test_wrong_requests_say_what_is_wrong(cli: Cli, trained: str, tmp_path: Path) -> None:
    assert cli("sample", "no-such-model", code=1)["status"] == 404
    wrong = cli("train", "x", "-d", trained, "-f", "pca", "--set", "component=2", "--detach", code=1)
    assert wrong["status"] == 422
    assert "component" in json.dumps(wrong["errors"])
    (tmp_path / "rows.json").write_text('[{"sepal_length": 1, "wings": 2}]')
    assert "wings" in json.dumps(cli("log-prob", trained, str(tmp_path / "rows.json"), code=1))
    assert cli("datasets", "add", "y", str(tmp_path / "absent.csv"), code=1)["title"]


def test_families_are_listed_with_their_knobs(cli: Cli) -> None:
    text = cli("families", as_json=False)
    assert all(word in text for word in ("pca", "vae", "flow", "components", "coupling"))


def test_a_table_with_holes_is_learned_filled_and_drawn_from(cli: Cli, flowers: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["price,size,colour"]
    for row in range(300):
        size, red = int(rng.integers(0, 10)), bool(rng.random() < 0.5)
        cells = [f"{5 + 2 * size + 20 * red + rng.normal():.2f}", str(size), "red" if red else "blue"]
        if row % 4 == 0:
            cells[row // 4 % 3] = ""
        lines.append(",".join(cells))
    (tmp_path / "holes.csv").write_text("\n".join(lines))
    name = f"{flowers}-holes"
    added = cli("datasets", "add", name, str(tmp_path / "holes.csv"))
    assert all(column["missing"] for column in added["spec"]["columns"])
    assert cli("datasets", "show", name, as_json=False).count("allowed") == 3
    cli("train", name, "-d", name, "-f", "pca")
    (tmp_path / "ask.csv").write_text("price,size,colour\n,9,red\n7.5,,\n9,2,blue\n")
    text = cli("predict", name, str(tmp_path / "ask.csv"), as_json=False)
    first, second = (line.split() for line in text.splitlines()[1:3])
    assert first[2] == "±"
    assert abs(float(first[1]) - 43) < 3 * float(first[3])
    assert "blue" in second
    assert len(text.splitlines()) == 4  # the row that hides nothing is not shown
    prices = {}
    for colour in ("red", "blue"):
        given = ["--given", f"colour={colour}", "--given", "size=3"]
        rows = cli("sample", name, "-n", "200", "--seed", "1", *given)["rows"]
        assert {(row["colour"], row["size"]) for row in rows} == {(colour, 3)}
        prices[colour] = np.mean([row["price"] for row in rows])
    # A pca spreads a category over its bin, which blurs what it says; the truth is 31 and 11.
    assert prices["blue"] + 4 < 21 < prices["red"] - 2
    refused = cli("sample", name, "--given", "colour=pink", code=1)
    assert refused["errors"][0]["location"] == "given.row.colour"
