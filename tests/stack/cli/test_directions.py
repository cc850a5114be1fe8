"""Directions and interpolation from the command line, on handwritten digits."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from sklearn.datasets import load_digits

from service.cli.directions import _numbers, _side
from service.cli.verbs import read_strengths

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def name() -> str:
    return f"strokes-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def digits(cli: Cli, name: str, tmp_path: Path) -> str:
    """A pca of 400 digits, whose dataset has the same name; trained once."""
    if name not in [model["name"] for model in cli("models", "list") or []]:
        data = load_digits()
        file = tmp_path / "digits.npz"
        np.savez(file, images=data.images[:400].astype(np.uint8), labels=data.target[:400].astype(str))
        cli("datasets", "add", name, str(file), "--spec", '{"image": {"levels": 17}}')
        cli("train", name, "-d", name, "-f", "pca", "--set", "components=12")
    return name


@pytest.fixture
def rows(tmp_path: Path) -> tuple[str, str]:
    """Files of three ones and three sevens."""
    data = load_digits()
    found = []
    for digit in (1, 7):
        np.save(tmp_path / f"{digit}.npy", data.images[data.target == digit][:3].astype(np.uint8))
        found.append(str(tmp_path / f"{digit}.npy"))
    return found[0], found[1]


def test_a_direction_by_labels_comes_and_goes(cli: Cli, digits: str, rows: tuple[str, str], tmp_path: Path) -> None:
    add = ("directions", "add", digits, "seven", "--dataset", digits, "--positive", "7", "--negative", "1")
    made = cli(*add, "--method", "linear_probe")
    assert made["accuracy"]["value"] > 0.8
    assert made["positive"] + made["negative"] > 70
    assert cli(*add, code=1)["status"] == 409
    assert cli(*add, "--replace", "--part", "train", "--max-rows", "20")["positive"] == 20
    assert [each["name"] for each in cli("directions", "list", digits)] == ["seven"]
    assert "seven" in cli("directions", "list", as_json=False)
    assert cli("directions", "show", digits, "seven")["method"] == "mean_difference"
    text = cli(*add, "--method", "linear_probe", "--replace", as_json=False)
    assert "held-out rows" in text
    assert "strength" in text

    one, seven = rows
    far = cli("encode", digits, one, "--direction", "seven=2")
    plain = np.array(cli("encode", digits, one)["vectors"])
    unit = np.array(cli("directions", "show", digits, "seven")["vector"])
    np.testing.assert_allclose((far["vectors"] - plain) @ unit, 2 * made["scale"], rtol=1e-3)
    np.save(tmp_path / "z.npy", plain)
    moved = cli("decode", digits, str(tmp_path / "z.npy"), "--direction", "seven=2")
    np.save(tmp_path / "far.npy", np.array(far["vectors"]))
    np.testing.assert_allclose(moved["rows"], cli("decode", digits, str(tmp_path / "far.npy"))["rows"], atol=1e-4)

    target = tmp_path / "strip.png"
    cli("directions", "strip", digits, "seven", one, seven, "-o", str(target), code=1)  # one array at a time
    cli("directions", "strip", digits, "seven", one, "--strengths=-2,-1,0,1,2", "-o", str(target))
    with Image.open(target) as picture:
        assert picture.size == (5 * 9 - 1, 3 * 9 - 1)
    strip = np.array(cli("directions", "strip", digits, "seven", one, "--strengths=0,2")["rows"])
    np.testing.assert_allclose(strip[1::2], moved["rows"], atol=1e-4)

    lacking = cli("encode", digits, one, "--direction", "six=2", code=1)
    assert "its directions are: seven" in lacking["detail"]
    cli("directions", "delete", digits, "seven")
    assert cli("directions", "show", digits, "seven", code=1)["status"] == 404


def test_a_direction_by_files(cli: Cli, digits: str, rows: tuple[str, str]) -> None:
    one, seven = rows
    made = cli("directions", "add", digits, "by-files", "--positive", seven, "--negative", one)
    assert (made["positive"], made["negative"]) == (3, 3)
    assert "deleted by-files" in cli("directions", "delete", digits, "by-files", as_json=False)


def test_interpolation_is_a_strip(cli: Cli, digits: str, rows: tuple[str, str], tmp_path: Path) -> None:
    one, seven = rows
    cli("interpolate", digits, one, seven, "--steps", "6", "-o", str(tmp_path / "strip.png"))
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.size == (6 * 9 - 1, 3 * 9 - 1)
    cli("interpolate", digits, one, seven, "--mode", "lerp", "-o", str(tmp_path / "path.npy"))
    path = np.load(tmp_path / "path.npy")
    assert path.shape == (3, 8, 8, 8, 1)
    answer = cli("interpolate", digits, one, seven, "--mode", "lerp")
    np.testing.assert_allclose(answer["rows"], path)
    cli("interpolate", digits, one, seven, "--steps", "2", "-o", str(tmp_path / "path.jsonl"))
    assert len((tmp_path / "path.jsonl").read_text().splitlines()) == 6
    assert "0:" in cli("interpolate", digits, one, seven, "--steps", "2", as_json=False)
    assert cli("interpolate", digits, one, seven, "--mode", "cubic", code=1)["status"] == 422


@pytest.mark.parametrize(
    ("sources", "choice"),
    [
        (["7"], {"label": "7"}),
        (["<=50K"], {"label": "<=50K"}),
        (["age=31"], {"column": {"name": "age", "equals": 31.0}}),
        (["open=true"], {"column": {"name": "open", "equals": True}}),
        (["colour = red"], {"column": {"name": "colour", "equals": "red"}}),
        (["day>2024-12-31"], {"column": {"name": "day", "above": "2024-12-31"}}),
        (["age>40", "age<60"], {"column": {"name": "age", "above": 40.0, "below": 60.0}}),
    ],
)
def test_a_side_is_a_label_or_a_condition(sources: list[str], choice: dict) -> None:
    assert _side(sources, "people", None) == {"dataset": "people", **choice}
    assert _side(sources, "people", "train")["part"] == "train"


def test_wrong_words_are_wrong_usage(tmp_path: Path) -> None:
    for sources in (["a", "b"], ["age>40", "7"], ["age>40", "size<3"], ["age>40", "age>50"]):
        with pytest.raises(typer.BadParameter, match="one column"):
            _side(sources, "people", None)
    with pytest.raises(typer.BadParameter, match="--dataset"):
        _side(["rows.npy"], None, "train")
    (tmp_path / "rows.json").write_text(json.dumps([[1.0, 2.0]]))
    assert _side([str(tmp_path / "rows.json")], None, None) == [[1.0, 2.0]]


def test_strengths_are_read() -> None:
    assert read_strengths(None) is None
    assert read_strengths(["smile=1.5", "hat=-2"]) == {"smile": 1.5, "hat": -2.0}
    assert _numbers("-3,0,1.5") == [-3.0, 0.0, 1.5]
    for wrong in ("smile", "smile=", "=2", "smile=much"):
        with pytest.raises(typer.BadParameter, match="NAME=STRENGTH"):
            read_strengths([wrong])
    for wrong in ("", "1,a", "nan", "1,inf"):
        with pytest.raises(typer.BadParameter):
            _numbers(wrong)
