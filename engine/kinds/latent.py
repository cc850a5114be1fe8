"""Latent-variable models: p(x) = ∫ p(x | z) p(z) dz, with an approximate posterior q(z | shown cells).

Where the marginal has a closed form (the graph ``density``, the constants ``gaussian.*``) it is used. Else

    log p(x_s) ≥ E log (1/K) Σ_k w_k,   w_k = p(x_s | z_k) p(z_k) / q(z_k | x_s),   z_k ~ q(z | x_s)

(Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders", arXiv:1509.00519), and the hidden cells follow
by drawing z again from these weights and x_h from p(x_h | z) (Mattei, Frellsen 2019, "MIWAE: deep generative modelling
and imputation of incomplete data sets", arXiv:1812.02633).

The prior p(z) is N(0, I), or the mixture in the constants ``prior.*``, and q is the Gaussian that the graph
``posterior`` answers. Where one of them is more than that, the graph ``infer`` answers z_k and log p(z_k) - log q(z_k)
in one go, and the graph ``prior`` turns noise into draws of p(z), group by group from the top down.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

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
    """Graphs ``posterior``, ``likelihood``, ``score``, ``density``, ``infer``, ``prior``; a verb needs only its own."""

    importance_samples = 100
    """K, where the caller names none."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._prior = Mixture.from_constants(model.constants, "prior")
        gaussian = Mixture.from_constants(model.constants, "gaussian")
        budget = model.options.element_budget
        self._gaussian = ExactGaussian(gaussian, self.spec, budget) if gaussian else None

    @property
    def groups(self) -> int:
        if not self.model.has("prior"):
            return 1
        (groups,) = (t.shape[1] for t in self.manifest.graphs["prior"].inputs if t.name == "temperature")
        assert isinstance(groups, int)
        return groups

    def _encode(self, rows: Rows) -> Encoding:
        if not self._sees_mask():
            self.require_complete(rows)
        if not self.model.has("posterior"):
            # Without keys the noise is 0: each group stands at its posterior's mean.
            return Encoding(_floating(self.call("infer", self.feeds(rows), outputs=["z"])["z"]))
        answer = self.call("posterior", self.feeds(rows))
        return Encoding(_floating(answer["mean"]), _floating(answer["log_scale"]) if "log_scale" in answer else None)

    def _decode(self, z: NDArray[np.generic], y: Index | None) -> Floats:
        feeds = {"z": z} if y is None else {"z": z, "y": y}
        mean = self.call("likelihood", feeds, outputs=["mean"])["mean"].astype(np.float64)
        low, high = (bound.reshape(self.spec.row_shape) for bound in self.spec.bounds)
        return np.clip(mean, low, high)

    def _sample_groups(self, keys: noise.Keys, seed: int, temperatures: Sequence[float], y: Index | None) -> Floats:
        parts = []
        step = self.model.rows_per_run("likelihood")
        for start in range(0, len(keys), step):
            block = keys[start : start + step]
            labels: dict[str, NDArray[np.generic]] = {} if y is None else {"y": y[start : start + step]}
            feeds = {"z": self._draw_prior(block, seed, temperatures, labels)} | labels
            answer = self.call("likelihood", feeds, keys=block, seed=seed, outputs=["draw"])
            parts.append(answer["draw"].astype(np.float64))
        return np.concatenate(parts)

    def _draw_prior(
        self, keys: noise.Keys, seed: int, temperatures: Sequence[float], labels: dict[str, NDArray[np.generic]]
    ) -> NDArray[np.generic]:
        """Draw z ``(len(keys), L)`` from the prior."""
        if self.model.has("prior"):
            feeds = {"temperature": np.tile(np.asarray(temperatures, dtype=np.float64), (len(keys), 1))} | labels
            return self.call("prior", feeds, keys=keys, seed=seed)["z"]
        (temperature,) = temperatures
        normals = noise.normal(seed, keys, "prior.z", (self.latents,))
        if self._prior is None:
            return temperature * normals
        return self._prior.draw(noise.uniform(seed, keys, "prior.component", ()), normals, temperature)

    def _score_complete(self, rows: Rows, seed: int, samples: int | None) -> Score:
        if self.model.has("density"):
            return self.average_density("density", rows, seed, samples)
        return self._importance_score(rows, seed, samples)

    def _score_partial(self, rows: Rows, seed: int, samples: int | None) -> Score:
        if self._gaussian is not None:
            return self._gaussian.score(rows, seed, samples or self.dequantisation_samples)
        if not (self._takes("score", "shown") and self._sees_mask()):
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

    def _sees_mask(self) -> bool:
        """Whether rows with hidden cells have a posterior."""
        return self._takes("posterior" if self.model.has("posterior") else "infer", "shown")

    def _weigh(self, rows: Rows, seed: int) -> _Weighted:
        return (_Inferred if self.model.has("infer") else _Gaussian)(self, rows, seed)

    def _importance_score(self, rows: Rows, seed: int, samples: int | None) -> Score:
        count = samples or self.importance_samples
        mean = log_mean_exp(self._weigh(rows, seed).log_weights(count))
        return Score(mean.values, AnswerKind.LOWER_BOUND, count, mean.standard_error)

    def _importance_impute(self, rows: Rows, seed: int, draws: int, samples: int) -> Imputation:
        weighted = self._weigh(rows, seed)
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
            probability=moments.probability(),
        )


class _Weighted(ABC):
    """Draws z_k ~ q(z | shown) of some rows. They are functions of (seed, row, k), so none needs to be kept."""

    def __init__(self, program: LatentProgram, rows: Rows, seed: int) -> None:
        if not program.model.has("score"):
            raise program._missing(Verb.LOG_PROB)
        self._program, self._rows, self._seed = program, rows, seed
        self._feeds = program.feeds(rows)

    @abstractmethod
    def _z(self, r: Index, k: Index) -> NDArray[np.generic]:
        """Return z_k of rows ``r``, ``(len(r), L)``."""

    @abstractmethod
    def _weighted(self, r: Index, k: Index) -> tuple[NDArray[np.generic], Floats, Floats]:
        """Return z_k of rows ``r``, and two terms ``(len(r),)`` whose difference is log p(z_k) - log q(z_k)."""

    def log_weights(self, samples: int) -> Floats:
        """Return log w ``(B, samples)``."""
        program, rows = self._program, self._rows
        parts = []
        for r, k in program.pairs(len(rows), samples, "score"):
            z, log_p, log_q = self._weighted(r, k)
            block = {name: array[r] for name, array in self._feeds.items()} | {"z": z}
            answer = program.call("score", block, keys=rows.keys[r], seed=self._seed, draw=k)
            parts.append(answer["log_likelihood"].astype(np.float64) + log_p - log_q)
        return clean(np.concatenate(parts)).reshape(len(rows), samples)

    def likelihood(self, r: Index, k: Index, draw: Index) -> dict[str, NDArray[np.generic]]:
        """Run the likelihood on z_k of rows ``r``, with its own noise numbered ``draw``."""
        y = self._rows.y
        feeds: dict[str, NDArray[np.generic]] = {"z": self._z(r, k)}
        if y is not None:
            feeds["y"] = y[r]
        return self._program.call("likelihood", feeds, keys=self._rows.keys[r], seed=self._seed, draw=draw)


class _Gaussian(_Weighted):
    """q is the Gaussian of the graph ``posterior``, p the standard normal or a mixture."""

    def __init__(self, program: LatentProgram, rows: Rows, seed: int) -> None:
        super().__init__(program, rows, seed)
        answer = program.call("posterior", self._feeds)
        if "log_scale" not in answer:
            raise program._missing(Verb.LOG_PROB)
        self._mean = answer["mean"].astype(np.float64)
        self._log_scale = answer["log_scale"].astype(np.float64)

    def _z(self, r: Index, k: Index) -> Floats:
        return self._moved(r, self._eps(r, k))

    def _weighted(self, r: Index, k: Index) -> tuple[Floats, Floats, Floats]:
        eps = self._eps(r, k)
        z = self._moved(r, eps)
        log_q: Floats = -(0.5 * (np.square(eps) + _LOG_2PI) + self._log_scale[r]).sum(axis=1)
        return z, self._log_prior(z), log_q

    def _eps(self, r: Index, k: Index) -> Floats:
        return noise.normal(self._seed, self._rows.keys[r], "posterior.z", (self._mean.shape[1],), k)

    def _moved(self, r: Index, eps: Floats) -> Floats:
        z: Floats = self._mean[r] + np.exp(self._log_scale[r]) * eps
        return z

    def _log_prior(self, z: Floats) -> Floats:
        if self._program._prior is not None:
            return self._program._prior.log_density(z)
        density: Floats = -0.5 * (np.square(z) + _LOG_2PI).sum(axis=1)
        return density


class _Inferred(_Weighted):
    """The graph ``infer`` draws from q and knows both densities."""

    def _z(self, r: Index, k: Index) -> NDArray[np.generic]:
        return self._infer(r, k)["z"]

    def _weighted(self, r: Index, k: Index) -> tuple[NDArray[np.generic], Floats, Floats]:
        answer = self._infer(r, k)
        return answer["z"], answer["log_ratio"].astype(np.float64), np.zeros(len(r))

    def _infer(self, r: Index, k: Index) -> dict[str, NDArray[np.generic]]:
        block = {name: array[r] for name, array in self._feeds.items()}
        return self._program.call("infer", block, keys=self._rows.keys[r], seed=self._seed, draw=k)


def _floating(array: NDArray[np.generic]) -> NDArray[np.floating]:
    return array.astype(np.float32 if array.dtype == np.float32 else np.float64, copy=False)
