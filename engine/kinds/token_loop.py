"""The token loop: sequences grow by one token a step over a ``step`` graph with a cache of keys and values.

All sequences of a loop stand at the same position of their window, whatever they hold: while a sequence still has
known tokens (a prefix) they are fed, then each answer of the graph gives the next. Where the window is full it slides
by half a context and what it still holds is fed anew, as `engine.kinds.windows` scores long texts. So what is drawn
has exactly the probability that scoring gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.call import current_call
from engine.kinds.choice import Choice, log_softmax
from engine.kinds.windows import first_window, stride_of
from engine.model import Model

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """What one step drew: ``tokens`` (k,) of the sequences ``rows`` (k,), and their ``log_prob`` (k,) in nats under
    the model itself, whatever the choice was narrowed to."""

    rows: Index
    tokens: Index
    log_prob: Floats


class TokenLoop:
    """Iterate to draw; each iteration is one run of the graph that drew something. Stops when the call is over."""

    def __init__(
        self,
        model: Model,
        sequences: Sequence[Sequence[int]],
        *,
        limits: Index,
        uniforms: Floats,
        choice: Choice,
        end: int,
        context: int,
        y: Index | None = None,
        places: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """``sequences``: known tokens, at least one each; ``limits`` (n,): tokens to draw, at least one;
        ``uniforms`` (n, at least the largest limit); ``end``: the token ⊥ at which a sequence stops.

        ``places``: for a model of any order, where each token stands, those to be drawn included; then ⊥ is never
        drawn, and known and drawn tokens together fit into the context plus one.
        """
        self._model, self._y, self._places = model, y, places
        self._choice, self._end, self._context = choice, end, context
        self._sequences = [list(map(int, sequence)) for sequence in sequences]
        self._limits, self._uniforms = limits, uniforms
        self._starts = np.array([first_window(len(sequence), context) for sequence in sequences], dtype=np.int64)
        self._inputs = {tensor.name: tensor for tensor in model.manifest.graphs["step"].inputs}

    def __iter__(self) -> Iterator[Step]:
        active = np.arange(len(self._sequences), dtype=np.int64)
        drawn = np.zeros(len(active), dtype=np.int64)
        # Equal beginnings are fed once.
        alone = self._all_alike() and len(active) > 1
        cache, position = self._empty(1 if alone else len(active)), 0
        while len(active):
            current_call().check()
            if position == self._context:
                self._starts[active] += stride_of(self._context)
                cache, position = self._empty(len(active)), 0
            logits, cache = self._run(active[:1] if alone else active, position, cache)
            position += 1
            known = np.array([len(self._sequences[row]) for row in active]) - self._starts[active]
            ready = np.flatnonzero(known == position)
            if not len(ready):
                continue
            if alone:
                alone = False
                logits, cache = (np.repeat(array, len(active), axis=0) for array in (logits, cache))
            rows = active[ready]
            log_p = log_softmax(logits[ready])
            tokens = self._choose(log_p, self._uniforms[rows, drawn[rows]])
            drawn[rows] += 1
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                self._sequences[row].append(token)
            yield Step(rows, tokens, np.take_along_axis(log_p, tokens[:, None], axis=1)[:, 0])
            ended = rows[(tokens == self._end) | (drawn[rows] == self._limits[rows])]
            if len(ended):
                goes_on = ~np.isin(active, ended)
                active, cache = active[goes_on], cache[goes_on]

    def _choose(self, log_p: Floats, u: Floats) -> Index:
        if self._places is None:
            return self._choice(log_p, u)
        inner = log_p.copy()
        inner[:, self._end] = -np.inf
        return self._choice(inner, u)

    def _run(
        self, rows: Index, position: int, cache: NDArray[np.generic]
    ) -> tuple[NDArray[np.floating], NDArray[np.generic]]:
        at = self._starts[rows] + position
        feeds: dict[str, NDArray[np.generic]] = {
            "token": np.array([self._sequences[row][index] for row, index in zip(rows, at, strict=True)]),
            "position": np.full(len(rows), position, dtype=np.int64),
            "cache": cache,
        }
        if self._y is not None:
            feeds["y"] = self._y[rows]
        if "place" in self._inputs:
            feeds["place"], feeds["next_place"] = self._place(rows, position), self._place(rows, position + 1)
        answer = self._model.run("step", feeds)
        return answer["logits"], answer["new_cache"]  # type: ignore[return-value]

    def _place(self, rows: Index, position: int) -> Index:
        if self._places is None:
            return np.full(len(rows), position, dtype=np.int64)
        return np.array([self._places[row][position] for row in rows], dtype=np.int64)

    def _empty(self, rows: int) -> NDArray[np.generic]:
        tensor = self._inputs["cache"]
        # A cache that grows by concatenation has an open size, and none of it at first.
        shape = [size if isinstance(size, int) else 0 for size in tensor.shape[1:]]
        return np.zeros((rows, *shape), dtype=tensor.dtype)

    def _all_alike(self) -> bool:
        alike = all(sequence == self._sequences[0] for sequence in self._sequences[1:])
        if self._places is not None:
            alike = alike and all(places == self._places[0] for places in self._places[1:])
        return alike and (self._y is None or bool((self._y == self._y[0]).all()))
