"""The layers of a coupling flow in their order, as a config says: what is between ``x`` and ``z`` at one scale.

    norm, order or LU map, coupling;   norm, …;   norm

With splines, rows of cells come first through a norm and a spline for each channel, since columns of tables are seldom
normal, and each coupling is an affine map and then a spline (docs/decisions/0004). A single channel leaves nothing to
couple with.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from contracts.data import DataSpec
from contracts.errors import InvalidInput
from contracts.families import FlowConfig
from models.layers.actnorm import ActNorm
from models.layers.bijection import Bijection
from models.layers.conditioners import ConvConditioner, GatedConditioner, MLPConditioner, ResidualConditioner
from models.layers.coupling import Coupling
from models.layers.elementwise import Affine, Composed, Elementwise, Marginal, Shift
from models.layers.linear_maps import LU, Diagonal, Permutation
from models.layers.logistic_mixture import MixtureCDF
from models.layers.multiscale import scales_of
from models.layers.splines import RationalQuadratic

MARGINAL_BINS = 16
"""Of the spline of a single channel."""
SPLINE_LOG_SCALE = 4.0
"""Bound of the log-scale of the affine map before a spline."""


def resolve(config: FlowConfig, spec: DataSpec, rows: int) -> FlowConfig:
    """Replace every None and ``auto`` by what suits the data; ``rows`` to train on."""
    image = spec.image
    can_scale = image is not None and scales_of(image.height, image.width) > 0
    network = config.network
    if network == "auto":
        large = image is not None and min(image.height, image.width) >= 12
        network = "multiscale" if large and can_scale else "mlp"
    elif network == "multiscale" and not can_scale:
        raise InvalidInput("multiscale needs images whose sides are even and at least 8 pixels; use network `mlp`")
    linear = config.linear
    if linear == "auto":
        linear = "lu" if config.coupling == "spline" else "permutation"
    fixed = {
        "network": network,
        "linear": linear,
        # Without discrete cells there is nothing to spread.
        "dequantisation": config.dequantisation if spec.discrete.any() else "uniform",
    }
    return config.model_copy(update={**_sizes(config, spec, rows, network == "multiscale"), **fixed})


def _sizes(config: FlowConfig, spec: DataSpec, rows: int, multiscale: bool) -> dict[str, Any]:
    wide = spec.cells > 16
    batch = 2 ** round(math.log2(min(512, max(32, rows / 10))))
    sizes: dict[str, Any]
    if multiscale:
        # 28 x 28 pixels: some 150 rows a second on one core. Coarser scales are as dear, with twice the channels.
        one = spec.image is not None and scales_of(spec.image.height, spec.image.width) == 1
        sizes = {"batch_size": min(batch, 64 if one else 32), "layers": 6 if one else 4, "width": 32}
    elif config.coupling in ("spline", "mixture_cdf"):
        # Their parameters are many for each row, so that more steps on fewer rows come to more.
        sizes = {"batch_size": min(batch, 256), "layers": 6, "width": 64 if rows < 5_000 else 128}
    else:
        sizes = {"batch_size": batch, "layers": 8 if wide else 6, "width": 128 if rows < 20_000 else 256}
    # With a few thousand rows a flow learns them by heart unless it is held back.
    sizes["dropout"] = 0.2 if rows < 10_000 and wide else 0.1 if rows < 10_000 else 0.0
    return {name: value for name, value in sizes.items() if getattr(config, name) is None}


def flow_layers(
    config: FlowConfig, channels: int, *, scale: int = 0, sides: tuple[int, int] | None = None, classes: int = 0
) -> list[Bijection]:
    """``config`` with its sizes resolved; ``sides`` of the positions where channels are an image's, whose conditioners
    widen with ``scale``; ``classes`` of the labels that conditioners see."""
    layers: list[Bijection] = []
    additive, kept = config.coupling == "additive", channels // 2
    if config.coupling == "spline" and (sides is None or not kept):
        layers += [ActNorm(channels), Marginal(channels, RationalQuadratic(MARGINAL_BINS, config.tail_bound))]
    for index in range(config.layers or 2) if kept else ():
        transform = _transform(config)
        outputs = (channels - kept) * transform.per_cell
        # Shuffles alternate with mirrors: each two layers move every channel, however few there are.
        seed = None if index % 2 else 1000 * scale + index
        if not additive:
            layers.append(ActNorm(channels))
        layers.append(LU(channels, seed) if config.linear == "lu" else Permutation(channels, seed))
        layers.append(Coupling(_conditioner(config, kept, outputs, scale, sides, classes), kept, transform))
    layers.append(Diagonal(channels) if additive and kept else ActNorm(channels))
    return layers


def _transform(config: FlowConfig) -> Elementwise:
    match config.coupling:
        case "additive":
            return Shift()
        case "affine":
            return Affine()
        case "spline":
            # An affine map brings a narrow conditional to where, and to the scale on which, the bins lie.
            return Composed(Affine(SPLINE_LOG_SCALE), RationalQuadratic(config.bins, config.tail_bound))
        case "mixture_cdf":
            return MixtureCDF(config.components)


def _conditioner(
    config: FlowConfig, inputs: int, outputs: int, scale: int, sides: tuple[int, int] | None, classes: int
) -> nn.Module:
    width, depth, dropout = (config.width or 4) * 2**scale, config.depth, config.dropout or 0.0
    simple = config.coupling in ("additive", "affine")
    if sides is None:
        network = MLPConditioner if simple else ResidualConditioner
        return network(inputs, outputs, width=width, depth=depth, dropout=dropout, classes=classes)
    if simple and not config.attention:
        return ConvConditioner(inputs, outputs, width=width, depth=depth, dropout=dropout, classes=classes)
    attends = sides if config.attention else None
    return GatedConditioner(
        inputs, outputs, width=width, depth=depth, dropout=dropout, classes=classes, attends=attends
    )
