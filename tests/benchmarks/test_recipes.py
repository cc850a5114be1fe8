"""Every recipe can be run as it stands, and every finished row is on the page of results."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.quality import __main__ as runner
from benchmarks.quality import recipe as recipes
from benchmarks.quality import report
from models import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=recipes.names())
def recipe(request: pytest.FixtureRequest) -> recipes.Recipe:
    return recipes.load(request.param)


def test_a_recipe_is_named_as_its_file_and_its_configs_are_on_the_menu(recipe: recipes.Recipe) -> None:
    raw = json.loads((recipes.FOLDER / f"{recipe.name}.json").read_text())
    for model, written in zip(recipe.models, raw["models"], strict=True):
        assert model.config.family in FAMILIES
        # nothing of a config was dropped on reading
        assert written["config"].items() <= model.config.model_dump(mode="json").items()


def test_a_recipe_has_a_module_that_measures_it(recipe: recipes.Recipe) -> None:
    assert callable(runner.row(recipe.row).measure)


def test_the_command_of_a_recipe_is_one_of_the_makefile(recipe: recipes.Recipe) -> None:
    assert recipe.command == f"make bench-quality ROW={recipe.name}"
    dry = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.installed-bench", *recipe.command.split()[1:]],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(rf"-m benchmarks\.quality {re.escape(recipe.name)}\s*$", dry.stdout, re.MULTILINE)


def test_a_row_fits_its_time(recipe: recipes.Recipe) -> None:
    """Ten minutes a row with peers on CPU, twenty on a GPU, and two minutes a model on tables."""
    assert recipe.minutes <= (10 if recipe.machine == "2 CPU cores" else 20)
    planned = sum(model.budget.seconds or 0 for model in recipe.models) + sum(
        peer.seconds or 0 for peer in recipe.peers
    )
    tables = len(recipe.data) if recipe.row in ("tables", "anomalies", "imputation") else 1
    assert planned * tables <= 60 * recipe.minutes
    if recipe.row in ("tables", "anomalies", "imputation"):
        assert all(model.budget.seconds is not None and model.budget.seconds <= 120 for model in recipe.models)


def test_peers_have_the_time_that_ours_have(recipe: recipes.Recipe) -> None:
    ours = {model.budget.seconds for model in recipe.models}
    for peer in recipe.peers:
        assert peer.seconds is None or {peer.seconds} == ours


def test_every_finished_row_is_on_the_page_as_it_was_measured() -> None:
    page = report.PAGE.read_text()
    for finished in report.kept():
        block = report.block(recipes.load(finished.name), finished)
        assert report.place(page, finished.name, block) == page, "run python -m benchmarks.quality --page"


def test_a_recipe_that_is_not_there_is_answered_by_those_that_are() -> None:
    with pytest.raises(FileNotFoundError, match="vae-binarised-mnist"):
        recipes.load("nothing")


def test_a_bar_must_speak_of_models_that_run() -> None:
    written = json.loads((recipes.FOLDER / "vae-binarised-mnist.json").read_text())
    written["bars"][0]["model"] = "another"
    with pytest.raises(ValueError, match="another"):
        recipes.Recipe.model_validate(written)
