"""The card's figures: held-out rows scored by the programs that will serve, from the exported graphs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from contracts.data import Part
from contracts.errors import VerbUnsupported
from engine.answers import weakest
from engine.kinds import Program
from engine.kinds.pair import PairProgram
from engine.kinds.prompted import PromptedProgram
from engine.kinds.tokens import TokenProgram
from workers.caption_figures import captions_of, score_captions
from workers.text_figures import score_texts
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
    Rows with missing cells are scored by the cells that they have, ``rows_with_missing_cells`` in number, or, where
    the model cannot, left out as ``rows_left_out``.
    """
    part = next((part for part in (Part.TEST, Part.VALID) if reader.count(part)), None)
    if part is None:
        return Evaluation({"rows": 0}, {})
    began = time.monotonic()
    metrics: dict[str, Any] = {"part": str(part)}
    timings: dict[str, float] = {}
    if isinstance(program, TokenProgram):
        metrics |= score_texts(program, reader, part, seconds, timings, key=_KEY)
    elif program.manifest.supports(Verb.LOG_PROB):
        metrics |= _score(program, reader, part, seconds, timings)
    if isinstance(program, PairProgram):
        metrics |= score_captions(program, reader, part)
    if program.manifest.supports(Verb.ENCODE) and program.manifest.supports(Verb.DECODE):
        error = _reconstruct(program, reader, part, timings)
        metrics |= {} if error is None else {"reconstruction_mse": error}
    timings["evaluate_seconds"] = time.monotonic() - began
    return Evaluation(metrics, timings)


def _score(program: Program, reader: Reader, part: Part, seconds: float, timings: dict[str, float]) -> dict[str, Any]:
    scores: list[NDArray[np.float64]] = []
    errors: list[NDArray[np.float64]] = []
    count = min(reader.count(part), MOST_ROWS)
    began, start = time.monotonic(), 0
    kinds: list[AnswerKind] = []
    measure = samples = None
    cells = partial = left_out = 0
    while start < count and (start < LEAST_ROWS or time.monotonic() - began < seconds):
        x, y, program = _rows(program, reader, part, start, min(count, start + _CHUNK))
        start += len(x)
        hidden = missing_cells(x)
        try:
            some = hidden if hidden.any() else None
            answer = program.log_prob(x, hidden=some, seed=0, samples=program.evaluation_samples, given=y)
        except VerbUnsupported:
            whole = ~hidden.reshape(len(x), -1).any(axis=1)
            left_out += int((~whole).sum())
            if not whole.any():
                continue
            x, y, hidden = x[whole], None if y is None else y[whole], hidden[whole]
            answer = program.log_prob(x, seed=0, samples=program.evaluation_samples, given=y)
        cells += int((~hidden).sum())
        partial += int(hidden.reshape(len(x), -1).any(axis=1).sum())
        measure, samples = answer.measure, answer.samples
        kinds.append(answer.kind)
        scores.append(answer.values)
        if answer.standard_error is not None:
            errors.append(answer.standard_error)
    if not scores:
        return {"rows": 0, "rows_left_out": left_out}
    values = np.concatenate(scores)
    timings["log_prob_row_seconds"] = (time.monotonic() - began) / len(values)
    finite = values[np.isfinite(values)]
    figures: dict[str, Any] = {
        "kind": str(weakest(*kinds)),
        "measure": str(measure),
        "unit": "nats",
        "rows": len(values),
        "samples": samples,
        "zero_density_rows": int(len(values) - len(finite)),
    }
    figures |= {"rows_with_missing_cells": partial} if partial else {}
    figures |= {"rows_left_out": left_out} if left_out else {}
    if len(finite) < len(values):
        figures["log_prob_nats"] = {"value": None, "infinite": True}
        figures["bits_per_dim"] = {"value": None, "infinite": True}
        figures["standard_error"] = None
    else:
        mean = float(finite.mean())
        figures["log_prob_nats"] = mean
        figures["bits_per_dim"] = -mean * len(values) / (cells * math.log(2))
        figures["standard_error"] = float(finite.std(ddof=1) / math.sqrt(len(finite))) if len(finite) > 1 else None
    if errors:
        spread = np.concatenate(errors)
        spread = spread[np.isfinite(spread)]
        figures["sampling_error"] = float(np.sqrt((spread**2).sum()) / len(spread)) if len(spread) else None
    return figures


def _reconstruct(program: Program, reader: Reader, part: Part, timings: dict[str, float]) -> float | None:
    """Mean squared difference per cell between complete rows and their decoded encodings, in the data's own units."""
    total, cells = 0.0, 0
    count = min(reader.count(part), LEAST_ROWS)
    began = time.monotonic()
    for start in range(0, count, _CHUNK):
        x, y, _ = _rows(program, reader, part, start, min(count, start + _CHUNK))
        whole = ~missing_cells(x).reshape(len(x), -1).any(axis=1)
        if not whole.any():
            continue
        x, y = x[whole], None if y is None else y[whole]
        decoded = program.decode(program.encode(x, given=y).vectors, given=y)
        total += float(((decoded - x.astype(np.float64)) ** 2).sum())
        cells += x.size
    timings["reconstruct_row_seconds"] = (time.monotonic() - began) / count
    return total / cells if cells else None


def missing_cells(x: NDArray[Any]) -> NDArray[np.bool_]:
    """Which cells of rows ``x`` have no value."""
    return np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, dtype=bool)


def _rows(
    program: Program, reader: Reader, part: Part, start: int, stop: int
) -> tuple[NDArray[Any], NDArray[np.int64] | None, Program]:
    """Rows in a fixed random order, with labels where the model is conditional, and the program to ask: given their
    captions, where it is one of pictures after texts."""
    places = permute(np.arange(start, stop, dtype=np.int64), reader.count(part), _KEY)
    rows = reader.read(part, places)
    if isinstance(program, PromptedProgram):
        program = program.asking(captions_of(program, rows))
    return rows.x, rows.y if program.manifest.condition is not None else None, program
