"""Normalising flow of coupling layers: an exact density by the change of variables.

    z = f(x + u),   log p(x + u) = log N(z; 0, I) + log |det df/dx|,   x = f^-1(z)

L. Dinh, D. Krueger and Y. Bengio, "NICE: non-linear independent components estimation", 2014
(arXiv:1410.8516): ``coupling="additive"`` with a last diagonal scaling. L. Dinh, J. Sohl-Dickstein and
S. Bengio, "Density estimation using Real NVP", 2017 (arXiv:1605.08803): ``coupling="affine"``. C. Durkan et al.,
"Neural spline flows", 2019 (arXiv:1906.04032): ``coupling="spline"``. J. Ho et al., "Flow++", 2019
(arXiv:1902.00275): ``coupling="mixture_cdf"`` with ``attention`` and ``dequantisation="variational"``. ActNorm as in
D. P. Kingma and P. Dhariwal, "Glow", 2018 (arXiv:1807.03039); between couplings the channels change places by orders
drawn once, or are mixed by learned LU maps.

Discrete cells are dequantised by ``u``, uniform or drawn from a learned q(u | x); the score is then a lower bound of
their probability, log p(x + u) - log q(u | x) in expectation. Conditionals p(x_A | x_B) have no closed form: a
Gaussian mixture fitted on train rows (``proposal.*``) proposes, the flow's density weighs.

Training is in float32. In the graphs the variables that flow are float64, since the error of an inverse
grows with each layer; so are the mlp conditioners, while convolutions, which have no float64 kernel on CPU,
compute in float32 inside their conditioner.

With ``smoothing`` the rows that are trained on are moved by normal noise, which learns the density of x + noise: J.
Rothfuss et al., "Noise regularization for conditional density estimation", 2019 (arXiv:1907.08982).

Legend: ``B`` rows, ``D`` cells, ``x`` raw features, ``v`` pre-processed cells, ``z`` base variables, ``u``
where in its bin a discrete value stands, ``eps`` normal noise that ``u`` is made of, ``y`` labels.
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
from contracts.families import FamilyConfig, FlowConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny, first_rows, refused, supported
from models.layers.bijection import Bijection
from models.layers.dequantisation import VariationalDequantiser
from models.layers.linear_maps import LU
from models.layers.mixture import fit_mixture
from models.layers.multiscale import Chain, Multiscale, scales_of
from models.layers.preprocessing import Preprocess
from models.layers.stack import flow_layers, resolve

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
        nats = self.held_out(batch, noise).mean()
        return Terms(nats, {"negative_log_likelihood": nats})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        return -self.module.log_prob(batch, noise, smoothing=self.module.config.smoothing)

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
        self.config = config = resolve(config, spec, profile.rows)
        self.classes = len(spec.label.categories or ()) if config.condition == "label" and spec.label else 0
        self.multiscale = config.network == "multiscale"
        self.preprocess = Preprocess(spec, profile, logit=self.multiscale)
        self.working_dtype = torch.float32
        if self.multiscale:
            # What float32 convolutions of two runtimes may differ by, after the couplings have stretched it.
            self.tolerance = Tolerance(absolute=1e-3, relative=1e-4)
        self.any_discrete = self.preprocess.dequantise.any
        self.dequantiser = None
        if config.dequantisation == "variational":
            width, depth = config.width or 4, min(config.depth, 2)
            self.dequantiser = VariationalDequantiser(
                spec, profile, convolutional=self.multiscale, width=width, depth=depth, classes=self.classes
            )
        self.net: Chain | Multiscale
        if self.multiscale:
            height, wide, channels = spec.row_shape

            def layers(channels: int, scale: int) -> list[Bijection]:
                sides = (height >> scale + 1, wide >> scale + 1)
                return flow_layers(config, channels, scale=scale, sides=sides, classes=self.classes)

            self.net = Multiscale(channels, height, wide, scales_of(height, wide), layers)
        else:
            self.net = Chain(flow_layers(config, spec.cells, classes=self.classes))
        self.register_buffer("proposal_log_weights", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("proposal_means", torch.zeros(0, spec.cells, dtype=torch.float64))
        self.register_buffer("proposal_cholesky", torch.zeros(0, spec.cells, spec.cells, dtype=torch.float64))

    @classmethod
    def tiny(cls) -> list[Tiny]:
        real = tuple(Column(name=f"x{i}", type=ColumnType.REAL) for i in range(5))
        label = Column(name="kind", type=ColumnType.CATEGORICAL, role=Role.LABEL, categories=("a", "b", "c"))
        mixed = (*real[:2], Column(name="n", type=ColumnType.INTEGER, minimum=0, maximum=9))
        small = ImageShape(height=4, width=4, levels=17)
        large = ImageShape(height=16, width=16, levels=256)
        rgb = ImageShape(height=8, width=8, channels=3)
        mlp = FlowConfig(family="flow", layers=2, width=16, learning_rate=3e-3)
        labelled = mlp.model_copy(update={"condition": "label"})
        wide = mlp.model_copy(update={"network": "multiscale", "layers": 2, "width": 8, "depth": 1})
        spline = labelled.model_copy(update={"coupling": "spline", "bins": 4})
        mixture = {"coupling": "mixture_cdf", "components": 2, "dequantisation": "variational"}
        return [
            Tiny(mlp, DataSpec(modality="table", columns=real)),
            Tiny(mlp.model_copy(update={"coupling": "additive"}), DataSpec(modality="table", columns=mixed)),
            Tiny(labelled, DataSpec(modality="table", columns=(*real, label))),
            Tiny(labelled, DataSpec(modality="image", image=small, columns=(label,))),
            Tiny(wide, DataSpec(modality="image", image=large), rows=64, steps=20),
            Tiny(spline, DataSpec(modality="table", columns=(*mixed, label))),
            Tiny(mlp.model_copy(update=mixture), DataSpec(modality="table", columns=mixed)),
            Tiny(
                wide.model_copy(update={**mixture, "linear": "lu", "attention": True}),
                DataSpec(modality="image", image=rgb),
                rows=64,
                steps=20,
            ),
        ]

    @property
    def latent_dimensions(self) -> int:
        return self.spec.cells

    def stages(self) -> list[Stage]:
        return [_Train(self)]

    def to_base(
        self, x: Tensor, u: Tensor | None, y: Tensor | None, moved: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raw ``x`` → ``z`` ``(B, D)`` and log p(x + u) ``(B,)`` in nats of the data's own units, float64.

        ``moved`` ``(B, D)`` is added to the pre-processed cells."""
        v, outer = self.preprocess(x, u)
        z, inner = self.net(self._fold(v if moved is None else v + moved), y)
        base = -0.5 * (z.to(torch.float64) ** 2).sum(-1) - 0.5 * self.spec.cells * math.log(2 * math.pi)
        return z, base + inner.to(torch.float64) + outer

    def _fold(self, v: Tensor) -> Tensor:
        v = v.to(self.working_dtype)
        return v.reshape(-1, *self.spec.row_shape).permute(0, 3, 1, 2) if self.multiscale else v

    def from_base(self, z: Tensor, y: Tensor | None) -> Tensor:
        """``z`` ``(B, D)`` → dequantised ``x`` ``(B, *row)`` float64."""
        v = self.net.inverse(z, y)
        if self.multiscale:
            v = v.permute(0, 2, 3, 1).flatten(1)
        return self.preprocess.inverse(v)

    def log_prob(self, batch: Batch, noise: Noise, *, smoothing: float = 0.0) -> Tensor:
        """log p(x + u) - log q(u | x) of each row ``(B,)`` for one draw of ``u``; ``smoothing``: deviation of normal
        noise that moves the pre-processed cells."""
        moved = smoothing * noise.normal(self.spec.cells, dtype=torch.float64) if smoothing else None
        if self.dequantiser is not None:
            u, log_q = self.spread(batch.x, noise.normal(self.dequantiser.count), batch.y)
            return self.to_base(batch.x, u, batch.y, moved)[1] - log_q
        uniform = noise.uniform(self.spec.cells, dtype=torch.float64) if self.any_discrete else None
        return self.to_base(batch.x, uniform, batch.y, moved)[1]

    def spread(self, x: Tensor, eps: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """``u`` ``(B, D)`` in [0, 1) and log q(u | x) ``(B,)``, float64, for normals ``eps`` of the discrete cells."""
        assert self.dequantiser is not None
        u, log_q = self.dequantiser(x, eps.to(self.working_dtype), y)
        return u, log_q

    def initialise(self, batch: Batch) -> None:
        """Start every ActNorm from these rows."""
        v, _ = self.preprocess(batch.x, self._fixed_noise(batch.x))
        self.net.initialise(self._fold(v), batch.y)

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
            if model.dequantiser is not None:
                model.dequantiser.double()
        for layer in model.modules():
            if isinstance(layer, LU):
                layer.freeze()
        row, cells = self.spec.row_shape, self.spec.cells
        x = TensorSpec(name="x", dtype="uint8" if self.spec.image else "float64", shape=("B", *row))
        z = TensorSpec(name="z", dtype="float64", shape=("B", cells))
        u = TensorSpec(name="u", dtype="float64", shape=("B", cells), noise="uniform")
        log_prob = TensorSpec(name="log_prob", dtype="float64", shape=("B",))
        back = TensorSpec(name="x", dtype="float64", shape=("B", *row))
        label = (TensorSpec(name="y", dtype="int64", shape=("B",)),) if self.classes else ()
        inverse = Graph(_Inverse(model), (z, *label), (back,))
        if self.dequantiser is not None:
            eps = TensorSpec(name="eps", dtype="float64", shape=("B", self.dequantiser.count), noise="normal")
            return {
                "forward": Graph(_ForwardOfNoise(model), (x, eps, *label), (z, log_prob)),
                "inverse": inverse,
                "density": Graph(_Density(model), (x, u, *label), (log_prob,)),
            }
        if self.any_discrete:
            return {"forward": Graph(_Forward(model), (x, u, *label), (z, log_prob)), "inverse": inverse}
        forward = _ForwardOfLabel(model) if self.classes else _Forward(model)
        return {"forward": Graph(forward, (x, *label), (z, log_prob)), "inverse": inverse}

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


class _Forward(nn.Module):
    """x, u?, y? → z, log_prob."""

    def __init__(self, model: Flow) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, u: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.to_base(x, u, y)


class _ForwardOfLabel(_Forward):
    """x, y → z, log_prob: conditional, nothing to dequantise."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.model.to_base(x, None, y)


class _ForwardOfNoise(_Forward):
    """x, eps, y? → z, log_prob - log q(u | x)."""

    def forward(self, x: Tensor, eps: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        u, log_q = self.model.spread(x, eps, y)
        z, log_prob = self.model.to_base(x, u, y)
        return z, log_prob - log_q


class _Density(_Forward):
    """x, u, y? → log_prob of x + u."""

    def forward(self, x: Tensor, u: Tensor, y: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self.model.to_base(x, u, y)[1]


class _Inverse(nn.Module):
    """z, y? → x."""

    def __init__(self, model: Flow) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.model.from_base(z, y)
