"""The menu: every family's knobs on one page.

A config is data: frozen, closed, each field bounded and described. ``None`` means "sized by
the data when training starts"; the family's file says how. ``{"family": …}`` alone trains well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from contracts.artifact import AnswerKind, Kind, Verb, VerbSpec
from contracts.data import ColumnType, DataSpec
from contracts.errors import FieldProblem, InvalidInput

PCA_LARGEST_CELLS = 4096
"""The covariance is held and solved whole: 4096² doubles are 134 MB."""


class FamilyConfig(BaseModel):
    """What every family's config holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[Kind]
    answers: ClassVar[Mapping[Verb, VerbSpec]]
    """What versions of the family answer at best; a version's manifest says what it answers itself."""

    family: str

    def check_data(self, spec: DataSpec) -> None:
        """Raise InvalidInput if this family cannot train on such data; called before a job is queued."""
        if spec.modality == "text":
            raise InvalidInput(
                f"{self.family} models tables and images, and this dataset is text",
                errors=[FieldProblem(location="dataset", message="use a dataset of rows or images")],
            )
        missing = [column.name for column in spec.features if column.missing]
        if missing:
            raise InvalidInput(
                f"{self.family} trains on complete rows, and these columns have missing cells: {', '.join(missing)}",
                errors=[FieldProblem(location="dataset", message="fill the cells or drop the columns")],
            )
        if getattr(self, "condition", "none") == "label" and (spec.label is None or not spec.label.categories):
            raise InvalidInput(
                "condition is `label`, but the dataset has no label column",
                errors=[FieldProblem(location="config.condition", message="use `none`, or give a column that role")],
            )


class GradientConfig(FamilyConfig):
    """Knobs of families that are trained by gradient steps."""

    batch_size: int | None = Field(default=None, ge=1, le=65536, description="Rows per step over all processes.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Peak of the warm-up + cosine schedule.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay (AdamW).")
    warmup: float = Field(default=0.05, ge=0, le=0.5, description="Share of the steps of linear warm-up.")
    gradient_clip: float = Field(default=5.0, gt=0, description="Largest norm of the gradient.")
    ema_decay: float = Field(default=0.999, ge=0, lt=1, description="Decay per step of the averaged weights; 0 = off.")
    patience: int = Field(
        default=20, ge=1, le=10_000, description="Evaluations without a better held-out score before training stops."
    )
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="Arithmetic while training.")


def _answers(*, log_prob: AnswerKind | str, predict: AnswerKind | str) -> Mapping[Verb, VerbSpec]:
    """The verbs of a family with vectors that samples; ``log_prob`` and ``predict`` by the kind of their numbers, or
    by the reason why they are not answered."""

    def spec(answer: AnswerKind | str) -> VerbSpec:
        if isinstance(answer, AnswerKind):
            return VerbSpec(supported=True, kind=answer)
        return VerbSpec(supported=False, refusal=answer)

    exact = VerbSpec(supported=True, kind=AnswerKind.EXACT)
    always = {verb: exact for verb in (Verb.ENCODE, Verb.DECODE, Verb.SAMPLE, Verb.SIMILARITY)}
    return {**always, Verb.LOG_PROB: spec(log_prob), Verb.PREDICT: spec(predict)}


class PCAConfig(FamilyConfig):
    """Probabilistic PCA (Tipping & Bishop 1999)."""

    kind = Kind.LATENT
    answers = _answers(log_prob=AnswerKind.EXACT, predict=AnswerKind.EXACT)

    family: Literal["pca"]
    components: int | None = Field(
        default=None, ge=1, le=4096, description="Latent dimensions; None: chosen by the log-likelihood of `valid`."
    )

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        if spec.cells > PCA_LARGEST_CELLS:
            raise InvalidInput(
                f"pca solves an eigenproblem of at most {PCA_LARGEST_CELLS} cells, and a row here has {spec.cells}",
                errors=[FieldProblem(location="dataset", message="resize the images on ingest, or train a vae")],
            )
        if self.components is not None and self.components > spec.cells:
            raise InvalidInput(
                f"components is {self.components}, but a row has {spec.cells} cells only",
                errors=[FieldProblem(location="config.components", message=f"give at most {spec.cells}")],
            )


def _check_network(network: str, spec: DataSpec) -> None:
    if network == "convolutional" and spec.image is None:
        raise InvalidInput(
            "a convolutional network needs images, and this dataset is a table",
            errors=[FieldProblem(location="config.network", message="use `auto` or `mlp`")],
        )


class AutoencoderConfig(GradientConfig):
    """Deterministic autoencoder with a Gaussian mixture fitted on its latents (Ghosh et al. 2020)."""

    kind = Kind.LATENT
    answers = _answers(
        log_prob="an autoencoder has no density: train a pca, vae or flow",
        predict="an autoencoder has no density to condition: train a pca, vae or flow; /decode of /encode reconstructs",
    )

    family: Literal["autoencoder"]
    latents: int | None = Field(default=None, ge=1, le=4096, description="Latent dimensions.")
    network: Literal["auto", "mlp", "convolutional"] = Field(
        default="auto", description="auto: convolutional for images of at least 16 pixels a side, else mlp."
    )
    width: int | None = Field(default=None, ge=4, le=4096, description="Hidden units or channels.")
    depth: int | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Hidden layers (mlp; default 2) or blocks per scale (convolutional; 1).",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of hidden units dropped while training.")
    latent_penalty: float = Field(default=1e-4, ge=0, description="Weight of the squared norm of z (RAE-L2).")
    mixture_components: int = Field(
        default=10, ge=1, le=200, description="Components of the mixture on z; fewer where there are few rows."
    )

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        _check_network(self.network, spec)


class VAEConfig(GradientConfig):
    """Variational autoencoder (Kingma & Welling 2014), scored by the IWAE bound (Burda et al. 2016)."""

    kind = Kind.LATENT
    answers = _answers(log_prob=AnswerKind.LOWER_BOUND, predict=AnswerKind.ESTIMATE)

    family: Literal["vae"]
    learning_rate: float = Field(default=3e-3, gt=0, le=1, description="Peak of the warm-up + cosine schedule.")
    latents: int | None = Field(default=None, ge=1, le=4096, description="Latent dimensions.")
    network: Literal["auto", "mlp", "convolutional"] = Field(
        default="auto", description="auto: convolutional for images of at least 16 pixels a side, else mlp."
    )
    width: int | None = Field(default=None, ge=4, le=4096, description="Hidden units or channels.")
    depth: int | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Hidden layers (mlp; default 2) or blocks per scale (convolutional; 1).",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of hidden units dropped while training.")
    likelihood: Literal["auto", "bernoulli", "discretised_logistic", "gaussian"] = Field(
        default="auto",
        description="Of numbers; categories have a softmax. auto: bernoulli for two levels, discretised_logistic for "
        "other discrete cells, gaussian with learned variance for real ones.",
    )
    beta: float = Field(default=1.0, ge=0, le=1000, description="Weight of the rate (Higgins et al. 2017).")
    kl_warmup: float = Field(default=0.2, ge=0, le=1, description="Share of the steps over which beta grows from 0.")
    free_bits: float = Field(default=0.0, ge=0, le=10, description="Rate per latent dimension that is free, in nats.")
    condition: Literal["none", "label"] = Field(default="none", description="label: p(x | label), asked by `given`.")

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        _check_network(self.network, spec)
        low, high = spec.bounds
        for cell, discrete in enumerate(spec.discrete):
            if spec.image is None and spec.features[cell].type in (ColumnType.CATEGORICAL, ColumnType.BOOLEAN):
                continue
            two = discrete and high[cell] - low[cell] == 1
            if (self.likelihood == "bernoulli" and not two) or (
                self.likelihood == "discretised_logistic" and not discrete
            ):
                need = "two values" if self.likelihood == "bernoulli" else "whole numbers"
                raise InvalidInput(
                    f"the likelihood `{self.likelihood}` is for {need}, and {spec.cell_name(cell)} holds others",
                    errors=[FieldProblem(location="config.likelihood", message="use `auto`: each column by its type")],
                )


class FlowConfig(GradientConfig):
    """Normalising flow of coupling layers: additive = NICE, affine = RealNVP (Dinh et al. 2014, 2017)."""

    kind = Kind.BIJECTIVE
    answers = _answers(log_prob=AnswerKind.EXACT, predict=AnswerKind.ESTIMATE)

    family: Literal["flow"]
    coupling: Literal["additive", "affine"] = Field(default="affine", description="What a coupling layer does.")
    network: Literal["auto", "mlp", "multiscale"] = Field(
        default="auto", description="auto: multiscale for images of at least 16 pixels a side, else mlp."
    )
    layers: int | None = Field(default=None, ge=2, le=128, description="Coupling layers (per scale for multiscale).")
    width: int | None = Field(default=None, ge=4, le=4096, description="Hidden units or channels of a conditioner.")
    depth: int = Field(default=2, ge=1, le=16, description="Hidden layers of a conditioner.")
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Share of hidden units dropped while training; None: more for fewer rows."
    )
    condition: Literal["none", "label"] = Field(default="none", description="label: p(x | label), asked by `given`.")


AnyConfig = Annotated[PCAConfig | AutoencoderConfig | VAEConfig | FlowConfig, Field(discriminator="family")]

CONFIG_CLASSES: dict[str, type[FamilyConfig]] = {
    "pca": PCAConfig,
    "autoencoder": AutoencoderConfig,
    "vae": VAEConfig,
    "flow": FlowConfig,
}

config_adapter: TypeAdapter[AnyConfig] = TypeAdapter(AnyConfig)
