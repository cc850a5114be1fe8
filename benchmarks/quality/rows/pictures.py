"""Discrete grey pictures: our flows against each other, or beside Gaussian mixtures on dequantised pixels.

Data sets: ``digits`` (8 × 8, 17 levels; nats per image, higher is better) and ``mnist-14`` (MNIST averaged to 14 × 14,
256 levels; bits per dimension, lower is better). All figures are lower bounds from ``samples`` draws of the noise that
spreads a pixel over its bin. Option ``rows``: test rows scored (all without it), drawn by a seeded permutation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import data
from benchmarks.quality.data import Array, Parts
from benchmarks.quality.figures import Figure, mean_figure
from benchmarks.quality.ours import Run, score, stored, trained
from benchmarks.quality.recipe import Peer, Recipe
from contracts.data import Part
from metrics.densities import bits_per_dim, log_mean_exp

COMPONENTS, FLOORS = (2, 3, 5, 8, 10, 15, 20), (1e-3, 1e-2, 1e-1, 3e-1)
"""Of the mixtures tried; few pixels' rows overfit full covariances, so floors reach a good part of a grey level."""

LOADERS: dict[str, tuple[Callable[[], Parts], int]] = {"digits": (data.digits, 17), "mnist-14": (data.mnist_14, 256)}


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell nats (digits) or bits per dimension (mnist-14) of each model."""
    (name,) = recipe.data
    load, levels = LOADERS[name]
    parts = load()
    count = run.rows(int(recipe.options.get("rows", 0)) or len(parts[Part.TEST]))
    test = parts[Part.TEST][np.random.default_rng(run.seed).permutation(len(parts[Part.TEST]))[:count]]
    samples = int(recipe.options["samples"])

    def figure(log_prob: NDArray[np.float64], **about: Any) -> Figure:
        bits = levels == 256
        values = bits_per_dim(log_prob, test[0].size) if bits else log_prob
        metric, better = ("bits/dim", "lower") if bits else ("nats per image", "higher")
        return mean_figure(values, data=name, metric=metric, better=better, **about)

    with stored(parts, {"modality": "image", "image": {"levels": levels}}) as reader:
        for model in recipe.models:
            with trained(model, reader, run) as ours:
                scored = score(ours.program, test, samples=samples)
                found(figure(
                    scored.values, model=model.name, kind=scored.kind, train_seconds=ours.seconds,
                    score_seconds=scored.seconds, note=f"{ours.note}, {count:,} rows",
                ))  # fmt: skip
    for peer in recipe.peers:
        began = time.monotonic()
        log_density, note = _density(peer, parts, seed=run.seed)
        trained_seconds, began = time.monotonic() - began, time.monotonic()
        values = dequantised(log_density, test, samples, seed=run.seed)
        found(figure(
            values, model=peer.name, kind=f"lower bound, K = {samples}", train_seconds=trained_seconds,
            score_seconds=time.monotonic() - began, note=note,
        ))  # fmt: skip


def dequantised(
    log_density: Callable[[NDArray[np.float64]], NDArray[np.float64]], x: Array, samples: int, *, seed: int
) -> NDArray[np.float64]:
    """Return log 1/K Σ p(x + u_k) of pictures, nats ``(n,)``."""
    generator, flat = np.random.default_rng(seed), x.reshape(len(x), -1).astype(np.float64)
    draws = [log_density(flat + generator.random(flat.shape)) for _ in range(samples)]
    values: NDArray[np.float64] = log_mean_exp(np.stack(draws))[0]
    return values


def _density(
    peer: Peer, parts: Parts, *, seed: int
) -> tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], str]:
    from benchmarks.quality.peers.gaussians import Gaussian, mixture

    generator = np.random.default_rng(seed)
    train, valid = (
        (rows := parts[part].reshape(len(parts[part]), -1)) + generator.random(rows.shape)
        for part in (Part.TRAIN, Part.VALID)
    )
    if peer.peer == "gaussian":
        return Gaussian.fit(train).log_prob, "full covariance"
    chosen, note = mixture(train, valid, seed=seed, components=COMPONENTS, floors=FLOORS)
    return chosen.score_samples, note
