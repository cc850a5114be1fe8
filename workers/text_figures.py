"""The card's figures of a model of texts: how well it predicts held-out documents, or the held-out part of one text.

    nats per token = -Σ log p / Σ tokens,  bits per byte = -Σ log p / (ln 2 · Σ bytes),  perplexity = e^(nats per token)

The sums go over all that was scored, so long documents count more than short ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from contracts.data import Part
from engine.answers import LogProb
from engine.kinds.tokens import TokenProgram
from workers.training.batches import Reader, permute

DOCUMENTS, LINES = 32, 1024
LEAST_DOCUMENTS, MOST_DOCUMENTS = 256, 10_000
PIECE_CHARACTERS = 1 << 16

Given = np.ndarray[Any, np.dtype[np.int64]] | None


def score_texts(
    program: TokenProgram, reader: Reader, part: Part, seconds: float, timings: dict[str, float], *, key: int
) -> dict[str, Any]:
    """Score held-out text until ``seconds`` have passed, but at least 256 documents, or 65,536 characters of one text.

    ``log_prob_nats`` is the mean over documents, with its standard error; one text has no such mean.
    """
    began = time.monotonic()
    answers: list[LogProb] = []
    values, characters, rows = np.empty(0), 0, 0
    batches = _documents(reader, part, key) if program.documents else _pieces(reader, part)
    for texts, labels in batches:
        given = labels if program.manifest.condition is not None else None
        answer = program.log_prob(texts, given=given)
        answers.append(answer)
        values = np.append(values, answer.values)
        characters += sum(map(len, texts))
        rows += len(texts)
        enough = not program.documents or rows >= LEAST_DOCUMENTS
        if (enough and time.monotonic() - began >= seconds) or rows >= MOST_DOCUMENTS:
            break
    sizes = [answer.text for answer in answers if answer.text is not None]
    tokens, octets = (sum(int(getattr(size, name).sum()) for size in sizes) for name in ("tokens", "bytes"))
    nats = -float(values.sum())
    timings["log_prob_token_seconds"] = (time.monotonic() - began) / max(1, tokens)
    figures: dict[str, Any] = {
        "kind": str(answers[0].kind),
        "measure": str(answers[0].measure),
        "unit": "nats",
        "tokens": tokens,
        "bytes": octets,
        "characters": characters,
        "nats_per_token": nats / max(1, tokens),
        "perplexity": math.exp(min(nats / max(1, tokens), 700.0)),
        "nats_per_character": nats / max(1, characters),
        "bits_per_byte": nats / (math.log(2) * max(1, octets)),
        "context": program.context,
    }
    if program.documents:
        error = float(values.std(ddof=1) / math.sqrt(rows)) if rows > 1 else None
        figures |= {"rows": rows, "log_prob_nats": float(values.mean()), "standard_error": error}
    return figures


def _documents(reader: Reader, part: Part, key: int) -> Iterator[tuple[list[str], Given]]:
    """Documents in a fixed random order."""
    count = reader.count(part)
    for start in range(0, count, DOCUMENTS):
        places = np.arange(start, min(count, start + DOCUMENTS), dtype=np.int64)
        rows = reader.read(part, permute(places, count, key))
        yield list(map(str, rows.x)), rows.y


def _pieces(reader: Reader, part: Part) -> Iterator[tuple[list[str], Given]]:
    """One text in long pieces, in its order; each is entered anew."""
    waiting = ""
    for start in range(0, reader.count(part), LINES):
        waiting += "".join(map(str, reader.read(part, slice(start, start + LINES)).x))
        if len(waiting) >= PIECE_CHARACTERS:
            yield [waiting], None
            waiting = ""
    if waiting:
        yield [waiting], None
