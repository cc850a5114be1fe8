"""Normalising flow of coupling layers: an exact density by the change of variables.

    z = f(x + u),   log p(x + u) = log N(z; 0, I) + log |det df/dx|,   x = f^-1(z)

L. Dinh, D. Krueger and Y. Bengio, "NICE: non-linear independent components estimation", 2014
(arXiv:1410.8516): ``coupling="additive"`` with a last diagonal scaling. L. Dinh, J. Sohl-Dickstein and
S. Bengio, "Density estimation using Real NVP", 2017 (arXiv:1605.08803): ``coupling="affine"``.
ActNorm as in D. P. Kingma and P. Dhariwal, "Glow", 2018 (arXiv:1807.03039), without its learned
permutations: orders of the channels are fixed and drawn once.

Discrete cells are dequantised by uniform ``u``; the score is then a lower bound of their probability.
Conditionals p(x_A | x_B) have no closed form: a Gaussian mixture fitted on train rows
(``proposal.*``) proposes, the flow's density weighs.

Training is in float32. In the graphs the variables that flow are float64, since the error of an inverse
grows with each layer; so are the mlp conditioners, while convolutions, which have no float64 kernel on CPU,
compute in float32 inside their conditioner.

Legend: ``B`` rows, ``D`` cells, ``x`` raw features, ``v`` pre-processed cells, ``z`` base variables, ``u``
uniform noise, ``y`` labels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contracts.artifact import AnswerKind, Kind, TensorSpec, Tolerance, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput
from contracts.families import FamilyConfig, FlowConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny, first_rows, refused, supported
from models.layers.actnorm import ActNorm
from models.layers.bijection import Bijection
from models.layers.coupling import ConvConditioner, Coupling, Diagonal, MLPConditioner, Permutation
from models.layers.mixture import fit_mixture
from models.layers.multiscale import Chain, Multiscale, scales_of
from models.layers.preprocessing import Preprocess

PROPOSAL_CELLS = 1024
"""Beyond, a full-covariance proposal is neither small nor any good."""


class _Train(LossStage):
    name = "train"

    def __init__(self, module: Flow) -> None:
        self.module: Flow = module

    def start(self, batches: Iterable[Batch]) -> None:
        # A convolution's channel sees many positions of each image, so fewer images do.
        self.module.initialise(first_rows(batches, 256 if self.module.multiscale else 2048))

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        nats = -self.module.log_prob(batch, noise).mean()
        return Terms(nats, {"negative_log_likelihood": nats})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        return -self.module.log_prob(batch, noise)

    def finish(self, batches: Iterable[Batch]) -> None:
        self.module.fit_proposal(first_rows(batches, 10_000 if self.module.spec.cells <= 256 else 3_000))


class Flow(Family[FlowConfig]):
    """Coupling flow; ``net`` maps pre-processed cells to the base and back."""

    kind = Kind.BIJECTIVE

    proposal_log_weights: Tensor
    proposal_means: Tensor
    proposal_cholesky: Tensor

    def __init__(
        self,
        config: FlowConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        self.config = config = _resolve(config, spec, profile)
        self.classes = len(spec.label.categories or ()) if config.condition == "label" and spec.label else 0
        self.multiscale = config.network == "multiscale"
        self.preprocess = Preprocess(spec, profile, logit=self.multiscale)
        self.working_dtype = torch.float32
        if self.multiscale:
            # What float32 convolutions of two runtimes may differ by, after the couplings have stretched it.
            self.tolerance = Tolerance(absolute=1e-3, relative=1e-4)
        self.any_discrete = self.preprocess.dequantise.any
        self.net: Chain | Multiscale
        if self.multiscale and spec.image is not None:
            height, width, channels = spec.image.shape
            self.net = Multiscale(channels, height, width, scales_of(height, width), self._layers)
        else:
            # A single cell leaves nothing to couple with; the flow is then its ActNorm.
            self.net = Chain(self._layers(spec.cells, 0))
        self.register_buffer("proposal_log_weights", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("proposal_means", torch.zeros(0, spec.cells, dtype=torch.float64))
        self.register_buffer("proposal_cholesky", torch.zeros(0, spec.cells, spec.cells, dtype=torch.float64))

    def _layers(self, channels: int, scale: int) -> list[Bijection]:
        config = self.config
        affine = config.coupling == "affine"
        layers: list[Bijection] = []
        conditioner: type[MLPConditioner] | type[ConvConditioner]
        conditioner = ConvConditioner if self.multiscale else MLPConditioner
        kept = channels // 2
        for index in range(config.layers or 2) if kept else ():
            moved = channels - kept
            network = conditioner(
                kept,
                2 * moved if affine else moved,
                width=(config.width or 4) * 2**scale,
                depth=config.depth,
                dropout=config.dropout or 0.0,
                classes=self.classes,
            )
            if affine:
                layers.append(ActNorm(channels))
            # Shuffles alternate with mirrors: each two layers move every channel, however few there are.
            layers.append(Permutation(channels, seed=None if index % 2 else 1000 * scale + index))
            layers.append(Coupling(network, kept, affine=affine))
        layers.append(ActNorm(channels) if affine or not kept else Diagonal(channels))
        return layers

    @classmethod
    def tiny(cls) -> list[Tiny]:
        real = tuple(Column(name=f"x{i}", type=ColumnType.REAL) for i in range(5))
        label = Column(name="kind", type=ColumnType.CATEGORICAL, role=Role.LABEL, categories=("a", "b", "c"))
        mixed = (*real[:2], Column(name="n", type=ColumnType.INTEGER, minimum=0, maximum=9))
        small = ImageShape(height=4, width=4, levels=17)
        large = ImageShape(height=16, width=16, levels=256)
        mlp = FlowConfig(family="flow", layers=2, width=16, learning_rate=3e-3)
        labelled = mlp.model_copy(update={"condition": "label"})
        wide = mlp.model_copy(update={"network": "multiscale", "layers": 2, "width": 8, "depth": 1})
        return [
            Tiny(mlp, DataSpec(modality="table", columns=real)),
            Tiny(mlp.model_copy(update={"coupling": "additive"}), DataSpec(modality="table", columns=mixed)),
            Tiny(labelled, DataSpec(modality="table", columns=(*real, label))),
            Tiny(labelled, DataSpec(modality="image", image=small, columns=(label,))),
            Tiny(wide, DataSpec(modality="image", image=large), rows=64, steps=20),
        ]

    @property
    def latent_dimensions(self) -> int:
        return self.spec.cells

    def stages(self) -> list[Stage]:
        return [_Train(self)]

    def to_base(self, x: Tensor, u: Tensor | None, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Raw ``x`` → ``z`` ``(B, D)`` and log p(x + u) ``(B,)`` in nats of the data's own units, float64."""
        v, outer = self.preprocess(x, u)
        v = v.to(self.working_dtype)
        if self.multiscale:
            height, width, channels = self.spec.row_shape
            v = v.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        z, inner = self.net(v, y)
        base = -0.5 * (z.to(torch.float64) ** 2).sum(-1) - 0.5 * self.spec.cells * math.log(2 * math.pi)
        return z, base + inner.to(torch.float64) + outer

    def from_base(self, z: Tensor, y: Tensor | None) -> Tensor:
        """``z`` ``(B, D)`` → dequantised ``x`` ``(B, *row)`` float64."""
        v = self.net.inverse(z, y)
        if self.multiscale:
            v = v.permute(0, 2, 3, 1).flatten(1)
        return self.preprocess.inverse(v)

    def log_prob(self, batch: Batch, noise: Noise) -> Tensor:
        """log p(x + u) of each row ``(B,)`` for one draw of ``u``."""
        u = noise.uniform(self.spec.cells, dtype=torch.float64) if self.any_discrete else None
        return self.to_base(batch.x, u, batch.y)[1]

    def initialise(self, batch: Batch) -> None:
        """Start every ActNorm from these rows."""
        v, _ = self.preprocess(batch.x, self._fixed_noise(batch.x))
        v = v.to(self.working_dtype)
        if self.multiscale:
            height, width, channels = self.spec.row_shape
            v = v.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        self.net.initialise(v, batch.y)

    def fit_proposal(self, batch: Batch) -> None:
        """Fit the mixture that proposes hidden cells, on dequantised train rows."""
        if self.spec.cells > PROPOSAL_CELLS:
            return
        x = self.preprocess.dequantise(batch.x, self._fixed_noise(batch.x))
        for name, value in fit_mixture(x).items():
            setattr(self, f"proposal_{name}", value.to(x.device))

    def _fixed_noise(self, x: Tensor) -> Tensor | None:
        if not self.any_discrete:
            return None
        generator = torch.Generator().manual_seed(0)
        return torch.rand(len(x), self.spec.cells, generator=generator, dtype=torch.float64).to(x.device)

    def graphs(self) -> dict[str, Graph]:
        model = copy.deepcopy(self)
        model.working_dtype = torch.float64
        if not self.multiscale:
            model.net.double()
        row, cells = self.spec.row_shape, self.spec.cells
        x = TensorSpec(name="x", dtype="uint8" if self.spec.image else "float64", shape=("B", *row))
        z = TensorSpec(name="z", dtype="float64", shape=("B", cells))
        u = TensorSpec(name="u", dtype="float64", shape=("B", cells), noise="uniform")
        y = TensorSpec(name="y", dtype="int64", shape=("B",))
        log_prob = TensorSpec(name="log_prob", dtype="float64", shape=("B",))
        back = TensorSpec(name="x", dtype="float64", shape=("B", *row))
        forward: nn.Module = _Forward(model)
        if self.classes and not self.any_discrete:
            forward = _ForwardOfLabel(model)
        noise = (u,) if self.any_discrete else ()
        label = (y,) if self.classes else ()
        return {
            "forward": Graph(forward, (x, *noise, *label), (z, log_prob)),
            "inverse": Graph(_Inverse(model), (z, *label), (back,)),
        }

    def verbs(self) -> dict[Verb, VerbSpec]:
        predict = supported(AnswerKind.ESTIMATE)
        if self.spec.cells > PROPOSAL_CELLS:
            predict = refused(
                f"flow keeps no proposal for conditionals of more than {PROPOSAL_CELLS} cells: "
                "train a vae, or pca for exact Gaussian conditionals"
            )
        return {
            Verb.ENCODE: supported(AnswerKind.EXACT),
            Verb.DECODE: supported(AnswerKind.EXACT),
            Verb.SAMPLE: supported(AnswerKind.EXACT),
            Verb.LOG_PROB: supported(AnswerKind.LOWER_BOUND if self.any_discrete else AnswerKind.EXACT),
            Verb.PREDICT: predict,
            Verb.SIMILARITY: supported(AnswerKind.EXACT),
        }

    def constants(self) -> dict[str, Tensor]:
        if not len(self.proposal_log_weights):
            return {}
        return {f"proposal.{name}": getattr(self, f"proposal_{name}") for name in ("log_weights", "means", "cholesky")}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # How many components the proposal has is known once it is fitted.
        for name in ("proposal_log_weights", "proposal_means", "proposal_cholesky"):
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _resolve(config: FlowConfig, spec: DataSpec, profile: DataProfile) -> FlowConfig:
    """Replace every None by a size that suits the data."""
    image = spec.image
    can_scale = image is not None and scales_of(image.height, image.width) > 0
    network = config.network
    if network == "auto":
        large = image is not None and min(image.height, image.width) >= 16
        network = "multiscale" if large and can_scale else "mlp"
    elif network == "multiscale" and not can_scale:
        raise InvalidInput("multiscale needs images whose sides are even and at least 8 pixels; use network `mlp`")
    rows, wide = profile.rows, spec.cells > 16
    batch = 2 ** round(math.log2(min(512, max(32, rows / 10))))
    if network == "multiscale":
        # 28 x 28 pixels: some 150 rows a second on one core. Coarser scales are as dear, with twice the channels.
        sizes = {"batch_size": min(batch, 32), "layers": 4, "width": 32}
    else:
        sizes = {"batch_size": batch, "layers": 8 if wide else 6, "width": 128 if rows < 20_000 else 256}
    # With a few thousand rows a flow learns them by heart unless it is held back.
    sizes_float = {"dropout": 0.2 if rows < 20_000 and wide else 0.1 if rows < 20_000 else 0.0}
    unset = {name: value for name, value in {**sizes, **sizes_float}.items() if getattr(config, name) is None}
    return config.model_copy(update={"network": network, **unset})


class _Forward(nn.Module):
    """x, u?, y? → z, log_prob."""

    def __init__(self, model: Flow) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, u: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.to_base(x, u, y)


class _ForwardOfLabel(nn.Module):
    """x, y → z, log_prob: conditional, nothing to dequantise."""

    def __init__(self, model: Flow) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.to_base(x, None, y)


class _Inverse(nn.Module):
    """z, y? → x."""

    def __init__(self, model: Flow) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.model.from_base(z, y)
