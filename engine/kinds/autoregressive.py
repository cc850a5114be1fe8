"""Autoregressive models of tables and images: log p(x) = Σ_t log p(x_o(t) | x_o(1) … x_o(t-1)), cell by cell.

The graph ``score`` tells which orders o a model goes in:

*fixed*    the constant ``order``: one pass scores every cell. What is shown must come before what is hidden. Columns
           that missed values in training may hide them again: "no value" is then one of the things that is given.
*ordered*  any order, as an input: one pass as well.
*shown*    any order, one conditional per pass: each hidden cell given the mask of shown ones.

Models of any order are asked in the order "shown cells first, then hidden ones, ascending each", which for complete
rows is the cells' own. Then log p(shown) and log p(hidden | shown) are sums over the two parts of one order, exact
both. Rows are drawn by inverse distribution functions, one uniform per cell, so they depend on (seed, row, draw)
alone. The expected values and deviations of hidden cells are those of the model where a pass tells them (*shown*);
else they are averaged over draws, of each cell's conditional moments (Rao-Blackwell), which ``samples`` counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind
from contracts.data import ColumnType
from contracts.errors import VerbUnsupported
from engine import noise
from engine.answers import Encoding, LogProb
from engine.kinds.cell_drawing import Drawn, draw_cells
from engine.kinds.moments import Moments
from engine.kinds.program import Program
from engine.kinds.rows import Floats, Imputation, Index, Mask, Rows, Score
from engine.kinds.weights import clean
from engine.model import Model

EVALUATED_CELLS = 64
"""Conditionals of a row that an evaluation looks at where each takes a pass of its own."""


class CellProgram(Program):
    """Graphs ``score``, ``step`` and ``embed`` over cells."""

    moment_samples = 32
    """Draws that moments are averaged over, where the caller names no number."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        inputs = {tensor.name for tensor in model.manifest.graphs["score"].inputs}
        self.sees_mask, self.any_order = "shown" in inputs, bool(inputs & {"shown", "order"})
        count = self.spec.cells
        if self.sees_mask and count > EVALUATED_CELLS:
            self.evaluation_samples = EVALUATED_CELLS
        # The cells' numbers by position, and which columns may have no value.
        self._order: Index = model.constants.get("order", np.arange(count)).astype(np.int64)
        tabular = self.spec.image is None
        self._gaps: Mask = np.array([c.missing for c in self.spec.features] if tabular else [False] * count)

    # --- the verbs -----------------------------------------------------------------------------------------------

    def _encode(self, rows: Rows) -> Encoding:
        self.require_complete(rows)
        feeds: dict[str, NDArray[np.generic]] = {"x": rows.x} if rows.y is None else {"x": rows.x, "y": rows.y}
        return Encoding(self.call("embed", feeds)["vector"].astype(np.float32))

    def log_prob(
        self,
        x: NDArray[np.generic],
        *,
        hidden: Mask | None = None,
        seed: int = 0,
        samples: int | None = None,
        given: Index | None = None,
    ) -> LogProb:
        """As `Program.log_prob`, exact.

        With ``samples`` a model that needs one pass per cell looks at so many cells of each row, spread over the
        order, and answers an estimate.
        """
        answer = super().log_prob(x, hidden=hidden, seed=seed, samples=samples, given=given)
        return replace(answer, order="shown_first" if self.any_order else "raster")

    def _score_complete(self, rows: Rows, seed: int, samples: int | None) -> Score:
        return self._sum(rows, self._orders(rows.hidden), np.zeros(len(rows), np.int64), _shown(rows), seed, samples)

    def _score_partial(self, rows: Rows, seed: int, samples: int | None) -> Score:
        if not self.any_order:
            between = self._between(rows.hidden)
            if (between & ~(rows.hidden <= self._gaps).all(axis=1)).any():
                raise self._wrong_order("score rows with hidden cells between shown ones")
            if between.any():
                values = self._pass(self._without(rows), self._orders(rows.hidden))
                return Score(np.where(rows.hidden, 0.0, values).sum(axis=1), AnswerKind.EXACT)
        return self._sum(rows, self._orders(rows.hidden), np.zeros(len(rows), np.int64), _shown(rows), seed, samples)

    def _score_hidden(self, rows: Rows, point: Rows, imputed: Imputation, seed: int, samples: int | None) -> Score:
        stop = np.full(len(rows), self.spec.cells, dtype=np.int64)
        # What is asked for is one number a row: all of it is looked at, whatever the draws of the moments.
        return self._sum(point, self._orders(rows.hidden), _shown(rows), stop, seed, None)

    def _sample(self, keys: noise.Keys, seed: int, temperature: float, y: Index | None) -> Floats:
        shape = (len(keys), *self.spec.row_shape)
        low, high = self.spec.bounds
        neutral = np.broadcast_to(np.clip(0.0, low, high).reshape(shape[1:]), shape).astype(self.spec.dtype)
        rows = Rows(neutral, np.zeros(shape, dtype=bool), y, keys)
        parts = [drawn.values for drawn in self._draw(rows, seed, 1, temperature)]
        return np.concatenate(parts).reshape(shape)

    def _impute(self, rows: Rows, seed: int, draws: int, samples: int | None) -> Imputation:
        averaged = 0 if self.sees_mask else samples or self.moment_samples
        moments, drawn = self._drawn(rows, seed, draws, averaged)
        if self.sees_mask:
            return self._exact_moments(rows, drawn)
        probability = moments.probability()
        return Imputation(
            moments.mean(), moments.std(), drawn, AnswerKind.EXACT, samples=averaged, probability=probability
        )

    def _draw_hidden(self, rows: Rows, seed: int, samples: int | None) -> Imputation:
        _, drawn = self._drawn(rows, seed, 1, 0)
        return Imputation(drawn[:, 0], np.zeros_like(drawn[:, 0]), drawn, AnswerKind.EXACT)

    def _drawn(self, rows: Rows, seed: int, draws: int, averaged: int) -> tuple[Moments, Floats]:
        """Moments of hidden cells over ``averaged`` draws, and the first ``draws`` of them ``(B, draws, cells)``."""
        if not self.any_order and self._between(rows.hidden).any():
            raise self._wrong_order("predict cells from later ones")
        moments = Moments(self.spec, len(rows))
        drawn = np.repeat(rows.cells[:, None], draws, axis=1)
        asked = np.flatnonzero(rows.hidden.any(axis=1))
        for block in self._draw(rows.take(asked), seed, max(draws, averaged), 1.0) if len(asked) else ():
            row, draw = asked[block.rows], block.draws
            kept = draw < draws
            drawn[row[kept], draw[kept]] = block.values[kept]
            used = draw < averaged
            if used.any():
                weights = np.full(int(used.sum()), 1.0 / averaged)
                moments.add(row[used], weights, block.values[used], block.mean[used], block.std[used])
        return moments, drawn

    def _exact_moments(self, rows: Rows, drawn: Floats) -> Imputation:
        """Moments of each hidden cell given the shown ones, which one pass answers."""
        feeds = self.feeds(rows) | {"temperature": np.ones(len(rows))}
        answer = self.call("step", feeds, outputs=["mean", "std"])
        mean, std = answer["mean"].astype(np.float64), answer["std"].astype(np.float64)
        probability = None
        if self.spec.image is None:
            likely = self.spec.quantise(np.where(rows.hidden, mean + 0.5 * self.spec.discrete, rows.cells))
            log_p = self.call("score", self.feeds(rows) | {"x": likely})["log_prob"].astype(np.float64)
            boolean = np.array([column.type is ColumnType.BOOLEAN for column in self.spec.features])
            probability = np.where(boolean, np.maximum(mean, 1.0 - mean), np.exp(np.minimum(log_p, 0.0)))
        return Imputation(mean, std, drawn, AnswerKind.EXACT, probability=probability)

    # --- orders --------------------------------------------------------------------------------------------------

    def _orders(self, hidden: Mask) -> Index:
        """``(B, cells)``: shown cells first where any order goes."""
        if not self.any_order:
            return np.broadcast_to(self._order, hidden.shape)
        return np.argsort(hidden, axis=1, kind="stable").astype(np.int64)

    def _between(self, hidden: Mask) -> NDArray[np.bool_]:
        """Rows ``(B,)`` that hide a cell before one that they show."""
        ordered = hidden[:, self._order]
        return np.asarray((ordered[:, :-1] > ordered[:, 1:]).any(axis=1))

    def _wrong_order(self, what: str) -> VerbUnsupported:
        first = self.spec.cell_name(int(self._order[0]))
        return VerbUnsupported(
            f"this {self.manifest.family} goes in one order, from {first} on, and cannot {what}; hide only what comes "
            "after everything that is shown, or train with any_order: true"
        )

    # --- conditionals --------------------------------------------------------------------------------------------

    def _sum(self, rows: Rows, order: Index, start: Index, stop: Index, seed: int, samples: int | None) -> Score:
        """log p of the cells at positions ``start`` to ``stop`` of ``order`` given those before."""
        if self.sees_mask:
            return self._sum_by_masks(rows, order, start, stop, seed, samples)
        at = np.argsort(order, axis=1)
        wanted = (at >= start[:, None]) & (at < stop[:, None])
        return Score(np.where(wanted, self._pass(rows, order), 0.0).sum(axis=1), AnswerKind.EXACT)

    def _pass(self, rows: Rows, order: Index) -> Floats:
        """One run of ``score``: nats of every cell ``(B, cells)``."""
        feeds: dict[str, NDArray[np.generic]] = {"x": rows.x}
        if self.any_order:
            feeds["order"] = order
        if rows.y is not None:
            feeds["y"] = rows.y
        return clean(self.call("score", feeds)["log_prob"].astype(np.float64))

    def _without(self, rows: Rows) -> Rows:
        """The rows with no value in hidden cells, as training saw them."""
        return replace(rows, x=np.where(rows.shown, rows.x, np.nan))

    def _sum_by_masks(
        self, rows: Rows, order: Index, start: Index, stop: Index, seed: int, samples: int | None
    ) -> Score:
        at = np.argsort(order, axis=1)
        width = stop - start
        if samples is None or (samples >= width).all():
            count = width
            row = np.repeat(np.arange(len(rows)), width)
            position = np.concatenate([np.arange(a, b) for a, b in zip(start, stop, strict=True)]).astype(np.int64)
        else:
            count = np.full(len(rows), samples)
            row = np.repeat(np.arange(len(rows)), samples)
            u = noise.uniform(seed, rows.keys, "score.position", (samples,))
            part = (np.arange(samples) + u) / samples
            position = (start[:, None] + np.floor(part * width[:, None])).astype(np.int64).reshape(-1)
        nats = np.empty(len(row))
        for block in self._blocks(len(row)):
            r, t = row[block], position[block]
            cell = order[r, t]
            feeds: dict[str, NDArray[np.generic]] = {
                "x": rows.x[r],
                "shown": (at[r] < t[:, None]).reshape(len(r), *self.spec.row_shape),
            }
            if rows.y is not None:
                feeds["y"] = rows.y[r]
            nats[block] = self.call("score", feeds)["log_prob"][np.arange(len(r)), cell]
        nats = clean(nats)
        exact = bool((count == width).all())
        if exact:
            values: Floats = np.bincount(row, nats, minlength=len(rows)).astype(np.float64)
            return Score(values, AnswerKind.EXACT)
        assert samples is not None
        by_row = nats.reshape(len(rows), samples)
        with np.errstate(invalid="ignore"):
            error = by_row.std(axis=1, ddof=1) / np.sqrt(samples) if samples > 1 else np.full(len(rows), np.nan)
        return Score(by_row.mean(axis=1) * width, AnswerKind.ESTIMATE, samples, error * width)

    def _blocks(self, count: int) -> Iterator[slice]:
        step = self.model.rows_per_run("score")
        for first in range(0, count, step):
            yield slice(first, min(count, first + step))

    # --- draws ---------------------------------------------------------------------------------------------------

    def _draw(self, rows: Rows, seed: int, draws: int, temperature: float) -> Iterator[Drawn]:
        """Yield draws of the hidden cells, rows × draws in order, as many at a time as one run takes."""
        order, start = self._orders(rows.hidden), _shown(rows)
        for r, k in self.pairs(len(rows), draws, "step"):
            u = noise.uniform(seed, rows.keys[r], "step.u", (self.spec.cells,), k)
            yield draw_cells(self.model, self.spec, rows, order, start, r, k, u, temperature)


def _shown(rows: Rows) -> Index:
    """How many cells each row shows."""
    count: Index = (~rows.hidden).sum(axis=1).astype(np.int64)
    return count
