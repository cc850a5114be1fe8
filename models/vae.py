"""Variational autoencoder: p(x) = ∫ p(x | z) p(z) dz with an amortised posterior q(z | x).

    log p(x) ≥ E_q[log p(x | z)] - E_q[log q(z | x) - log p(z)] = -(distortion + rate)
    log p(x) ≥ E[log 1/K Σ_k p(x | z_k) p(z_k) / q(z_k | x)]          (importance weighted, tighter with K)

Training descends distortion + β · rate, with β grown from 0 over the first steps and, if asked for, a part of the
rate of each dimension free; or the importance-weighted bound, its log p(z) / q(z | x) weighted by β. The prior is
N(0, I), a mixture of the posteriors of learned pseudo-inputs, or a flow: beyond the first the rate is that of a draw.

Given only some cells, the posterior sees 0 (the mean) in place of the hidden ones. A share of the training rows is
masked at random so that it knows such rows, and their bound is that of the shown cells, which is what
importance-weighted prediction of the others needs. Cells that are missing (NaN) are hidden in the same way.

References: Kingma & Welling 2014, arXiv:1312.6114; Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519 (bound);
Higgins et al. 2017 (β); Kingma et al. 2016, arXiv:1606.04934 (free bits); Sohn, Lee & Yan 2015 (condition);
Mattei & Frellsen 2019, arXiv:1812.02633 (missing cells); Tomczak & Welling 2018, arXiv:1705.07120 (mixture prior).

Shapes: ``x`` ``(B, *row)``, ``shown`` bool like x, ``z`` ``(B, L)``, ``u`` ``(B, cells)``, ``y`` ``(B,)`` labels; while
training ``(B, K, …)`` with K draws per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.artifact import AnswerKind, Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.families import FamilyConfig, VAEConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny, first_rows, supported
from models.layers.gaussian import log_normal, rate
from models.layers.importance import importance_bound, importance_objective, score_draws
from models.layers.likelihoods import Likelihood
from models.layers.networks import (
    Decoder,
    Encoder,
    default_batch_size,
    default_latents,
    default_width,
    is_convolutional,
)
from models.layers.priors import FlowPrior, Prior, PseudoInputs, StandardNormal

SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE = -7.0, 7.0
DECODED_AT_ONCE = 4096
"""Draws of z that are decoded together while training; beyond, activations are computed again for the gradient."""


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
        depth = (1 if convolutional else 2) if config.depth is None else config.depth
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
        size = {"width": width, "depth": depth, "condition": self.classes}
        about: dict[str, Any] = {"convolutional": convolutional, "dropout": config.dropout, **size}
        # Where every cell is always shown, the mask would be columns of ones.
        masks = config.masking > 0 or any(column.missing for column in spec.features)
        self.encoder = Encoder(spec, profile, 2 * latents, sees_mask=masks, **about)
        self.decoder = Decoder(spec, latents, self.likelihood.width, **about)
        self.flow = FlowPrior(latents) if config.prior == "flow" else None
        self.pseudo = None
        if config.prior == "mixture":
            self.pseudo = PseudoInputs(config.prior_components, self.encoder.cells.width + self.classes, latents)

    @property
    def latent_dimensions(self) -> int:
        assert self.config.latents is not None
        return self.config.latents

    def posterior(self, x: Tensor, shown: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-scale of q(z | shown cells, y), ``(B, L)`` float32 each."""
        return _moments(self.encoder(x, shown, self._condition(y)))

    def prior(self) -> Prior:
        """Return p(z) of the weights as they are; a frozen model has its mixture at hand."""
        if self.flow is not None:
            return self.flow
        return StandardNormal() if self.pseudo is None else self.pseudo.mixture(self._components)

    def _components(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        v, condition = torch.split(rows, [self.encoder.cells.width, self.classes], 1)
        return _moments(self.encoder.encode(v, None, condition if self.classes else None))

    def start_prior(self, batch: Batch) -> None:
        """Make rows of the data the first pseudo-inputs."""
        if self.pseudo is not None:
            rows, condition = self.encoder.cells(batch.x, ~torch.isnan(batch.x)), self._condition(batch.y)
            self.pseudo.start(rows if condition is None else torch.cat([rows, condition], 1))

    def freeze(self) -> None:
        if self.pseudo is not None:
            self.pseudo.freeze(self._components)

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
        graphs = {
            "posterior": Graph(Posterior(self), (x, shown, *y), (mean, log_scale)),
            "likelihood": Graph(Decode(self), (z, u, *y), (expected, draw)),
            "score": Graph(Score(self), (x, shown, z, *y), (score,)),
        }
        if self.config.prior == "normal":
            return graphs
        eps = TensorSpec(name="eps", dtype="float32", shape=("B", latents), noise="normal")
        temperature = TensorSpec(name="temperature", dtype="float32", shape=("B", 1))
        log_ratio = TensorSpec(name="log_ratio", dtype="float32", shape=("B",))
        pick = TensorSpec(name="u", dtype="float32", shape=("B", 1), noise="uniform")
        return graphs | {
            "infer": Graph(Infer(self), (x, shown, eps, *y), (z, log_ratio)),
            "prior": Graph(Draw(self), (eps, temperature, *([pick] if self.pseudo else [])), (z,)),
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
        eps, u = torch.randn(n, self.latent_dimensions, generator=generator), torch.rand(n, 1, generator=generator)
        with torch.no_grad():
            return {"means": self.prior().draw(eps, u, torch.ones(n, 1))}

    @classmethod
    def tiny(cls) -> list[Tiny]:
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
        mixture = {"prior": "mixture", "prior_components": 8}
        convolutional = {"network": "convolutional", "width": 8}
        cases: list[tuple[DataSpec, dict[str, Any]]] = [
            (table, {}),
            (labelled, {"condition": "label"}),
            (grey, convolutional),
            (binary, {}),
            (table, {"objective": "iwae", "masking": 0}),
            (labelled, {"condition": "label", "objective": "iwae", **mixture}),
            (grey, {**convolutional, **mixture}),
            (binary, {"prior": "flow"}),
        ]
        small = {"family": "vae", "latents": 3, "width": 16, "depth": 1, "batch_size": 32}
        return [Tiny(VAEConfig.model_validate({**small, **knobs}), spec) for spec, knobs in cases]


class Fit(LossStage):
    """Descends distortion + β · rate, or the importance-weighted bound; held out, β is 1 after the warm-up and nothing
    is free."""

    def __init__(self, family: VAE) -> None:
        self.module: VAE = family

    def start(self, batches: Iterable[Batch]) -> None:
        if self.module.pseudo is not None:
            self.module.start_prior(first_rows(batches, self.module.config.prior_components))

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        config = self.module.config
        beta = config.beta * (min(1.0, progress / config.kl_warmup) if config.kl_warmup else 1.0)
        z, log_p, rates = self._terms(batch, self._shown(batch, noise), noise)
        total = rates.sum(-1)
        if config.objective == "iwae":
            objective = importance_objective(z, log_p - beta * total, beta)
        else:
            floor = config.free_bits * self.module.latent_dimensions / rates.shape[-1]
            charged = torch.clamp(rates, min=floor).sum(-1) if config.free_bits else total
            objective = (beta * charged - log_p).mean()
        return Terms(objective, {"distortion": -log_p.mean(), "rate": total.mean()})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        _, log_p, rates = self._terms(batch, ~torch.isnan(batch.x), noise)
        return -importance_bound(log_p - self.module.config.beta * rates.sum(-1))

    def _shown(self, batch: Batch, noise: Noise) -> Tensor:
        """The cells that are there, but for those that a share of the rows hides at random."""
        there = ~torch.isnan(batch.x)
        share = self.module.config.masking
        if not share:
            return there
        level, cells, masked = noise.uniform(1), noise.uniform(self.module.spec.cells), noise.uniform(1)
        return there & ((cells >= level) | (masked >= share)).reshape(batch.x.shape)

    def _terms(self, batch: Batch, shown: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """Draws z of q ``(B, K, L)``, log p(shown cells | z) ``(B, K)``, and the rates log q(z | x) - log p(z), nats:
        ``(B, K, 1)``, or where they have a closed form their means by dimension ``(B, 1, L)``."""
        vae, config = self.module, self.module.config
        weighted, draws = (True, config.importance_samples) if config.objective == "iwae" else (False, 1)
        mean, log_scale = (t.unsqueeze(1) for t in vae.posterior(batch.x, shown, batch.y))
        z = mean + torch.exp(log_scale) * noise.normal(draws, vae.latent_dimensions)
        prior = vae.prior()

        def score(z: Tensor) -> tuple[Tensor, Tensor]:
            repeats = z.shape[1]
            x, mask = (t.flatten(1).repeat_interleave(repeats, 0) for t in (batch.x, shown))
            y = None if batch.y is None else batch.y.repeat_interleave(repeats)
            flat = z.flatten(0, 1)
            log_p = vae.likelihood.score(x, mask, vae.outputs(flat, y))
            return log_p.reshape(-1, repeats), prior.log_prob(flat).reshape(-1, repeats)

        log_p, log_prior = score_draws(score, z, DECODED_AT_ONCE)
        if config.prior == "normal" and not weighted:
            return z, log_p, rate(mean, log_scale)
        if weighted:  # as the objective wants it: the gradient of q goes through z alone
            mean, log_scale = mean.detach(), log_scale.detach()
        return z, log_p, (log_normal(z, mean, log_scale).sum(-1) - log_prior).unsqueeze(-1)


class _Part(nn.Module):
    """What a graph is exported from."""

    def __init__(self, family: VAE) -> None:
        super().__init__()
        self.family = family


class Posterior(_Part):
    """Graph ``posterior``."""

    def forward(self, x: Tensor, shown: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.family.posterior(x, shown, y)


class Decode(_Part):
    """Graph ``likelihood``."""

    def forward(self, z: Tensor, u: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        likelihood, row = self.family.likelihood, self.family.spec.row_shape
        h = self.family.outputs(z, y)
        return likelihood.mean(h).reshape(-1, *row), likelihood.draw(h, u).reshape(-1, *row)


class Score(_Part):
    """Graph ``score``."""

    def forward(self, x: Tensor, shown: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.family.outputs(z, y)
        return self.family.likelihood.score(x.flatten(1), shown.flatten(1), h)


class Infer(_Part):
    """Graph ``infer``."""

    def forward(self, x: Tensor, shown: Tensor, eps: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.family.posterior(x, shown, y)
        z = mean + torch.exp(log_scale) * eps
        log_q = log_normal(eps, 0.0, torch.zeros_like(eps)).sum(-1) - log_scale.sum(-1)
        return z, (self.family.prior().log_prob(z) - log_q).to(torch.float32)


class Draw(_Part):
    """Graph ``prior``."""

    def forward(self, eps: Tensor, temperature: Tensor, u: Tensor | None = None) -> Tensor:
        return self.family.prior().draw(eps, u, temperature)


def _moments(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Split an encoder's outputs into mean and bounded log-scale, float32."""
    mean, log_scale = outputs.to(torch.float32).chunk(2, -1)
    return mean, torch.clamp(log_scale, SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE)
