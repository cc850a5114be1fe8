"""Contrastive learning of representations: two random views of a row are near, views of other rows are far.

    l_i = -log exp(s(a_i, b_i) / τ) / Σ_{k ≠ i} exp(s(a_i, k) / τ),      s = cosine of the projected vectors

k runs over the other views of the whole batch (NT-Xent). Views of pictures are crops, turns, flips and changes of light
and colour (`models.layers.views`); a view of a table's row has a share of its cells from other rows, and is contrasted
with the row itself (SCARF). The projection is dropped afterwards: a vector is what stands before it.

The family gives up density and samples: it is a representation.

T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A simple framework for contrastive learning of visual
representations", 2020, arXiv:2002.05709; D. Bahri, H. Jiang, Y. Tay and D. Metzler, "SCARF: self-supervised contrastive
learning using random feature corruption", 2022, arXiv:2106.15147.

Shapes: ``x`` ``(B, *row)``, vectors ``(B, L)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.artifact import Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from contracts.families import FamilyConfig, SimCLRConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny
from models.layers.contrast import view_losses
from models.layers.networks import Encoder, Perceptron, as_image, default_width, is_convolutional
from models.layers.preprocessing import Standardise
from models.layers.resnet import ResNet18
from models.layers.views import UNIFORMS, Recipe, views

BATCH_ROWS = 256
"""Negatives are what a batch has to offer."""


class SimCLR(Family[SimCLRConfig]):
    """See the module's docstring."""

    kind = Kind.EMBEDDING

    def __init__(
        self,
        config: SimCLRConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        network = config.network
        if network == "auto":
            network = "small" if is_convolutional("auto", spec) else "mlp"
        small = network == "small"
        width = config.width or (
            64 if network == "resnet18" else default_width(spec, profile.rows, convolutional=small)
        )
        dimensions = config.dimensions or (128 if spec.image is not None else 64)
        self.config = config.model_copy(
            update={
                "network": network,
                "width": width,
                "depth": config.depth or (1 if small else 2),
                "dimensions": 8 * width if network == "resnet18" else dimensions,
                "batch_size": config.batch_size or min(BATCH_ROWS, max(16, profile.rows // 8)),
            }
        )
        depth = self.config.depth or 1
        self.encoder: nn.Module
        if network == "resnet18":
            self.encoder = ResNetEncoder(spec, profile, width)
        else:
            self.encoder = Encoder(spec, profile, dimensions, convolutional=small, width=width, depth=depth)
        self.projection = Perceptron(self.latent_dimensions, config.projection, self.latent_dimensions, 1)
        self.recipe = Recipe(
            smallest_crop=config.smallest_crop,
            turn=config.turn,
            flip=config.flip,
            light=config.light,
            colour=config.colour,
            erase=config.erase,
        )

    @property
    def latent_dimensions(self) -> int:
        assert self.config.dimensions is not None
        return self.config.dimensions

    def pair(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Two views of each row, shaped as ``x``, floating."""
        if self.spec.image is None:
            chosen = noise.uniform(self.spec.cells) < self.config.corruption
            other = torch.floor(noise.uniform(self.spec.cells) * len(x)).to(torch.int64)
            return x, torch.where(chosen, torch.gather(x, 0, other), x)
        top = self.spec.image.levels - 1
        picture = as_image(x.flatten(1).to(torch.float32) / top, self.spec.row_shape)
        both = [views(picture, noise.uniform(UNIFORMS), self.recipe) for _ in range(2)]
        first, second = (top * view.permute(0, 2, 3, 1) for view in both)
        return first, second

    def project(self, x: Tensor) -> Tensor:
        """Vectors of unit length that are contrasted."""
        return functional.normalize(self.projection(self.encoder(x)), dim=-1)

    def stages(self) -> list[Stage]:
        return [Contrast(self)]

    def graphs(self) -> dict[str, Graph]:
        image = self.spec.image is not None
        x = TensorSpec(name="x", dtype="uint8" if image else "float64", shape=("B", *self.spec.row_shape))
        vector = TensorSpec(name="vector", dtype="float32", shape=("B", self.latent_dimensions))
        return {"embed": Graph(self.encoder, (x,), (vector,))}

    def verbs(self) -> dict[Verb, VerbSpec]:
        return dict(self.config.answers)

    @classmethod
    def tiny(cls) -> list[Tiny]:
        mixed = (
            Column(name="a", type=ColumnType.REAL),
            Column(name="b", type=ColumnType.REAL),
            Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
            Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
        )
        table = DataSpec(modality="table", columns=mixed)
        grey = DataSpec(modality="image", image=ImageShape(height=9, width=8, levels=17))
        colour = DataSpec(modality="image", image=ImageShape(height=8, width=8, channels=3))
        small = {"family": "simclr", "width": 8, "batch_size": 32, "projection": 8, "dimensions": 6}
        cases: list[tuple[DataSpec, dict[str, Any]]] = [
            (table, {}),
            (grey, {"network": "small"}),
            (colour, {"network": "resnet18", "width": 4}),
        ]
        return [Tiny(SimCLRConfig.model_validate({**small, **knobs}), spec) for spec, knobs in cases]


class ResNetEncoder(nn.Module):
    """Raw pictures → ``(B, 8 · width)``."""

    def __init__(self, spec: DataSpec, profile: DataProfile, width: int) -> None:
        super().__init__()
        self.shape = spec.row_shape
        self.standardise = Standardise(spec, profile)
        self.net = ResNet18(self.shape[2], width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(as_image(self.standardise(x).flatten(1), self.shape))
        return out


class Contrast(LossStage):
    """Descends NT-Xent."""

    def __init__(self, family: SimCLR) -> None:
        self.module: SimCLR = family

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        losses = self._losses(batch, noise, everywhere=True)
        return Terms(losses.mean(), {"nt_xent": losses.mean()})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        return self._losses(batch, noise, everywhere=False)

    def _losses(self, batch: Batch, noise: Noise, *, everywhere: bool) -> Tensor:
        family = self.module
        with torch.no_grad():
            first, second = family.pair(batch.x, noise)
        a, b = family.project(torch.cat([first, second])).chunk(2)
        return view_losses(a, b, family.config.temperature, everywhere=everywhere)
