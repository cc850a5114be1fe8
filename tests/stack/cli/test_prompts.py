"""Codes, captions and pictures after texts from the command line: three jobs, the last one built on the others."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Cli = Callable[..., Any]
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}


@pytest.fixture(scope="module")
def name() -> str:
    return f"blocks-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def models(cli: Cli, name: str, tmp_path: Path) -> dict[str, str]:
    """Names of a vqvae, a clip and a dalle of coloured blocks with captions; trained once."""
    found = {family: f"{name}-{family}" for family in ("vqvae", "clip", "dalle")}
    if found["dalle"] in [model["name"] for model in cli("models", "list") or []]:
        return found
    rng = np.random.default_rng(0)
    x, captions = rng.integers(0, 30, (160, 8, 8, 3)), []
    for row in range(len(x)):
        colour = list(COLOURS)[row % 3]
        left = 0 if row % 2 else 4
        x[row, 2:6, left : left + 4] = COLOURS[colour]
        captions.append(f"{colour} {'left' if row % 2 else 'right'}")
    np.savez(tmp_path / "blocks.npz", images=x.astype(np.uint8), captions=captions)
    cli("datasets", "add", name, str(tmp_path / "blocks.npz"))
    small = ("--set", "batch_size=32", "--steps", "40")
    grid = ("--set", "network=convolutional", "--set", "codes=8", "--set", "width=8", "--set", "levels=2")
    cli("train", found["vqvae"], "-d", name, "-f", "vqvae", *grid, "--set", "prior_width=16", *small)
    cli("train", found["clip"], "-d", name, "-f", "clip", "--set", "width=8", "--set", "dimensions=8", *small)
    parents = ("--set", f"codes={found['vqvae']}", "--set", f"ranker={found['clip']}")
    cli("train", found["dalle"], "-d", name, "-f", "dalle", "--set", "width=32", "--set", "depth=1", *parents, *small)
    return found


@pytest.fixture
def rows(tmp_path: Path) -> str:
    x = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    x[:, 2:6, :4] = COLOURS["red"]
    np.save(tmp_path / "rows.npy", x)
    return str(tmp_path / "rows.npy")


def test_codes_and_reconstructions_as_one_picture(cli: Cli, models: dict[str, str], rows: str, tmp_path: Path) -> None:
    codes = cli("encode", models["vqvae"], rows, "--codes")
    assert codes["grids"] == [[2, 2], [4, 4]]
    cli("encode", models["vqvae"], rows, "--codes", "-o", str(tmp_path / "codes.json"))
    cli("decode", models["vqvae"], str(tmp_path / "codes.json"), "--codes", "-o", str(tmp_path / "decoded.png"))
    answer = cli("reconstruct", models["vqvae"], rows, "-o", str(tmp_path / "whole.png"))
    assert answer["lines"] == 4  # inputs, two levels of codes, rows
    assert Image.open(tmp_path / "whole.png").size == (3 * 9 - 1, 4 * 9 - 1)


def test_captions_are_matched(cli: Cli, models: dict[str, str], rows: str, name: str, tmp_path: Path) -> None:
    captions = ("--caption", "red left", "--caption", "blue right")
    answer = cli("predict", models["clip"], rows, *captions)
    assert len(answer["best"]) == 3
    assert "red left" in cli("predict", models["clip"], rows, *captions, as_json=False)
    cli("predict", models["clip"], rows, *captions, "-o", str(tmp_path / "table.csv"))
    assert (tmp_path / "table.csv").read_text().startswith("best,red left,blue right")
    assert len(cli("encode", models["clip"], "--text", "red left")["vectors"]) == 1
    found = cli("similarity", models["clip"], "--text", "red left", "--dataset", name, "-k", "4")
    assert len(found["indices"][0]) == 4
    for wrong in (("encode", models["clip"]), ("encode", models["clip"], rows, "--text", "a")):
        cli(*wrong, code=2, as_json=False)
    assert cli("probe", models["clip"], "--dataset", name, code=1)["status"] == 422  # no labels


def test_pictures_are_drawn_after_texts(cli: Cli, models: dict[str, str], rows: str, tmp_path: Path) -> None:
    ask = ("sample", models["dalle"], "-n", "4", "--text", "red left", "--seed", "1")
    best = cli(*ask, "--candidates", "12", "--guidance", "2", "--top-k", "5")
    assert np.shape(best["rows"]) == (4, 8, 8, 3)
    assert best["scores"] == sorted(best["scores"], reverse=True)
    cli(*ask, "--candidates", "12", "-o", str(tmp_path / "red.png"))
    assert Image.open(tmp_path / "red.png").size == (2 * 9 - 1, 2 * 9 - 1)
    assert "scores" not in cli(*ask)
    several = cli("sample", models["dalle"], "-n", "2", "--text", "red left", "--text", "blue right")
    assert np.shape(several["rows"]) == (2, 8, 8, 3)
    given = cli("log-prob", models["dalle"], rows, "--text", "red left")
    assert given["kind"] == "lower_bound"
    assert given["log_prob"] != cli("log-prob", models["dalle"], rows)["log_prob"]
    half = cli("predict", models["dalle"], rows, "--hide", "lower", "--text", "red left")
    np.testing.assert_array_equal(np.asarray(half["mean"])[:, :4], np.load(rows)[:, :4])
    for arguments, words in (
        (("sample", models["dalle"], "--text", "x" * 300), "texts[0] has 300 tokens"),
        (("sample", models["dalle"], "--guidance", "2"), "goes with a text"),
        (("sample", models["dalle"], "--text", "a", "--text", "b"), "2 texts for 16 rows"),
        (("sample", models["dalle"], "--label", "red"), "takes texts"),
        (("sample", models["dalle"], "--text", "a", "-n", "5", "--candidates", "2"), "fewer than the 5"),
        (("sample", models["vqvae"], "--text", "red left"), "draws after no text"),
        (("sample", models["vqvae"], "--guidance", "2"), "is for models that draw pictures after texts"),
        (("encode", models["vqvae"], rows, "--label", "red"), "is not conditional"),
    ):
        refused = cli(*arguments, code=1)
        assert refused["status"] == 422
        assert words in refused["detail"]


def test_parents_are_pinned_and_kept(cli: Cli, models: dict[str, str], name: str) -> None:
    shown = cli("models", "show", models["dalle"])["manifest"]
    assert set(shown["parents"]) == {"codes", "ranker"}
    assert shown["config"]["codes"] == f"{models['vqvae']}@1"
    refused = cli("models", "delete", f"{models['vqvae']}@1", code=1)
    assert refused["status"] == 409
    assert models["dalle"] in refused["detail"]
    before = len(cli("jobs", "list"))
    for parent, words in (("nothing", "nothing"), (models["clip"], "is a clip, and a vqvae is needed")):
        refused = cli("train", "x", "-d", name, "-f", "dalle", "--set", f"codes={parent}", code=1)
        assert refused["status"] == 422
        assert words in refused["detail"]
        assert refused["errors"][0]["location"] == "config.codes"
    assert len(cli("jobs", "list")) == before
    metrics = cli("models", "show", models["dalle"])["card"]["metrics"]
    assert metrics["kind"] == "lower_bound"
    assert np.isfinite(metrics["log_prob_nats"])
