"""Hierarchical variational autoencoder: z in groups, each given those above it, shared by prior and posterior.

    p(x, z) = p(x | z) ∏ p(z_i | z_<i),      q(z | x) = ∏ q(z_i | z_<i, x)
    log p(x) ≥ E_q[log p(x | z) - Σ_i KL(q(z_i | z_<i, x) ‖ p(z_i | z_<i))] = -(distortion + rate)

The posterior of a group is a difference to its prior (`models.layers.top_down`). Tables and small images have groups
of vectors; larger images a vector on top and planes of doubling resolution below. With ``prior="flow"`` the group on
top has couplings for a prior (`models.layers.priors`), in units of its normal one. Training descends distortion +
β · rate with β grown from 0; while it grows, the rates of groups may be weighed against each other, so that none
falls silent before it has learned to speak:

    γ_i ∝ E[KL_i] / size_i,  mean of γ = 1      (`kl_balancing`; NVAE, appendix A)

As in the flat model, the posterior sees which cells are hidden, and a share of the training rows are masked at random.

R. Child, "Very deep VAEs generalize autoregressive models and can outperform them on images", 2021, arXiv:2011.10650;
A. Vahdat and J. Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020, arXiv:2007.03898; C. K. Sønderby et
al., "Ladder variational autoencoders", 2016, arXiv:1602.02282; Burda et al. 2016, arXiv:1509.00519 (bound); Mattei &
Frellsen 2019, arXiv:1812.02633 (missing cells).

Shapes: ``x`` ``(B, *row)``, ``shown`` bool like x, ``z`` ``(B, L)`` the groups one after the other, the top first,
``eps`` ``(B, L)`` normals, ``u`` ``(B, cells)``, ``temperature`` ``(B, G)``, ``y`` ``(B,)`` labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.artifact import AnswerKind, Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.families import FamilyConfig, HierarchicalVAEConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny, supported
from models.layers.bottom_up import BottomUp, Output, default_groups, image_levels
from models.layers.gaussian import log_normal, rate
from models.layers.likelihoods import Likelihood
from models.layers.networks import default_batch_size, default_latents, default_width, is_convolutional
from models.layers.priors import FlowPrior, StandardNormal
from models.layers.top_down import Level, Step, TopDown


class HierarchicalVAE(Family[HierarchicalVAEConfig]):
    """See the module's docstring."""

    kind = Kind.LATENT

    def __init__(
        self,
        config: HierarchicalVAEConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        convolutional = is_convolutional(config.network, spec)
        width = config.width or default_width(spec, profile.rows, convolutional=convolutional)
        groups = config.groups or (default_groups(spec) if convolutional else 3)
        latents = config.latents or (4 if convolutional else default_latents(spec))
        self.config = config.model_copy(
            update={
                "groups": groups,
                "latents": latents,
                "width": width,
                "batch_size": config.batch_size or default_batch_size(profile.rows, convolutional=convolutional),
                "network": "convolutional" if convolutional else "mlp",
            }
        )
        label = spec.label if config.condition == "label" else None
        self.classes = len(label.categories or ()) if label is not None else 0
        # Networks of vectors alone fall silent (every rate 0) where their states are normalised.
        vectors = [Level(width, groups, latents, normalised=False)]
        levels = image_levels(spec, width, groups, latents) if convolutional else vectors
        self.likelihood = Likelihood(spec, profile, config.likelihood)
        self.encoder = BottomUp(spec, profile, levels, depth=1 if convolutional else 2, dropout=config.dropout)
        self.walk = TopDown(levels, self.classes, config.dropout)
        self.output = Output(spec, self.likelihood.width, levels[-1])
        self.top = FlowPrior(self.latent_groups[0]) if config.prior == "flow" else None

    @property
    def latent_dimensions(self) -> int:
        return sum(self.latent_groups)

    @property
    def latent_groups(self) -> tuple[int, ...]:
        return self.walk.sizes

    def by_group(self, z: Tensor) -> tuple[Tensor, ...]:
        """Split ``(B, L)`` into the groups."""
        return torch.split(z, list(self.latent_groups), 1)

    def infer(self, x: Tensor, shown: Tensor, eps: Tensor, y: Tensor | None = None) -> tuple[Tensor, list[Step]]:
        """Draw from q(z | shown cells, y): the last state and the steps; hidden cells of ``x`` may hold anything."""
        noise = self.by_group(eps)
        return self._walk(lambda i, mean, log_scale: mean + torch.exp(log_scale) * noise[i], eps, y, (x, shown))

    def prior(self, eps: Tensor, temperature: Tensor, y: Tensor | None = None) -> Tensor:
        """Draw z ``(B, L)`` from p(z | y), the deviation of each group times its temperature."""
        noise = self.by_group(eps)

        def pick(i: int, mean: Tensor, log_scale: Tensor) -> Tensor:
            v = temperature[:, i : i + 1] * noise[i]
            if i == 0 and self.top is not None:
                v = self.top.draw(noise[i], None, temperature[:, :1])
            drawn: Tensor = mean + torch.exp(log_scale) * v
            return drawn

        return joined(self._walk(pick, eps, y)[1])

    def outputs(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return what the likelihood is made of, ``(B, likelihood.width)``."""
        parts = self.by_group(z)
        h: Tensor = self.output(self._walk(lambda i, mean, log_scale: parts[i], z, y)[0])
        return h

    def gain(self, step: Step) -> Tensor:
        """log p(z) of the group on top ``(B,)`` beyond that of its normal prior, nats."""
        if self.top is None:
            return torch.zeros_like(step.z[:, 0])
        mean, log_scale = step.prior
        v = (step.z - mean) * torch.exp(-log_scale)
        return self.top.log_prob(v) - StandardNormal().log_prob(v)

    def _walk(
        self,
        pick: Callable[[int, Tensor, Tensor], Tensor],
        rows: Tensor,
        y: Tensor | None,
        seen: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, list[Step]]:
        condition = None
        if self.classes:
            assert y is not None, "a conditional model needs labels"
            condition = functional.one_hot(y, self.classes).to(torch.float32)
        h, steps = self.walk(pick, rows, None if seen is None else self.encoder(*seen), condition)
        return h, steps

    def stages(self) -> list[Stage]:
        return [Fit(self)]

    def graphs(self) -> dict[str, Graph]:
        row, cells, latents = self.spec.row_shape, self.spec.cells, self.latent_dimensions
        floating: Literal["float32", "float64"] = "float32" if self.spec.image is not None else "float64"
        x = TensorSpec(name="x", dtype="uint8" if self.spec.image is not None else "float64", shape=("B", *row))
        shown = TensorSpec(name="shown", dtype="bool", shape=("B", *row))
        z = TensorSpec(name="z", dtype="float32", shape=("B", latents))
        eps = TensorSpec(name="eps", dtype="float32", shape=("B", latents), noise="normal")
        u = TensorSpec(name="u", dtype=floating, shape=("B", cells), noise="uniform")
        temperature = TensorSpec(name="temperature", dtype="float32", shape=("B", len(self.latent_groups)))
        ratio = TensorSpec(name="log_ratio", dtype="float32", shape=("B",))
        score = TensorSpec(name="log_likelihood", dtype=floating, shape=("B",))
        mean, draw = (TensorSpec(name=name, dtype=floating, shape=("B", *row)) for name in ("mean", "draw"))
        y = (TensorSpec(name="y", dtype="int64", shape=("B",)),) if self.classes else ()
        return {
            "infer": Graph(Infer(self), (x, shown, eps, *y), (z, ratio)),
            "prior": Graph(Prior(self), (eps, temperature, *y), (z,)),
            "likelihood": Graph(Decode(self), (z, u, *y), (mean, draw)),
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
        """Draws of the prior, of the labels in turn: decoded, they show pictures without the noise that p(x | z) gives
        each pixel."""
        if self.spec.image is None:
            return {}
        device = self.walk.start.device
        eps = torch.randn(n, self.latent_dimensions, generator=torch.Generator().manual_seed(0)).to(device)
        y = torch.arange(n, device=device) % self.classes if self.classes else None
        with torch.no_grad():
            z = self.prior(eps, torch.ones(n, len(self.latent_groups), device=device), y)
        return {"means": z.cpu()}

    @classmethod
    def tiny(cls) -> list[Tiny]:
        small = {"family": "hierarchical_vae", "groups": 2, "latents": 2, "width": 16, "batch_size": 32}
        real = [Column(name=f"x{i}", type=ColumnType.REAL) for i in range(4)]
        mixed = [
            *real[:2],
            Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
            Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
            Column(name="class", type=ColumnType.CATEGORICAL, categories=("a", "b"), role=Role.LABEL),
        ]
        table = DataSpec(modality="table", columns=tuple(real))
        labelled = DataSpec(modality="table", columns=tuple(mixed))
        grey = DataSpec(modality="image", image=ImageShape(height=17, width=14, levels=17))
        binary = DataSpec(modality="image", image=ImageShape(height=4, width=4, channels=3, levels=2))
        return [
            Tiny(HierarchicalVAEConfig.model_validate({**small, "kl_balancing": True}), table),
            Tiny(HierarchicalVAEConfig.model_validate({**small, "condition": "label", "prior": "flow"}), labelled),
            Tiny(HierarchicalVAEConfig.model_validate({**small, "network": "convolutional", "width": 8}), grey),
            Tiny(HierarchicalVAEConfig.model_validate(small), binary),
        ]


def joined(steps: list[Step]) -> Tensor:
    """The latents of all groups, ``(B, L)``."""
    return torch.cat([step.z for step in steps], 1)


class Fit(LossStage):
    """Descends distortion + β · rate per cell, so that the thresholds of a gradient's norm mean the same for rows of
    any size; held out, β is 1 and nothing is free, in nats per row."""

    def __init__(self, family: HierarchicalVAE) -> None:
        self.module: HierarchicalVAE = family

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        config = self.module.config
        eps = noise.normal(self.module.latent_dimensions)
        level, cells, masked = noise.uniform(1), noise.uniform(self.module.spec.cells), noise.uniform(1)
        shown = ((cells >= level) | (masked >= config.masking)).reshape(batch.x.shape)
        distortion, rates = self._terms(batch, shown, eps)
        total = sum(group.sum(-1).mean() for group in rates)
        charged = [torch.clamp(group, min=config.free_bits) if config.free_bits else group for group in rates]
        each = torch.stack([group.sum(-1).mean() for group in charged])
        beta = min(1.0, progress / config.kl_warmup) if config.kl_warmup else 1.0
        if config.kl_balancing and beta < 1:
            each = each * self._balance(each.detach())
        assert isinstance(total, Tensor)
        objective = (distortion.mean() + beta * each.sum()) / self.module.spec.cells
        return Terms(objective, {"distortion": distortion.mean(), "rate": total})

    def _balance(self, rates: Tensor) -> Tensor:
        """Weights of the groups ``(G,)``: groups that say much for their size pay more, silent ones less."""
        sizes = torch.tensor(self.module.latent_groups, dtype=rates.dtype, device=rates.device)
        weights = (rates + 0.01) / sizes
        return weights / weights.mean()

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        eps = noise.normal(self.module.latent_dimensions)
        distortion, rates = self._terms(batch, torch.ones_like(batch.x, dtype=torch.bool), eps)
        return distortion + sum(group.sum(-1) for group in rates)

    def _terms(self, batch: Batch, shown: Tensor, eps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Distortion ``(B,)`` and rates of the groups ``(B, size)`` each, nats. Missing cells (NaN) are hidden."""
        vae, x = self.module, batch.x
        if x.is_floating_point():
            shown = shown & ~torch.isnan(x)
        h, steps = vae.infer(x, shown, eps, batch.y)
        score = vae.likelihood.score(x.flatten(1), shown.flatten(1), vae.output(h))
        rates = [_rate(step) for step in steps]
        if vae.top is not None:
            # KL(q ‖ normal) is known; what the couplings add to log p is estimated from z, a share for each dimension.
            rates[0] = rates[0] - vae.gain(steps[0])[:, None] / rates[0].shape[1]
        return -score, rates


def _rate(step: Step) -> Tensor:
    """KL(q ‖ p) per latent dimension, ``(B, size)``."""
    assert step.posterior is not None
    (mean, log_scale), (q_mean, q_log_scale) = step.prior, step.posterior
    return rate((q_mean - mean) * torch.exp(-log_scale), q_log_scale - log_scale)


class Infer(nn.Module):
    """Graph ``infer``."""

    def __init__(self, family: HierarchicalVAE) -> None:
        super().__init__()
        self.family = family

    def forward(self, x: Tensor, shown: Tensor, eps: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _, steps = self.family.infer(x, shown, eps, y)
        ratios = []
        for step in steps:
            assert step.posterior is not None
            ratios.append((log_normal(step.z, *step.prior) - log_normal(step.z, *step.posterior)).sum(-1))
        return joined(steps), torch.stack([*ratios, self.family.gain(steps[0])]).sum(0)


class Prior(nn.Module):
    """Graph ``prior``."""

    def __init__(self, family: HierarchicalVAE) -> None:
        super().__init__()
        self.family = family

    def forward(self, eps: Tensor, temperature: Tensor, y: Tensor | None = None) -> Tensor:
        return self.family.prior(eps, temperature, y)


class Decode(nn.Module):
    """Graph ``likelihood``."""

    def __init__(self, family: HierarchicalVAE) -> None:
        super().__init__()
        self.family = family

    def forward(self, z: Tensor, u: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        likelihood, row = self.family.likelihood, self.family.spec.row_shape
        h = self.family.outputs(z, y)
        return likelihood.mean(h).reshape(-1, *row), likelihood.draw(h, u).reshape(-1, *row)


class Score(nn.Module):
    """Graph ``score``."""

    def __init__(self, family: HierarchicalVAE) -> None:
        super().__init__()
        self.family = family

    def forward(self, x: Tensor, shown: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.family.outputs(z, y)
        return self.family.likelihood.score(x.flatten(1), shown.flatten(1), h)
