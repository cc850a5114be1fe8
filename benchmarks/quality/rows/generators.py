"""Samples of a gan: points of eight Gaussians, or handwritten digits of the class asked for.

``eight-gaussians``: a ring of radius 2, each with a deviation of 0.02; the share of samples within three deviations of
a mode, and of those by the mode that has fewest. Pictures: the accuracy on real pictures of a classifier trained on
samples (Ravuri & Vinyals 2019, arXiv:1905.10887) beside one trained on as many real ones, and coverage (Naeem et al.
2020, arXiv:2002.09797) by pixels, k = 5. Options: ``samples``, ``covered`` rows of each set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.quality import data
from benchmarks.quality.figures import Figure
from benchmarks.quality.ours import Run, Trained, stored, trained
from benchmarks.quality.recipe import Recipe
from benchmarks.quality.rows.codes import accuracy
from contracts.data import Part
from metrics.samples import support

WITHIN, LEAST, COVERAGE = "share within 3 σ of a mode", "least share of a mode", "coverage"


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell the figures of each model."""
    (name,) = recipe.data
    (_points if name == "eight-gaussians" else _pictures)(name, recipe, run, found)


def _points(name: str, recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    parts = data.eight_gaussians()
    count = run.rows(int(recipe.options["samples"]))
    with stored(parts) as reader:
        for model in recipe.models:
            with trained(model, reader, run) as ours:
                began = time.monotonic()
                drawn = np.asarray(ours.program.sample(count, seed=run.seed), dtype=np.float64)
                distance = np.linalg.norm(drawn[:, None] - data.RING, axis=2)
                near = distance.min(axis=1) < 3 * data.RING_DEVIATION
                by_mode = np.bincount(distance.argmin(axis=1)[near], minlength=len(data.RING)) / count
                for metric, value in ((WITHIN, near.mean()), (LEAST, by_mode.min())):
                    _tell(found, name, model.name, metric, float(value), ours, time.monotonic() - began, count)


def _pictures(name: str, recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    parts, labels = data.labelled_pictures(name)
    test, truth = parts[Part.TEST], labels[Part.TEST]
    covered = run.rows(int(recipe.options["covered"]))
    with stored(parts, {"modality": "image"}, labels) as reader:
        for model in recipe.models:
            with trained(model, reader, run) as ours:
                about: dict[str, Any] = {"data": name, "model": model.name, "train_seconds": ours.seconds}
                count = run.rows(int(recipe.options["samples"]))
                learned = (parts[Part.TRAIN], labels[Part.TRAIN])
                drawn = accuracy(ours, count, run.seed, (test, truth), learned, about, found)
                began = time.monotonic()
                real = test[np.random.default_rng(run.seed).permutation(len(test))[:covered]]
                value = support(real, drawn[:covered]).coverage
                _tell(found, name, model.name, COVERAGE, value, ours, time.monotonic() - began, covered)


def _tell(
    found: Callable[[Figure], None],
    name: str,
    model: str,
    metric: str,
    value: float,
    ours: Trained,
    seconds: float,
    count: int,
) -> None:
    figure = {"data": name, "model": model, "metric": metric, "value": value, "kind": "exact", "better": "higher"}
    figure |= {"train_seconds": ours.seconds, "score_seconds": seconds, "note": f"{ours.note}, {count:,} samples"}
    found(Figure.model_validate(figure))
