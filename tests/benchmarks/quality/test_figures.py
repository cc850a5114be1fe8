"""Bars are judged by what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.figures import Figure, judge, mean_figure
from benchmarks.quality.recipe import Bar, Recipe


def recipe(*bars: Bar) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "row", "title": "Row", "row": "tables", "command": "make", "data": ["a", "b", "c"],
            "models": [{"name": "ours", "config": {"family": "pca"}, "budget": {}}],
            "peers": [{"name": "first", "peer": "x"}, {"name": "second", "peer": "y"}],
            "bars": [bar.model_dump() for bar in bars], "expected": {}, "minutes": 1,
        }
    )  # fmt: skip


def figures(better: str, **values: list[float]) -> list[Figure]:
    return [
        Figure.model_validate(
            {"data": data, "metric": "m", "model": model, "value": value, "better": better, "kind": "exact"}
        )
        for model, each in values.items()
        for data, value in zip("abc", each, strict=False)
    ]


@pytest.mark.parametrize(
    ("over", "better", "ours", "met"),
    [
        ("each", "higher", [3.0, 3.0, 3.0], True),
        ("each", "higher", [3.0, 1.5, 3.0], False),
        ("each", "lower", [0.5, 0.5, 0.5], True),
        ("each", "lower", [0.5, 1.5, 0.5], False),
        ("most", "higher", [3.0, 1.5, 3.0], True),
        ("most", "higher", [3.0, 1.5, 1.5], False),
        ("mean", "higher", [9.0, 0.0, 0.0], True),
        ("mean", "lower", [9.0, 0.0, 0.0], False),
    ],
)
def test_a_bar_against_others_is_against_the_best_of_them(over: str, better: str, ours: list[float], met: bool) -> None:
    bar = Bar.model_validate(
        {"says": "s", "model": "ours", "metric": "m", "over": over, "better_than": ["first", "second"]}
    )
    found = figures(better, ours=ours, first=[1.0, 1.0, 1.0], second=[2.0, 2.0, 2.0])
    (judged,) = judge(recipe(bar), found)
    assert judged.met is met
    assert ("first" if better == "lower" else "second") in judged.measured


def test_a_bound_holds_for_each_data_set() -> None:
    most, least = (
        Bar.model_validate({"says": "s", "model": "ours", "metric": "m", side: 2.0}) for side in ("at_most", "at_least")
    )
    assert [each.met for each in judge(recipe(most, least), figures("lower", ours=[2.0, 1.0, 1.0]))] == [True, False]


def test_far_better_needs_the_distance() -> None:
    bar = Bar(says="s", model="ours", metric="m", better_than=("first",), by=1.0)
    assert not judge(recipe(bar), figures("higher", ours=[1.9], first=[1.0]))[0].met
    assert judge(recipe(bar), figures("higher", ours=[2.1], first=[1.0]))[0].met


def test_what_was_not_measured_is_missed() -> None:
    bar = Bar(says="s", model="ours", metric="m", better_than=("first",))
    assert not judge(recipe(bar), [])[0].met
    (judged,) = judge(recipe(bar), figures("higher", ours=[1.0, 1.0], first=[0.0]))
    assert not judged.met
    assert "first" in judged.measured


def test_a_bar_is_one_thing() -> None:
    with pytest.raises(ValueError, match="one of"):
        Bar(says="s", model="ours", metric="m")


def test_a_mean_has_its_standard_error() -> None:
    scores = np.random.default_rng(0).normal(size=400)
    figure = mean_figure(scores, data="a", metric="m", model="ours", better="higher", kind="exact")
    assert figure.value == pytest.approx(scores.mean())
    assert figure.standard_error == pytest.approx(scores.std(ddof=1) / 20)
