"""The card's figures of a model of pictures and captions: retrieval both ways, or recognition of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import DataSpec, Part
from engine.kinds.pair import PairProgram
from engine.kinds.prompted import PromptedProgram
from metrics.retrieval import chance_at, recall_at
from workers.training.batches import Reader, permute

MOST_ROWS = 2000
KS = (1, 5, 10)
_KEY = 0x70616972
_CHUNK = 256


def score_captions(program: PairProgram, reader: Reader, part: Part) -> dict[str, Any]:
    """Score up to 2,000 rows of ``part`` in a fixed random order.

    With captions: ``recall`` at 1, 5 and 10 of texts among pictures and of pictures among texts, where a hit is any
    item with an equal caption, beside what a random order would have. With labels: ``zero_shot_accuracy``, the share
    of pictures whose most probable caption is that of their label. Captions longer than the context are cut as in
    training.
    """
    count = min(reader.count(part), MOST_ROWS)
    rows = reader.read(part, permute(np.arange(count, dtype=np.int64), reader.count(part), _KEY))
    pictures = np.concatenate([
        program.encode(rows.x[start : start + _CHUNK]).vectors for start in range(0, count, _CHUNK)
    ]).astype(np.float64)  # fmt: skip
    captions = getattr(rows, "captions", None)
    if captions is None:
        return _labels(program, pictures, rows.y) if rows.y is not None else {}
    known, group = np.unique(captions, return_inverse=True)
    texts = program.encode_texts([program.shortened(str(caption)) for caption in known]).vectors.astype(np.float64)
    scores = texts @ pictures.T
    own = np.arange(len(known), dtype=np.int64)
    ways = {"text_to_image": (scores, own, group), "image_to_text": (scores.T, group, own)}
    recall: dict[str, Any] = {"pictures": count, "captions": len(known)}
    for way, (table, queries, items) in ways.items():
        recall[way] = {
            str(k): {"value": recall_at(k, table, queries, items), "chance": chance_at(k, queries, items)} for k in KS
        }
    return {"rows": count, "recall": recall}


def _labels(program: PairProgram, pictures: NDArray[np.float64], y: NDArray[np.int64]) -> dict[str, Any]:
    texts = program.encode_texts(label_captions(program.spec, str(program.manifest.config["template"]))).vectors
    right = (pictures @ texts.astype(np.float64).T).argmax(axis=1) == y
    return {"rows": len(y), "zero_shot_accuracy": float(right.mean())}


def captions_of(program: PairProgram | PromptedProgram, rows: Any) -> list[str]:
    """The captions of rows of a dataset, cut as in training, or those of their labels."""
    captions = getattr(rows, "captions", None)
    if captions is None:
        known = label_captions(program.spec, str(program.manifest.config["template"]))
        return [known[code] for code in rows.y]
    return [program.shortened(caption) for caption in captions]


def label_captions(spec: DataSpec, template: str) -> list[str]:
    """The captions of the labels, in the order of their codes."""
    assert spec.label is not None
    return [template.replace("{label}", name) for name in spec.label.categories or ()]
