"""Generative adversarial network whose critic estimates a distance of distributions (Wasserstein GAN).

    W(p, q) = max over 1-Lipschitz f of E_p f(x) - E_q f(x),      q = law of G(z),  z ~ N(0, I)

The critic f climbs its gap, the generator G descends it, in turn; averaged weights of G serve. f is held to slopes of
about 1 by a penalty (‖∇f‖ - 1)² between rows of data and of G (`gradient_penalty`), or layer by layer by the largest
singular value of its weights (`spectral_norm`). On held-out rows the gap is an integral probability metric over what
this f can tell: an estimate from below of a multiple of W, comparable within one training, not between models.

The family gives up density: there is no p(x) and no code of a row. Categories of tables are relaxed for training and
drawn when served (`models.layers.relaxed_rows`).

M. Arjovsky, S. Chintala and L. Bottou, "Wasserstein GAN", 2017, arXiv:1701.07875; I. Gulrajani et al., "Improved
training of Wasserstein GANs", 2017, arXiv:1704.00028; T. Miyato et al., "Spectral normalization for generative
adversarial networks", 2018, arXiv:1802.05957.

Shapes: ``x`` ``(B, *row)``, ``eps`` ``(B, latents)`` normals, ``u`` ``(B, cells)``, ``v`` what the critic sees,
``(B, width)``, ``y`` ``(B,)`` labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from contracts.artifact import Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.families import FamilyConfig, GANConfig
from models.family import Batch, Family, Graph, Noise, PlayersStage, Stage, Terms, Tiny
from models.layers.networks import (
    Decoder,
    Encoder,
    Perceptron,
    default_batch_size,
    default_latents,
    default_width,
    is_convolutional,
)
from models.layers.relaxed_rows import RelaxedRows


class GAN(Family[GANConfig]):
    """See the module's docstring."""

    kind = Kind.IMPLICIT

    def __init__(
        self,
        config: GANConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        convolutional = is_convolutional(config.network, spec)
        latents = config.latents or max(8, default_latents(spec))
        width = config.width or default_width(spec, profile.rows, convolutional=convolutional)
        depth = config.depth or (1 if convolutional else 3)
        self.config = config.model_copy(
            update={
                "latents": latents,
                "width": width,
                "depth": depth,
                "batch_size": config.batch_size or default_batch_size(profile.rows, convolutional=convolutional),
                "network": "convolutional" if convolutional else "mlp",
                "critic_steps": config.critic_steps or (1 if convolutional else 3),
                # The values of Gulrajani et al. for images and for points in the plane.
                "penalty": config.penalty or (0.1 if spec.image is None else 10.0),
            }
        )
        label = spec.label if config.condition == "label" else None
        self.classes = len(label.categories or ()) if label is not None else 0
        self.surface = RelaxedRows(spec, profile)
        sizes = {"width": width, "depth": depth, "condition": self.classes}
        self.generator = Decoder(spec, latents, self.surface.width, convolutional=convolutional, **sizes)
        with torch.no_grad():
            last = self.generator.trunk[-2] if convolutional else self.generator.head[-1]
            # A decoder starts near the mean of its data; here that would be one row, whatever z is.
            last.weight.mul_(10.0)  # type: ignore[operator]
        self.critic = Critic(spec, profile, self.surface.width, convolutional=convolutional, **sizes)
        if config.regularisation == "spectral_norm":
            for layer in [m for m in self.critic.modules() if isinstance(m, nn.Linear | nn.Conv2d)]:
                spectral_norm(layer)

    def generate(self, eps: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the generator's numbers ``h`` ``(B, width)``."""
        h: Tensor = self.generator(eps, self.one_hot(y))
        return h

    def one_hot(self, y: Tensor | None) -> Tensor | None:
        if not self.classes:
            return None
        assert y is not None, "a conditional model needs labels"
        return functional.one_hot(y, self.classes).to(torch.float32)

    def stages(self) -> list[Stage]:
        return [Duel(self)]

    def graphs(self) -> dict[str, Graph]:
        assert self.config.latents is not None
        floating = "float32" if self.spec.image is not None else "float64"
        inputs = (
            TensorSpec(name="eps", dtype="float32", shape=("B", self.config.latents), noise="normal"),
            TensorSpec(name="temperature", dtype="float32", shape=("B",)),
            TensorSpec(name="u", dtype="float32", shape=("B", self.spec.cells), noise="uniform"),
            *((TensorSpec(name="y", dtype="int64", shape=("B",)),) if self.classes else ()),
        )
        draw = TensorSpec(name="draw", dtype=floating, shape=("B", *self.spec.row_shape))
        # The noise of categories is asked for where there are any: an exporter drops an input that nothing reads.
        if not self.surface.counts:
            inputs = tuple(tensor for tensor in inputs if tensor.name != "u")
        return {"generate": Graph(Generate(self), inputs, (draw,))}

    def verbs(self) -> dict[Verb, VerbSpec]:
        return dict(self.config.answers)

    @classmethod
    def tiny(cls) -> list[Tiny]:
        small = {"family": "gan", "latents": 3, "width": 16, "depth": 1, "batch_size": 32}
        real = [Column(name=f"x{i}", type=ColumnType.REAL) for i in range(3)]
        mixed = (
            *real,
            Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
            Column(name="flag", type=ColumnType.BOOLEAN),
            Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
            Column(name="class", type=ColumnType.CATEGORICAL, categories=("a", "b"), role=Role.LABEL),
        )
        grey = DataSpec(modality="image", image=ImageShape(height=9, width=8, levels=17))
        spectral = {**small, "regularisation": "spectral_norm"}
        return [
            Tiny(GANConfig.model_validate(small), DataSpec(modality="table", columns=tuple(real))),
            Tiny(
                GANConfig.model_validate({**spectral, "condition": "label"}), DataSpec(modality="table", columns=mixed)
            ),
            Tiny(GANConfig.model_validate({**small, "network": "convolutional", "width": 8}), grey),
        ]


class Critic(nn.Module):
    """``v`` (and a label) → one number per row.

    Each label has an output of its own, which is added to the common one: a label that came in with the row alone, one
    of ten numbers beside a thousand, would be learned last. This is the inner product of T. Miyato and M. Koyama,
    "cGANs with projection discriminator", 2018, arXiv:1802.05637.
    """

    def __init__(
        self,
        spec: DataSpec,
        profile: DataProfile,
        inputs: int,
        *,
        convolutional: bool,
        width: int,
        depth: int,
        condition: int,
    ) -> None:
        """``condition``: labels, 0 for none."""
        super().__init__()
        self.net: Encoder | Perceptron
        if convolutional:
            self.net = Encoder(spec, profile, 1 + condition, convolutional=True, width=width, depth=depth)
        else:
            self.net = Perceptron(inputs, 1 + condition, width, depth)

    def forward(self, v: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return ``(B,)``; ``condition`` ``(B, labels)`` one-hot."""
        out: Tensor = self.net.encode(v) if isinstance(self.net, Encoder) else self.net(v)
        if condition is None:
            return out[:, 0]
        return out[:, 0] + (out[:, 1:] * condition).sum(1)


class Duel(PlayersStage):
    """Critic and generator in turn. The held-out score is the critic's gap: it says how far the two are, and choosing
    weights by it would choose those of the least able critic."""

    chooses_weights = False
    score_name = "critic_gap"
    betas = (0.5, 0.9)

    def __init__(self, family: GAN) -> None:
        self.module: GAN = family

    def players(self) -> Mapping[str, tuple[nn.Module, int]]:
        gan = self.module
        assert gan.config.critic_steps is not None
        return {"critic": (gan.critic, gan.config.critic_steps), "generator": (gan.generator, 1)}

    def losses(self, player: str, batch: Batch, noise: Noise, progress: float) -> Terms:
        gan = self.module
        condition = gan.one_hot(batch.y)
        if player == "generator":
            # Gradients pass through the critic to the rows, and are not wanted for itself.
            gan.critic.requires_grad_(False)
            try:
                fooled = gan.critic(self._generated(batch, noise), condition).mean()
            finally:
                gan.critic.requires_grad_(True)
            return Terms(-fooled, {"critic_of_samples": fooled})
        v = gan.surface.data(batch.x, noise.uniform(gan.spec.cells))
        with torch.no_grad():
            drawn = self._generated(batch, noise)
        both = None if condition is None else torch.cat([condition, condition])
        of_data, of_samples = gan.critic(torch.cat([v, drawn]), both).chunk(2)
        gap = of_data.mean() - of_samples.mean()
        terms = {"critic_gap": gap}
        objective = -gap
        if gan.config.regularisation == "gradient_penalty":
            terms["slope_penalty"] = self._penalty(v, drawn, condition, noise)
            objective = objective + gan.config.penalty * terms["slope_penalty"]
        return Terms(objective, terms)

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        """f(x) - f(G(z)) of each row ``(B,)``; its mean is the gap."""
        gan = self.module
        condition = gan.one_hot(batch.y)
        v = gan.surface.data(batch.x, noise.uniform(gan.spec.cells))
        of_data: Tensor = gan.critic(v, condition) - gan.critic(self._generated(batch, noise), condition)
        return of_data

    def _generated(self, batch: Batch, noise: Noise) -> Tensor:
        gan = self.module
        assert gan.config.latents is not None
        h = gan.generate(noise.normal(gan.config.latents), batch.y)
        return gan.surface.relaxed(h, noise.uniform(gan.surface.categories))

    def _penalty(self, v: Tensor, drawn: Tensor, condition: Tensor | None, noise: Noise) -> Tensor:
        share = noise.uniform(1)
        between = (share * v + (1 - share) * drawn).requires_grad_(True)
        (slope,) = torch.autograd.grad(self.module.critic(between, condition).sum(), between, create_graph=True)
        penalty: Tensor = ((slope.norm(dim=1) - 1) ** 2).mean()
        return penalty


class Generate(nn.Module):
    """Graph ``generate``."""

    def __init__(self, family: GAN) -> None:
        super().__init__()
        self.family = family

    def forward(self, eps: Tensor, temperature: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        gan = self.family
        u, y = (a, b) if gan.surface.counts else (temperature[:, None], a)
        assert u is not None
        return gan.surface.draw(gan.generate(temperature[:, None] * eps, y), u)
