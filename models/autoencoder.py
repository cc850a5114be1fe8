"""Regularised autoencoder: a deterministic code z = f(x), and a mixture of Gaussians fitted on it afterwards.

    loss = ‖v - g(f(x))‖² + λ ‖f(x)‖² / 2,   v = the standardised cells (categories one-hot)
    sampling: z ~ Σ_k w_k N(m_k, S_k) fitted on f(x) of the train rows, then g(z)

Nothing draws the codes towards N(0, I), so decoded N(0, I) looks worse than decoded draws of the mixture; the
card shows both. The family gives up density: there is no p(x), only a reconstruction.

Reference: Ghosh, Sajjadi, Vergari, Black & Schölkopf 2020, "From Variational to Deterministic Autoencoders",
arXiv:1903.12436 (RAE-L2; the decoder's own penalty is `weight_decay`).

Shapes: ``x`` ``(B, *row)``, ``z`` ``(B, L)``, ``v`` ``(B, width)``, ``u`` ``(B, cells)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from contracts.artifact import AnswerKind, Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from contracts.errors import InvalidInput
from contracts.families import AutoencoderConfig, FamilyConfig
from models.family import Batch, Family, Graph, LossStage, Noise, Stage, Terms, Tiny, refused, supported
from models.layers.networks import (
    Cells,
    Decoder,
    Encoder,
    default_batch_size,
    default_latents,
    default_width,
    is_convolutional,
)

MIXTURE_ROWS = 20_000
"""The mixture is fitted on at most so many codes, evenly spaced over the train rows."""
ROWS_PER_PARAMETER = 2
"""Codes that a component must have for each of its dimensions."""


class Autoencoder(Family[AutoencoderConfig]):
    """See the module's docstring."""

    kind = Kind.LATENT

    mixture_log_weights: Tensor
    mixture_means: Tensor
    mixture_cholesky: Tensor

    def __init__(
        self,
        config: AutoencoderConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        convolutional = is_convolutional(config.network, spec)
        latents = config.latents or default_latents(spec)
        width = config.width or default_width(spec, profile.rows, convolutional=convolutional)
        components = max(1, min(config.mixture_components, profile.rows // (ROWS_PER_PARAMETER * (latents + 1))))
        depth = config.depth or (1 if convolutional else 2)
        self.config = config.model_copy(
            update={
                "latents": latents,
                "width": width,
                "depth": depth,
                "batch_size": config.batch_size or default_batch_size(profile.rows, convolutional=convolutional),
                "network": "convolutional" if convolutional else "mlp",
                "mixture_components": components,
            }
        )
        self.encoder = Encoder(
            spec,
            profile,
            latents,
            convolutional=convolutional,
            width=width,
            depth=depth,
            dropout=config.dropout,
        )
        self.decoder = Decoder(
            spec,
            latents,
            Cells(spec, profile).width,
            convolutional=convolutional,
            width=width,
            depth=depth,
            dropout=config.dropout,
        )
        self.values = Values(spec, self.encoder.cells)
        self.register_buffer("mixture_log_weights", torch.full((components,), -float(np.log(components))).double())
        self.register_buffer("mixture_means", torch.zeros(components, latents, dtype=torch.float64))
        self.register_buffer("mixture_cholesky", torch.eye(latents, dtype=torch.float64).repeat(components, 1, 1))

    @property
    def latent_dimensions(self) -> int:
        assert self.config.latents is not None
        return self.config.latents

    def stages(self) -> list[Stage]:
        return [Fit(self)]

    def constants(self) -> dict[str, Tensor]:
        return {
            "prior.log_weights": self.mixture_log_weights,
            "prior.means": self.mixture_means,
            "prior.cholesky": self.mixture_cholesky,
        }

    def graphs(self) -> dict[str, Graph]:
        row, cells, latents = self.spec.row_shape, self.spec.cells, self.latent_dimensions
        floating: Literal["float32", "float64"] = "float32" if self.spec.image is not None else "float64"
        x = TensorSpec(name="x", dtype="uint8" if self.spec.image is not None else "float64", shape=("B", *row))
        z = TensorSpec(name="z", dtype="float32", shape=("B", latents))
        u = TensorSpec(name="u", dtype=floating, shape=("B", cells), noise="uniform")
        code = TensorSpec(name="mean", dtype="float32", shape=("B", latents))
        mean, draw = (TensorSpec(name=name, dtype=floating, shape=("B", *row)) for name in ("mean", "draw"))
        return {
            "posterior": Graph(self.encoder, (x,), (code,)),
            "likelihood": Graph(Decode(self), (z, u), (mean, draw)),
        }

    def verbs(self) -> dict[Verb, VerbSpec]:
        instead = "use pca, vae or flow, which answer it"
        return {
            Verb.ENCODE: supported(AnswerKind.EXACT),
            Verb.DECODE: supported(AnswerKind.EXACT),
            Verb.SAMPLE: supported(AnswerKind.EXACT),
            Verb.LOG_PROB: refused(f"autoencoder gives up density: a reconstruction is no p(x); {instead}"),
            Verb.PREDICT: refused(f"autoencoder has no conditional density of hidden cells; {instead}"),
            Verb.SIMILARITY: supported(AnswerKind.EXACT),
        }

    def figures(self) -> dict[str, float]:
        """How far the codes are from N(0, I), which is what sampling without the mixture would assume."""
        weights = torch.exp(self.mixture_log_weights)
        mean = weights @ self.mixture_means
        second = (self.mixture_cholesky**2).sum(-1) + self.mixture_means**2
        variance = weights @ second - mean**2
        return {
            "mixture_components": float(len(weights)),
            "code_mean_norm": float(mean.norm()),
            "code_std": float(variance.clamp(min=0).sqrt().mean()),
        }

    def preview_latents(self, n: int) -> dict[str, Tensor]:
        """Draws of N(0, I), to be decoded beside the mixture's."""
        generator = torch.Generator().manual_seed(0)
        return {"standard_normal": torch.randn(n, self.latent_dimensions, generator=generator)}

    @classmethod
    def tiny(cls) -> list[Tiny]:
        small = {"family": "autoencoder", "latents": 3, "width": 16, "depth": 1, "batch_size": 32}
        columns = (
            Column(name="x0", type=ColumnType.REAL),
            Column(name="x1", type=ColumnType.REAL),
            Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
            Column(name="flag", type=ColumnType.BOOLEAN),
            Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
        )
        grey = DataSpec(modality="image", image=ImageShape(height=9, width=8, levels=17))
        return [
            Tiny(AutoencoderConfig.model_validate(small), DataSpec(modality="table", columns=columns[:2])),
            Tiny(AutoencoderConfig.model_validate(small), DataSpec(modality="table", columns=columns)),
            Tiny(AutoencoderConfig.model_validate({**small, "network": "convolutional", "width": 8}), grey),
        ]


class Fit(LossStage):
    """Descends the reconstruction error; the mixture is fitted at the end."""

    def __init__(self, family: Autoencoder) -> None:
        self.module: Autoencoder = family

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        z, error = self._reconstruct(batch)
        distortion, penalty = error.sum(-1).mean(), 0.5 * (z**2).sum(-1).mean()
        objective = distortion + self.module.config.latent_penalty * penalty
        return Terms(objective, {"distortion": distortion, "latent_penalty": penalty})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        """Mean squared error over the standardised cells, ``(B,)``."""
        return self._reconstruct(batch)[1].mean(-1)

    def finish(self, batches: Iterable[Batch]) -> None:
        """Fit the mixture on the codes of the train rows. Raises InvalidInput with fewer rows than components."""
        model = self.module
        with torch.no_grad():
            codes = torch.cat([model.encoder(batch.x).double().cpu() for batch in batches]).numpy()
        components = len(model.mixture_log_weights)
        if len(codes) < max(2, components):
            raise InvalidInput(f"a mixture of {components} components needs at least as many rows, got {len(codes)}")
        codes = codes[np.linspace(0, len(codes) - 1, min(len(codes), MIXTURE_ROWS)).astype(np.int64)]
        floor = 1e-6 * max(float(codes.var(0).mean()), 1e-6)
        mixture = GaussianMixture(components, reg_covar=floor, random_state=0, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(codes)
        model.mixture_log_weights.copy_(torch.from_numpy(np.log(mixture.weights_)))
        model.mixture_means.copy_(torch.from_numpy(mixture.means_))
        model.mixture_cholesky.copy_(torch.from_numpy(np.linalg.cholesky(mixture.covariances_)))

    def _reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Codes ``(B, L)`` and squared errors ``(B, width)``."""
        z: Tensor = self.module.encoder(batch.x)
        target: Tensor = self.module.encoder.cells(batch.x)
        return z, (self.module.decoder(z) - target) ** 2


class Values(nn.Module):
    """Standardised numbers ``(B, width)`` back in the data's own units, ``(B, cells)``; categories by the largest."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    order: Tensor
    discrete: Tensor

    def __init__(self, spec: DataSpec, cells: Cells) -> None:
        super().__init__()
        self.dtype = torch.float32 if spec.image is not None else torch.float64
        self.numeric, self.categories = cells.numeric, dict(cells.categories)
        low, high = spec.bounds
        discrete = torch.from_numpy(spec.discrete)[self.numeric]
        for name, value in (
            ("mean", cells.standardise.mean.flatten()[self.numeric]),
            ("std", cells.standardise.std.flatten()[self.numeric]),
            ("low", torch.from_numpy(low)[self.numeric]),
            ("high", torch.from_numpy(high)[self.numeric]),
        ):
            self.register_buffer(name, value.to(self.dtype).clone())
        self.register_buffer("discrete", discrete, persistent=False)
        order = torch.argsort(torch.tensor([*self.numeric, *self.categories]))
        self.register_buffer("order", order, persistent=False)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction and the same with discrete cells rounded, ``(B, cells)`` each."""
        v = v.to(self.dtype)
        count = len(self.numeric)
        value = v[:, :count] * self.std + self.mean
        value = torch.minimum(torch.maximum(value, self.low), self.high)
        rounded = torch.where(self.discrete, torch.floor(value + 0.5), value)
        codes = []
        for width in self.categories.values():
            codes.append(torch.argmax(v[:, count : count + width], -1, keepdim=True).to(self.dtype))
            count += width
        if not codes:
            return value, rounded
        return torch.cat([value, *codes], 1)[:, self.order], torch.cat([rounded, *codes], 1)[:, self.order]


class Decode(nn.Module):
    """Graph ``likelihood``: without noise of its own, so ``u`` is taken and not used."""

    def __init__(self, family: Autoencoder) -> None:
        super().__init__()
        self.family = family

    def forward(self, z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        row = self.family.spec.row_shape
        mean, draw = self.family.values(self.family.decoder(z))
        return mean.reshape(-1, *row), draw.reshape(-1, *row)
