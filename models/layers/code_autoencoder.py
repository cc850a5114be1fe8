"""An autoencoder whose vectors are quantised, and the graphs that it is asked by.

Encoder, a quantiser for each level of sites, decoder and likelihood: what a family of codes trains first, and what a
family that draws such codes builds on.

Shapes: ``x`` ``(B, *row)``, ``shown`` bool like x, ``w`` ``(B, n, D)`` vectors of a level, ``codes`` int64 ``(B, N)``
of all levels, the top first, ``u`` ``(B, cells)``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from contracts.artifact import TensorSpec
from contracts.data import DataProfile, DataSpec
from contracts.families import VQVAEConfig
from models.family import Graph
from models.layers.code_networks import Features, Flat, Grid
from models.layers.likelihoods import Likelihood
from models.layers.quantisers import FSQ, AttentionCodebook, Codebook, Quantiser, attend, scores


class CodeAutoencoder(nn.Module):
    """Encoder, quantisers of the levels and decoder."""

    def __init__(self, config: VQVAEConfig, spec: DataSpec, profile: DataProfile) -> None:
        super().__init__()
        assert config.dimensions is not None
        assert config.sites is not None
        self.config, self.spec = config, spec
        self.likelihood = Likelihood(spec, profile, config.likelihood)
        masks = bool(config.masking) or any(column.missing for column in spec.features)
        self.features = Features(spec, profile, sees_mask=masks)
        size: dict[str, Any] = {"width": config.width or 0, "depth": config.depth or 0, "dimensions": config.dimensions}
        self.net: Grid | Flat
        if config.network == "convolutional":
            about: dict[str, Any] = {"levels": config.levels, "sees_mask": masks, "dropout": config.dropout}
            self.net = Grid(spec, self.likelihood.width, **size, **about)
            self.blocks = self.net.blocks()
        else:
            inputs, outputs = self.features.width, self.likelihood.width
            self.net = Flat(inputs, outputs, sites=config.sites, dropout=config.dropout, **size)
            self.blocks = []
        self.sites, self.dimensions = self.net.sites, config.dimensions
        self.quantisers = nn.ModuleList(_quantiser(config) for _ in self.sites)
        self.register_buffer("counted", torch.zeros(len(self.sites), self.quantiser(0).codes))
        # Mean square per entry between a masked row's vectors and the codes of the whole row.
        self.register_buffer("spread", torch.ones(len(self.sites)))

    counted: Tensor
    spread: Tensor

    @property
    def count(self) -> int:
        """Sites of all levels."""
        return sum(self.sites)

    @property
    def use(self) -> list[Tensor]:
        """How often each code was chosen, level by level."""
        return list(self.counted)

    def vectors(self, x: Tensor, shown: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What the encoder compares with codes, and the codes, of each level."""
        found: list[Tensor] = []
        codes: list[Tensor] = []

        def hard(w: Tensor, level: int) -> Tensor:
            q = self.quantiser(level)
            found.append(q.unit(w))
            codes.append(q.choose(found[-1]))
            return q.lookup(codes[-1])

        self.net.encode(self.features(x, shown), hard)
        return found, codes

    def quantiser(self, level: int) -> Quantiser:
        quantiser = self.quantisers[level]
        assert isinstance(quantiser, Quantiser)
        return quantiser

    def outputs(self, codes: Tensor) -> Tensor:
        """What the likelihood is made of, of ``codes`` ``(B, N)``."""
        parts = torch.split(codes, list(self.sites), 1)
        return self.net.decode([self.quantiser(level).lookup(part) for level, part in enumerate(parts)])

    def soft(self, x: Tensor, shown: Tensor) -> list[Tensor]:
        """Attention to the codebooks, of each level."""

        def mix(w: Tensor, level: int) -> Tensor:
            q = self.quantiser(level)
            return attend(q.unit(w), q.codebook(), self.config.softness)

        return self.net.encode(self.features(x, shown), mix)


def _quantiser(config: VQVAEConfig) -> Quantiser:
    assert config.dimensions is not None
    if config.quantiser == "fsq":
        return FSQ(config.fsq_levels)
    if config.assignment == "soft":
        return AttentionCodebook(config.codes, config.dimensions, score=config.score)
    return Codebook(config.codes, config.dimensions, score=config.score, decay=config.decay, least_use=config.restart)


class _Part(nn.Module):
    """What a graph is exported from."""

    def __init__(self, codes: CodeAutoencoder) -> None:
        super().__init__()
        self.codes = codes

    def rows(self, h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        likelihood, row = self.codes.likelihood, self.codes.spec.row_shape
        return likelihood.mean(h).reshape(-1, *row), likelihood.draw(h, u).reshape(-1, *row)


class Choose(_Part):
    """Graph ``codes``; ``guide`` is log q(code | shown cells) up to a constant."""

    def forward(self, x: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        net = self.codes
        found, codes = net.vectors(x, shown)
        guide = [scores(w, net.quantiser(level).codebook()) / (2 * net.spread[level]) for level, w in enumerate(found)]
        return torch.cat(codes, 1), torch.cat(guide, 1)


class Decode(_Part):
    """Graph ``likelihood`` of codes."""

    def forward(self, codes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.rows(self.codes.outputs(codes), u)


class Score(_Part):
    """Graph ``score`` of codes."""

    def forward(self, x: Tensor, shown: Tensor, codes: Tensor) -> Tensor:
        net = self.codes
        return net.likelihood.score(x.flatten(1), shown.flatten(1), net.outputs(codes))


class Attend(_Part):
    """Graph ``posterior`` of soft assignment."""

    def forward(self, x: Tensor, shown: Tensor) -> Tensor:
        return torch.cat([z.flatten(1) for z in self.codes.soft(x, shown)], 1)


class DecodeVectors(_Part):
    """Graph ``likelihood`` of soft assignment: of vectors as they are."""

    def forward(self, z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        net = self.codes
        parts = torch.split(z.reshape(-1, sum(net.sites), net.dimensions), list(net.sites), 1)
        return self.rows(net.net.decode(parts), u)


def code_graphs(codes: CodeAutoencoder) -> dict[str, Graph]:
    """The graphs ``codes``, ``likelihood`` and ``score``."""
    x, shown, u, expected, draw, floating = _tensors(codes.spec)
    chosen = TensorSpec(name="codes", dtype="int64", shape=("B", codes.count))
    guide = TensorSpec(name="guide", dtype="float32", shape=("B", codes.count, codes.quantiser(0).codes))
    likely = TensorSpec(name="log_likelihood", dtype=floating, shape=("B",))
    return {
        "codes": Graph(Choose(codes), (x, shown), (chosen, guide)),
        "likelihood": Graph(Decode(codes), (chosen, u), (expected, draw)),
        "score": Graph(Score(codes), (x, shown, chosen), (likely,)),
    }


def soft_graphs(codes: CodeAutoencoder) -> dict[str, Graph]:
    """The graphs ``posterior`` and ``likelihood`` of soft assignment."""
    x, shown, u, expected, draw, _ = _tensors(codes.spec)
    length = codes.count * codes.dimensions
    vector, z = (TensorSpec(name=name, dtype="float32", shape=("B", length)) for name in ("mean", "z"))
    return {
        "posterior": Graph(Attend(codes), (x, shown), (vector,)),
        "likelihood": Graph(DecodeVectors(codes), (z, u), (expected, draw)),
    }


def code_constants(codes: CodeAutoencoder) -> dict[str, Tensor]:
    """The constants ``codebook`` and ``blocks``."""
    books = torch.stack([codes.quantiser(level).codebook() for level in range(len(codes.sites))])
    blocks = torch.tensor(codes.blocks, dtype=torch.float64).reshape(-1, 3)
    return {"codebook": books.to(torch.float64), "blocks": blocks}


def code_feed(codes: CodeAutoencoder, name: str, rows: int) -> Tensor | None:
    """Codes, a code and a site for each of some rows, to compare graphs on; None for another input."""
    sites, total = codes.count, codes.quantiser(0).codes
    row = torch.arange(rows)
    values = {
        "codes": (5 * row[:, None] + 3 * torch.arange(sites)) % total,
        "code": (5 * row) % total,
        "site": row % sites,
    }
    return values.get(name)


def _tensors(
    spec: DataSpec,
) -> tuple[TensorSpec, TensorSpec, TensorSpec, TensorSpec, TensorSpec, Literal["float32", "float64"]]:
    row, image = spec.row_shape, spec.image is not None
    floating: Literal["float32", "float64"] = "float32" if image else "float64"
    x = TensorSpec(name="x", dtype="uint8" if image else "float64", shape=("B", *row))
    shown = TensorSpec(name="shown", dtype="bool", shape=("B", *row))
    u = TensorSpec(name="u", dtype=floating, shape=("B", spec.cells), noise="uniform")
    expected, draw = (TensorSpec(name=name, dtype=floating, shape=("B", *row)) for name in ("mean", "draw"))
    return x, shown, u, expected, draw, floating
