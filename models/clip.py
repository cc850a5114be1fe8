"""Contrastive pairs: pictures and their captions as vectors of one space.

    logits_ij = exp(t) ⟨f(picture_i), g(caption_j)⟩,      loss = ½ (CE by rows + CE by columns)

f is a residual network or a transformer over patches, g a causal transformer over the caption's tokens, read at its end
⊥; where asked, a linear map of the pixels and the mean of a vector per token are added. Both vectors have unit length.
The temperature t is learned, and kept below ln 100 or less. Rows with equal captions are no negatives of each other.
Captions are a column of the dataset, or labels by a template.

A picture is recognised by the softmax of its logits over any captions that are asked ("zero-shot").

A. Radford et al., "Learning transferable visual models from natural language supervision", 2021, arXiv:2103.00020;
A. Dosovitskiy et al., "An image is worth 16 × 16 words", 2021, arXiv:2010.11929 (patches).

Shapes: ``x`` ``(B, H, W, C)`` uint8, ``tokens`` int64 ``(B, C)``, filled up with ⊥; vectors ``(B, L)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.artifact import Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.families import CLIPConfig, FamilyConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny
from models.layers.captions import CaptionTokens, TextEncoder
from models.layers.contrast import pair_losses
from models.layers.networks import Encoder, as_image
from models.layers.preprocessing import Standardise
from models.layers.transformer import Transformer
from models.layers.views import UNIFORMS, Recipe, views

FIRST_SCALE = 1 / 0.07
BATCH_ROWS = 256


class CLIP(Family[CLIPConfig]):
    """See the module's docstring."""

    kind = Kind.EMBEDDING

    def __init__(
        self,
        config: CLIPConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        self.captions = CaptionTokens(spec, config.template, config.tokens, config.vocabulary, config.context)
        vit = config.image_network == "vit"
        self.config = config = config.model_copy(
            update={
                "width": config.width or (64 if vit else 16),
                "depth": config.depth or (3 if vit else 1),
                "context": self.captions.context,
                "batch_size": config.batch_size or min(BATCH_ROWS, max(16, profile.rows // 8)),
            }
        )
        assert config.width is not None
        assert config.depth is not None
        self.pictures: nn.Module
        if vit:
            self.pictures = PatchTransformer(spec, profile, config)
        else:
            self.pictures = Encoder(
                spec,
                profile,
                config.dimensions,
                convolutional=True,
                width=config.width,
                depth=config.depth,
                dropout=config.dropout,
            )
        self.texts = TextEncoder(
            self.captions.alphabet,
            config.dimensions,
            width=config.text_width,
            depth=config.text_depth,
            heads=config.heads,
            context=self.captions.context,
            dropout=config.dropout,
            bag=config.linear,
        )
        self.largest = math.log(config.largest_scale)
        self.standardise = Standardise(spec, profile) if config.linear else None
        self.linear = nn.Linear(spec.cells, config.dimensions) if config.linear else None
        self.log_scale = nn.Parameter(torch.tensor(min(math.log(FIRST_SCALE), self.largest)))
        amount = config.shift
        self.recipe = Recipe(
            smallest_crop=(1 - amount) ** 2, turn=30 * amount, flip=False, light=amount, colour=amount, grey=0, erase=0
        )

    @property
    def latent_dimensions(self) -> int:
        return self.config.dimensions

    def embed(self, x: Tensor) -> Tensor:
        vector = self.pictures(x)
        if self.linear is not None and self.standardise is not None:
            vector = vector + self.linear(self.standardise(x).flatten(1))
        return functional.normalize(vector, dim=-1)

    def embed_text(self, tokens: Tensor) -> Tensor:
        return functional.normalize(self.texts(tokens), dim=-1)

    @property
    def scale(self) -> Tensor:
        return torch.exp(torch.clamp(self.log_scale, max=self.largest))

    def stages(self) -> list[Stage]:
        return [Match(self)]

    def constants(self) -> dict[str, Tensor]:
        return {"logit_scale": self.scale.detach().reshape(1)}

    def graphs(self) -> dict[str, Graph]:
        x = TensorSpec(name="x", dtype="uint8", shape=("B", *self.spec.row_shape))
        tokens = TensorSpec(name="tokens", dtype="int64", shape=("B", self.captions.context))
        vector = TensorSpec(name="vector", dtype="float32", shape=("B", self.latent_dimensions))
        return {
            "embed": Graph(EmbedPicture(self), (x,), (vector,)),
            "embed_text": Graph(EmbedText(self), (tokens,), (vector,)),
        }

    def feed(self, name: str, rows: int) -> Tensor | None:
        return self.captions.example(rows) if name == "tokens" else None

    def verbs(self) -> dict[Verb, VerbSpec]:
        return dict(self.config.answers)

    def figures(self) -> dict[str, float]:
        return {"logit_scale": float(self.scale)}

    @classmethod
    def tiny(cls) -> list[Tiny]:
        label = Column(name="class", type=ColumnType.CATEGORICAL, categories=("a cat", "dog"), role=Role.LABEL)
        grey = DataSpec(modality="image", columns=(label,), image=ImageShape(height=9, width=8, levels=17))
        colour = DataSpec(modality="image", columns=(label,), image=ImageShape(height=8, width=8, channels=3))
        small = {"family": "clip", "dimensions": 6, "width": 8, "text_width": 8, "heads": 2, "batch_size": 32}
        cases: list[tuple[DataSpec, dict[str, Any]]] = [
            (grey, {"template": "a {label}", "linear": True}),
            (colour, {"image_network": "vit", "depth": 1, "context": 12}),
        ]
        return [Tiny(CLIPConfig.model_validate({**small, **knobs}), spec) for spec, knobs in cases]


class PatchTransformer(nn.Module):
    """Patches as tokens, every one of which sees all; the mean of their last states is the picture's."""

    def __init__(self, spec: DataSpec, profile: DataProfile, config: CLIPConfig) -> None:
        super().__init__()
        assert config.width is not None
        assert config.depth is not None
        height, width, channels = self.shape = spec.row_shape
        self.standardise, self.patch = Standardise(spec, profile), config.patch
        count = (height // config.patch) * (width // config.patch)
        self.inputs = nn.Linear(channels * config.patch**2, config.width)
        self.place = nn.Parameter(0.02 * torch.randn(count, config.width))
        self.body = Transformer(config.width, config.depth, config.heads, count, config.dropout, causal=False)
        self.outputs = nn.Linear(config.width, config.dimensions)

    def forward(self, x: Tensor) -> Tensor:
        image = as_image(self.standardise(x).flatten(1), self.shape)
        patches = functional.pixel_unshuffle(image, self.patch).flatten(2).transpose(1, 2)
        out: Tensor = self.outputs(self.body(self.inputs(patches) + self.place).mean(1))
        return out


class Match(LossStage):
    """Descends the symmetric cross-entropy."""

    def __init__(self, family: CLIP) -> None:
        self.module: CLIP = family

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        clip = self.module
        x = batch.x
        if clip.config.shift:
            x = self._moved(x, noise)
        losses = self._losses(x, batch, everywhere=True)
        return Terms(losses.mean(), {"cross_entropy": losses.mean(), "scale": clip.scale.detach()})

    def after_step(self) -> None:
        # A scale beyond its clamp would have no gradient that leads back.
        with torch.no_grad():
            self.module.log_scale.clamp_(max=self.module.largest)

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        return self._losses(batch.x, batch, everywhere=False)

    def _losses(self, x: Tensor, batch: Batch, *, everywhere: bool) -> Tensor:
        clip = self.module
        tokens = clip.captions.of(batch.tokens, batch.y)
        a, b = clip.embed(x), clip.embed_text(tokens)
        return pair_losses(a, b, clip.scale, clip.captions.digest(tokens), everywhere=everywhere)

    def _moved(self, x: Tensor, noise: Noise) -> Tensor:
        image = self.module.spec.image
        assert image is not None
        top = image.levels - 1
        picture = as_image(x.flatten(1).to(torch.float32) / top, image.shape)
        with torch.no_grad():
            return top * views(picture, noise.uniform(UNIFORMS), self.module.recipe).permute(0, 2, 3, 1)


class EmbedPicture(nn.Module):
    """Graph ``embed``."""

    def __init__(self, family: CLIP) -> None:
        super().__init__()
        self.family = family

    def forward(self, x: Tensor) -> Tensor:
        return self.family.embed(x)


class EmbedText(nn.Module):
    """Graph ``embed_text``."""

    def __init__(self, family: CLIP) -> None:
        super().__init__()
        self.family = family

    def forward(self, tokens: Tensor) -> Tensor:
        return self.family.embed_text(tokens)
