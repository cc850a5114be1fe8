"""Cell by cell: the loop that draws hidden cells from an autoregressive model's graph ``step``.

Without a cache every step is a pass over whole rows, of which the answer for one cell is kept. With a cache of keys
and values a step sees one cell: all sequences stand at the same position of their order; where a cell is shown its
value is fed, where it is hidden the one drawn. What all draws of a row have in common is fed once.

Legend: ``N`` sequences, each a draw of a row; ``D`` cells; ``order[t]`` the cell at position t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.data import DataSpec
from engine import noise
from engine.call import current_call
from engine.kinds.rows import Floats, Index, Rows
from engine.model import Model


@dataclass(frozen=True)
class Drawn:
    """Draw ``draws`` (N,) of ``rows`` (N,): ``values`` (N, D) with shown cells as they were, and ``mean`` and ``std``
    (N, D) of each drawn cell given those before it, 0 in shown cells."""

    rows: Index
    draws: Index
    values: Floats
    mean: Floats
    std: Floats


def draw_cells(
    model: Model,
    spec: DataSpec,
    rows: Rows,
    order: Index,
    start: Index,
    row: Index,
    draw: Index,
    u: Floats,
    temperature: float,
) -> Drawn:
    """Draw the cells at positions ``start[row]`` and on of ``order[row]``, one sequence for each of ``row`` (N,).

    ``order`` (B, D) and ``start`` (B,) are by row; ``u`` (N, D) uniforms by cell. Raises DeadlineExceeded when the
    call is over.
    """
    values = rows.cells[row]
    drawn = Drawn(row, draw, values, np.zeros_like(values), np.zeros_like(values))
    tensors = {tensor.name: tensor for tensor in model.manifest.graphs["step"].inputs}
    loop = _Cached if "cache" in tensors else _Whole
    loop(model, spec, rows, order, start, drawn, u, temperature).run()
    return drawn


class _Whole:
    """Steps that see whole rows."""

    def __init__(
        self,
        model: Model,
        spec: DataSpec,
        rows: Rows,
        order: Index,
        start: Index,
        drawn: Drawn,
        u: Floats,
        temperature: float,
    ) -> None:
        self._model, self._spec, self._rows, self._drawn = model, spec, rows, drawn
        self._order, self._start = order[drawn.rows], start[drawn.rows]
        self._u, self._temperature = u, temperature
        self._inputs = {tensor.name: tensor for tensor in model.manifest.graphs["step"].inputs}

    def run(self) -> None:
        drawn, cells = self._drawn, self._spec.cells
        shown = ~self._rows.hidden[drawn.rows]
        shape = (-1, *self._spec.row_shape)
        left = cells - self._start
        for step in range(int(left.max(initial=0))):
            current_call().check()
            active = np.flatnonzero(step < left)
            cell = self._order[active, self._start[active] + step]
            feeds: dict[str, NDArray[np.generic]] = {
                "x": drawn.values[active].astype(self._spec.dtype).reshape(shape),
                "temperature": np.full(len(active), self._temperature),
                "u": noise.cast(self._u[active], self._inputs["u"].dtype),
            }
            if "shown" in self._inputs:
                feeds["shown"] = shown[active].reshape(shape)
            if self._rows.y is not None:
                feeds["y"] = self._rows.y[drawn.rows[active]]
            answer = self._model.run("step", feeds)
            picked = np.arange(len(active)), cell
            self._keep(active, cell, *(answer[name][picked] for name in ("mean", "std", "draw")))
            shown[active, cell] = True

    def _keep(
        self, index: Index, cell: Index, mean: NDArray[np.generic], std: NDArray[np.generic], value: NDArray[np.generic]
    ) -> None:
        drawn = self._drawn
        drawn.mean[index, cell], drawn.std[index, cell], drawn.values[index, cell] = mean, std, value


class _Cached(_Whole):
    """Steps that see one cell and a cache."""

    def run(self) -> None:
        drawn, cells = self._drawn, self._spec.cells
        count = len(drawn.rows)
        common = int(self._start.min(initial=cells))
        # Draws of a row stand side by side, so one of each feeds what is common.
        _, first, copies = np.unique(drawn.rows, return_index=True, return_inverse=True)
        cache = self._empty(len(first))
        for position in range(common):
            cache = self._step(first, position, cache)["new_cache"]
        cache = cache[copies]
        everyone = np.arange(count)
        for position in range(common, cells):
            answer = self._step(everyone, position, cache)
            cache = answer["new_cache"]
            fresh = np.flatnonzero(position >= self._start)
            asked = self._order[fresh, position]
            self._keep(fresh, asked, *(answer[name][fresh] for name in ("mean", "std", "draw")))

    def _step(self, index: Index, position: int, cache: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
        current_call().check()
        asked = self._order[index, position]
        if position:
            seen = self._order[index, position - 1]
            value = self._drawn.values[index, seen]
        else:
            seen, value = np.full(len(index), self._spec.cells), np.zeros(len(index))
        feeds: dict[str, NDArray[np.generic]] = {
            "value": value,
            "cell": seen,
            "next": asked,
            "position": np.full(len(index), position),
            "cache": cache,
            "u": noise.cast(self._u[index, asked][:, None], self._inputs["u"].dtype),
            "temperature": np.full(len(index), self._temperature),
        }
        if self._rows.y is not None:
            feeds["y"] = self._rows.y[self._drawn.rows[index]]
        return self._model.run("step", feeds)

    def _empty(self, count: int) -> NDArray[np.generic]:
        cache = self._inputs["cache"]
        shape = tuple(size for size in cache.shape[1:] if isinstance(size, int))
        return np.zeros((count, *shape), dtype=cache.dtype)
