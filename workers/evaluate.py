"""The card's figures: held-out rows scored by the programs that will serve, from the exported graphs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import Verb
from contracts.data import Part
from engine.kinds import Program
from workers.training.batches import Reader, permute

LEAST_ROWS, MOST_ROWS = 256, 10_000
SECONDS = 20.0
_CHUNK = 128
_KEY = 0x63617264


@dataclass(frozen=True)
class Evaluation:
    """``metrics`` and ``timings`` for the card."""

    metrics: dict[str, Any]
    timings: dict[str, float]


def evaluate(program: Program, reader: Reader, *, seconds: float = SECONDS) -> Evaluation:
    """Score rows of ``test`` (of ``valid`` where there are none), in a fixed random order.

    At least 256 rows, and on until 10,000 rows or about ``seconds`` have passed: an importance-sampled bound of a
    large model takes its time per row, and the standard error says what that leaves. ``log_prob_nats`` is the mean
    over rows, ``standard_error`` that of this mean; an infinite mean is ``{"value": null, "infinite": true}``.
    """
    part = next((part for part in (Part.TEST, Part.VALID) if reader.count(part)), None)
    if part is None:
        return Evaluation({"rows": 0}, {})
    began = time.monotonic()
    metrics: dict[str, Any] = {"part": str(part)}
    timings: dict[str, float] = {}
    if program.manifest.supports(Verb.LOG_PROB):
        metrics |= _score(program, reader, part, seconds, timings)
    if program.manifest.supports(Verb.ENCODE) and program.manifest.supports(Verb.DECODE):
        metrics["reconstruction_mse"] = _reconstruct(program, reader, part, timings)
    timings["evaluate_seconds"] = time.monotonic() - began
    return Evaluation(metrics, timings)


def _score(program: Program, reader: Reader, part: Part, seconds: float, timings: dict[str, float]) -> dict[str, Any]:
    scores: list[NDArray[np.float64]] = []
    errors: list[NDArray[np.float64]] = []
    count = min(reader.count(part), MOST_ROWS)
    began, start = time.monotonic(), 0
    kind = measure = samples = None
    while start < count and (start < LEAST_ROWS or time.monotonic() - began < seconds):
        x, y = _rows(program, reader, part, start, min(count, start + _CHUNK))
        answer = program.log_prob(x, seed=0, given=y)
        kind, measure, samples = answer.kind, answer.measure, answer.samples
        scores.append(answer.values)
        if answer.standard_error is not None:
            errors.append(answer.standard_error)
        start += len(x)
    values = np.concatenate(scores)
    timings["log_prob_row_seconds"] = (time.monotonic() - began) / len(values)
    finite = values[np.isfinite(values)]
    figures: dict[str, Any] = {
        "kind": str(kind),
        "measure": str(measure),
        "unit": "nats",
        "rows": len(values),
        "samples": samples,
        "zero_density_rows": int(len(values) - len(finite)),
    }
    if len(finite) < len(values):
        figures["log_prob_nats"] = {"value": None, "infinite": True}
        figures["bits_per_dim"] = {"value": None, "infinite": True}
        figures["standard_error"] = None
    else:
        mean = float(finite.mean())
        figures["log_prob_nats"] = mean
        figures["bits_per_dim"] = -mean / (reader.spec.cells * math.log(2))
        figures["standard_error"] = float(finite.std(ddof=1) / math.sqrt(len(finite))) if len(finite) > 1 else None
    if errors:
        spread = np.concatenate(errors)
        spread = spread[np.isfinite(spread)]
        figures["sampling_error"] = float(np.sqrt((spread**2).sum()) / len(spread)) if len(spread) else None
    return figures


def _reconstruct(program: Program, reader: Reader, part: Part, timings: dict[str, float]) -> float:
    """Mean squared difference per cell between rows and their decoded encodings, in the data's own units."""
    total, cells = 0.0, 0
    count = min(reader.count(part), LEAST_ROWS)
    began = time.monotonic()
    for start in range(0, count, _CHUNK):
        x, y = _rows(program, reader, part, start, min(count, start + _CHUNK))
        decoded = program.decode(program.encode(x, given=y).vectors, given=y)
        total += float(((decoded - x.astype(np.float64)) ** 2).sum())
        cells += x.size
    timings["reconstruct_row_seconds"] = (time.monotonic() - began) / count
    return total / cells


def _rows(
    program: Program, reader: Reader, part: Part, start: int, stop: int
) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Rows in a fixed random order, with labels where the model is conditional."""
    places = permute(np.arange(start, stop, dtype=np.int64), reader.count(part), _KEY)
    rows = reader.read(part, places)
    return rows.x, rows.y if program.manifest.condition is not None else None
