"""Densities as anomaly scores: AUROC of -log p(x) on tables of ADBench, beside PyOD's detectors.

Of the normal rows 80 % are trained on (at most ``train_rows``); the other normal rows (at most ``test_rows``) and all
anomalies are scored, the same rows for every model. Ours read the table as the dataset store infers it and get one
untuned config for all tables; the detectors get it standardised by the train rows, with their own defaults.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import data
from benchmarks.quality.figures import Figure
from benchmarks.quality.ours import Run, score, stored, trained
from benchmarks.quality.recipe import Recipe
from contracts.data import Part
from metrics.densities import anomaly_auroc

METRIC = "AUROC"
VALID_SHARE = 0.1


@dataclass(frozen=True)
class Split:
    """Normal rows to train on, and rows to score with which of them are anomalies."""

    train: NDArray[Any]
    test: NDArray[Any]
    anomaly: NDArray[np.bool_]


def split(x: NDArray[Any], anomaly: NDArray[np.bool_], *, train_rows: int, test_rows: int, seed: int) -> Split:
    """Split a table as this module's docstring says."""
    normal = np.random.default_rng(seed).permutation(np.flatnonzero(~anomaly))
    cut = round(0.8 * len(normal))
    rest, odd = normal[cut:][:test_rows], np.flatnonzero(anomaly)
    truth = np.r_[np.zeros(len(rest), dtype=bool), np.ones(len(odd), dtype=bool)]
    return Split(x[normal[:cut][:train_rows]], x[np.r_[rest, odd]], truth)


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell the AUROC of each model on each table, higher is better."""
    train_rows, test_rows = (run.rows(int(recipe.options[name])) for name in ("train_rows", "test_rows"))
    for name in recipe.data:
        rows = split(*data.anomalies(name), train_rows=train_rows, test_rows=test_rows, seed=run.seed)
        for model in recipe.models:
            cut = round((1 - VALID_SHARE) * len(rows.train))
            with (
                stored({Part.TRAIN: rows.train[:cut], Part.VALID: rows.train[cut:]}) as reader,
                trained(model, reader, run) as ours,
            ):
                test = _within(reader.spec.bounds, rows.test)
                scored = score(ours.program, test, samples=int(recipe.options["samples"]), batch_rows=1000)
            found(_figure(
                name, model.name, rows, scored.values, kind=f"of −log p ({scored.kind})", train_seconds=ours.seconds,
                score_seconds=scored.seconds, note=ours.note,
            ))  # fmt: skip
        deviation = rows.train.std(0)
        mean, scale = rows.train.mean(0), np.where(deviation > 0, deviation, 1.0)
        for peer in recipe.peers:
            from benchmarks.quality.peers import detectors

            began = time.monotonic()
            detector = detectors.fit(peer.peer, (rows.train - mean) / scale, seed=run.seed)
            fitted = time.monotonic()
            odd = detectors.score(detector, (rows.test - mean) / scale)
            found(_figure(
                name, peer.name, rows, -np.nan_to_num(odd, posinf=np.finfo(np.float64).max), kind="of its score",
                train_seconds=fitted - began, score_seconds=time.monotonic() - fitted,
            ))  # fmt: skip


def _within(bounds: tuple[NDArray[np.float64], NDArray[np.float64]], x: NDArray[Any]) -> NDArray[np.float64]:
    """Bring rows into the bounds of integer columns, outside which a value is refused: the largest seen in training."""
    return np.clip(x.astype(np.float64), *bounds)


def _figure(name: str, model: str, rows: Split, log_prob: NDArray[np.float64], **about: Any) -> Figure:
    auroc = anomaly_auroc(log_prob, rows.anomaly)
    error = _hanley_mcneil(auroc, int(rows.anomaly.sum()), int((~rows.anomaly).sum()))
    return Figure(data=name, metric=METRIC, model=model, value=auroc, standard_error=error, better="higher", **about)


def _hanley_mcneil(auroc: float, positives: int, negatives: int) -> float:
    """The standard error of an AUROC (Hanley & McNeil 1982)."""
    a, b = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (positives - 1) * (a - auroc**2) + (negatives - 1) * (b - auroc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))
