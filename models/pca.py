"""Probabilistic PCA: a Gaussian with a low-rank plus isotropic covariance, fitted in closed form.

    z ~ N(0, I_q),   x | z ~ N(mu + W z, sigma² I),   x ~ N(mu, C),   C = W Wᵀ + sigma² I

With the eigenvalues l_1 ≥ … ≥ l_D and eigenvectors of the sample covariance, the maximum of the
likelihood has W = U_q (L_q - sigma² I)^½ and sigma² the mean of the discarded eigenvalues. In this
basis Wᵀ W + sigma² I = L_q, so the posterior of z is N(L_q^-½ …) with diagonal covariance sigma² L_q^-1.

M. E. Tipping and C. M. Bishop, "Probabilistic principal component analysis", Journal of the Royal
Statistical Society B 61(3), 1999.

Discrete cells are dequantised by ``u``; their moments are those of ``x + u`` in closed form (mean +
1/2, variance + 1/12), and the score bounds the probability of the unit bin. Units are left as they
are: real data score as `sklearn.decomposition.PCA.score_samples` does. An eigenvalue is held at or
above 1e-13 of the largest (and 1e-12), so a column that never varies has a very large, finite density.

Missing cells of train rows are latent: mean and covariance are those of greatest likelihood by
expectation-maximisation (`models.layers.missing`), each step projected onto the model above; so for any q, and the
closed form where nothing is missing. Discrete cells stand in the middle of their bins there.

Legend: ``B`` rows, ``D`` cells, ``q`` components, ``x`` raw features, ``z`` latents, ``u`` uniform noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contracts.artifact import AnswerKind, Kind, TensorSpec, Tolerance, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from contracts.errors import InvalidInput
from contracts.families import FamilyConfig, PCAConfig
from models.family import Batch, Family, FitStage, Graph, Stage, Tiny, supported
from models.layers.gaussian import normal_quantile
from models.layers.missing import PartlySeen, expected_moments, fit_partly_seen
from models.layers.moments import Moments
from models.layers.preprocessing import BIN_VARIANCE, Dequantise, moments
from models.layers.spectrum import likelihood_by_components, low_rank, principal_axes


class _Fit(FitStage):
    name = "fit"

    def __init__(self, module: PCA) -> None:
        self.module: PCA = module

    def fit(self, batches: Iterable[Batch], valid: Iterable[Batch]) -> dict[str, float]:
        model = self.module
        train, partly = model.fit_moments(batches, None if model.choose else model.config.components)
        if train.rows < 2:
            raise InvalidInput(f"pca needs at least 2 train rows, got {train.rows}")
        check = model.moments(valid, partly)
        eigenvalues, basis = model.axes(train)
        # Second moments along each eigenvector about the train mean: all that a likelihood depends on.
        seen = check if check.rows else train
        shift = (seen.mean - train.mean) @ basis
        spread = (basis * (seen.scatter @ basis)).sum(0) / seen.rows + shift**2
        spread += (basis**2 * model.bin_variance[:, None]).sum(0)
        scores = likelihood_by_components(eigenvalues, spread)
        if model.choose:
            # Without validation rows, the Bayesian information criterion stands in for them.
            q = torch.arange(1, len(scores) + 1, dtype=torch.float64)
            free = len(eigenvalues) * q - q * (q - 1) / 2
            penalty = 0.0 if check.rows else free * math.log(train.rows) / (2 * train.rows)
            components = int((scores - penalty).argmax()) + 1
            if partly is not None and components < len(eigenvalues) - 1:
                train, _ = model.fit_moments(batches, components, start=train)
                eigenvalues, basis = model.axes(train)
        else:
            components = int(model.config.components or 1)
        model.set_solution(train.mean, eigenvalues, basis, components)
        return {
            "components": float(components),
            "log_prob": float(scores[min(components, len(scores)) - 1]),
            "noise_std": math.sqrt(float(model.noise_variance)),
        }


class PCA(Family[PCAConfig]):
    """Probabilistic PCA; buffers: mean ``(D,)``, basis ``(D, q)``, eigenvalues ``(q,)``, noise_variance ``()``."""

    kind = Kind.LATENT
    tolerance = Tolerance(absolute=1e-6, relative=1e-6)

    mean: Tensor
    basis: Tensor
    eigenvalues: Tensor
    noise_variance: Tensor
    bin_variance: Tensor

    def __init__(
        self,
        config: PCAConfig,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__(config, spec, profile, parents)
        self.choose = config.components is None
        cells = spec.cells
        components = config.components or max(1, cells - 1)
        self.dequantise = Dequantise(spec)
        self.register_buffer("bin_variance", BIN_VARIANCE * self.dequantise.discrete, persistent=False)
        self.register_buffer("mean", torch.from_numpy(profile.mean).double() + 0.5 * self.dequantise.discrete)
        self.register_buffer("basis", torch.eye(cells, components, dtype=torch.float64))
        self.register_buffer("eigenvalues", torch.ones(components, dtype=torch.float64))
        self.register_buffer("noise_variance", torch.ones((), dtype=torch.float64))
        self.config = config.model_copy(update={"components": components})

    @classmethod
    def tiny(cls) -> list[Tiny]:
        table = tuple(Column(name=f"x{i}", type=ColumnType.REAL) for i in range(4))
        mixed = (*table[:2], Column(name="n", type=ColumnType.INTEGER, minimum=0, maximum=9))
        image = ImageShape(height=4, width=4, levels=17)
        return [
            Tiny(PCAConfig(family="pca", components=2), DataSpec(modality="table", columns=table)),
            Tiny(PCAConfig(family="pca"), DataSpec(modality="table", columns=mixed)),
            Tiny(PCAConfig(family="pca"), DataSpec(modality="image", image=image)),
        ]

    @property
    def latent_dimensions(self) -> int:
        return len(self.eigenvalues)

    def moments(self, batches: Iterable[Batch], partly: PartlySeen | None = None) -> Moments:
        """Count, mean and scatter of the rows, discrete cells in the middle of their bins; in expectation under
        ``partly`` where cells are missing."""
        rows = (self.dequantise(batch.x) for batch in batches)
        if partly is not None:
            return expected_moments(rows, partly)
        moments = Moments(self.spec.cells)
        moments.mean, moments.scatter = moments.mean.to(self.mean.device), moments.scatter.to(self.mean.device)
        for x in rows:
            moments.add(x)
        return moments

    def fit_moments(
        self, batches: Iterable[Batch], components: int | None, start: Moments | None = None
    ) -> tuple[Moments, PartlySeen | None]:
        """Moments of the train rows; where cells are missing those of greatest likelihood under a model of so many
        ``components`` (None: all), and that model."""
        if not any(column.missing for column in self.spec.features):
            return self.moments(batches), None
        centre, scale = (torch.from_numpy(each).to(self.mean.device) for each in moments(self.spec, self.profile))
        return fit_partly_seen(
            lambda: (self.dequantise(batch.x) for batch in batches),
            centre,
            scale,
            project=lambda covariance: low_rank(covariance, components),
            start=start,
        )

    def axes(self, train: Moments) -> tuple[Tensor, Tensor]:
        """Eigenvalues, descending, and eigenvectors of the covariance of the dequantised rows."""
        covariance = train.scatter / (train.rows - 1)
        covariance.diagonal().add_(self.bin_variance)
        return principal_axes(covariance)

    def set_solution(self, mean: Tensor, eigenvalues: Tensor, basis: Tensor, components: int) -> None:
        """Take the first ``components`` axes; the noise variance is the mean of the other eigenvalues."""
        rest = eigenvalues[components:]
        # With every axis kept there is no residual; the last eigenvalue's floor stands in for sigma².
        noise = rest.mean() if len(rest) else 1e-6 * eigenvalues[-1]
        self.mean, self.noise_variance = mean, noise.clone()
        self.eigenvalues, self.basis = (
            eigenvalues[:components].clone(),
            basis[:, :components].clone(memory_format=torch.contiguous_format),
        )
        self.config = self.config.model_copy(update={"components": components})

    def stages(self) -> list[Stage]:
        return [_Fit(self)]

    def loadings(self) -> Tensor:
        """W, ``(D, q)``."""
        return self.basis * (self.eigenvalues - self.noise_variance).clamp_min(0).sqrt()

    def graphs(self) -> dict[str, Graph]:
        row, cells = self.spec.row_shape, self.spec.cells
        components = self.latent_dimensions
        x = TensorSpec(name="x", dtype="uint8" if self.spec.image else "float64", shape=("B", *row))
        u = TensorSpec(name="u", dtype="float64", shape=("B", cells), noise="uniform")
        z = TensorSpec(name="z", dtype="float64", shape=("B", components))

        def vector(name: str) -> TensorSpec:
            return TensorSpec(name=name, dtype="float64", shape=("B", components))

        def cell(name: str) -> TensorSpec:
            return TensorSpec(name=name, dtype="float64", shape=("B", *row))

        return {
            "posterior": Graph(_Posterior(self), (x,), (vector("mean"), vector("log_scale"))),
            "likelihood": Graph(_Likelihood(self), (z, u), (cell("mean"), cell("draw"))),
            "density": Graph(
                _Density(self),
                (x, u) if self.dequantise.any else (x,),
                (TensorSpec(name="log_prob", dtype="float64", shape=("B",)),),
            ),
        }

    def verbs(self) -> dict[Verb, VerbSpec]:
        score = AnswerKind.LOWER_BOUND if self.dequantise.any else AnswerKind.EXACT
        return {
            Verb.ENCODE: supported(AnswerKind.EXACT),
            Verb.DECODE: supported(AnswerKind.EXACT),
            Verb.SAMPLE: supported(AnswerKind.EXACT),
            Verb.LOG_PROB: supported(score),
            Verb.PREDICT: supported(score),
            Verb.SIMILARITY: supported(AnswerKind.EXACT),
        }

    def constants(self) -> dict[str, Tensor]:
        loadings = self.loadings()
        covariance = loadings @ loadings.T
        covariance.diagonal().add_(self.noise_variance)
        return {
            "gaussian.log_weights": torch.zeros(1, dtype=torch.float64),
            "gaussian.means": self.mean[None].clone(),
            "gaussian.cholesky": torch.linalg.cholesky(covariance)[None],
        }

    def figures(self) -> dict[str, float]:
        explained = float((self.eigenvalues - self.noise_variance).clamp_min(0).sum())
        total = explained + self.spec.cells * float(self.noise_variance)
        return {"components": float(self.latent_dimensions), "explained_variance_share": explained / total}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The fit chooses the number of components, so a saved solution may be narrower than a fresh one.
        for name in ("basis", "eigenvalues"):
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.config = self.config.model_copy(update={"components": len(self.eigenvalues)})


class _Posterior(nn.Module):
    """x → mean L^-1 Wᵀ (x - mu) and log-scale ½ log(sigma² / l) of z."""

    matrix: Tensor
    bias: Tensor
    log_scale: Tensor

    def __init__(self, model: PCA) -> None:
        super().__init__()
        self.dequantise = model.dequantise
        matrix = model.loadings() / model.eigenvalues
        self.register_buffer("matrix", matrix)
        self.register_buffer("bias", model.mean)
        self.register_buffer("log_scale", 0.5 * (model.noise_variance / model.eigenvalues).log())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = (self.dequantise(x) - self.bias) @ self.matrix  # (B, q)
        return mean, self.log_scale.expand_as(mean) + torch.zeros_like(mean)


class _Likelihood(nn.Module):
    """z, u → mean in data units and a draw on the dequantised scale."""

    matrix: Tensor
    bias: Tensor
    std: Tensor
    offset: Tensor

    def __init__(self, model: PCA) -> None:
        super().__init__()
        self.row_shape = model.spec.row_shape
        self.register_buffer("matrix", model.loadings().T.contiguous())
        self.register_buffer("bias", model.mean)
        self.register_buffer("std", model.noise_variance.sqrt())
        self.register_buffer("offset", 0.5 * model.dequantise.discrete)

    def forward(self, z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        spread = z @ self.matrix + self.bias  # (B, D), dequantised
        draw = spread + self.std * normal_quantile(u)
        return (spread - self.offset).reshape(-1, *self.row_shape), draw.reshape(-1, *self.row_shape)


class _Density(nn.Module):
    """x, u → log N(x + u; mu, C) by the q kept axes and the residual."""

    basis: Tensor
    bias: Tensor
    precision: Tensor
    noise_variance: Tensor
    constant: Tensor

    def __init__(self, model: PCA) -> None:
        super().__init__()
        self.dequantise = model.dequantise
        cells, q = model.basis.shape
        log_det = model.eigenvalues.log().sum() + (cells - q) * model.noise_variance.log()
        self.register_buffer("basis", model.basis)
        self.register_buffer("bias", model.mean)
        self.register_buffer("precision", 1 / model.eigenvalues)
        self.register_buffer("noise_variance", model.noise_variance)
        self.register_buffer("constant", -0.5 * (cells * math.log(2 * math.pi) + log_det))

    def forward(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        centred = self.dequantise(x, u) - self.bias  # (B, D)
        y = centred @ self.basis  # (B, q)
        rest = centred - y @ self.basis.T  # subtracting squares instead would cancel
        distance = (y**2 * self.precision).sum(-1) + (rest**2).sum(-1) / self.noise_variance
        log_prob: Tensor = self.constant - 0.5 * distance
        return log_prob
