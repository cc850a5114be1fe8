"""/predict on tables: a fifth of the cells of test rows hidden at random, filled and scored.

Error: the root of the mean squared error of each column's hidden cells in units of its train deviation, averaged over
the columns. Log-density: log p(hidden | shown) at the true values, per row, in the standardised units. Tables are
prepared as `benchmarks.quality.tables` says, the same for all. Options: ``rows`` scored, ``samples`` of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import data
from benchmarks.quality.figures import Figure, mean_figure
from benchmarks.quality.ours import Run, describe, stored, trained
from benchmarks.quality.recipe import Recipe
from benchmarks.quality.tables import prepare
from contracts.data import Part
from engine.kinds import Program

ERROR, LOG_DENSITY = "normalised RMSE", "conditional log-density, nats per row"
HIDDEN_SHARE = 0.2
AT_ONCE = 50

Floats = NDArray[np.float64]


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell error (lower is better) and log-density (higher is better) of each model on each table."""
    for name in recipe.data:
        parts = prepare(data.table(name), seed=run.seed)
        x = parts[Part.TEST][: run.rows(int(recipe.options["rows"]))]
        hidden = hide(x.shape, seed=run.seed)
        for model in recipe.models:
            with stored(parts) as reader, trained(model, reader, run) as ours:
                began = time.monotonic()
                mean, log_prob, kind = predict(ours.program, x, hidden, samples=int(recipe.options["samples"]))
                about: dict[str, Any] = {"data": name, "model": model.name, "train_seconds": ours.seconds,
                                         "score_seconds": time.monotonic() - began, "note": ours.note}  # fmt: skip
            found(_error(mean, x, hidden, **about))
            found(mean_figure(log_prob, **about, metric=LOG_DENSITY, better="higher", kind=kind))
        for peer in recipe.peers:
            began = time.monotonic()
            if peer.peer == "gaussian":
                from benchmarks.quality.peers.gaussians import Gaussian

                mean, log_prob = Gaussian.fit(parts[Part.TRAIN]).conditional(x, hidden)
                about = {"data": name, "model": peer.name, "train_seconds": time.monotonic() - began}
                found(mean_figure(log_prob, **about, metric=LOG_DENSITY, better="higher", kind="exact"))
            else:
                from benchmarks.quality.peers.imputers import impute

                mean = impute(peer.peer, parts[Part.TRAIN], x, hidden, seed=run.seed)
                about = {"data": name, "model": peer.name, "train_seconds": time.monotonic() - began}
            found(_error(mean, x, hidden, **about))


def hide(shape: tuple[int, ...], *, seed: int) -> NDArray[np.bool_]:
    """Return which cells are hidden: each with probability 0.2, at least one shown and one hidden in each row."""
    generator = np.random.default_rng(seed)
    hidden = generator.random(shape) < HIDDEN_SHARE
    row = np.arange(shape[0])
    hidden[row, generator.integers(shape[1], size=shape[0])] |= ~hidden.any(1)
    hidden[row, generator.integers(shape[1], size=shape[0])] &= ~hidden.all(1)
    return hidden


def predict(answerer: Program, x: Floats, hidden: NDArray[np.bool_], *, samples: int) -> tuple[Floats, Floats, str]:
    """Return the means ``(n, D)``, log p(hidden | shown) at the true values ``(n,)`` and what these are."""
    blocks = [slice(start, start + AT_ONCE) for start in range(0, len(x), AT_ONCE)]
    parts = [answerer.predict(x[rows], hidden[rows], samples=samples, score_inputs=True) for rows in blocks]
    mean, log_prob = np.concatenate([part.mean for part in parts]), np.concatenate([part.log_prob for part in parts])
    return mean, log_prob, describe(str(parts[0].kind), parts[0].samples)


def _error(mean: Floats, x: Floats, hidden: NDArray[np.bool_], **about: Any) -> Figure:
    squared = np.where(hidden, (mean - x) ** 2, 0.0)
    columns = hidden.any(0)
    rmse = np.sqrt(squared.sum(0)[columns] / hidden.sum(0)[columns])
    return Figure(value=float(rmse.mean()), metric=ERROR, better="lower", kind="of the mean", **about)
