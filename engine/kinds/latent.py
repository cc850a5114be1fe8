"""Latent-variable models: p(x) = ∫ p(x | z) p(z) dz, with an approximate posterior q(z | shown cells).

Where the marginal has a closed form (the graph ``density``, the constants ``gaussian.*``) it is used. Else

    log p(x_s) ≥ E log (1/K) Σ_k w_k,   w_k = p(x_s | z_k) p(z_k) / q(z_k | x_s),   z_k ~ q(z | x_s)

(Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders", arXiv:1509.00519), and the hidden cells follow
by drawing z again from these weights and x_h from p(x_h | z) (Mattei, Frellsen 2019, "MIWAE: deep generative modelling
and imputation of incomplete data sets", arXiv:1812.02633).

The prior p(z) is N(0, I), or the mixture in the constants ``prior.*``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from engine import noise
from engine.answers import Encoding
from engine.conditional import Mixture
from engine.kinds.gaussian import ExactGaussian
from engine.kinds.moments import Moments
from engine.kinds.program import Program
from engine.kinds.rows import Floats, Imputation, Index, Rows, Score
from engine.kinds.weights import clean, effective_sample_size, log_mean_exp, normalise, resample
from engine.model import Model

_LOG_2PI = float(np.log(2 * np.pi))


class LatentProgram(Program):
    """Graphs ``posterior``, ``likelihood``, ``score``, ``density``; a verb needs only its own."""

    importance_samples = 100
    """K, where the caller names none."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._prior = Mixture.from_constants(model.constants, "prior")
        gaussian = Mixture.from_constants(model.constants, "gaussian")
        budget = model.options.element_budget
        self._gaussian = ExactGaussian(gaussian, self.spec, budget) if gaussian else None

    def _encode(self, rows: Rows) -> Encoding:
        if not self._takes("posterior", "shown"):
            self.require_complete(rows)
        answer = self.call("posterior", self.feeds(rows))
        return Encoding(_floating(answer["mean"]), _floating(answer["log_scale"]) if "log_scale" in answer else None)

    def _decode(self, z: NDArray[np.generic], y: Index | None) -> Floats:
        feeds = {"z": z} if y is None else {"z": z, "y": y}
        mean = self.call("likelihood", feeds, outputs=["mean"])["mean"].astype(np.float64)
        low, high = (bound.reshape(self.spec.row_shape) for bound in self.spec.bounds)
        return np.clip(mean, low, high)

    def _sample(self, keys: noise.Keys, seed: int, temperature: float, y: Index | None) -> Floats:
        dimensions = self.latents
        parts = []
        step = self.model.rows_per_run("likelihood")
        for start in range(0, len(keys), step):
            block = keys[start : start + step]
            normals = noise.normal(seed, block, "prior.z", (dimensions,))
            if self._prior is None:
                z = temperature * normals
            else:
                z = self._prior.draw(noise.uniform(seed, block, "prior.component", ()), normals, temperature)
            feeds: dict[str, NDArray[np.generic]] = {"z": z}
            if y is not None:
                feeds["y"] = y[start : start + step]
            answer = self.call("likelihood", feeds, keys=block, seed=seed, outputs=["draw"])
            parts.append(answer["draw"].astype(np.float64))
        return np.concatenate(parts)

    def _score_complete(self, rows: Rows, seed: int, samples: int | None) -> Score:
        if self.model.has("density"):
            return self.average_density("density", rows, seed, samples)
        return self._importance_score(rows, seed, samples)

    def _score_partial(self, rows: Rows, seed: int, samples: int | None) -> Score:
        if self._gaussian is not None:
            return self._gaussian.score(rows, seed, samples or self.dequantisation_samples)
        if not (self.model.has("score") and self._takes("score", "shown") and self._takes("posterior", "shown")):
            return super()._score_partial(rows, seed, samples)
        return self._importance_score(rows, seed, samples)

    def _impute(self, rows: Rows, seed: int, draws: int, samples: int | None) -> Imputation:
        if self._gaussian is not None:
            return self._gaussian.impute(rows, seed, draws, samples or self.dequantisation_samples)
        return self._importance_impute(rows, seed, draws, samples or self.importance_samples)

    # --- importance sampling -------------------------------------------------------------------------------------

    @property
    def latents(self) -> int:
        if self.manifest.latent_dimensions is None:
            raise self._missing(Verb.DECODE)
        return self.manifest.latent_dimensions

    def _takes(self, graph: str, name: str) -> bool:
        return self.model.has(graph) and any(t.name == name for t in self.manifest.graphs[graph].inputs)

    def _importance_score(self, rows: Rows, seed: int, samples: int | None) -> Score:
        count = samples or self.importance_samples
        mean = log_mean_exp(_Weighted(self, rows, seed).log_weights(count))
        return Score(mean.values, AnswerKind.LOWER_BOUND, count, mean.standard_error)

    def _importance_impute(self, rows: Rows, seed: int, draws: int, samples: int) -> Imputation:
        weighted = _Weighted(self, rows, seed)
        log_w = weighted.log_weights(samples)
        weights = normalise(log_w)
        moments = Moments(self.spec, len(rows))
        for r, k in self.pairs(len(rows), samples, "likelihood"):
            answer = weighted.likelihood(r, k, k)
            drawn = self.on_grid(answer["draw"].astype(np.float64)).reshape(len(r), -1)
            expected = answer["mean"].astype(np.float64).reshape(len(r), -1)
            moments.add(r, weights[r, k], drawn.astype(np.float64), expected)
        picked = resample(weights, noise.uniform(seed, rows.keys, "impute.pick", (draws,)))
        parts = []
        for r, j in self.pairs(len(rows), draws, "likelihood"):
            # Noise beyond that of the weighted draws: each answer is a fresh draw given its z.
            parts.append(weighted.likelihood(r, picked[r, j], samples + j)["draw"].astype(np.float64))
        total = log_mean_exp(log_w)
        return Imputation(
            mean=moments.mean(),
            std=moments.std(),
            draws=np.concatenate(parts).reshape(len(rows), draws, -1),
            kind=AnswerKind.ESTIMATE,
            effective_sample_size=effective_sample_size(weights),
            samples=samples,
            score=Score(total.values, AnswerKind.LOWER_BOUND, samples, total.standard_error),
        )


class _Weighted:
    """Draws z_k ~ q(z | shown) of some rows. They are functions of (seed, row, k), so none needs to be kept."""

    def __init__(self, program: LatentProgram, rows: Rows, seed: int) -> None:
        self._program, self._rows, self._seed = program, rows, seed
        answer = program.call("posterior", program.feeds(rows))
        if "log_scale" not in answer or not program.model.has("score"):
            raise program._missing(Verb.LOG_PROB)
        self._mean = answer["mean"].astype(np.float64)
        self._log_scale = answer["log_scale"].astype(np.float64)

    def _z(self, r: Index, k: Index) -> tuple[Floats, Floats]:
        eps = noise.normal(self._seed, self._rows.keys[r], "posterior.z", (self._mean.shape[1],), k)
        return self._mean[r] + np.exp(self._log_scale[r]) * eps, eps

    def log_weights(self, samples: int) -> Floats:
        """Return log w ``(B, samples)``."""
        program, rows = self._program, self._rows
        feeds = program.feeds(rows)
        parts = []
        for r, k in program.pairs(len(rows), samples, "score"):
            z, eps = self._z(r, k)
            block = {name: array[r] for name, array in feeds.items()} | {"z": z}
            answer = program.call("score", block, keys=rows.keys[r], seed=self._seed, draw=k)
            log_q = -(0.5 * (np.square(eps) + _LOG_2PI) + self._log_scale[r]).sum(axis=1)
            parts.append(answer["log_likelihood"].astype(np.float64) + self._log_prior(z) - log_q)
        return clean(np.concatenate(parts)).reshape(len(rows), samples)

    def _log_prior(self, z: Floats) -> Floats:
        if self._program._prior is not None:
            return self._program._prior.log_density(z)
        density: Floats = -0.5 * (np.square(z) + _LOG_2PI).sum(axis=1)
        return density

    def likelihood(self, r: Index, k: Index, draw: Index) -> dict[str, NDArray[np.generic]]:
        """Run the likelihood on z_k of rows ``r``, with its own noise numbered ``draw``."""
        y = self._rows.y
        feeds: dict[str, NDArray[np.generic]] = {"z": self._z(r, k)[0]}
        if y is not None:
            feeds["y"] = y[r]
        return self._program.call("likelihood", feeds, keys=self._rows.keys[r], seed=self._seed, draw=draw)


def _floating(array: NDArray[np.generic]) -> NDArray[np.floating]:
    return array.astype(np.float32 if array.dtype == np.float32 else np.float64, copy=False)
