"""Test nats of tables: our flow beside zuko's flows of equal time and size, a Gaussian and a mixture.

Tables are prepared as `benchmarks.quality.tables` says, the same for all; the nats are of the standardised units.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.quality import data
from benchmarks.quality.data import Parts
from benchmarks.quality.figures import Figure, mean_figure
from benchmarks.quality.ours import Run, score, stored, trained
from benchmarks.quality.recipe import Peer, Recipe
from benchmarks.quality.tables import prepare
from contracts.data import Part

METRIC = "nats per row"


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell log p of each model on each table, higher is better."""
    for name in recipe.data:
        parts = prepare(data.table(name), seed=run.seed)
        test = parts[Part.TEST]
        about: dict[str, Any] = {"data": name, "metric": METRIC, "better": "higher"}
        size = None
        with stored(parts) as reader:
            for model in recipe.models:
                with trained(model, reader, run) as ours:
                    scored = score(ours.program, test, batch_rows=1000)
                    size = size or ours.parameters
                    found(mean_figure(
                        scored.values, **about, model=model.name, kind=scored.kind, train_seconds=ours.seconds,
                        score_seconds=scored.seconds, note=f"{ours.note}, {test.shape[1]} columns",
                    ))  # fmt: skip
        for peer in recipe.peers:
            found(_peer(peer, parts, size or 100_000, run).model_copy(update=about))


def _peer(peer: Peer, parts: Parts, parameters: int, run: Run) -> Figure:
    train, valid, test = (parts[part] for part in (Part.TRAIN, Part.VALID, Part.TEST))
    began = time.monotonic()
    if peer.peer in ("nsf", "maf"):
        from benchmarks.quality.peers.flows import Flow

        flow = Flow(peer.peer, test.shape[1], parameters=parameters, seed=run.seed)
        seconds = run.seconds(peer.seconds or 30)
        rate = float(peer.settings.get("learning_rate", 1e-3))
        descent = flow.fit(train, valid, seconds=seconds, seed=run.seed, threads=run.threads, learning_rate=rate)
        seconds, log_prob = descent.seconds, flow.log_prob
        note = f"{descent.steps:,} steps, {flow.parameters:,} parameters, width {flow.width}"
    elif peer.peer == "gaussian":
        from benchmarks.quality.peers.gaussians import Gaussian

        gaussian = Gaussian.fit(train)
        seconds, log_prob, note = time.monotonic() - began, gaussian.log_prob, "full covariance"
    else:
        from benchmarks.quality.peers.gaussians import mixture

        chosen, note = mixture(train, valid, seed=run.seed)
        seconds, log_prob = time.monotonic() - began, chosen.score_samples
    began = time.monotonic()
    return mean_figure(
        log_prob(test), data="", metric="", better="higher", model=peer.name, kind="exact", train_seconds=seconds,
        score_seconds=time.monotonic() - began, note=note,
    )  # fmt: skip
