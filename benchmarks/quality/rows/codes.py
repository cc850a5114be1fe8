"""Pictures as codes: our vqvae beside pythae's VQVAE of as many code bits, or one level of codes beside two.

Figures of the test part: mean squared error of reconstructions with pixels in 0 … 1, bits per dimension (a lower
bound: codes and reconstruction), the share of the codes in use, and, of models that take a label, the accuracy on real
pictures of a classifier trained on samples (Ravuri & Vinyals 2019, arXiv:1905.10887) beside one trained on as many real
pictures.
Options: ``rows`` scored, ``samples`` drawn for the classifier.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.quality import data
from benchmarks.quality.data import Array
from benchmarks.quality.figures import Figure, mean_figure
from benchmarks.quality.ours import Run, Trained, score, stored, trained
from benchmarks.quality.recipe import Peer, Recipe
from contracts.data import Part
from engine.kinds import Program
from engine.kinds.codes import CodesProgram
from metrics.densities import bits_per_dim
from metrics.samples import classifier_accuracy_score

ERROR, BITS, USE, ACCURACY = "MSE of pixels", "bits/dim", "share of codes used", "accuracy score"
AT_ONCE = 200


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell the figures of each model."""
    (name,) = recipe.data
    parts, labels = data.labelled_pictures(name)
    count = run.rows(int(recipe.options["rows"]))
    x, y = parts[Part.TEST][:count], labels[Part.TEST][:count]
    about: dict[str, Any] = {"data": name}
    with stored(parts, {"modality": "image"}, labels) as reader:
        for model in recipe.models:
            with trained(model, reader, run) as ours:
                more = about | {"model": model.name, "train_seconds": ours.seconds, "note": ours.note}
                _coded(ours.program, x, y, more, found)
                if ours.program.manifest.condition is not None:
                    wanted = run.rows(int(recipe.options["samples"]))
                    accuracy(ours, wanted, run.seed, (x, y), (parts[Part.TRAIN], labels[Part.TRAIN]), more, found)
    for peer in recipe.peers:
        found(_peer(peer, parts, x, run).model_copy(update={**about, "metric": ERROR}))


def _coded(answers: Program, x: Array, y: Array, about: dict[str, Any], found: Callable[[Figure], None]) -> None:
    """Tell error, use of codes and bits per dimension."""
    assert isinstance(answers, CodesProgram)
    labels = y if answers.manifest.condition is not None else None
    began, errors, used = time.monotonic(), [], []
    for start in range(0, len(x), AT_ONCE):
        rows, given = x[start : start + AT_ONCE], None if labels is None else labels[start : start + AT_ONCE]
        codes = answers.encode(rows, given=given).codes
        assert codes is not None
        used.append(codes)
        errors.append(np.square((answers.decode_codes(codes, given=given) - rows) / 255).mean((1, 2, 3)))
    exact = {**about, "kind": "exact", "score_seconds": time.monotonic() - began}
    found(mean_figure(np.concatenate(errors), **exact, metric=ERROR, better="lower"))
    every, at, shares = np.concatenate(used), 0, []
    for high, across in answers.grids:
        shares.append(len(np.unique(every[:, at : at + high * across])) / answers.codebook_size)
        at += high * across
    note = f"{every.shape[1] * np.log2(answers.codebook_size):.0f} code bits"
    found(Figure.model_validate({**exact, "note": note, "metric": USE, "better": "higher", "value": min(shares)}))
    scored = score(answers, x, given=labels)
    more = {**about, "kind": scored.kind, "score_seconds": scored.seconds}
    found(mean_figure(bits_per_dim(scored.values, x[0].size), **more, metric=BITS, better="lower"))


def accuracy(
    ours: Trained,
    count: int,
    seed: int,
    test: tuple[Array, Array],
    train: tuple[Array, Array],
    about: dict[str, Any],
    found: Callable[[Figure], None],
) -> Array:
    """Tell the accuracy on ``test`` of classifiers of so many samples and real rows; return the samples ``(n, …)``,
    whose labels go round."""
    began = time.monotonic()
    classes = len(ours.program.manifest.condition or ())
    asked = np.arange(count, dtype=np.int64) % classes
    drawn = np.concatenate([
        ours.program.sample(len(part), seed=seed, given=part, first=start)
        for start in range(0, count, AT_ONCE)
        for part in [asked[start : start + AT_ONCE]]
    ])  # fmt: skip
    for name, (x, y) in ((about["model"], (drawn, asked)), ("real rows", (train[0][:count], train[1][:count]))):
        value = classifier_accuracy_score(x, y, *test, seed=seed)
        figure = {**about, "model": name, "metric": ACCURACY, "value": value, "kind": "exact", "better": "higher"}
        figure |= {"score_seconds": time.monotonic() - began, "note": f"{count:,} rows to learn from"}
        found(Figure.model_validate(figure))
        began = time.monotonic()
    return drawn


def _peer(peer: Peer, parts: data.Parts, x: Array, run: Run) -> Figure:
    from benchmarks.quality.peers.autoencoders import VectorQuantised

    model = VectorQuantised(codes=int(peer.settings["codes"]), seed=run.seed)
    seconds = run.seconds(peer.seconds or 200)
    descent = model.fit(parts[Part.TRAIN], parts[Part.VALID], seconds=seconds, seed=run.seed, threads=run.threads)
    began = time.monotonic()
    return mean_figure(
        model.errors(x), data="", metric="", better="lower", model=peer.name, kind="exact",
        train_seconds=descent.seconds, score_seconds=time.monotonic() - began,
        note=f"{descent.steps:,} steps, {model.parameters:,} parameters, {model.bits:.0f} code bits, "
             f"{model.used:.0%} of the codes used",
    )  # fmt: skip
