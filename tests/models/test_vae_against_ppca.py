"""A VAE with a linear decoder is probabilistic PCA: its answers must be those of the Gaussian, through the real path.

The weights are set to PCA's solution, then exported, loaded by the engine and asked. Given complete rows the encoder is
the exact posterior, so that every bound is the exact density; given some cells it is a proposal that importance weights
correct (MIWAE), against closed forms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from torch import nn

from contracts.artifact import AnswerKind
from contracts.data import Column, ColumnType, DataProfile, DataSpec
from contracts.families import VAEConfig
from engine.kinds import Program, program
from engine.model import Model
from engine.options import SessionOptions
from models import build
from models.layers.distributions import SMALLEST_LOG_SCALE
from models.layers.distributions import Gaussian as Cells
from models.vae import VAE
from workers.export import export
from workers.publish import assemble

Floats = NDArray[np.float64]
CELLS, LATENTS = 6, 2
SPEC = DataSpec(modality="table", columns=tuple(Column(name=f"x{i}", type=ColumnType.REAL) for i in range(CELLS)))


@dataclass(frozen=True)
class Linear:
    """x = W z + mean + N(0, noise I), z ~ N(0, I), and rows ``x`` that it was fitted to."""

    x: Floats
    mean: Floats
    loadings: Floats
    noise: float

    @property
    def covariance(self) -> Floats:
        covariance: Floats = self.loadings @ self.loadings.T + self.noise * np.eye(CELLS)
        return covariance

    def log_prob(self, x: Floats) -> Floats:
        values: Floats = multivariate_normal(self.mean, self.covariance).logpdf(x)
        return values

    def conditional(self, x: Floats, hidden: NDArray[np.bool_]) -> tuple[Floats, Floats, float]:
        """Mean and covariance of the hidden cells given the shown ones of one row, and log p(shown)."""
        h, s = np.flatnonzero(hidden), np.flatnonzero(~hidden)
        whole = self.covariance
        gain = whole[np.ix_(h, s)] @ np.linalg.inv(whole[np.ix_(s, s)])
        mean = self.mean[h] + gain @ (x[s] - self.mean[s])
        shown = multivariate_normal(self.mean[s], whole[np.ix_(s, s)]).logpdf(x[s]) if len(s) else 0.0
        return mean, whole[np.ix_(h, h)] - gain @ whole[np.ix_(s, h)], float(shown)


@pytest.fixture(scope="module")
def linear() -> Linear:
    rng = np.random.default_rng(0)
    loadings = rng.standard_normal((LATENTS, CELLS)) * [[1.0], [0.6]]
    x = rng.standard_normal((3000, LATENTS)) @ loadings + rng.standard_normal((3000, CELLS)) + 10.0
    pca = PCA(LATENTS).fit(x)
    scale = np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    return Linear(x, pca.mean_, pca.components_.T * scale, float(pca.noise_variance_))


def solved(linear: Linear, *, widen: float = 0.0, **knobs: Any) -> VAE:
    """The VAE that is ``linear``; ``widen`` is added to the log-scale of its encoder."""
    x = linear.x
    profile = DataProfile(len(x), x.mean(0), x.std(0), x.min(0), x.max(0))
    config = VAEConfig(family="vae", network="mlp", latents=LATENTS, depth=0, **knobs)
    torch.manual_seed(0)
    family = build(config, SPEC, profile)
    assert isinstance(family, VAE)
    (decoder,), (encoder,), (cells,) = family.decoder.head, family.encoder.head, family.likelihood.groups
    assert isinstance(decoder, nn.Linear)
    assert isinstance(encoder, nn.Linear)
    assert isinstance(cells, Cells)
    centre, unit = cells.centre.numpy(), cells.scale.numpy()
    log_scale = np.log(math.sqrt(linear.noise) / unit) - SMALLEST_LOG_SCALE
    spread = np.linalg.inv(
        linear.loadings.T @ linear.loadings + linear.noise * np.eye(LATENTS)
    )  # diagonal, as W is PCA's
    back = spread @ linear.loadings.T
    with torch.no_grad():
        for layer in (decoder, encoder):
            layer.weight.zero_()
            layer.bias.zero_()
        decoder.weight[0::2] = torch.from_numpy(linear.loadings / unit[:, None])
        decoder.bias[0::2] = torch.from_numpy((linear.mean - centre) / unit)
        decoder.bias[1::2] = torch.from_numpy(SMALLEST_LOG_SCALE + np.log(np.expm1(log_scale)))  # inverse of its floor
        encoder.weight[:LATENTS, :CELLS] = torch.from_numpy(back * unit)
        encoder.bias[:LATENTS] = torch.from_numpy(back @ (centre - linear.mean))
        # With nothing shown the prior's scale, with everything the posterior's, in between in proportion.
        log_scales = 0.5 * np.log(linear.noise * np.diag(spread))
        encoder.weight[LATENTS:, CELLS:] = torch.from_numpy(np.tile(log_scales[:, None] / CELLS, CELLS))
        encoder.bias[LATENTS:] = widen
    return family


def serve(family: VAE, folder: Path) -> Program:
    family.eval()
    assemble(family, folder, graphs=export(family, folder), seed=0, steps=0, dataset="0" * 64)
    return program(Model.load(folder, SessionOptions(threads=1)))


@pytest.mark.parametrize("prior", ["normal", "flow"])  # an untrained flow is the standard normal
def test_with_the_exact_posterior_every_bound_is_the_exact_density(linear: Linear, tmp_path: Path, prior: str) -> None:
    answer = serve(solved(linear, prior=prior), tmp_path).log_prob(linear.x[:50], samples=2)
    assert answer.kind is AnswerKind.LOWER_BOUND
    np.testing.assert_allclose(answer.values, linear.log_prob(linear.x[:50]), atol=2e-3)
    assert answer.standard_error is not None
    assert answer.standard_error.max() < 1e-3


def test_the_bound_of_another_encoder_approaches_the_exact_density(linear: Linear, tmp_path: Path) -> None:
    served = serve(solved(linear, widen=0.7), tmp_path)
    exact = linear.log_prob(linear.x[:100]).mean()
    gaps = [float(exact - served.log_prob(linear.x[:100], samples=k).values.mean()) for k in (1, 10, 1000)]
    assert gaps[0] > gaps[1] > gaps[2] > -0.02
    assert gaps[0] > 0.5
    assert gaps[2] < 0.02


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_predictions_are_the_exact_conditionals(linear: Linear, tmp_path: Path, prior: str) -> None:
    served = serve(solved(linear, prior=prior), tmp_path)
    rng = np.random.default_rng(1)
    x = linear.x[:8]
    hidden = rng.random(x.shape) < 0.35
    hidden[0], hidden[1] = False, True
    hidden[0, 3] = True
    answer = served.predict(x, hidden, samples=3000, draws=1000, score_inputs=True)
    marginal = served.log_prob(x, hidden=hidden, samples=3000)
    assert answer.kind is AnswerKind.ESTIMATE
    assert answer.effective_sample_size is not None
    assert answer.standard_error is not None
    assert marginal.standard_error is not None
    for row, hide in enumerate(hidden):
        mean, covariance, shown = linear.conditional(x[row], hide)
        std, size = np.sqrt(np.diag(covariance)), float(answer.effective_sample_size[row])
        assert size > 800
        assert (np.abs(answer.mean[row, hide] - mean) < 5 * std / math.sqrt(size)).all()
        np.testing.assert_allclose(answer.std[row, hide], std, rtol=5 / math.sqrt(2 * size))
        drawn = answer.draws[row][:, hide].astype(np.float64)
        assert (np.abs(drawn.mean(0) - mean) < 6 * std / math.sqrt(min(size, 1000))).all()
        at = multivariate_normal(mean, covariance).logpdf(x[row, hide])
        assert abs(float(answer.log_prob[row]) - at) < 5 * float(answer.standard_error[row]) + 5e-3
        assert abs(float(marginal.values[row]) - shown) < 5 * float(marginal.standard_error[row]) + 5e-3


def test_a_mixture_prior_makes_the_mixture_of_gaussians(linear: Linear, tmp_path: Path) -> None:
    family = solved(linear, prior="mixture", prior_components=3, widen=0.3)
    assert family.pseudo is not None
    with torch.no_grad():
        family.pseudo.rows.copy_(torch.randn(3, CELLS, generator=torch.Generator().manual_seed(2)))
        mixture = family.prior()
    assert family.config.prior_components == 3
    means, scales = mixture.means.double().numpy(), mixture.log_scales.double().exp().numpy()  # type: ignore[attr-defined]
    parts = [
        multivariate_normal(
            linear.loadings @ m + linear.mean,
            linear.loadings @ np.diag(s**2) @ linear.loadings.T + linear.noise * np.eye(CELLS),
        )
        for m, s in zip(means, scales, strict=True)
    ]
    served = serve(family, tmp_path)
    drawn = served.sample(6000, seed=3).astype(np.float64)
    centre = np.mean([part.mean for part in parts], 0)
    covariance = np.mean([part.cov + np.outer(part.mean - centre, part.mean - centre) for part in parts], 0)
    spread = np.sqrt(np.diag(covariance))
    assert (np.abs(drawn.mean(0) - centre) < 5 * spread / math.sqrt(len(drawn))).all()
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.08 * float(spread.max()) ** 2)
    exact = np.logaddexp.reduce([part.logpdf(drawn[:100]) for part in parts], 0) - math.log(3)
    answer = served.log_prob(drawn[:100], samples=1000)
    assert answer.standard_error is not None
    assert (np.abs(answer.values - exact) < 5 * answer.standard_error + 5e-3).all()
