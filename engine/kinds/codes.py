"""Rows as codes with an autoregressive prior: log p(x) ≥ log p(x | c) + log p(c), c the codes of x.

What is hidden is found through the codes: those under shown cells alone are kept, the others drawn (see
`engine.kinds.code_drawing`), and each draw weighs by p(shown cells | c). The mean weight is an estimate from below of
p(shown cells); draws are resampled by their weights, and hidden cells come from p(x | c).

A vector is the code vectors of all sites, the top level's first; it is decoded by the nearest codes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from contracts.errors import InvalidInput
from engine import noise
from engine.answers import Encoding
from engine.kinds import code_drawing
from engine.kinds.choice import Choice
from engine.kinds.code_drawing import Site
from engine.kinds.moments import Moments
from engine.kinds.program import Program
from engine.kinds.rows import Floats, Imputation, Index, Mask, Rows, Score
from engine.kinds.weights import clean, effective_sample_size, log_mean_exp, normalise, resample
from engine.model import Model

# Scalars of the caches of sequences that are drawn together.
_CACHES = 1 << 25


@dataclass(frozen=True)
class _Weighted:
    """Codes ``(B, S, N)`` of rows, and log w ``(B, S)`` whose mean is from below p(shown cells)."""

    codes: Index
    log_w: Floats


class CodesProgram(Program):
    """Graphs ``codes``, ``likelihood``, ``score``, ``prior_score`` and ``prior_step``."""

    importance_samples = 16
    """Draws of the codes, where the caller names none."""
    expects = False
    """Whether `sample` answers the expected row of drawn codes, without the noise that p(x | c) gives each cell."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._book = model.constants["codebook"]  # (levels, K, D)
        levels, _, entries = self._book.shape
        sizes = self.manifest.latent_groups or (self.manifest.latent_dimensions or 0,)
        self._sizes = tuple(size // entries for size in sizes)
        self._level: Index = np.repeat(np.arange(levels), self._sizes).astype(np.int64)
        self._blocks: Index = model.constants["blocks"].astype(np.int64)

    @property
    def groups(self) -> int:
        return len(self._sizes)

    @property
    def sites(self) -> int:
        """Codes of a row."""
        return len(self._level)

    @property
    def codebook_size(self) -> int:
        return int(self._book.shape[1])

    @property
    def grids(self) -> list[list[int]]:
        """Rows and columns of each level's sites, the top first; one row of codes where they have no places."""
        return self._blocks[:, :2].tolist() if len(self._blocks) else [[1, size] for size in self._sizes]

    def expecting(self, expects: bool) -> Self:
        """Return a program whose samples are expected rows of drawn codes, or draws of these."""
        bound = copy.copy(self)
        bound.expects = expects
        return bound

    # --- the verbs -----------------------------------------------------------------------------------------------

    def decode_codes(self, codes: NDArray[np.generic], *, given: Index | None = None) -> Floats:
        """Return the expected rows ``(B, *row)`` of whole numbers ``codes`` (B, N), the top level's first."""
        self.require(Verb.DECODE)
        found = np.asarray(codes)
        if found.ndim != 2 or found.shape[1] != self.sites or len(found) == 0:
            raise InvalidInput(f"codes must have the shape (rows, {self.sites}), got {found.shape}")
        if found.dtype.kind not in "iuf" or (found != np.floor(found)).any():
            raise InvalidInput("codes must be whole numbers")
        wrong = (found < 0) | (found >= self.codebook_size)
        if wrong.any():
            row, site = np.argwhere(wrong)[0]
            raise InvalidInput(
                f"codes[{row}][{site}] is {found[row, site]:g} but must lie in 0..{self.codebook_size - 1}"
            )
        self.labels(given, len(found))
        return self._means(found.astype(np.int64))

    def _encode(self, rows: Rows) -> Encoding:
        codes = self._codes(rows)
        vectors = self._book[self._level, codes].reshape(len(rows), -1)
        return Encoding(vectors.astype(np.float32), codes=codes)

    def _decode(self, z: NDArray[np.generic], y: Index | None) -> Floats:
        return self._means(self._nearest_codes(z.astype(np.float64)))

    def _sample_groups(self, keys: noise.Keys, seed: int, temperatures: Sequence[float], y: Index | None) -> Floats:
        parts = []
        for block in self._blocks_of(len(keys), 1):
            labels = None if y is None else y[block]
            codes = self._draw_codes(keys[block], seed, [temperatures[level] for level in self._level], labels)
            answer = self.call("likelihood", {"codes": codes}, keys=keys[block], seed=seed)
            drawn = answer["draw"].astype(np.float64)
            if self.expects:
                centred = answer["mean"].astype(np.float64) + 0.5 * self.spec.discrete.reshape(self.spec.row_shape)
                drawn = np.clip(centred, *(bound.reshape(self.spec.row_shape) for bound in self.spec.bounds))
            parts.append(drawn)
        return np.concatenate(parts)

    def _score_complete(self, rows: Rows, seed: int, samples: int | None) -> Score:
        codes = self._codes(rows)
        likely = self.call("score", self.feeds(rows) | {"codes": codes})["log_likelihood"].astype(np.float64)
        prior = self.call("prior_score", {"codes": codes} | self._condition(rows.y))["log_prob"].astype(np.float64)
        return Score(clean(likely + prior.sum(axis=1)), AnswerKind.LOWER_BOUND)

    def _score_partial(self, rows: Rows, seed: int, samples: int | None) -> Score:
        return self._bound(self._weigh(rows, seed, samples or self.importance_samples).log_w)

    def _impute(self, rows: Rows, seed: int, draws: int, samples: int | None) -> Imputation:
        count = samples or self.importance_samples
        weighted = self._weigh(rows, seed, count)
        weights = normalise(weighted.log_w)
        moments = Moments(self.spec, len(rows))
        for r, k in self.pairs(len(rows), count, "likelihood"):
            answer = self._likelihood(rows, weighted.codes[r, k], r, k, seed)
            drawn = self.on_grid(answer["draw"].astype(np.float64)).reshape(len(r), -1)
            moments.add(
                r, weights[r, k], drawn.astype(np.float64), answer["mean"].reshape(len(r), -1).astype(np.float64)
            )
        picked = resample(weights, noise.uniform(seed, rows.keys, "impute.pick", (draws,)))
        parts = []
        for r, j in self.pairs(len(rows), draws, "likelihood"):
            answer = self._likelihood(rows, weighted.codes[r, picked[r, j]], r, count + j, seed)
            parts.append(answer["draw"].astype(np.float64))
        return Imputation(
            mean=moments.mean(),
            std=moments.std(),
            draws=np.concatenate(parts).reshape(len(rows), draws, -1),
            kind=AnswerKind.ESTIMATE,
            effective_sample_size=effective_sample_size(weights),
            samples=count,
            score=self._bound(weighted.log_w),
            probability=moments.probability(),
        )

    # --- codes ---------------------------------------------------------------------------------------------------

    def _codes(self, rows: Rows) -> Index:
        feeds = {"x": rows.x, "shown": rows.shown}
        return self.call("codes", feeds, outputs=["codes"])["codes"].astype(np.int64)

    def _nearest_codes(self, z: Floats) -> Index:
        """Codes ``(B, N)`` of vectors ``(B, L)``."""
        sites = z.reshape(len(z), self.sites, -1)
        codes = np.empty(sites.shape[:2], dtype=np.int64)
        for level, book in enumerate(self._book):
            at = self._level == level
            score = 2 * sites[:, at] @ book.T - np.square(book).sum(axis=1)
            codes[:, at] = score.argmax(axis=-1)
        return codes

    def _means(self, codes: Index) -> Floats:
        mean = self.call("likelihood", {"codes": codes}, outputs=["mean"])["mean"].astype(np.float64)
        low, high = (bound.reshape(self.spec.row_shape) for bound in self.spec.bounds)
        return np.clip(mean, low, high)

    def _condition(self, y: Index | None) -> dict[str, NDArray[np.generic]]:
        """What the prior is given, by row."""
        return {} if y is None else {"y": y}

    def _draw_codes(self, keys: noise.Keys, seed: int, temperatures: Sequence[float], y: Index | None) -> Index:
        """Codes ``(len(keys), N)`` of the prior, at one temperature per site."""
        choices = [Choice(temperature) for temperature in temperatures]
        return code_drawing.draw(self.model, keys, seed, choices, self._condition(y))

    def _likelihood(self, rows: Rows, codes: Index, r: Index, draw: Index, seed: int) -> dict[str, NDArray[np.generic]]:
        return self.call("likelihood", {"codes": codes}, keys=rows.keys[r], seed=seed, draw=draw)

    # --- hidden cells --------------------------------------------------------------------------------------------

    def _weigh(self, rows: Rows, seed: int, samples: int) -> _Weighted:
        codes = np.empty((len(rows), samples, self.sites), dtype=np.int64)
        log_w = np.empty((len(rows), samples))
        for block in self._blocks_of(len(rows), samples):
            part = rows.take(np.arange(len(rows))[block])
            codes[block], log_w[block] = self._particles(part, seed, samples)
        return _Weighted(codes, clean(log_w))

    def _particles(self, rows: Rows, seed: int, samples: int) -> tuple[Index, Floats]:
        answer = self.call("codes", {"x": rows.x, "shown": rows.shown})
        found = code_drawing.complete(
            self.model,
            rows.keys,
            seed,
            samples,
            self._condition(rows.y),
            answer["codes"].astype(np.int64),
            self._state(rows.hidden),
            answer["guide"].astype(np.float64),
        )
        log_w = found.log_w + found.log_z[:, None]
        feeds = self.feeds(rows)
        feeds.pop("y", None)
        for r, k in self.pairs(len(rows), samples, "score"):
            block = {name: array[r] for name, array in feeds.items()} | {"codes": found.codes[r, k]}
            log_w[r, k] += self.call("score", block)["log_likelihood"].astype(np.float64)
        return found.codes, log_w

    def _state(self, hidden: Mask) -> NDArray[np.int64]:
        """What the shown cells tell of each site, ``(B, N)`` of `Site`."""
        if not len(self._blocks):
            some, every = hidden.any(axis=1), hidden.all(axis=1)
            state = np.where(every, Site.OPEN, np.where(some, Site.GUESSED, Site.KNOWN))
            return np.repeat(state[:, None], self.sites, axis=1)
        pixels: Mask = hidden.reshape(len(hidden), *self.spec.row_shape)
        parts = []
        for rows, columns, side in self._blocks.tolist():
            some, any_seen = (_under(mask, rows, columns, side) for mask in (pixels, ~pixels))
            parts.append(np.where(~any_seen, Site.OPEN, np.where(some, Site.GUESSED, Site.KNOWN)))
        return np.concatenate([part.reshape(len(hidden), -1) for part in parts], axis=1)

    def _bound(self, log_w: Floats) -> Score:
        mean = log_mean_exp(log_w)
        return Score(mean.values, AnswerKind.LOWER_BOUND, log_w.shape[1], mean.standard_error)

    def _blocks_of(self, rows: int, samples: int) -> Iterator[slice]:
        """So many rows at a time as the caches of their sequences have room for."""
        (cache,) = (t for t in self.manifest.graphs["prior_step"].inputs if t.name == "cache")
        elements = int(np.prod([size for size in cache.shape[1:] if isinstance(size, int)], dtype=np.int64))
        step = max(1, _CACHES // (elements * samples))
        for first in range(0, rows, step):
            yield slice(first, min(rows, first + step))


def _under(mask: Mask, rows: int, columns: int, side: int) -> Mask:
    """Whether any of the cells of ``mask`` (B, H, W, C) under each of ``rows`` × ``columns`` sites is set, ``(B, rows,
    columns)``; a site covers a square of ``side`` pixels."""
    count, height, width, channels = mask.shape
    padded = np.zeros((count, rows * side, columns * side, channels), dtype=bool)
    padded[:, :height, :width] = mask
    return np.asarray(padded.reshape(count, rows, side, columns, side, channels).any(axis=(2, 4, 5)))
