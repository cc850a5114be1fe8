"""Autoregressive models: the probability of a row or text is a product of conditionals, so it is exact.

    log p(x) = Σ_t log p(x_o(t) | x_o(1) … x_o(t-1))

o is the cells' own order (columns; pixels by rows, channels inside a pixel), or any order where the model was trained
over many, so that any cells can be predicted from any others:

- transformer: cells or tokens as a sequence; in any order each also says which comes next (Pannatier, Courdier &
  Fleuret 2024, "σ-GPTs", arXiv:2404.09562). Orders have the shown cells first and then the hidden ones, ascending
  each, since these are what predictions ask for.
- made: a masked perceptron (Germain et al. 2015, arXiv:1502.03509); gated_pixelcnn: masked convolutions (van den Oord
  et al. 2016, arXiv:1606.05328). In any order they answer every hidden cell given the mask of shown ones, and
  n · mean over hidden cells of -log p(x_i | shown) is descended, the number of shown cells uniform on 0 … n - 1: the
  expected negative log-likelihood over orders (Uria, Murray & Larochelle 2014, arXiv:1310.1757; Hoogeboom et al. 2022,
  "Autoregressive diffusion models", arXiv:2110.02037).

Ordered cells are mixtures of (discretised) logistics (Salimans et al. 2017, arXiv:1701.05517), categories a softmax.
Cells without a value (NaN) are never scored; in a fixed order "no value" is an input of its own, in any order they are
never shown. Texts are windows of tokens with ⊥ at both ends of a document; their objective is nats per token.

Legend: ``B`` rows, ``D`` cells, ``T`` tokens of a window, ``y`` labels, ``u`` uniforms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

import torch
from torch import Tensor

from contracts.artifact import Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import FieldProblem, InvalidInput
from contracts.families import AutoregressiveConfig, FamilyConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny
from models.layers.cell_graphs import CachedStep, CellEmbed, CellNetwork, Cells, CellScore, CellStep, Regime
from models.layers.cell_transformer import CellTransformer
from models.layers.gated_convolution import CentreMasked, GatedPixelCNN, ShownConvolution
from models.layers.likelihoods import Likelihood
from models.layers.masked_linear import MADE, MaskedLinear
from models.layers.networks import default_batch_size
from models.layers.orders import random_shown, shown_first
from models.layers.token_network import TokenEmbed, TokenNetwork, TokenScore, TokenStep

BYTES = 256
CONTEXT = 128
"""Tokens that a text model sees, where the config does not say."""


class _Sizes(TypedDict):
    width: int
    depth: int
    dropout: float
    classes: int


class Autoregressive(Family[AutoregressiveConfig]):
    """See the module's docstring; ``tokens`` or ``cells`` holds the network."""

    kind = Kind.AUTOREGRESSIVE

    def __init__(
        self,
        config: AutoregressiveConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        self.config = config = _resolve(config, spec, profile)
        self.classes = len(spec.label.categories or ()) if config.condition == "label" and spec.label else 0
        sizes: _Sizes = {
            "width": config.width or 0,
            "depth": config.depth or 0,
            "dropout": config.dropout or 0.0,
            "classes": self.classes,
        }
        self.tokens: TokenNetwork | None = None
        self.cells: Cells | None = None
        if spec.modality == "text":
            self.tokens = self._token_network(sizes)
        else:
            likelihood = Likelihood(spec, profile, "mixture", config.components)
            self.cells = Cells(self._cell_network(likelihood, sizes), likelihood, self.regime)

    @property
    def regime(self) -> Regime:
        if not self.config.any_order:
            return Regime.FIXED
        return Regime.ORDERED if self.config.backbone == "transformer" else Regime.SHOWN

    def _token_network(self, sizes: _Sizes) -> TokenNetwork:
        config = self.config
        alphabet = (BYTES if config.tokens == "bytes" else config.vocabulary) + 1
        heads, context = config.heads or 0, config.context or 0
        return TokenNetwork(alphabet, heads=heads, context=context, any_order=config.any_order, **sizes)

    def _cell_network(self, likelihood: Likelihood, sizes: _Sizes) -> CellNetwork:
        config, data = self.config, (self.spec, self.profile, likelihood)
        if config.backbone == "transformer":
            return CellTransformer(*data, heads=config.heads or 0, any_order=config.any_order, **sizes)
        if config.backbone == "made":
            return MADE(*data, any_order=config.any_order, **sizes)
        return ShownConvolution(*data, **sizes) if config.any_order else GatedPixelCNN(*data, **sizes)

    @property
    def latent_dimensions(self) -> int:
        assert self.config.width is not None
        return self.config.width

    def stages(self) -> list[Stage]:
        return [FitCells(self, self.cells) if self.cells is not None else FitTokens(self, self.tokens)]

    def freeze(self) -> None:
        for module in self.modules():
            if isinstance(module, MaskedLinear | CentreMasked):
                module.fold()

    def constants(self) -> dict[str, Tensor]:
        if self.cells is None or self.regime is not Regime.FIXED:
            return {}
        return {"order": self.cells.raster.to(torch.float64)}

    def graphs(self) -> dict[str, Graph]:
        y = (_integers("y", "B"),) if self.classes else ()
        vector = _floats("vector", "B", self.latent_dimensions)
        if self.tokens is not None:
            return self._token_graphs(self.tokens, y, vector)
        assert self.cells is not None
        return self._cell_graphs(self.cells, y, vector)

    def _token_graphs(self, net: TokenNetwork, y: tuple[TensorSpec, ...], vector: TensorSpec) -> dict[str, Graph]:
        sequence = [_integers(name, "B", "T") for name in ("tokens", "targets", "places", "next_places")]
        one = [_integers(name, "B") for name in ("token", "position", "place", "next_place")]
        cache, new_cache = (_floats(name, "B", *net.body.cache_shape) for name in ("cache", "new_cache"))
        score, weight = (_floats(name, "B", "T") for name in ("log_prob", "weight"))
        used = 4 if net.any_order else 2
        logits = _floats("logits", "B", net.alphabet)
        return {
            "score": Graph(TokenScore(net), (*sequence[:used], *y), (score,)),
            "step": Graph(TokenStep(net), (*one[:2], cache, *one[2:used], *y), (logits, new_cache)),
            "embed": Graph(TokenEmbed(net), (sequence[0], weight, *y), (vector,)),
        }

    def _cell_graphs(self, cells: Cells, y: tuple[TensorSpec, ...], vector: TensorSpec) -> dict[str, Graph]:
        row, count = self.spec.row_shape, self.spec.cells
        floating: Literal["float32", "float64"] = "float32" if self.spec.image is not None else "float64"
        x = TensorSpec(name="x", dtype="uint8" if self.spec.image is not None else "float64", shape=("B", *row))
        given: tuple[TensorSpec, ...] = ()
        if self.regime is Regime.ORDERED:
            given = (_integers("order", "B", count),)
        elif self.regime is Regime.SHOWN:
            given = (TensorSpec(name="shown", dtype="bool", shape=("B", *row)),)
        answers = ("mean", "std", "draw")
        temperature = _floats("temperature", "B")
        if isinstance(cells.net, CellTransformer):
            value = TensorSpec(name="value", dtype=floating, shape=("B",))
            numbers = [_integers(name, "B") for name in ("cell", "next", "position")]
            cache, new_cache = (_floats(name, "B", *cells.net.body.cache_shape) for name in ("cache", "new_cache"))
            u = TensorSpec(name="u", dtype=floating, shape=("B", 1), noise="uniform")
            outputs = [TensorSpec(name=name, dtype=floating, shape=("B",)) for name in answers]
            step = Graph(CachedStep(cells), (value, *numbers, cache, u, temperature, *y), (*outputs, new_cache))
        else:
            u = TensorSpec(name="u", dtype=floating, shape=("B", count), noise="uniform")
            outputs = [TensorSpec(name=name, dtype=floating, shape=("B", count)) for name in answers]
            step = Graph(CellStep(cells), (x, *given, u, temperature, *y), tuple(outputs))
        score = TensorSpec(name="log_prob", dtype=floating, shape=("B", count))
        return {
            "score": Graph(CellScore(cells), (x, *given, *y), (score,)),
            "step": step,
            "embed": Graph(CellEmbed(cells), (x, *y), (vector,)),
        }

    def verbs(self) -> dict[Verb, VerbSpec]:
        return dict(AutoregressiveConfig.answers)

    @classmethod
    def tiny(cls) -> list[Tiny]:
        real = [Column(name=f"x{i}", type=ColumnType.REAL) for i in range(2)]
        mixed = [
            *real,
            Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
            Column(name="flag", type=ColumnType.BOOLEAN),
            Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
            Column(name="day", type=ColumnType.DATE),
        ]
        label = Column(name="class", type=ColumnType.CATEGORICAL, categories=("a", "b"), role=Role.LABEL)
        table = DataSpec(modality="table", columns=tuple(mixed))
        labelled = DataSpec(modality="table", columns=(*mixed, label))
        shapes = (
            ImageShape(height=3, width=4, levels=2),
            ImageShape(height=5, width=4, levels=17),
            ImageShape(height=4, width=3, channels=3, levels=8),
        )
        binary, grey, colour = (DataSpec(modality="image", image=shape) for shape in shapes)
        text = DataSpec(modality="text")

        def case(spec: DataSpec, rows: int = 256, **knobs: object) -> Tiny:
            small = {"width": 16, "depth": 2, "heads": 2, "batch_size": 32, "components": 3}
            return Tiny(AutoregressiveConfig.model_validate({"family": "autoregressive", **small, **knobs}), spec, rows)

        return [
            case(labelled, backbone="made", condition="label"),
            case(binary, backbone="made", any_order=True),
            case(table, backbone="transformer", any_order=True),
            case(grey, backbone="transformer"),
            case(grey, backbone="gated_pixelcnn"),
            case(colour, backbone="gated_pixelcnn"),
            case(colour, backbone="gated_pixelcnn", any_order=True),
            case(text, rows=64, context=12),
            case(text, rows=64, context=12, any_order=True),
        ]


class FitCells(LossStage):
    """Descends the negative log-likelihood of rows, in nats."""

    def __init__(self, family: Autoregressive, cells: Cells) -> None:
        self.module: Autoregressive = family
        self.cells = cells

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        nats = self._nats(batch, noise.uniform(self.module.spec.cells), noise.uniform(1)).mean()
        return Terms(nats, {"negative_log_likelihood": nats})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        """Models of given orders are scored in the cells' own; of masks, by one mask per row."""
        level = noise.uniform(1)
        if self.cells.regime is Regime.ORDERED:
            level = torch.zeros_like(level)
        return self._nats(batch, noise.uniform(self.module.spec.cells), level)

    def _nats(self, batch: Batch, u: Tensor, level: Tensor) -> Tensor:
        """``(B,)``; ``u`` ``(B, D)`` and ``level`` ``(B, 1)`` choose what is shown, where that is drawn."""
        flat = batch.x.flatten(1)
        present = ~torch.isnan(flat) if flat.is_floating_point() else torch.ones_like(flat, dtype=torch.bool)
        likelihood = self.cells.likelihood
        if self.cells.regime is Regime.FIXED:
            return -likelihood.score(flat, present, self.cells.outputs(batch.x, None, batch.y))
        shown, hidden_count = random_shown(u, level, present)
        if self.cells.regime is Regime.ORDERED:
            h = self.cells.outputs(batch.x, shown_first(shown, ~present), batch.y)
            return -likelihood.score(flat, present, h)
        h = self.cells.outputs(batch.x, shown.reshape(batch.x.shape), batch.y)
        nats = -likelihood.score(flat, present & ~shown, h)
        return nats * (present.sum(-1) / hidden_count[:, 0].clamp(min=1))


class FitTokens(LossStage):
    """Descends nats per token of windows ``x`` ``(B, T + 1)``."""

    def __init__(self, family: Autoregressive, net: TokenNetwork | None) -> None:
        assert net is not None
        self.module: Autoregressive = family
        self.net = net

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        length = batch.x.shape[1] - 1
        drawn = (noise.uniform(length), noise.uniform(4)) if self.net.any_order else None
        nats, there = self.net.window_losses(batch.x, batch.y, drawn)
        mean = nats.sum() / there.sum().clamp(min=1)
        return Terms(mean, {"nats_per_token": mean})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        """The mean over a row's tokens, in the text's own order."""
        nats, there = self.net.window_losses(batch.x, batch.y)
        return nats.sum(-1) / there.sum(-1).clamp(min=1)


def _integers(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="int64", shape=shape)


def _floats(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def _resolve(config: AutoregressiveConfig, spec: DataSpec, profile: DataProfile) -> AutoregressiveConfig:
    text = spec.modality == "text"
    backbone = config.backbone
    if backbone == "auto":
        backbone = "transformer" if text else "made"
    rows = profile.rows
    dropout, batch = 0.0, default_batch_size(rows, convolutional=backbone != "made")
    if text:
        width, depth, batch = 128, 4, 8
    elif backbone == "transformer":
        width, depth = 64, 3
    elif backbone == "made":
        # Wide rows have a weight for each pair of cells: on binary MNIST they overfit within a few epochs.
        wide = spec.cells >= 256
        width, depth = (700, 1) if wide else (256, 2)
        dropout = 0.2 if rows < 1000 or wide else 0.1 if rows < 10_000 else 0.0
    else:
        width, depth = 32, 6
    width = config.width or width
    heads = config.heads or next(n for n in (4, 2, 1) if width % n == 0)
    if text and (width // heads) % 2:
        raise InvalidInput(
            f"width {width} over {heads} heads leaves {width // heads} a head, and rotary positions turn pairs",
            errors=[FieldProblem(location="config.heads", message="give heads whose width is even")],
        )
    return config.model_copy(
        update={
            "backbone": backbone,
            "width": width,
            "depth": config.depth or depth,
            "heads": heads,
            "context": config.context or CONTEXT,
            "dropout": dropout if config.dropout is None else config.dropout,
            "batch_size": config.batch_size or batch,
        }
    )
