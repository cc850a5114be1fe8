"""Variational autoencoder: p(x) = ∫ p(x | z) N(z; 0, I) dz with an amortised posterior q(z | x).

    log p(x) ≥ E_q[log p(x | z)] - KL(q(z | x) ‖ N(0, I)) = -(distortion + rate)
    log p(x) ≥ E[log 1/K Σ_k p(x | z_k) p(z_k) / q(z_k | x)]          (importance weighted, tighter with K)

Training descends distortion + β · rate, with β grown from 0 over the first steps and, if asked for, a part of the
rate of each dimension free. Given only some cells, the posterior sees 0 (the mean) in place of the hidden ones;
half of the training rows are masked at random so that it knows such rows, and their bound is that of the shown
cells, which is what importance-weighted prediction of the others needs.

References: Kingma & Welling 2014, arXiv:1312.6114; Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519 (bound);
Higgins et al. 2017 (β); Kingma et al. 2016, arXiv:1606.04934 (free bits); Sohn, Lee & Yan 2015 (condition);
Mattei & Frellsen 2019, arXiv:1812.02633 (missing cells).

Shapes: ``x`` ``(B, *row)``, ``shown`` bool like x, ``z`` ``(B, L)``, ``u`` ``(B, cells)``, ``y`` ``(B,)`` labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.artifact import AnswerKind, Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.families import FamilyConfig, VAEConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny, supported
from models.layers.gaussian import rate
from models.layers.likelihoods import Likelihood
from models.layers.networks import (
    Decoder,
    Encoder,
    default_batch_size,
    default_latents,
    default_width,
    is_convolutional,
)

SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE = -7.0, 7.0
MASKED_ROWS = 0.5
"""Share of the training rows whose cells are hidden at random."""


class VAE(Family[VAEConfig]):
    """See the module's docstring."""

    kind = Kind.LATENT

    def __init__(
        self,
        config: VAEConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        convolutional = is_convolutional(config.network, spec)
        latents = config.latents or default_latents(spec)
        width = config.width or default_width(spec, profile.rows, convolutional=convolutional)
        depth = config.depth or (1 if convolutional else 2)
        self.config = config.model_copy(
            update={
                "latents": latents,
                "width": width,
                "depth": depth,
                "batch_size": config.batch_size or default_batch_size(profile.rows, convolutional=convolutional),
                "network": "convolutional" if convolutional else "mlp",
            }
        )
        label = spec.label if config.condition == "label" else None
        self.classes = len(label.categories or ()) if label is not None else 0
        self.likelihood = Likelihood(spec, profile, config.likelihood)
        self.encoder = Encoder(
            spec,
            profile,
            2 * latents,
            convolutional=convolutional,
            width=width,
            depth=depth,
            dropout=config.dropout,
            condition=self.classes,
            sees_mask=True,
        )
        self.decoder = Decoder(
            spec,
            latents,
            self.likelihood.width,
            convolutional=convolutional,
            width=width,
            depth=depth,
            dropout=config.dropout,
            condition=self.classes,
        )

    @property
    def latent_dimensions(self) -> int:
        assert self.config.latents is not None
        return self.config.latents

    def posterior(self, x: Tensor, shown: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-scale of q(z | shown cells, y), ``(B, L)`` float32 each."""
        mean, log_scale = self.encoder(x, shown, self._condition(y)).to(torch.float32).chunk(2, -1)
        return mean, torch.clamp(log_scale, SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE)

    def outputs(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return what the likelihood is made of, ``(B, likelihood.width)``."""
        h: Tensor = self.decoder(z, self._condition(y))
        return h

    def _condition(self, y: Tensor | None) -> Tensor | None:
        if not self.classes:
            return None
        assert y is not None, "a conditional model needs labels"
        return functional.one_hot(y, self.classes).to(torch.float32)

    def stages(self) -> list[Stage]:
        return [Fit(self)]

    def graphs(self) -> dict[str, Graph]:
        row, cells, latents = self.spec.row_shape, self.spec.cells, self.latent_dimensions
        x = TensorSpec(name="x", dtype="uint8" if self.spec.image is not None else "float64", shape=("B", *row))
        shown = TensorSpec(name="shown", dtype="bool", shape=("B", *row))
        z = TensorSpec(name="z", dtype="float32", shape=("B", latents))
        floating: Literal["float32", "float64"] = "float32" if self.spec.image is not None else "float64"
        u = TensorSpec(name="u", dtype=floating, shape=("B", cells), noise="uniform")
        y = (TensorSpec(name="y", dtype="int64", shape=("B",)),) if self.classes else ()
        mean, log_scale = (TensorSpec(name=n, dtype="float32", shape=("B", latents)) for n in ("mean", "log_scale"))
        expected, draw = (TensorSpec(name=n, dtype=floating, shape=("B", *row)) for n in ("mean", "draw"))
        score = TensorSpec(name="log_likelihood", dtype=floating, shape=("B",))
        return {
            "posterior": Graph(Posterior(self), (x, shown, *y), (mean, log_scale)),
            "likelihood": Graph(Decode(self), (z, u, *y), (expected, draw)),
            "score": Graph(Score(self), (x, shown, z, *y), (score,)),
        }

    def verbs(self) -> dict[Verb, VerbSpec]:
        return {
            Verb.ENCODE: supported(),
            Verb.DECODE: supported(),
            Verb.SAMPLE: supported(AnswerKind.EXACT),
            Verb.LOG_PROB: supported(AnswerKind.LOWER_BOUND),
            Verb.PREDICT: supported(AnswerKind.ESTIMATE),
            Verb.SIMILARITY: supported(),
        }

    def preview_latents(self, n: int) -> dict[str, Tensor]:
        """Draws of the prior: decoded, they show pictures without the noise that p(x | z) gives each pixel."""
        if self.spec.image is None:
            return {}
        generator = torch.Generator().manual_seed(0)
        return {"means": torch.randn(n, self.latent_dimensions, generator=generator)}

    @classmethod
    def tiny(cls) -> list[Tiny]:
        small = {"family": "vae", "latents": 3, "width": 16, "depth": 1, "batch_size": 32}
        real = [Column(name=f"x{i}", type=ColumnType.REAL) for i in range(4)]
        mixed = [
            *real[:2],
            Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
            Column(name="flag", type=ColumnType.BOOLEAN),
            Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
            Column(name="day", type=ColumnType.DATE),
            Column(name="class", type=ColumnType.CATEGORICAL, categories=("a", "b"), role=Role.LABEL),
        ]
        table = DataSpec(modality="table", columns=tuple(real))
        labelled = DataSpec(modality="table", columns=tuple(mixed))
        grey = DataSpec(modality="image", image=ImageShape(height=9, width=8, levels=17))
        binary = DataSpec(modality="image", image=ImageShape(height=4, width=4, channels=3, levels=2))
        return [
            Tiny(VAEConfig.model_validate(small), table),
            Tiny(VAEConfig.model_validate({**small, "condition": "label"}), labelled),
            Tiny(VAEConfig.model_validate({**small, "network": "convolutional", "width": 8}), grey),
            Tiny(VAEConfig.model_validate(small), binary),
        ]


class Fit(LossStage):
    """Descends distortion + β · rate; held out, β is 1 after the warm-up and nothing is free."""

    def __init__(self, family: VAE) -> None:
        self.module: VAE = family

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        config = self.module.config
        shape = batch.x.shape[1:]
        eps = noise.normal(self.module.latent_dimensions)
        level, cells, masked = noise.uniform(1), noise.uniform(self.module.spec.cells), noise.uniform(1)
        shown = ((cells >= level) | (masked >= MASKED_ROWS)).reshape(-1, *shape)
        distortion, rates = self._terms(batch, shown, eps)
        total = rates.sum(-1)
        charged = torch.clamp(rates, min=config.free_bits).sum(-1) if config.free_bits else total
        beta = config.beta * (min(1.0, progress / config.kl_warmup) if config.kl_warmup else 1.0)
        objective = (distortion + beta * charged).mean()
        return Terms(objective, {"distortion": distortion.mean(), "rate": total.mean()})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        eps = noise.normal(self.module.latent_dimensions)
        distortion, rates = self._terms(batch, torch.ones_like(batch.x, dtype=torch.bool), eps)
        return distortion + self.module.config.beta * rates.sum(-1)

    def _terms(self, batch: Batch, shown: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Distortion ``(B,)`` and rate per latent dimension ``(B, L)``, nats."""
        vae = self.module
        mean, log_scale = vae.posterior(batch.x, shown, batch.y)
        h = vae.outputs(mean + torch.exp(log_scale) * eps, batch.y)
        score = vae.likelihood.score(batch.x.flatten(1), shown.flatten(1), h)
        return -score, rate(mean, log_scale)


class Posterior(nn.Module):
    """Graph ``posterior``."""

    def __init__(self, family: VAE) -> None:
        super().__init__()
        self.family = family

    def forward(self, x: Tensor, shown: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.family.posterior(x, shown, y)


class Decode(nn.Module):
    """Graph ``likelihood``."""

    def __init__(self, family: VAE) -> None:
        super().__init__()
        self.family = family

    def forward(self, z: Tensor, u: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        likelihood, row = self.family.likelihood, self.family.spec.row_shape
        h = self.family.outputs(z, y)
        return likelihood.mean(h).reshape(-1, *row), likelihood.draw(h, u).reshape(-1, *row)


class Score(nn.Module):
    """Graph ``score``."""

    def __init__(self, family: VAE) -> None:
        super().__init__()
        self.family = family

    def forward(self, x: Tensor, shown: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.family.outputs(z, y)
        return self.family.likelihood.score(x.flatten(1), shown.flatten(1), h)
