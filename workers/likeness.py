"""Samples of the finished model: shown as its preview, and measured against held-out rows.

The distance is the unbiased MMD² of Gretton et al. (2012, JMLR 13:723-773) between samples and held-out rows, each
cell in units of its train deviation, the kernel's width by the median heuristic. 0 means no difference seen; the
p-value of a permutation test stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import Verb
from contracts.data import DataProfile, Part
from engine.kinds import Program
from engine.kinds.prompted import PromptedProgram
from engine.kinds.tokens import TokenProgram
from metrics.divergences import mmd
from workers.caption_figures import captions_of
from workers.evaluate import missing_cells
from workers.training.batches import Reader, permute

ROWS = 256
PERMUTATIONS = 99
ACROSS = LINES = 8
"""Pictures of a preview."""
COMPARED = 4096
"""Train rows among which neighbours are sought."""
TEXTS, TEXT_TOKENS = 4, 200


def asked(program: Program, reader: Reader) -> Program:
    """A program that draws after texts, given those of some held-out rows (train rows where there are none), in turn;
    any other as it is."""
    if not isinstance(program, PromptedProgram):
        return program
    part = next(part for part in (Part.TEST, Part.VALID, Part.TRAIN) if reader.count(part))
    count = reader.count(part)
    texts = captions_of(program, reader.read(part, permute(np.arange(ACROSS, dtype=np.int64) % count, count, 0)))
    return program.asking(texts).expecting(True)


def draw(program: Program, codes: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Name → rows ``(ROWS, *row_shape)``: the model's ``samples``, and the decoded ``codes`` ``(ROWS, L)`` by name.

    A conditional model is asked for its labels in turn. Empty where the model does not sample.
    """
    if not program.manifest.supports(Verb.SAMPLE):
        return {}
    given = None
    if program.manifest.condition is not None:
        given = np.arange(ROWS, dtype=np.int64) % len(program.manifest.condition)
    sets = {"samples": program.sample(ROWS, seed=0, given=given)}
    for name, z in codes.items():
        sets[name] = program.decode(z, given=given)
    return sets


def measure(sets: Mapping[str, NDArray[Any]], reader: Reader, profile: DataProfile) -> dict[str, Any]:
    """Figures for the card: per set of rows its MMD² from held-out rows, with p-value and rows compared.

    Rows with missing cells have no distance from others and are left out.
    """
    part = next((part for part in (Part.TEST, Part.VALID) if reader.count(part) >= 2), None)
    if part is None:
        return {}
    held_out = reader.read(part, slice(0, ROWS)).x
    held_out = held_out[~missing_cells(held_out).reshape(len(held_out), -1).any(axis=1)]
    if len(held_out) < 2:
        return {}
    figures: dict[str, Any] = {}
    for name, rows in sets.items():
        distance = mmd(_scaled(held_out, profile), _scaled(rows, profile), permutations=PERMUTATIONS)
        figures[f"{name}_mmd_squared"] = {
            "value": distance.squared,
            "p_value": distance.p_value,
            "rows": [len(held_out), len(rows)],
        }
    return figures


def reconstruct(program: Program, reader: Reader) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Held-out pictures (train rows where there are none) and what the model decodes from their vectors; None where it
    does not encode and decode, or rows are no pictures."""
    manifest = program.manifest
    if reader.spec.image is None or not (manifest.supports(Verb.ENCODE) and manifest.supports(Verb.DECODE)):
        return None
    part = next(part for part in (Part.TEST, Part.VALID, Part.TRAIN) if reader.count(part))
    count = reader.count(part)
    # Of few pictures some are shown again, so that the lines are full.
    rows = reader.read(part, permute(np.arange(ACROSS * LINES // 2, dtype=np.int64) % count, count, 0))
    given = rows.y if manifest.condition is not None else None
    return rows.x, program.decode(program.encode(rows.x, given=given).vectors, given=given)


def neighbours(program: Program, reader: Reader) -> NDArray[Any] | None:
    """Lines of a held-out picture and its nearest train pictures by cosine, for a model that makes vectors alone; None
    where it does more, or rows are no pictures."""
    manifest = program.manifest
    makes_more = any(manifest.supports(verb) for verb in (Verb.DECODE, Verb.SAMPLE))
    if reader.spec.image is None or makes_more or not manifest.supports(Verb.ENCODE):
        return None
    part = next(part for part in (Part.TEST, Part.VALID, Part.TRAIN) if reader.count(part))
    asked = permute(np.arange(LINES, dtype=np.int64) % reader.count(part), reader.count(part), 0)
    count = min(reader.count(Part.TRAIN), COMPARED)
    known = permute(np.arange(count, dtype=np.int64), reader.count(Part.TRAIN), 1)
    queries, rows = reader.read(part, asked).x, reader.read(Part.TRAIN, known).x
    a, b = (_unit(program.encode(each).vectors) for each in (queries, rows))
    nearest = np.argsort(-(a @ b.T), axis=1, kind="stable")[:, : ACROSS - 1]
    # Of few pictures some are shown again, so that the lines are full.
    lines = [
        np.concatenate([queries[row][None], rows[np.resize(near, ACROSS - 1)]]) for row, near in enumerate(nearest)
    ]
    return np.concatenate(lines)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit


def preview(
    sets: Mapping[str, NDArray[Any]], pairs: tuple[NDArray[Any], NDArray[Any]] | None = None
) -> NDArray[Any] | None:
    """Rows for the picture, by lines: as many of each set, one set under the other, and below a line of inputs over
    one of their reconstructions (several where there are no sets); None where there is nothing to show."""
    shown = []
    lines = LINES // 2 if not sets else 1
    left = LINES - 2 * lines if pairs is not None else LINES
    for rows in sets.values():
        shown.append(rows[: ACROSS * (left // len(sets))].astype(np.float64))
    for line in range(lines if pairs is not None else 0):
        at = slice(line * ACROSS, (line + 1) * ACROSS)
        shown += [rows[at].astype(np.float64) for rows in pairs or ()]
    return np.concatenate(shown) if shown else None


def texts(program: TokenProgram) -> dict[str, Any]:
    """Figures for the card of a model of texts: a few of them, with their labels where the model is conditional."""
    labels = program.manifest.condition
    given = None if labels is None else np.arange(TEXTS, dtype=np.int64) % len(labels)
    drawn = program.generate(TEXTS, seed=0, max_tokens=TEXT_TOKENS, given=given)
    figures: dict[str, Any] = {"sample_texts": drawn.texts}
    if labels is not None and given is not None:
        figures["sample_labels"] = [labels[code] for code in given]
    return figures


def _scaled(rows: NDArray[Any], profile: DataProfile) -> NDArray[np.float64]:
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    return (flat - profile.mean) / np.where(profile.std > 0, profile.std, 1.0)
