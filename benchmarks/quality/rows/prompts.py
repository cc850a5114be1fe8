"""Pictures drawn after texts by a dalle, its parents trained in the same row.

``fashion-mnist``, captioned by class: the share of drawn pictures that a classifier of real ones names as asked,
without ranking and for the best quarter by the clip parent. ``noto-emoji``: pictures drawn after captions of the test
part, each ranked by the clip parent against all captions of that part; the mean rank of its own, 0 the first and 1 the
last, which is a half by chance. Options: ``samples``; ``guidance``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.quality import data
from benchmarks.quality.figures import Figure
from benchmarks.quality.ours import Run, Trained, stored, trained
from benchmarks.quality.recipe import Recipe
from benchmarks.quality.rows.captions import captioned
from contracts.data import Part
from engine.kinds.prompted import PromptedProgram
from metrics.samples import named_as
from store.datasets import DatasetReader

NAMED, RANK = "share named as asked", "mean rank of the own caption"
LEARNED = 10_000
CANDIDATES = 4


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell the figures of the last model."""
    (name,) = recipe.data
    (_fashion if name == "fashion-mnist" else _emoji)(name, recipe, run, found)


def _train(recipe: Recipe, reader: DatasetReader, run: Run, stack: ExitStack) -> Trained:
    """Train the models in their order, each built on the earlier ones that its config names; return the last."""
    done: dict[str, Trained] = {}
    for model in recipe.models:
        parents = {role: done[reference] for role, reference in model.config.parent_references().items()}
        done[model.name] = stack.enter_context(trained(model, reader, run, parents))
    return done[recipe.models[-1].name]


def _fashion(name: str, recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    parts, labels = data.labelled_pictures(name)
    words = {part: np.array(data.FASHION)[codes] for part, codes in labels.items()}
    each = max(1, run.rows(int(recipe.options["samples"])) // len(data.FASHION))
    guidance = float(recipe.options["guidance"])
    with stored(parts, {"modality": "image"}, words) as reader, ExitStack() as stack:
        ours = _train(recipe, reader, run, stack)
        answers = _prompted(ours)
        template = str(answers.manifest.config["template"])
        began, drawn, best = time.monotonic(), [], []
        for number, word in enumerate(data.FASHION):
            bound = answers.asking([template.replace("{label}", word)], guidance=guidance)
            ranked = bound.best(each, candidates=CANDIDATES * each, seed=run.seed + number).rows
            best.append(ranked)
            # The first of the same draws, which were not chosen by anything.
            drawn.append(bound.sample(each, seed=run.seed + number))
        asked = np.repeat(np.arange(len(data.FASHION)), each)
        real = parts[Part.TRAIN][:LEARNED], labels[Part.TRAIN][:LEARNED]
        model = recipe.models[-1].name
        for label, rows in ((model, drawn), (f"{model}, best of {CANDIDATES}", best)):
            right = named_as(*real, np.concatenate(rows), asked, seed=run.seed)
            error = float(np.sqrt(right * (1 - right) / len(asked)))
            figure: dict[str, Any] = {"data": name, "metric": NAMED, "model": label, "value": right, "kind": "exact"}
            figure |= {"standard_error": error, "better": "higher", "train_seconds": ours.seconds}
            note = f"{ours.note} (parents' included), {len(asked):,} pictures"
            found(Figure.model_validate({**figure, "score_seconds": time.monotonic() - began, "note": note}))


def _emoji(name: str, recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    _, captions = data.emoji(skin_tones=False)[Part.TEST]
    count = min(len(captions), run.rows(int(recipe.options["samples"])))
    with captioned(data.emoji()) as reader, ExitStack() as stack:
        ours = _train(recipe, reader, run, stack)
        answers = _prompted(ours)
        texts = [answers.shortened(text) for text in captions]
        began = time.monotonic()
        bound = answers.asking(texts[:count], guidance=float(recipe.options["guidance"]))
        drawn = bound.sample(count, seed=run.seed, given=np.arange(count))
        scores = np.stack([answers.rank(drawn, text) for text in texts], axis=1)  # (pictures, captions)
        own = scores[np.arange(count), np.arange(count)]
        ranks = (scores > own[:, None]).sum(axis=1) / (len(texts) - 1)
        error = float(ranks.std(ddof=1) / np.sqrt(count))
        figure: dict[str, Any] = {"data": name, "metric": RANK, "model": recipe.models[-1].name, "kind": "exact"}
        figure |= {"value": float(ranks.mean()), "standard_error": error, "better": "lower"}
        note = f"{ours.note} (parents' included), {count} pictures, {len(texts)} captions"
        more = {"train_seconds": ours.seconds, "score_seconds": time.monotonic() - began, "note": note}
        found(Figure.model_validate({**figure, **more}))


def _prompted(ours: Trained) -> PromptedProgram:
    assert isinstance(ours.program, PromptedProgram)
    return ours.program.expecting(True)  # as /sample answers
