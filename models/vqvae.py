"""Vector-quantised autoencoder: rows as a few codes, and an autoregressive prior on them.

    c(x) = codes of the encoder's vectors,      log p(x) ≥ log p(x | c(x)) + log p(c(x))

The bound is what one c of the sum Σ_c p(x | c) p(c) contributes. Two stages: the codes (encoder, codebook, decoder) by
distortion + commitment, then the prior p(c | label) on the codes of the finished encoder. With two levels the coarse
codes come first in c, and the fine ones are conditioned on them.

Soft assignment is attention to the codebook and has no codes, unless it is annealed: its temperature falls until the
last fifth of the steps is hard.

Given only some cells, codes under shown cells alone are kept, the others are drawn from the prior, helped by what the
encoder makes of the row with the hidden cells at their mean, and weighed by p(shown cells | c): `engine.kinds.codes`.

References: A. van den Oord, O. Vinyals and K. Kavukcuoglu, "Neural discrete representation learning", 2017,
arXiv:1711.00937; A. Razavi, A. van den Oord and O. Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2",
2019, arXiv:1906.00446; quantisers: `models.layers.quantisers`.

Shapes: ``x`` ``(B, *row)``, ``shown`` bool like x, ``w`` ``(B, n, D)`` vectors of a level, ``codes`` int64 ``(B, N)``
of all levels, the top first, ``u`` ``(B, cells)``, ``y`` ``(B,)`` labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from contracts.artifact import AnswerKind, Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.families import FamilyConfig, VQVAEConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny, first_rows, refused, supported
from models.layers.code_autoencoder import CodeAutoencoder, code_constants, code_feed, code_graphs, soft_graphs
from models.layers.networks import default_batch_size, default_width, is_convolutional
from models.layers.quantisers import attend, perplexity, usage
from models.layers.segments import Segment, SegmentTransformer, prior_graphs

STARTING_ROWS, COUNTED_ROWS = 2048, 8192
"""Rows that codebooks begin from, and that the use of codes is counted on."""
COOLED = 0.8
"""Share of the steps after which an annealed assignment is hard."""
COLDEST = 1e-2
"""Temperature at that moment, as a share of the first."""
PREVIEWED_CODES = 64


class VQVAE(Family[VQVAEConfig]):
    """See the module's docstring."""

    kind = Kind.LATENT

    def __init__(
        self,
        config: VQVAEConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        convolutional = is_convolutional(config.network, spec)
        self.config = config = config.model_copy(
            update={
                "dimensions": len(config.fsq_levels) if config.quantiser == "fsq" else config.dimensions or 16,
                "sites": config.sites or max(4, min(16, spec.cells)),
                "width": config.width or default_width(spec, profile.rows, convolutional=convolutional),
                "depth": config.depth or (1 if convolutional else 2),
                "batch_size": config.batch_size or default_batch_size(profile.rows, convolutional=convolutional),
                "network": "convolutional" if convolutional else "mlp",
                "masking": (0.0 if convolutional else 0.5) if config.masking is None else config.masking,
            }
        )
        self.codes = CodeAutoencoder(config, spec, profile)
        label = spec.label if config.condition == "label" else None
        self.classes = len(label.categories or ()) if label is not None else 0
        self.prior = None
        if config.has_codes:
            self.prior = SegmentTransformer(
                [Segment(self.codes.quantiser(0).codes, n) for n in self.codes.sites],
                width=config.prior_width,
                depth=config.prior_depth,
                heads=config.prior_heads,
                dropout=config.prior_dropout,
                classes=self.classes,
            )

    @property
    def latent_dimensions(self) -> int:
        assert self.config.dimensions is not None
        return sum(self.codes.sites) * self.config.dimensions

    @property
    def latent_groups(self) -> tuple[int, ...] | None:
        assert self.config.dimensions is not None
        sites = self.codes.sites
        return tuple(n * self.config.dimensions for n in sites) if len(sites) > 1 else None

    def stages(self) -> list[Stage]:
        codes = FitCodes(self)
        if self.prior is None:
            return [codes]
        codes.share = 1 - self.config.prior_share
        return [codes, FitPrior(self, self.prior)]

    def constants(self) -> dict[str, Tensor]:
        return {} if self.prior is None else code_constants(self.codes)

    def graphs(self) -> dict[str, Graph]:
        if self.prior is None:
            return soft_graphs(self.codes)
        y = (TensorSpec(name="y", dtype="int64", shape=("B",)),) if self.classes else ()
        return code_graphs(self.codes) | prior_graphs(self.prior, y)

    def feed(self, name: str, rows: int) -> Tensor | None:
        return code_feed(self.codes, name, rows)

    def verbs(self) -> dict[Verb, VerbSpec]:
        verbs = {verb: supported(AnswerKind.EXACT) for verb in (Verb.ENCODE, Verb.DECODE, Verb.SIMILARITY)}
        if self.prior is None:
            why = "soft assignment has no codes to {}: train vqvae with annealed: true or assignment: hard, or a vae"
            return verbs | {
                Verb.SAMPLE: refused(why.format("sample")),
                Verb.LOG_PROB: refused(why.format("score")),
                Verb.PREDICT: refused(why.format("complete")),
            }
        return verbs | {
            Verb.SAMPLE: supported(AnswerKind.EXACT),
            Verb.LOG_PROB: supported(AnswerKind.LOWER_BOUND),
            Verb.PREDICT: supported(AnswerKind.ESTIMATE),
        }

    def figures(self) -> dict[str, float]:
        """Use of the codes over train rows, the top level first."""
        if self.prior is None:
            return {}
        found: dict[str, float] = {}
        for level, use in enumerate(self.codes.use):
            name = "" if len(self.codes.use) == 1 else ("_top", "_bottom")[level]
            share = use / use.sum().clamp(min=1)
            entropy = -(share * torch.log(share.clamp(min=1e-12))).sum()
            found[f"codebook_perplexity{name}"] = float(torch.exp(entropy))
            found[f"codebook_usage{name}"] = float((use > 0).to(torch.float64).mean())
        return found

    def preview_latents(self, n: int) -> dict[str, Tensor]:
        """The codebook of the finest level: rows that hold one code at every site, the most used first."""
        if self.prior is None or self.spec.image is None:
            return {}
        vectors = []
        order = torch.argsort(self.codes.use[-1], descending=True)[:PREVIEWED_CODES]
        chosen = order[torch.arange(n, device=order.device) % len(order)]
        for level, sites in enumerate(self.codes.sites):
            finest = level == len(self.codes.sites) - 1
            code = chosen if finest else torch.argmax(self.codes.use[level]).expand(n)
            with torch.no_grad():
                vectors.append(self.codes.quantiser(level).lookup(code)[:, None].expand(-1, sites, -1).flatten(1))
        return {"codebook": torch.cat(vectors, 1)}

    @classmethod
    def tiny(cls) -> list[Tiny]:
        real = [Column(name=f"x{i}", type=ColumnType.REAL) for i in range(4)]
        mixed = (
            *real[:2],
            Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
            Column(name="flag", type=ColumnType.BOOLEAN),
            Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
            Column(name="class", type=ColumnType.CATEGORICAL, categories=("a", "b"), role=Role.LABEL),
        )
        table = DataSpec(modality="table", columns=tuple(real))
        labelled = DataSpec(modality="table", columns=mixed)
        grey = DataSpec(modality="image", image=ImageShape(height=9, width=8, levels=17))
        colour = DataSpec(modality="image", image=ImageShape(height=8, width=8, channels=3, levels=8))
        small: dict[str, Any] = {
            "family": "vqvae",
            "codes": 8,
            "dimensions": 4,
            "width": 16,
            "batch_size": 32,
            "prior_width": 16,
            "prior_depth": 2,
            "prior_heads": 2,
        }
        grid = {"network": "convolutional", "width": 8}
        cases: list[tuple[DataSpec, dict[str, Any]]] = [
            (table, {"sites": 3}),
            (labelled, {"sites": 3, "condition": "label", "score": "dot"}),
            (grey, {**grid, "levels": 2}),
            (colour, {**grid, "quantiser": "fsq", "fsq_levels": (3, 2)}),
            (grey, {"assignment": "soft", "sites": 4}),
            (table, {"assignment": "soft", "annealed": True, "sites": 3}),
        ]
        return [Tiny(VQVAEConfig.model_validate({**small, **knobs}), spec) for spec, knobs in cases]


class FitCodes(LossStage):
    """Descends distortion + commitment."""

    name = "codes"

    def __init__(self, family: VQVAE) -> None:
        self.family = family
        self.module: CodeAutoencoder = family.codes

    def start(self, batches: Iterable[Batch]) -> None:
        net, batch = self.module, first_rows(batches, STARTING_ROWS)
        with torch.no_grad():
            shown = ~torch.isnan(batch.x)

            def begin(w: Tensor, level: int) -> Tensor:
                q = net.quantiser(level)
                unit = q.unit(w)
                q.start(unit)
                return q.lookup(q.choose(unit))

            net.net.encode(net.features(batch.x, shown), begin)

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        net, config = self.module, self.module.config
        shown = self._shown(batch, noise)
        hard = config.assignment == "hard" or (config.annealed and progress >= COOLED)
        temperature = config.softness * (COLDEST ** (progress / COOLED) if config.annealed else 1.0)
        committed: list[Tensor] = []
        named: dict[str, Tensor] = {}

        def quantise(w: Tensor, level: int) -> Tensor:
            q = net.quantiser(level)
            unit = q.unit(w)
            if not hard:
                return attend(unit, q.codebook(), temperature)
            codes = q.choose(unit)
            q.observe(unit, codes, noise.uniform(net.sites[level]), restart=bool(config.restart) and progress < COOLED)
            committed.append(torch.square(unit - q.lookup(codes).detach()).mean((1, 2)))
            suffix = "" if len(net.sites) == 1 else ("_top", "_bottom")[level]
            named[f"perplexity{suffix}"] = perplexity(codes, q.codes)
            named[f"usage{suffix}"] = usage(codes, q.codes)
            return q.straight_through(unit, codes)

        h = net.net.decode(net.net.encode(net.features(batch.x, shown), quantise))
        distortion = -net.likelihood.score(batch.x.flatten(1), shown.flatten(1), h)
        named["distortion"] = distortion.mean()
        objective = distortion.mean()
        if committed and config.quantiser == "codebook":
            # Means over entries times cells: distortion is a sum over cells.
            named["commitment"] = torch.stack(committed).mean()
            objective = objective + config.commitment * net.spec.cells * named["commitment"]
        return Terms(objective, named)

    def after_step(self) -> None:
        for level in range(len(self.module.sites)):
            self.module.quantiser(level).update()

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        """-log p(x | codes), or of the attended vectors."""
        net, shown = self.module, ~torch.isnan(batch.x)
        if net.config.has_codes:
            h = net.outputs(torch.cat(net.vectors(batch.x, shown)[1], 1))
        else:
            h = net.net.decode(net.soft(batch.x, shown))
        return -net.likelihood.score(batch.x.flatten(1), shown.flatten(1), h)

    def finish(self, batches: Iterable[Batch]) -> None:
        """Count the use of codes, and how far vectors of half-hidden rows lie from them."""
        net = self.module
        if not net.config.has_codes:
            return
        net.counted.zero_()
        squares, rows = torch.zeros(len(net.sites), dtype=torch.float64), 0
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for batch in batches:
                x = batch.x[: COUNTED_ROWS - rows]
                rows += len(x)
                there = ~torch.isnan(x)
                _, codes = net.vectors(x, there)
                level = torch.rand(len(x), *[1] * (x.ndim - 1), generator=generator)
                hidden = (torch.rand(x.shape, generator=generator) < level).to(x.device)
                masked, _ = net.vectors(x, there & ~hidden)
                for index, (code, w) in enumerate(zip(codes, masked, strict=True)):
                    q = net.quantiser(index)
                    net.counted[index, : q.codes] += torch.bincount(code.flatten(), minlength=q.codes)
                    squares[index] += torch.square(w - q.lookup(code)).mean((1, 2)).sum().cpu()
                if rows >= COUNTED_ROWS:
                    break
        net.spread.copy_((squares / max(1, rows)).clamp(min=1e-6))

    def _shown(self, batch: Batch, noise: Noise) -> Tensor:
        """The cells that are there, but for those that a share of the rows hides at random."""
        there, share = ~torch.isnan(batch.x), self.module.config.masking
        if not share:
            return there
        level, cells, masked = noise.uniform(1), noise.uniform(self.module.spec.cells), noise.uniform(1)
        return there & ((cells >= level) | (masked >= share)).reshape(batch.x.shape)


class FitPrior(LossStage):
    """Descends the nats of codes that the finished encoder chooses."""

    name = "prior"

    def __init__(self, family: VQVAE, prior: SegmentTransformer) -> None:
        self.family = family
        self.module: SegmentTransformer = prior
        self.share = family.config.prior_share
        self.learning_rate = family.config.prior_learning_rate

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        nats = self.held_out(batch, noise).mean()
        return Terms(nats, {"nats_of_codes": nats})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        codes = self.family.codes
        with torch.no_grad():
            chosen = torch.cat(codes.vectors(batch.x, ~torch.isnan(batch.x))[1], 1)
        log_p: Tensor = self.module(chosen, batch.y if self.family.classes else None)
        return -log_p.sum(-1)
