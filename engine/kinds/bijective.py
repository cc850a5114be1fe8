"""Bijections: z = f(x), log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|, computed inside the graph ``forward``.

Discrete cells are spread over their unit bins by u: a score is then the log of a mean over draws of u, a lower bound
in expectation; an encoding takes the middle of the bin, so that decoding gives the row back. Where ``forward`` draws u
from a learned q(u | x), the graph ``density`` answers log p(x + u) at any u.

Hidden cells are integrated out from a proposal. With q the mixture in the constants ``proposal.*``, fitted to the
train rows and cut to the values that discrete cells can take (`engine.truncated`), and x̃_s the shown cells after
dequantisation,

    h ~ q(h | x̃_s),   w = p(x̃_s, h) / q(h | x̃_s),   log p(x_s) = log E[w]

and draws are carried from q to the conditional by tempering (`engine.tempered`), which is importance sampling where q
is good. Measured on 24 handwritten digits of 8 × 8 pixels (an affine flow of 1,500 steps), the lower half hidden, then
half of the pixels at random; 20 draws a row, CRPS averaged over hidden pixels, distinct draws by weight:

    K = 200, importance resampling       RMSE 3.49, 2.72   CRPS 1.88, 1.41   draws 2.4, 1.8     49 ms a row
    K = 1500, importance resampling      RMSE 3.57, 2.55   CRPS 1.85, 1.26   draws 4.1, 4.0    350 ms a row
    K = 64, tempered, 2 moves            RMSE 3.38, 2.49   CRPS 1.70, 1.14   draws 38, 33       80 ms a row
    K = 64, tempered, 4 moves (default)  RMSE 3.19, 2.33   CRPS 1.46, 1.02   draws 56, 59      150 ms a row
    K = 32, tempered, 8 moves            RMSE 3.18, 2.40   CRPS 1.48, 1.05   draws 32, 32      195 ms a row

log p(h | x_s), whose second term log p(x_s) each method bounds from below in expectation, falls from -40.8 (-36.3) by
the first line to -42.4 (-37.8) by the default: less of it is error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from engine import noise, truncated
from engine.answers import Encoding
from engine.conditional import Mixture, Pattern, group_patterns
from engine.kinds.moments import Moments
from engine.kinds.program import Program
from engine.kinds.rows import Floats, Imputation, Index, Rows, Score
from engine.kinds.weights import clean, resample
from engine.model import Model
from engine.tempered import Cloud, temper

LARGEST_UNIFORM = 1 - 2**-53


class BijectiveProgram(Program):
    """Graphs ``forward`` and ``inverse``; conditionals need the constants ``proposal.*``."""

    proposal_samples = 64
    """K, where the caller names none."""
    temperatures = 12
    """At most; rows whose proposal is good need one."""
    moves = 4
    """Of each draw at each temperature, where there are several."""

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
        for index, cloud in self._complete(self._proposal, rows, seed, count):
            values[index], error[index] = cloud.log_mass, cloud.standard_error
        return Score(values, AnswerKind.ESTIMATE, count, error)

    def _impute(self, rows: Rows, seed: int, draws: int, samples: int | None) -> Imputation:
        if self._proposal is None:
            return super()._impute(rows, seed, draws, samples)
        count = samples or self.proposal_samples
        moments = Moments(self.spec, len(rows))
        drawn = np.empty((len(rows), draws, self.spec.cells))
        size, values, error = np.empty(len(rows)), np.empty(len(rows)), np.empty(len(rows))
        for index, cloud in self._complete(self._proposal, rows, seed, count):
            size[index], values[index], error[index] = cloud.size, cloud.log_mass, cloud.standard_error
            picked = resample(cloud.weights, noise.uniform(seed, rows.keys[index], "impute.pick", (draws,)))
            drawn[index] = np.take_along_axis(cloud.x, picked[..., None], axis=1)
            on_grid = self.on_grid(cloud.x.reshape(-1, *self.spec.row_shape))
            flat = on_grid.reshape(-1, self.spec.cells).astype(np.float64)
            moments.add(np.repeat(index, count), cloud.weights.reshape(-1), flat)
        # A row that shows nothing, or everything, is scored by the frame.
        score = None
        if (rows.hidden.any(axis=1) & ~rows.hidden.all(axis=1)).all():
            score = Score(values, AnswerKind.ESTIMATE, count, error)
        return Imputation(moments.mean(), moments.std(), drawn, AnswerKind.ESTIMATE, size, count, score)

    def _complete(self, proposal: Mixture, rows: Rows, seed: int, samples: int) -> Iterator[tuple[Index, Cloud]]:
        """Complete each row ``samples`` times; blocks of rows with one pattern, small enough to keep in memory."""
        step = max(1, self.model.options.element_budget // (samples * self.spec.cells))
        for index, hidden in group_patterns(rows.hidden):
            pattern = proposal.pattern(hidden)
            for start in range(0, len(index), step):
                block = index[start : start + step]
                completion = _Completion(self, pattern, rows.take(block))
                yield (
                    block,
                    temper(
                        completion,
                        rows.keys[block],
                        seed,
                        draws=samples,
                        normals=completion.normals,
                        steps=self.temperatures,
                        moves=self.moves,
                    ),
                )

    def log_joint(self, cells: Floats, rows: Rows, r: Index) -> Floats:
        """log p of dequantised ``cells`` (m, n), whose discrete cells are within the bounds of the data."""
        discrete = self.spec.discrete
        whole = np.where(discrete, np.floor(cells), cells)
        shape = self.spec.row_shape
        feeds: dict[str, NDArray[np.generic]] = {"x": whole.astype(self.spec.dtype).reshape(len(cells), *shape)}
        graph = "density" if self.model.has("density") else "forward"
        for tensor in self.manifest.graphs[graph].inputs:
            if tensor.noise is not None:
                feeds[tensor.name] = noise.cast(np.where(discrete, cells - whole, 0.0), tensor.dtype)
        if rows.y is not None:
            feeds["y"] = rows.y[r]
        return self.model.run(graph, feeds, ["log_prob"])["log_prob"].astype(np.float64)


class _Completion:
    """The proposal as a map of normals: first those of the shown discrete cells' place in their bins, then one that
    picks the component, then those of the hidden cells."""

    def __init__(self, program: BijectiveProgram, pattern: Pattern, rows: Rows) -> None:
        self._program, self._pattern, self._rows = program, pattern, rows
        spec = program.spec
        self._spread = pattern.shown[spec.discrete[pattern.shown]]
        self.normals = len(self._spread) + 1 + len(pattern.hidden)
        low, high = spec.bounds
        self._box = low[pattern.hidden], (high + spec.discrete)[pattern.hidden]
        self._given = None if len(self._spread) else pattern.condition(rows.cells)

    def __call__(self, index: Index, v: Floats) -> tuple[Floats, Floats]:
        """Return dequantised rows (r, K, n) and log p / q (r, K)."""
        from scipy.special import ndtr

        r = np.repeat(index, v.shape[1])
        u = np.minimum(ndtr(v.reshape(len(r), -1)), LARGEST_UNIFORM)
        cells = self._rows.cells[r]
        spread = len(self._spread)
        cells[:, self._spread] += u[:, :spread]
        given = self._pattern.condition(cells) if self._given is None else self._given.take(r)
        drawn = truncated.draw(given, u[:, spread], u[:, spread + 1 :], *self._box)
        cells[:, self._pattern.hidden] = drawn
        log_w = self._program.log_joint(cells, self._rows, r) - truncated.log_density(given, drawn, *self._box)
        return cells.reshape(*v.shape[:2], -1), clean(log_w).reshape(v.shape[:2])
