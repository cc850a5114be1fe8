"""Windows of texts through the graphs that see a whole sequence at once: ``score`` and ``embed``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.kinds.rows import Floats, Index
from engine.kinds.windows import Window, apart, padded_length, sliding
from engine.model import Model

Feeds = dict[str, NDArray[np.generic]]

# Scalars of the logits of one run: they are the largest array within a graph, though none of its outputs.
_LOGITS = 1 << 23


class TextScorer:
    """Runs windows in batches of about equal lengths. ``end`` is the token ⊥, the last of the alphabet."""

    def __init__(self, model: Model, *, context: int, end: int, any_order: bool) -> None:
        self._model, self._context, self._end, self._any_order = model, context, end, any_order

    def scored(self, sequences: Iterable[Index], y: Index | None) -> Iterator[tuple[Window, Floats]]:
        """Yield each window of the sequences with log p of the tokens that are new in it, in nats."""
        windows = (w for row, sequence in enumerate(sequences) for w in sliding(row, sequence, self._context))
        for block, tokens, targets in self._batches("score", windows):
            feeds: Feeds = {"tokens": tokens, "targets": targets}
            if self._any_order:
                places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
                feeds |= {"places": places, "next_places": places + 1}
            found = self._model.run("score", feeds | _labelled(block, y), ["log_prob"])["log_prob"]
            for window, scores in zip(block, found.astype(np.float64), strict=True):
                yield window, scores[window.first : len(window.tokens)]

    def embedded(self, sequences: Iterable[Index], y: Index | None) -> list[Floats]:
        """Return the mean of each sequence's states, ``(L,)`` each."""
        sums: dict[int, Floats | float] = defaultdict(float)
        counts: dict[int, int] = defaultdict(int)
        windows = (w for row, sequence in enumerate(sequences) for w in apart(row, sequence, self._context))
        for block, tokens, _ in self._batches("embed", windows):
            lengths = np.array([len(window.tokens) for window in block])
            there = np.arange(tokens.shape[1]) < lengths[:, None]
            feeds: Feeds = {"tokens": tokens, "weight": there / lengths[:, None]}
            vectors = self._model.run("embed", feeds | _labelled(block, y), ["vector"])["vector"].astype(np.float64)
            for window, vector, length in zip(block, vectors, lengths.tolist(), strict=True):
                sums[window.row] = sums[window.row] + length * vector
                counts[window.row] += length
        return [np.asarray(sums[row]) / counts[row] for row in range(len(counts))]

    def _batches(self, graph: str, windows: Iterable[Window]) -> Iterator[tuple[list[Window], Index, Index]]:
        """Yield windows of about one length together, with their tokens and targets ``(B, T)`` padded by ⊥."""
        (tensor,) = (each for each in self._model.manifest.graphs[graph].inputs if each.name == "tokens")
        fixed = tensor.shape[1]
        waiting: dict[int, list[Window]] = defaultdict(list)
        for window in windows:
            length = fixed if isinstance(fixed, int) else padded_length(len(window.tokens), self._context)
            waiting[length].append(window)
            if len(waiting[length]) * length * (self._end + 1) >= _LOGITS:
                yield self._stacked(waiting.pop(length), length)
        for length, rest in waiting.items():
            yield self._stacked(rest, length)

    def _stacked(self, windows: list[Window], length: int) -> tuple[list[Window], Index, Index]:
        tokens, targets = np.full((2, len(windows), length), self._end, dtype=np.int64)
        for row, window in enumerate(windows):
            tokens[row, : len(window.tokens)], targets[row, : len(window.targets)] = window.tokens, window.targets
        return windows, tokens, targets


def _labelled(windows: Sequence[Window], y: Index | None) -> Feeds:
    return {} if y is None else {"y": y[[window.row for window in windows]]}
