"""What every kind's program shares: checked rows, noise for graphs, and the frame of each verb.

A program holds no state of its own beyond its model; its verbs are synchronous and thread-safe. A row's answer is a
function of (model, row, given, seed, samples): its noise is keyed by the row itself. Two runs of different batch size
may still differ in the last bits of a float, because the runtime's vector instructions treat tails in another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from contracts.data import ColumnType
from contracts.errors import Internal, InvalidInput, VerbUnsupported
from engine import noise
from engine.answers import Completed, Encoding, LogProb, Prediction, weakest
from engine.kinds.rows import Floats, Imputation, Index, Mask, Rows, Score, check_labels, check_rows
from engine.kinds.weights import clean, log_mean_exp
from engine.model import Model


class Program:
    """The verbs of one model. Those that its manifest refuses raise VerbUnsupported with the manifest's reason."""

    dequantisation_samples = 32
    """Draws of u that average a density over the unit bins of discrete cells, where the caller names none."""
    evaluation_samples: int | None = None
    """What an evaluation of many rows passes for ``samples``; None: what a caller gets who names none."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.manifest = model.manifest
        self.spec = model.manifest.data

    # --- the verbs -----------------------------------------------------------------------------------------------

    def encode(self, x: NDArray[np.generic], *, hidden: Mask | None = None, given: Index | None = None) -> Encoding:
        """Return the vectors ``(B, L)`` of rows ``x``: a posterior's mean, or the image under a bijection."""
        self.require(Verb.ENCODE)
        return self._encode(self.rows(x, hidden, given))

    def decode(self, z: NDArray[np.generic], *, given: Index | None = None) -> Floats:
        """Return the expected rows ``(B, *row)`` of vectors ``z`` (B, L), floating, in the data's own units."""
        self.require(Verb.DECODE)
        z = np.asarray(z)
        dimensions = self.manifest.latent_dimensions
        if z.ndim != 2 or (dimensions is not None and z.shape[1] != dimensions) or len(z) == 0:
            raise InvalidInput(f"vectors must have the shape (rows, {dimensions}), got {z.shape}")
        if not np.isfinite(z).all():
            row = int(np.flatnonzero(~np.isfinite(z).all(axis=1))[0])
            raise InvalidInput(f"inputs[{row}] holds a value that is not finite")
        return self._decode(z, self.labels(given, len(z)))

    def sample(
        self,
        n: int,
        *,
        seed: int,
        temperature: float | Sequence[float] = 1.0,
        given: Index | None = None,
        first: int = 0,
    ) -> NDArray[np.generic]:
        """Return ``n`` draws ``(n, *row)`` of the data's dtype; row i depends on (seed, first + i) alone.

        ``temperature`` multiplies the deviation of the prior on the latents (of each component, where it is a
        mixture) and leaves the noise of the likelihood as it is; 0 gives the prior's mean or a component's. A model
        whose latents are in groups takes one for each, from the top down.
        """
        self.require(Verb.SAMPLE)
        if n < 1:
            raise InvalidInput(f"n must be at least 1, got {n}")
        temperatures = self._temperatures(temperature)
        if first < 0:
            raise InvalidInput(f"first must be at least 0, got {first}")
        keys = np.arange(first, first + n, dtype=np.uint64)
        return self.on_grid(self._sample_groups(keys, seed, temperatures, self.labels(given, n)))

    def complete(
        self,
        x: NDArray[np.generic],
        hidden: Mask,
        *,
        seed: int,
        samples: int | None = None,
        given: Index | None = None,
        first: int = 0,
    ) -> Completed:
        """Return rows ``x`` with the ``hidden`` cells drawn given the shown ones; equal rows get draws of their own.

        Row i depends on (seed, first + i) and itself alone. ``samples`` as for `predict`.
        """
        self.require(Verb.PREDICT)
        rows = self.rows(x, hidden, given)
        places = np.arange(first, first + len(rows), dtype=np.uint64)
        rows = replace(rows, keys=noise.row_digests(rows.keys, places))
        imputed = self._draw_hidden(rows, seed, self._draws(samples))
        drawn = np.where(rows.hidden, imputed.draws[:, 0], rows.cells).reshape(rows.x.shape)
        return Completed(self.on_grid(drawn), imputed.kind, imputed.effective_sample_size, imputed.samples)

    def log_prob(
        self,
        x: NDArray[np.generic],
        *,
        hidden: Mask | None = None,
        seed: int = 0,
        samples: int | None = None,
        given: Index | None = None,
    ) -> LogProb:
        """Return log p(x), or of the shown cells where ``hidden`` (B, *row) says so, in nats.

        ``samples``: Monte-Carlo draws per row, where any are needed. The kind answered holds for every row.
        """
        self.require(Verb.LOG_PROB)
        score = self._score(self.rows(x, hidden, given), seed, self._draws(samples))
        return LogProb(score.values, score.kind, self.manifest.measure, score.samples, score.standard_error)

    def predict(
        self,
        x: NDArray[np.generic],
        hidden: Mask,
        *,
        seed: int = 0,
        draws: int = 1,
        samples: int | None = None,
        given: Index | None = None,
        score_inputs: bool = False,
    ) -> Prediction:
        """Return the hidden cells of ``x`` given its shown ones.

        ``draws`` rows are drawn from the conditional. log p(hidden | shown) is evaluated at the mean, put on the
        grid of discrete cells, or with ``score_inputs`` at the values that ``x`` holds in the hidden cells.
        """
        self.require(Verb.PREDICT)
        if draws < 1:
            raise InvalidInput(f"draws must be at least 1, got {draws}")
        rows = self.rows(x, hidden, given)
        count = self._draws(samples)
        imputed = self._impute(rows, seed, draws, count)
        hide, cells = rows.hidden, rows.cells
        mean = np.where(hide, np.clip(imputed.mean, *self.spec.bounds), cells)
        drawn = np.where(hide[:, None], imputed.draws, cells[:, None])
        at: Literal["inputs", "mean"] = "inputs" if score_inputs else "mean"
        point = np.asarray(x) if score_inputs else self._nearest(mean)
        if score_inputs:
            self.spec.check(np.asarray(x))
        score = self._score_hidden(rows, self.rows(point, None, rows.y), imputed, seed, count)
        # A row without a hidden cell has nothing left to be uncertain of.
        conditional = np.where(hide.any(axis=1), score.values, 0.0)
        exact = weakest(score.kind, imputed.kind) is AnswerKind.EXACT
        shape = self.spec.row_shape
        return Prediction(
            mean=mean.reshape(len(rows), *shape),
            draws=self.on_grid(drawn.reshape(len(rows), draws, *shape)),
            std=np.where(hide, imputed.std, 0.0).reshape(len(rows), *shape),
            log_prob=conditional,
            log_prob_at=at,
            kind=AnswerKind.EXACT if exact else AnswerKind.ESTIMATE,
            effective_sample_size=imputed.effective_sample_size,
            samples=imputed.samples or score.samples,
            standard_error=score.standard_error,
            probability=self._probability(imputed, hide, shape),
        )

    # --- what a kind fills in ------------------------------------------------------------------------------------

    def _encode(self, rows: Rows) -> Encoding:
        raise self._missing(Verb.ENCODE)

    def _decode(self, z: NDArray[np.generic], y: Index | None) -> Floats:
        raise self._missing(Verb.DECODE)

    @property
    def groups(self) -> int:
        """Groups of latents that have a temperature of their own."""
        return 1

    def _sample_groups(self, keys: noise.Keys, seed: int, temperatures: Sequence[float], y: Index | None) -> Floats:
        """As `_sample`, with one temperature per group."""
        (temperature,) = temperatures
        return self._sample(keys, seed, temperature, y)

    def _sample(self, keys: noise.Keys, seed: int, temperature: float, y: Index | None) -> Floats:
        """Return draws ``(n, *row)`` on the dequantised scale."""
        raise self._missing(Verb.SAMPLE)

    def _score_complete(self, rows: Rows, seed: int, samples: int | None) -> Score:
        """Return log p(x) of rows without hidden cells."""
        raise self._missing(Verb.LOG_PROB)

    def _score_partial(self, rows: Rows, seed: int, samples: int | None) -> Score:
        """Return log p(shown cells) of rows that hide some cells and show others."""
        raise VerbUnsupported(
            f"this {self.manifest.family} cannot sum over hidden cells; send complete rows, or ask a model whose "
            "log_prob takes them, such as pca or vae"
        )

    def _impute(self, rows: Rows, seed: int, draws: int, samples: int | None) -> Imputation:
        raise self._missing(Verb.PREDICT)

    def _draw_hidden(self, rows: Rows, seed: int, samples: int | None) -> Imputation:
        """As `_impute` with one draw, of which only that is looked at: a kind may leave out the moments."""
        return self._impute(rows, seed, 1, samples)

    def _score_hidden(self, rows: Rows, point: Rows, imputed: Imputation, seed: int, samples: int | None) -> Score:
        """Return log p(hidden cells | shown ones) at ``point``, which completes ``rows``: log p(point) - log p(shown),
        unless a kind has it at first hand."""
        whole = self._score(point, seed, samples)
        part = imputed.score or self._score(rows, seed, samples)
        error = None
        if whole.standard_error is not None or part.standard_error is not None:
            error = np.hypot(_or_zero(whole.standard_error), _or_zero(part.standard_error))
        with np.errstate(invalid="ignore"):
            conditional = whole.values - part.values
        # What is given has zero density: there is no conditional.
        conditional[~np.isfinite(part.values)] = -np.inf
        # The difference of two bounds is neither.
        exact = weakest(whole.kind, part.kind) is AnswerKind.EXACT
        kind = AnswerKind.EXACT if exact else AnswerKind.ESTIMATE
        return Score(conditional, kind, part.samples or whole.samples, error)

    def _score(self, rows: Rows, seed: int, samples: int | None) -> Score:
        """Score each row by its own pattern: nothing shown (log p = 0), some cells, or all."""
        hide = rows.hidden
        complete, empty = ~hide.any(axis=1), hide.all(axis=1)
        values, error = np.zeros(len(rows)), np.zeros(len(rows))
        scores: list[Score] = []
        for chosen, score in ((complete, self._score_complete), (~complete & ~empty, self._score_partial)):
            index = np.flatnonzero(chosen)
            if len(index):
                scores.append(score(rows.take(index), seed, samples))
                values[index] = scores[-1].values
                error[index] = _or_zero(scores[-1].standard_error)
        drawn = [score.samples for score in scores if score.samples is not None]
        kind = weakest(*(score.kind for score in scores))
        return Score(values, kind, max(drawn), error) if drawn else Score(values, kind)

    def average_density(self, graph: str, rows: Rows, seed: int, samples: int | None) -> Score:
        """Return the ``log_prob`` of ``graph`` on complete rows.

        Exact where the graph takes no noise; else the log of its mean over draws of the noise that spreads
        discrete cells over their unit bins, a lower bound in expectation (Theis et al. 2016, arXiv:1511.01844).
        """
        feeds = self.feeds(rows)
        if not self.noisy(graph):
            values = self.call(graph, feeds, outputs=["log_prob"])["log_prob"]
            return Score(clean(values.astype(np.float64)), AnswerKind.EXACT)
        count = samples or self.dequantisation_samples
        log_w = np.empty(len(rows) * count)
        done = 0
        for r, k in self.pairs(len(rows), count, graph):
            block = {name: array[r] for name, array in feeds.items()}
            answer = self.call(graph, block, keys=rows.keys[r], seed=seed, draw=k, outputs=["log_prob"])
            log_w[done : done + len(r)] = answer["log_prob"]
            done += len(r)
        mean = log_mean_exp(clean(log_w.reshape(len(rows), count)))
        return Score(mean.values, AnswerKind.LOWER_BOUND, count, mean.standard_error)

    # --- what a kind may use -------------------------------------------------------------------------------------

    def require(self, verb: Verb) -> None:
        """Raise VerbUnsupported, with the manifest's reason, unless the model answers ``verb``."""
        if not self.manifest.supports(verb):
            spec = self.manifest.verbs.get(verb)
            reason = spec.refusal if spec and spec.refusal else f"{self.manifest.family} does not answer {verb}"
            raise VerbUnsupported(reason)

    def rows(self, x: NDArray[np.generic], hidden: Mask | None, given: Index | None) -> Rows:
        """Check rows and their labels; raises InvalidInput naming what is wrong."""
        return check_rows(self.spec, x, hidden, self.labels(given, len(x) if np.ndim(x) else 0))

    def labels(self, given: Index | None, rows: int) -> Index | None:
        """Check the labels that a conditional model needs; None where it takes none."""
        return check_labels(self.manifest.condition, given, rows)

    def call(
        self,
        graph: str,
        feeds: dict[str, NDArray[np.generic]],
        *,
        keys: noise.Keys | None = None,
        seed: int = 0,
        draw: int | Index = 0,
        outputs: Sequence[str] | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """Run ``graph``, drawing the noise it asks for.

        Without ``keys`` the noise stands at its middle (1/2 or 0), for answers that must not depend on it.
        """
        rows = len(next(iter(feeds.values())))
        filled = dict(feeds)
        for tensor in self.model.manifest.graphs[graph].inputs:
            if tensor.noise is None:
                continue
            shape = tuple(size for size in tensor.shape[1:] if isinstance(size, int))
            if len(shape) != len(tensor.shape) - 1:
                raise Internal(f"the noise input `{tensor.name}` of `{graph}` has no fixed shape")
            if keys is None:
                middle = 0.5 if tensor.noise == "uniform" else 0.0
                filled[tensor.name] = np.full((rows, *shape), middle, dtype=tensor.dtype)
            else:
                drawn = noise.uniform if tensor.noise == "uniform" else noise.normal
                values = drawn(seed, keys, f"{graph}.{tensor.name}", shape, draw)
                filled[tensor.name] = noise.cast(values, tensor.dtype)
        return self.model.run(graph, filled, outputs)

    def noisy(self, graph: str) -> bool:
        """Whether ``graph`` takes noise."""
        return any(tensor.noise is not None for tensor in self.model.manifest.graphs[graph].inputs)

    def feeds(self, rows: Rows) -> dict[str, NDArray[np.generic]]:
        """The inputs that graphs on data take: x, shown and, where conditional, y."""
        feeds: dict[str, NDArray[np.generic]] = {"x": rows.x, "shown": rows.shown}
        return feeds if rows.y is None else feeds | {"y": rows.y}

    def pairs(self, rows: int, draws: int, graph: str) -> Iterator[tuple[Index, Index]]:
        """Yield (row, draw) index arrays that cover rows × draws in order, as many at a time as one run takes."""
        step = self.model.rows_per_run(graph)
        for start in range(0, rows * draws, step):
            yield np.divmod(np.arange(start, min(start + step, rows * draws), dtype=np.int64), draws)

    def on_grid(self, x: Floats) -> NDArray[np.generic]:
        """Put dequantised values ``(…, *row)`` on the data's grid and in its dtype."""
        return self.spec.quantise(np.nan_to_num(x) if self.spec.discrete.any() else x)

    def _nearest(self, mean: Floats) -> NDArray[np.generic]:
        """Put expected values ``(B, cells)`` on the nearest point of the grid, as rows."""
        centred = mean + 0.5 * self.spec.discrete
        return self.spec.quantise(centred.reshape(len(mean), *self.spec.row_shape))

    def _probability(self, imputed: Imputation, hide: Mask, shape: tuple[int, ...]) -> Floats | None:
        """Of the answered categories and truth values, where any is hidden and that is known."""
        if self.spec.image is not None or imputed.probability is None:
            return None
        worded = np.array([c.type in (ColumnType.CATEGORICAL, ColumnType.BOOLEAN) for c in self.spec.features])
        if not (hide & worded).any():
            return None
        known = np.where(worded, np.where(hide, imputed.probability, 1.0), np.nan)
        return known.reshape(len(hide), *shape)

    def _temperatures(self, temperature: float | Sequence[float]) -> tuple[float, ...]:
        """Check a temperature, or one per group, and return one per group."""
        given = tuple(np.atleast_1d(np.asarray(temperature, dtype=np.float64)).tolist())
        if not all(np.isfinite(each) and each >= 0 for each in given):
            raise InvalidInput(f"temperature must be a number of at least 0, got {temperature}")
        if len(given) not in (1, self.groups):
            words = "one temperature" + (f", or one for each of {self.groups} groups" if self.groups > 1 else "")
            raise InvalidInput(f"this {self.manifest.family} takes {words}, got {len(given)}")
        return given * self.groups if len(given) == 1 else given

    def _draws(self, samples: int | None) -> int | None:
        if samples is not None and samples < 1:
            raise InvalidInput(f"samples must be at least 1, got {samples}")
        return samples

    def require_complete(self, rows: Rows) -> None:
        """Raise VerbUnsupported if a cell is hidden, where the model's encoder needs them all."""
        if not rows.shown.all():
            raise VerbUnsupported(
                f"this {self.manifest.family} encodes complete rows only; fill the hidden cells first, say by predict"
            )

    def _missing(self, verb: Verb) -> VerbUnsupported:
        return VerbUnsupported(f"{self.manifest.family} has no graph that answers {verb}")


def _or_zero(error: Floats | None) -> Floats | float:
    return 0.0 if error is None else error
