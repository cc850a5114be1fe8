"""Nats of binarised MNIST: vae, hierarchical_vae and made beside pythae's models and a plain MADE.

The file is sorted by class, so rows to score are drawn by a seeded permutation; all models score the same ones.
Options: ``rows`` scored (0: all), ``samples`` K of the bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.quality import data
from benchmarks.quality.data import Parts
from benchmarks.quality.figures import Figure, mean_figure
from benchmarks.quality.ours import Run, score, stored, trained
from benchmarks.quality.recipe import Peer, Recipe
from contracts.data import Part

METRIC = "nats per image"
SCORED_AT_ONCE = 100


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell the figure of each model: minus log p, lower is better."""
    parts = data.binarised_mnist()
    count = run.rows(int(recipe.options.get("rows", 0)) or len(parts[Part.TEST]))
    chosen = np.random.default_rng(run.seed).permutation(len(parts[Part.TEST]))[:count]
    test, samples = parts[Part.TEST][chosen], max(2, round(run.scale * recipe.options.get("samples", 500)))
    about = {"data": "binarised MNIST", "metric": METRIC, "better": "lower"}
    with stored(parts, {"modality": "image"}) as reader:
        for model in recipe.models:
            with trained(model, reader, run) as ours:
                scored = score(ours.program, test, samples=samples, batch_rows=SCORED_AT_ONCE)
                found(mean_figure(
                    -scored.values, **about, model=model.name, kind=scored.kind, train_seconds=ours.seconds,
                    score_seconds=scored.seconds, note=f"{ours.note}, {count:,} rows",
                ))  # fmt: skip
    for peer in recipe.peers:
        found(_peer(peer, parts, test, samples, run).model_copy(update=about))


def _peer(peer: Peer, parts: Parts, test: data.Array, samples: int, run: Run) -> Figure:
    from benchmarks.quality.peers.autoencoders import Autoencoder
    from benchmarks.quality.peers.made import MADE

    how: dict[str, Any] = {"seconds": run.seconds(peer.seconds or 180), "seed": run.seed, "threads": run.threads}
    bound = f"lower bound, K = {samples}"
    if peer.peer == "made":
        made = MADE(test[0].size, width=int(peer.settings.get("width", 1000)), seed=run.seed)
        descent = made.fit(parts[Part.TRAIN], parts[Part.VALID], **how)
        size, kind, log_prob = sum(each.numel() for each in made.parameters()), "exact", made.log_prob
    else:
        model = Autoencoder(peer.peer, draws=int(peer.settings.get("draws", 5)), seed=run.seed)
        descent = model.fit(parts[Part.TRAIN], parts[Part.VALID], **how)
        size, kind, log_prob = model.parameters, bound, lambda x: model.log_prob(x, samples)
    began = time.monotonic()
    return mean_figure(
        -log_prob(test), data="", metric="", better="lower", model=peer.name, kind=kind,
        train_seconds=descent.seconds, score_seconds=time.monotonic() - began,
        note=f"{descent.steps:,} steps, {size:,} parameters, {len(test):,} rows",
    )  # fmt: skip
