"""What a linear probe makes of frozen vectors of pictures, beside the pixels themselves.

Accuracy on the test part of a logistic regression on vectors, and of one and of a nearest-neighbour vote on pixels, all
by `metrics.probes` from the same rows: ``rows`` of the train part, and 100 of each class.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.quality import data
from benchmarks.quality.data import Array
from benchmarks.quality.figures import Figure
from benchmarks.quality.ours import Run, stored, trained
from benchmarks.quality.recipe import Recipe
from contracts.data import Part
from engine.kinds import Program
from metrics.probes import Method, probes

COUNTS = (100, None)
AT_ONCE = 500


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell the accuracies of each model and of the pixels."""
    (name,) = recipe.data
    parts, labels = data.labelled_pictures(name)
    count = run.rows(int(recipe.options["rows"]))
    chosen = np.random.default_rng(run.seed).permutation(len(parts[Part.TRAIN]))[:count]
    train, known = parts[Part.TRAIN][chosen], labels[Part.TRAIN][chosen]
    test, truth = parts[Part.TEST], labels[Part.TEST]

    def tell(model: str, a: Array, b: Array, method: Method, **about: Any) -> None:
        began = time.monotonic()
        for each in probes(a, known, b, truth, method=method, per_class=COUNTS, seed=run.seed):
            metric = "accuracy, all labels" if each.per_class is None else f"accuracy, {each.per_class} labels a class"
            figure = {"data": name, "metric": metric, "model": model, "value": each.accuracy, "kind": "exact"}
            figure |= {"standard_error": each.standard_error, "better": "higher", "note": f"{each.rows:,} labels"}
            found(Figure.model_validate({**figure, **about, "score_seconds": time.monotonic() - began}))
            began = time.monotonic()

    with stored(parts, {"modality": "image"}, labels) as reader:
        for model in recipe.models:
            with trained(model, reader, run) as ours:
                a, b = (_vectors(ours.program, x) for x in (train, test))
                tell(model.name, a, b, "linear", train_seconds=ours.seconds)
    for peer in recipe.peers:
        pixels = (x.reshape(len(x), -1).astype(np.float64) for x in (train, test))
        tell(peer.name, *pixels, "knn" if peer.peer == "knn" else "linear")


def _vectors(answers: Program, x: Array) -> Array:
    return np.concatenate([answers.encode(x[start : start + AT_ONCE]).vectors for start in range(0, len(x), AT_ONCE)])
