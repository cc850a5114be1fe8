"""Texts as windows of tokens: the reader that training sees in the place of a dataset of strings.

A document is ⊥ d_1 … d_n ⊥, and its windows follow each other without a gap. A dataset that is split by its tail is
one text, whose lines are joined again part by part. Its train windows start every eighth of a context, so that an
epoch sees a token at many places of a window; every eighth window has ⊥ in the place of its first token, from which
the model learns to enter the text anywhere. Held-out windows do not overlap: each token is predicted once.

A window is C + 1 tokens, so that C of them are predicted; where a text ends before, -1 stands behind its end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.data import DataProfile, DataSpec, Part
from contracts.errors import FieldProblem, InvalidInput
from contracts.families import AutoregressiveConfig, FamilyConfig
from engine.tokeniser import BYTES, BPETokeniser, Tokeniser

PADDING = -1
ONE_TEXT_CONTEXT = 128
LEAST_CONTEXT, MOST_CONTEXT = 16, 256
_STARTS_PER_CONTEXT = 8
_ENTERED = 8  # every so many windows of one text begin with ⊥
_ROWS = 4096

Index = NDArray[np.int64]


class TextRows(Protocol):
    @property
    def x(self) -> list[str]: ...
    @property
    def y(self) -> Index | None: ...


class TextReader(Protocol):
    """What is asked of a dataset of texts (`store.datasets.DatasetReader`)."""

    @property
    def spec(self) -> DataSpec: ...
    def count(self, part: Part | None = None) -> int: ...
    def batches(self, part: Part | None, rows: int) -> Iterator[TextRows]: ...


@dataclass(frozen=True)
class WindowRows:
    """Windows ``x`` int64 ``(B, C + 1)`` and the labels ``y`` (B,) of their documents."""

    x: Index
    y: Index | None = None


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a part, and where each window starts and its text ends."""

    tokens: NDArray[np.generic]
    starts: Index
    ends: Index
    y: Index | None


class TextWindows:
    """Satisfies `workers.training.batches.Reader`; a pure function of dataset, tokeniser and context."""

    def __init__(self, reader: TextReader, tokeniser: Tokeniser, context: int, folder: Path) -> None:
        """Encode each part once, into files without a name in ``folder``, which vanish with the process."""
        self.spec, self.tokeniser, self.context = reader.spec, tokeniser, context
        folder.mkdir(parents=True, exist_ok=True)
        self._one_text = is_one_text(reader.spec)
        self._parts = {part: self._encode(reader, part, folder) for part in Part}

    def count(self, part: Part | None = None) -> int:
        """Windows of a part, or of all parts."""
        return sum(len(self._parts[each].starts) for each in ([part] if part is not None else Part))

    def tokens(self, part: Part) -> int:
        """Tokens of a part, the ends ⊥ included."""
        return len(self._parts[part].tokens)

    def read(self, part: Part | None, indices: Index | slice) -> WindowRows:
        """Windows by their place within the part."""
        if part is None:
            raise InvalidInput("windows of texts are read by part")
        found = self._parts[part]
        places = np.arange(len(found.starts))[indices] if isinstance(indices, slice) else np.asarray(indices)
        index = found.starts[places, None] + np.arange(self.context + 1)
        there = index < found.ends[places, None]
        x = np.where(there, found.tokens[np.minimum(index, len(found.tokens) - 1)].astype(np.int64), PADDING)
        if self._one_text and part is Part.TRAIN:
            x[places % _ENTERED == 0, 0] = self.tokeniser.size
        return WindowRows(x, None if found.y is None else found.y[places])

    def profile(self) -> DataProfile:
        """Only the number of train windows: a text has no cells."""
        return DataProfile(self.count(Part.TRAIN), *(np.empty(0) for _ in range(4)))

    def _encode(self, reader: TextReader, part: Part, folder: Path) -> _Tokens:
        dtype = np.uint16 if self.tokeniser.size < 1 << 16 else np.uint32
        lengths: list[int] = []
        labels: list[Index] = []
        end = np.array([self.tokeniser.size])
        with tempfile.TemporaryFile(dir=folder) as file:
            if self._one_text and reader.count(part):
                lengths.append(file.write(end.astype(dtype).tobytes()) // dtype().itemsize)
            for rows in reader.batches(part, _ROWS):
                if self._one_text:
                    pieces = [self.tokeniser.encode("".join(rows.x))]
                    lengths[0] += len(pieces[0])
                else:
                    pieces = [np.concatenate((end, self.tokeniser.encode(text), end)) for text in rows.x]
                    lengths += map(len, pieces)
                    labels += [] if rows.y is None else [rows.y]
                for piece in pieces:
                    file.write(piece.astype(dtype).tobytes())
            file.flush()
            total = sum(lengths)
            # The map keeps the file alive after its only name, the descriptor, is closed.
            tokens = np.memmap(file, dtype, mode="r", shape=(total,)) if total else np.empty(0, dtype)
        starts, document = self._windows(np.array(lengths, dtype=np.int64), part)
        ends = np.cumsum(lengths, dtype=np.int64)
        return _Tokens(tokens, starts, ends[document], np.concatenate(labels)[document] if labels else None)

    def _windows(self, lengths: Index, part: Part) -> tuple[Index, Index]:
        """Where each window starts, and the number of its document."""
        if self._one_text and part is Part.TRAIN:
            # The last start leaves a full window: later ones would only see what others see.
            last = max(0, int(lengths[0]) - self.context - 1) if len(lengths) else -1
            stride = max(1, self.context // _STARTS_PER_CONTEXT)
            starts = np.append(np.arange(0, last, stride), last) if last >= 0 else np.empty(0, dtype=np.int64)
            return starts, np.zeros_like(starts)
        counts = -(-(lengths - 1) // self.context)
        document = np.repeat(np.arange(len(lengths)), counts)
        within = np.arange(len(document)) - (np.cumsum(counts) - counts)[document]
        return (np.cumsum(lengths) - lengths)[document] + self.context * within, document


def is_one_text(spec: DataSpec) -> bool:
    """Whether the rows are lines of one text, not documents."""
    return spec.split.by == "tail"


def prepare_texts(
    reader: TextReader, config: FamilyConfig, folder: Path, tokeniser: Tokeniser | None = None
) -> tuple[FamilyConfig, TextWindows]:
    """Return the config with context and vocabulary settled, and the windows to train on.

    ``tokeniser``: of the version that training goes on from; else it is made from the train part.
    """
    if not isinstance(config, AutoregressiveConfig):
        raise InvalidInput(f"{config.family} does not read texts")
    if config.condition == "label" and is_one_text(reader.spec):
        raise InvalidInput(
            "a dataset that is split by its tail is one text, and its lines have no labels of their own",
            errors=[FieldProblem(location="config.condition", message="use `none`, or split the documents by `hash`")],
        )
    if tokeniser is not None and isinstance(tokeniser, BPETokeniser) != (config.tokens == "bpe"):
        raise InvalidInput(
            f"training goes on from a version with another alphabet, and the config asks for tokens: {config.tokens}",
            errors=[FieldProblem(location="config.tokens", message="leave it out to keep the alphabet")],
        )
    tokeniser = tokeniser or _tokeniser(reader, config)
    settled: dict[str, int] = {"context": config.context or _context(reader, tokeniser)}
    if config.tokens == "bpe":
        settled["vocabulary"] = tokeniser.size
    config = config.model_copy(update=settled)
    return config, TextWindows(reader, tokeniser, settled["context"], folder)


def _tokeniser(reader: TextReader, config: AutoregressiveConfig) -> Tokeniser:
    if config.tokens == "bytes":
        return Tokeniser()
    texts = (text for rows in reader.batches(Part.TRAIN, _ROWS) for text in rows.x)
    made = BPETokeniser.train(texts, config.vocabulary)
    if made.size <= BYTES:
        raise InvalidInput(
            "the train text has no pairs of bytes to merge into a vocabulary",
            errors=[FieldProblem(location="config.tokens", message="use `bytes`")],
        )
    return made


def _context(reader: TextReader, tokeniser: Tokeniser) -> int:
    """Room for nearly all documents, judged by the first thousands; a fixed size for one text."""
    if is_one_text(reader.spec):
        return ONE_TEXT_CONTEXT
    rows = next(iter(reader.batches(Part.TRAIN, _ROWS)), None)
    lengths = [len(tokeniser.encode(text)) + 1 for text in rows.x] if rows is not None else []
    usual = int(np.quantile(lengths, 0.95)) if lengths else LEAST_CONTEXT
    return min(MOST_CONTEXT, max(LEAST_CONTEXT, -(-usual // 8) * 8))
