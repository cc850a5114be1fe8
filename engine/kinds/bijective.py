"""Bijections: z = f(x), log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|, computed inside the graph ``forward``.

Discrete cells are spread over their unit bins by u: a score is then the log of a mean over draws of u, a lower bound
in expectation; an encoding takes the middle of the bin, so that decoding gives the row back.

Hidden cells are integrated out by importance sampling. With q the mixture in the constants ``proposal.*``, fitted to
the train rows, and x̃_s the shown cells after dequantisation,

    h_k ~ q(h | x̃_s),   w_k = p(x̃_s, h_k) / q(h_k | x̃_s),   log p(x_s) ≈ log (1/K) Σ w_k

(q cut to the values that discrete cells can take, `engine.truncated`), and drawing h_k again by these weights gives the
conditional (Rubin 1988, sampling importance resampling).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from engine import noise, truncated
from engine.answers import Encoding
from engine.conditional import Mixture, Pattern, group_patterns
from engine.kinds.moments import Moments
from engine.kinds.program import Program
from engine.kinds.rows import Floats, Imputation, Index, Rows, Score
from engine.kinds.weights import clean, effective_sample_size, log_mean_exp, normalise, resample
from engine.model import Model


@dataclass(frozen=True)
class _Proposed:
    """Weighted completions of some rows: ``rows`` (b,), ``log_w`` (b, K), ``cells`` (b, K, n) dequantised."""

    rows: Index
    log_w: Floats
    cells: Floats


class BijectiveProgram(Program):
    """Graphs ``forward`` and ``inverse``; conditionals need the constants ``proposal.*``."""

    proposal_samples = 200
    """K, where the caller names none."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._proposal = Mixture.from_constants(model.constants, "proposal")

    def _encode(self, rows: Rows) -> Encoding:
        self.require_complete(rows)
        z = self.call("forward", self.feeds(rows), outputs=["z"])["z"]
        return Encoding(z.astype(np.float32 if z.dtype == np.float32 else np.float64, copy=False))

    def _decode(self, z: NDArray[np.generic], y: Index | None) -> Floats:
        return self.on_grid(self._invert(z, y)).astype(np.float64)

    def _sample(self, keys: noise.Keys, seed: int, temperature: float, y: Index | None) -> Floats:
        if self.manifest.latent_dimensions is None:
            raise self._missing(Verb.SAMPLE)
        z = noise.normal(seed, keys, "prior.z", (self.manifest.latent_dimensions,))
        return self._invert(temperature * z, y)

    def _invert(self, z: NDArray[np.generic], y: Index | None) -> Floats:
        feeds = {"z": z} if y is None else {"z": z, "y": y}
        return self.call("inverse", feeds, outputs=["x"])["x"].astype(np.float64)

    def _score_complete(self, rows: Rows, seed: int, samples: int | None) -> Score:
        return self.average_density("forward", rows, seed, samples)

    def _score_partial(self, rows: Rows, seed: int, samples: int | None) -> Score:
        if self._proposal is None:
            return super()._score_partial(rows, seed, samples)
        count = samples or self.proposal_samples
        values, error = np.empty(len(rows)), np.empty(len(rows))
        for proposed in self._propose(self._proposal, rows, seed, count):
            mean = log_mean_exp(proposed.log_w)
            values[proposed.rows], error[proposed.rows] = mean.values, mean.standard_error
        return Score(values, AnswerKind.ESTIMATE, count, error)

    def _impute(self, rows: Rows, seed: int, draws: int, samples: int | None) -> Imputation:
        if self._proposal is None:
            return super()._impute(rows, seed, draws, samples)
        count = samples or self.proposal_samples
        moments = Moments(self.spec, len(rows))
        drawn = np.empty((len(rows), draws, self.spec.cells))
        size = np.empty(len(rows))
        for proposed in self._propose(self._proposal, rows, seed, count):
            weights = normalise(proposed.log_w)
            size[proposed.rows] = effective_sample_size(weights)
            keys = rows.keys[proposed.rows]
            picked = resample(weights, noise.uniform(seed, keys, "impute.pick", (draws,)))
            drawn[proposed.rows] = np.take_along_axis(proposed.cells, picked[..., None], axis=1)
            on_grid = self.on_grid(proposed.cells.reshape(-1, *self.spec.row_shape))
            flat = on_grid.reshape(-1, self.spec.cells).astype(np.float64)
            moments.add(np.repeat(proposed.rows, count), weights.reshape(-1), flat)
        return Imputation(moments.mean(), moments.std(), drawn, AnswerKind.ESTIMATE, size, count)

    def _propose(self, proposal: Mixture, rows: Rows, seed: int, samples: int) -> Iterator[_Proposed]:
        """Complete each row ``samples`` times; blocks of rows with one pattern, small enough to keep in memory."""
        step = max(1, self.model.options.element_budget // (samples * self.spec.cells))
        for index, hidden in group_patterns(rows.hidden):
            pattern = proposal.pattern(hidden)
            for start in range(0, len(index), step):
                block = index[start : start + step]
                yield self._complete(pattern, rows.take(block), block, seed, samples)

    def _complete(self, pattern: Pattern, rows: Rows, block: Index, seed: int, samples: int) -> _Proposed:
        n, discrete = self.spec.cells, self.spec.discrete
        r, k = np.divmod(np.arange(len(rows) * samples), samples)
        keys = rows.keys[r]
        cells = rows.cells
        if discrete[pattern.shown].any():
            cells = cells[r] + noise.uniform(seed, keys, "proposal.u", (n,), k) * discrete
            given = pattern.condition(cells)
        else:
            given, cells = pattern.condition(cells).take(r), cells[r]
        component = noise.uniform(seed, keys, "proposal.component", (), k)
        uniforms = noise.uniform(seed, keys, "proposal.cells", (n,), k)[:, pattern.hidden]
        low, high = self.spec.bounds
        box = low[pattern.hidden], (high + discrete)[pattern.hidden]
        drawn = truncated.draw(given, component, uniforms, *box)
        cells[:, pattern.hidden] = drawn
        log_w = self._log_joint(cells, rows, r) - truncated.log_density(given, drawn, *box)
        shape = (len(rows), samples)
        return _Proposed(block, clean(log_w).reshape(shape), cells.reshape(*shape, n))

    def _log_joint(self, cells: Floats, rows: Rows, r: Index) -> Floats:
        """log p of dequantised ``cells`` (m, n), whose discrete cells are within the bounds of the data."""
        discrete = self.spec.discrete
        whole = np.where(discrete, np.floor(cells), cells)
        shape = self.spec.row_shape
        feeds: dict[str, NDArray[np.generic]] = {"x": whole.astype(self.spec.dtype).reshape(len(cells), *shape)}
        for tensor in self.manifest.graphs["forward"].inputs:
            if tensor.noise is not None:
                feeds[tensor.name] = noise.cast(np.where(discrete, cells - whole, 0.0), tensor.dtype)
        if rows.y is not None:
            feeds["y"] = rows.y[r]
        return self.model.run("forward", feeds, ["log_prob"])["log_prob"].astype(np.float64)
