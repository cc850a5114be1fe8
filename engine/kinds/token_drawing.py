"""Drawing texts: loops over as many sequences as have room, and their tokens as texts, whole or as they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.artifact import TensorSpec
from engine import noise
from engine.answers import FinishReason, Generated, Piece
from engine.kinds.choice import Choice
from engine.kinds.rows import Index
from engine.kinds.token_loop import TokenLoop
from engine.model import Model
from engine.tokeniser import Incremental, Tokeniser

# Scalars of the caches of sequences that are drawn together.
_CACHES = 1 << 25


@dataclass(frozen=True)
class Wanted:
    """n sequences to draw: what is ``known`` of each, how many tokens at most (``limits``), labels ``y``; ``keys``
    and ``draws`` name their noise. ``places`` as in `TokenLoop`."""

    known: Sequence[list[int]]
    limits: Index
    y: Index | None
    keys: noise.Keys
    draws: Index
    places: Sequence[list[int]] | None = None

    def repeated(self, times: int) -> Wanted:
        """Each sequence ``times`` times, as the draws 0, 1, … of its noise."""
        rows = np.repeat(np.arange(len(self.known)), times)
        return Wanted(
            [self.known[row] for row in rows.tolist()],
            self.limits[rows],
            None if self.y is None else self.y[rows],
            self.keys[rows],
            np.tile(np.arange(times), len(self.known)),
            None if self.places is None else [self.places[row] for row in rows.tolist()],
        )


class Drawer:
    """Draws texts with the graph ``step``. ``end`` is the token ⊥."""

    def __init__(self, model: Model, tokeniser: Tokeniser, *, context: int, end: int) -> None:
        self._model, self._tokeniser, self._context, self._end = model, tokeniser, context, end

    def draw(self, wanted: Wanted, prefixes: Sequence[str], seed: int, choice: Choice) -> Generated:
        """Return the texts that begin with ``prefixes``."""
        drawn: list[list[int]] = [[] for _ in wanted.known]
        log_prob = np.zeros(len(drawn))
        for start, loop in self._loops(wanted, seed, choice):
            for step in loop:
                log_prob[start + step.rows] += step.log_prob
                for row, token in zip(step.rows.tolist(), step.tokens.tolist(), strict=True):
                    drawn[start + row].append(token)
        texts = [self._tokeniser.decode(tokens) for tokens in drawn]
        return Generated(
            texts=[prefix + text for prefix, text in zip(prefixes, texts, strict=True)],
            drawn=texts,
            tokens=np.array([len(tokens) for tokens in drawn], dtype=np.int64),
            finish_reasons=["stop" if tokens[-1] == self._end else "length" for tokens in drawn],
            log_prob=log_prob,
        )

    def stream(self, wanted: Wanted, prefix: str, seed: int, choice: Choice) -> Iterator[Piece]:
        """Yield the pieces of texts as they come, all of them beginning with ``prefix``."""
        if prefix:
            yield from (Piece(index, prefix, 0) for index in range(len(wanted.known)))
        for start, loop in self._loops(wanted, seed, choice):
            yield from self._pieces(loop, start, wanted.limits)

    def _pieces(self, loop: TokenLoop, start: int, limits: Index) -> Iterator[Piece]:
        texts: dict[int, Incremental] = {}
        counts: dict[int, int] = {}
        for step in loop:
            for row, token in zip((start + step.rows).tolist(), step.tokens.tolist(), strict=True):
                text = texts.setdefault(row, Incremental(self._tokeniser))
                counts[row] = counts.get(row, 0) + 1
                reason: FinishReason | None = None
                if token == self._end:
                    reason = "stop"
                elif counts[row] == limits[row]:
                    reason = "length"
                new = text.feed(token) + (text.end() if reason else "")
                if new or reason:
                    yield Piece(row, new, counts[row], reason)

    def _loops(self, wanted: Wanted, seed: int, choice: Choice) -> Iterator[tuple[int, TokenLoop]]:
        """Yield loops over as many sequences as their caches have room for, and the number of the first of each."""
        together = max(1, _CACHES // self._cache_elements())
        for start in range(0, len(wanted.known), together):
            part = slice(start, start + together)
            longest = int(wanted.limits[part].max())
            yield (
                start,
                TokenLoop(
                    self._model,
                    wanted.known[part],
                    limits=wanted.limits[part],
                    uniforms=noise.uniform(seed, wanted.keys[part], "step.token", (longest,), wanted.draws[part]),
                    choice=choice,
                    end=self._end,
                    context=self._context,
                    y=None if wanted.y is None else wanted.y[part],
                    places=None if wanted.places is None else wanted.places[part],
                ),
            )

    def _cache_elements(self) -> int:
        (cache,) = (tensor for tensor in self._model.manifest.graphs["step"].inputs if tensor.name == "cache")
        return max(1, int(np.prod(_sizes(cache, self._context), dtype=np.int64)))


def _sizes(tensor: TensorSpec, largest: int) -> list[int]:
    return [size if isinstance(size, int) else largest for size in tensor.shape[1:]]


def sequence_keys(known: Sequence[list[int]], places: Sequence[list[int]] | None, y: Index | None) -> noise.Keys:
    """Return 64 bits ``(n,)`` that name what is known of each sequence, for its noise."""

    def key(row: int) -> int:
        digest = hashlib.blake2b(digest_size=8)
        for part in (known[row], [] if places is None else places[row], [] if y is None else [int(y[row])]):
            digest.update(np.asarray([len(part), *part], dtype="<i8").tobytes())
        return int.from_bytes(digest.digest(), "little")

    return np.array([key(row) for row in range(len(known))], dtype=np.uint64)
