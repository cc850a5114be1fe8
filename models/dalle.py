"""Pictures after texts: a transformer over a caption and then the codes of its picture.

    log p(x | text) ≥ log p(x | c(x)) + log p(c(x) | text),      c(x) = codes of a trained vqvae, the parent

One sequence of text tokens, ⊥ until their places are full, and codes; the loss is nats of the codes plus a little of
those of the text. A share of the rows comes without text, so that drawing can go further the way of the text than the
model itself (classifier-free guidance, in `engine.kinds.prompted`). Another parent, a clip, ranks what is drawn.

The parents' weights are part of this model, and their graphs are exported with it.

A. Ramesh et al., "Zero-shot text-to-image generation", 2021, arXiv:2102.12092; J. Ho and T. Salimans, "Classifier-free
diffusion guidance", 2022, arXiv:2207.12598.

Shapes: ``x`` ``(B, H, W, C)`` uint8, ``tokens`` int64 ``(B, T)``, ``codes`` int64 ``(B, N)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contracts.artifact import AnswerKind, Kind, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput
from contracts.families import CLIPConfig, DALLEConfig, FamilyConfig, VQVAEConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny, supported
from models.layers.captions import CaptionTokens
from models.layers.code_autoencoder import CodeAutoencoder, code_constants, code_feed, code_graphs
from models.layers.networks import default_batch_size
from models.layers.segments import Segment, SegmentTransformer, prior_graphs


class DALLE(Family[DALLEConfig]):
    """See the module's docstring."""

    kind = Kind.AUTOREGRESSIVE

    def __init__(
        self,
        config: DALLEConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        codes = getattr(self.parents_by_role["codes"], "codes", None)
        if not isinstance(codes, CodeAutoencoder) or not codes.config.has_codes:
            raise InvalidInput("the parent `codes` has no codes of pictures")
        if codes.spec.image != spec.image:
            raise InvalidInput("the parent `codes` reads pictures of another shape")
        self.codes: CodeAutoencoder = codes
        # A module beside the graphs, so that its weights are stored with this model's.
        self.ranker: nn.Module | None = self.parents_by_role.get("ranker")
        self.captions = CaptionTokens(spec, config.template, config.tokens, config.vocabulary, config.context)
        self.config = config = config.model_copy(
            update={
                "context": self.captions.context,
                "batch_size": config.batch_size or default_batch_size(profile.rows, convolutional=True),
            }
        )
        self.prior = SegmentTransformer(
            [
                Segment(self.captions.alphabet, self.captions.context),
                *(Segment(self.codes.quantiser(0).codes, sites) for sites in self.codes.sites),
            ],
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            dropout=config.dropout,
        )

    @property
    def latent_dimensions(self) -> int:
        return self.codes.count * self.codes.dimensions

    @property
    def latent_groups(self) -> tuple[int, ...] | None:
        sites = self.codes.sites
        return tuple(n * self.codes.dimensions for n in sites) if len(sites) > 1 else None

    def stages(self) -> list[Stage]:
        return [Write(self)]

    def freeze(self) -> None:
        if isinstance(self.ranker, Family):
            self.ranker.freeze()

    def constants(self) -> dict[str, Tensor]:
        return code_constants(self.codes)

    def graphs(self) -> dict[str, Graph]:
        graphs = code_graphs(self.codes) | prior_graphs(self.prior, prompted=True)
        if isinstance(self.ranker, Family):
            ranking = self.ranker.graphs()
            graphs |= {"rank_image": ranking["embed"], "rank_text": ranking["embed_text"]}
        return graphs

    def feed(self, name: str, rows: int) -> Tensor | None:
        return self.captions.example(rows) if name == "tokens" else code_feed(self.codes, name, rows)

    def verbs(self) -> dict[Verb, VerbSpec]:
        verbs = {verb: supported(AnswerKind.EXACT) for verb in (Verb.ENCODE, Verb.DECODE, Verb.SAMPLE, Verb.SIMILARITY)}
        return {
            **verbs,
            Verb.LOG_PROB: supported(AnswerKind.LOWER_BOUND),
            Verb.PREDICT: supported(AnswerKind.ESTIMATE),
        }

    @classmethod
    def tiny(cls) -> list[Tiny]:
        label = Column(name="class", type=ColumnType.CATEGORICAL, categories=("a cat", "dog"), role=Role.LABEL)
        grey = DataSpec(modality="image", columns=(label,), image=ImageShape(height=9, width=8, levels=17))
        small: dict[str, Any] = {"width": 16, "batch_size": 32}
        codes = {**small, "family": "vqvae", "network": "convolutional", "codes": 8, "dimensions": 4, "prior_width": 8}
        parents = {"codes": Tiny(VQVAEConfig.model_validate({**codes, "width": 8}), grey)}
        ranker = {"family": "clip", "dimensions": 4, "width": 8, "text_width": 8, "heads": 2, "batch_size": 32}
        ranked = {**parents, "ranker": Tiny(CLIPConfig.model_validate(ranker), grey)}
        two = {"codes": Tiny(VQVAEConfig.model_validate({**codes, "width": 8, "levels": 2}), grey)}
        dalle = {**small, "family": "dalle", "codes": "codes", "depth": 1, "heads": 2}
        return [
            Tiny(DALLEConfig.model_validate({**dalle, "ranker": "ranker"}), grey, parents=ranked),
            Tiny(DALLEConfig.model_validate({**dalle, "context": 16, "template": "a {label}"}), grey, parents=two),
        ]


class Write(LossStage):
    """Descends nats of codes given texts."""

    def __init__(self, family: DALLE) -> None:
        self.family = family
        self.module: SegmentTransformer = family.prior

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        family = self.family
        tokens = family.captions.of(batch.tokens, batch.y)
        without = noise.uniform(1) < family.config.text_dropout
        text, codes = self._nats(batch.x, torch.where(without, family.captions.end, tokens))
        # What was dropped is no text to learn.
        text = torch.where(without[:, 0], 0.0, text)
        objective = codes.mean() + family.config.text_weight * text.mean()
        return Terms(objective, {"nats_of_codes": codes.mean(), "nats_of_text": text.mean()})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        """Nats of the codes given the text."""
        return self._nats(batch.x, self.family.captions.of(batch.tokens, batch.y))[1]

    def _nats(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of the texts, their first ⊥ included, and of the codes, ``(B,)`` each."""
        net, places = self.family.codes, self.family.captions.context
        with torch.no_grad():
            net.eval()
            codes = torch.cat(net.vectors(x, torch.ones_like(x, dtype=torch.bool))[1], 1)
        log_p = self.module(torch.cat([tokens, codes], 1))
        ends = (tokens == self.family.captions.end).to(torch.int64)
        written = (ends.cumsum(1) - ends) == 0
        text = torch.where(written, log_p[:, :places], 0.0)
        return -text.sum(-1), -log_p[:, places:].sum(-1)
