"""Rows with the tokens of their captions: the reader that training sees where a config reads captions.

Every caption is encoded once. The context, where the config leaves it open, is the longest caption of the train part
with its end ⊥; longer ones of other parts are cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.data import DataProfile, DataSpec, Part, Role
from contracts.errors import FieldProblem, InvalidInput
from contracts.families import FamilyConfig
from engine.tokeniser import BYTES, BPETokeniser, Tokeniser, pad_tokens
from store.datasets import DatasetReader

MOST_CONTEXT = 256
_ROWS = 4096

Index = NDArray[np.int64]


class CaptionedReader(Protocol):
    """What is asked of a dataset of pictures with captions (`store.datasets.DatasetReader`)."""

    @property
    def spec(self) -> DataSpec: ...
    def count(self, part: Part | None = None) -> int: ...
    def read(self, part: Part | None, indices: Index | slice) -> Any: ...
    def profile(self) -> DataProfile: ...


@dataclass(frozen=True)
class CaptionedRows:
    """Rows ``x`` (B, *row), labels ``y`` (B,) and ``tokens`` int64 (B, C)."""

    x: NDArray[np.generic]
    y: Index | None
    tokens: Index


class Captions:
    """Satisfies `workers.training.batches.Reader`; rows are read from the dataset, tokens from memory."""

    def __init__(self, reader: CaptionedReader, tokeniser: Tokeniser, context: int) -> None:
        self._reader, self.spec, self.tokeniser, self.context = reader, reader.spec, tokeniser, context
        self._tokens = {part: self._encode(part) for part in Part}

    def count(self, part: Part | None = None) -> int:
        return self._reader.count(part)

    def profile(self) -> DataProfile:
        return self._reader.profile()

    def read(self, part: Part | None, indices: Index | slice) -> CaptionedRows:
        """Rows by their place within the part."""
        if part is None:
            raise InvalidInput("rows with captions are read by part")
        rows = self._reader.read(part, indices)
        return CaptionedRows(rows.x, rows.y, self._tokens[part][indices].astype(np.int64))

    def _encode(self, part: Part) -> NDArray[np.generic]:
        dtype = np.uint16 if self.tokeniser.size < 1 << 16 else np.uint32
        tokens = np.empty((self._reader.count(part), self.context), dtype=dtype)
        for start, captions in _captions(self._reader, part):
            cut = [self.tokeniser.encode(text)[: self.context - 1] for text in captions]
            tokens[start : start + len(cut)] = pad_tokens(cut, self.context, self.tokeniser.size)
        return tokens


def has_captions(spec: DataSpec) -> bool:
    return any(column.role is Role.CAPTION for column in spec.columns)


def prepare_captions(
    reader: DatasetReader, config: FamilyConfig, tokeniser: Tokeniser | None = None
) -> tuple[FamilyConfig, Captions]:
    """Return the config with context and vocabulary settled, and the rows to train on.

    ``tokeniser``: of the version that training goes on from; else it is made from the train captions.
    """
    kind = getattr(config, "tokens", "bytes")
    if tokeniser is not None and isinstance(tokeniser, BPETokeniser) != (kind == "bpe"):
        raise InvalidInput(
            f"training goes on from a version with another alphabet, and the config asks for tokens: {kind}",
            errors=[FieldProblem(location="config.tokens", message="leave it out to keep the alphabet")],
        )
    made = tokeniser or (_vocabulary(reader, config) if kind == "bpe" else Tokeniser())
    lengths = [len(made.encode(text)) for _, texts in _captions(reader, Part.TRAIN) for text in texts]
    longest = max(lengths, default=0) + 1
    context = getattr(config, "context", None) or max(4, min(MOST_CONTEXT, longest))
    settled: dict[str, int] = {"context": context}
    if kind == "bpe":
        settled["vocabulary"] = made.size
    return config.model_copy(update=settled), Captions(reader, made, context)


def _vocabulary(reader: DatasetReader, config: FamilyConfig) -> Tokeniser:
    texts = (text for _, captions in _captions(reader, Part.TRAIN) for text in captions)
    made = BPETokeniser.train(texts, int(getattr(config, "vocabulary", 1024)))
    if made.size <= BYTES:
        raise InvalidInput(
            "the train captions have no pairs of bytes to merge into a vocabulary",
            errors=[FieldProblem(location="config.tokens", message="use `bytes`")],
        )
    return made


def _captions(reader: CaptionedReader, part: Part) -> Any:
    """Yield (first row, captions) of a part, a few thousand at a time."""
    for start in range(0, reader.count(part), _ROWS):
        rows = reader.read(part, slice(start, min(reader.count(part), start + _ROWS)))
        yield start, rows.captions
