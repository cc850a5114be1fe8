"""The menu: every family's knobs on one page.

A config is data: frozen, closed, each field bounded and described. ``None`` means "sized by
the data when training starts"; the family's file says how. ``{"family": …}`` alone trains well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from contracts.artifact import AnswerKind, Kind, Manifest, Verb, VerbSpec
from contracts.data import ColumnType, DataSpec, Role
from contracts.errors import FieldProblem, InvalidInput

TRANSFORMER_LARGEST_CELLS = 1024
SMALLEST_CONVOLVED = 16
"""Pixels a side from which images are worth convolutions."""
PCA_LARGEST_CELLS = 4096
"""The covariance is held and solved whole: 4096² doubles are 134 MB."""


def _wrong(name: str, message: str) -> InvalidInput:
    return InvalidInput(f"config.{name}: {message}", errors=[FieldProblem(location=f"config.{name}", message=message)])


class FamilyConfig(BaseModel):
    """What every family's config holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[Kind]
    answers: ClassVar[Mapping[Verb, VerbSpec]]
    """What versions of the family answer at best; a version's manifest says what it answers itself."""
    modalities: ClassVar[tuple[str, ...]] = ("table", "image")
    takes_missing: ClassVar[bool] = False
    """Whether training rows may hold NaN in columns that are declared missing; other families get them completed."""
    reads_captions: ClassVar[bool] = False
    """Whether training rows come with the tokens of their captions, where the dataset has a caption column."""

    parent_families: ClassVar[Mapping[str, str]] = {}
    """Role of a parent → the family that it must be of. The field of the role's name holds the reference."""

    family: str

    def parent_references(self) -> dict[str, str]:
        """Role → reference of each parent that is named."""
        named = {role: str(getattr(self, role)) for role in self.parent_families}
        return {role: reference for role, reference in named.items() if reference}

    def check_parent(self, role: str, reference: str, parent: Manifest, spec: DataSpec) -> None:
        """Raise InvalidInput if a version cannot be the parent of that role for such data; called before a job is
        queued."""
        wanted = self.parent_families[role]
        if parent.family != wanted:
            raise _wrong(role, f"{reference} is a {parent.family}, and a {wanted} is needed")
        if parent.data.image != spec.image or not parent.data.same_rows(spec):
            raise _wrong(role, f"{reference} reads {parent.data.row_name}, and the dataset holds {spec.row_name}")

    def check_data(self, spec: DataSpec) -> None:
        """Raise InvalidInput if this family cannot train on such data; called before a job is queued."""
        if spec.modality not in self.modalities:
            takes = " and ".join({"table": "tables", "image": "images", "text": "texts"}[m] for m in self.modalities)
            raise InvalidInput(
                f"{self.family} models {takes}, and this dataset is {spec.modality}",
                errors=[FieldProblem(location="dataset", message=f"use a dataset of {takes}")],
            )
        if getattr(self, "condition", "none") == "label" and (spec.label is None or not spec.label.categories):
            raise InvalidInput(
                "condition is `label`, but the dataset has no label column",
                errors=[FieldProblem(location="config.condition", message="use `none`, or give a column that role")],
            )
        if getattr(self, "condition", "none") == "label" and spec.label is not None and spec.label.missing:
            raise InvalidInput(
                f"condition is `label`, but the label column {spec.label.name} may have empty cells",
                errors=[FieldProblem(location="config.condition", message="use `none`, or label every row")],
            )


class GradientConfig(FamilyConfig):
    """Knobs of families that are trained by gradient steps."""

    batch_size: int | None = Field(default=None, ge=1, le=65536, description="Rows per step over all processes.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Peak of the warm-up + cosine schedule.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay (AdamW).")
    warmup: float = Field(default=0.05, ge=0, le=0.5, description="Share of the steps of linear warm-up.")
    gradient_clip: float = Field(default=5.0, gt=0, description="Largest norm of the gradient.")
    gradient_skip: float = Field(
        default=0.0, ge=0, description="Updates whose gradient has a larger norm than this are left out; 0: none are."
    )
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
    takes_missing = True
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
    takes_missing = True
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
        ge=0,
        le=16,
        description="Hidden layers (mlp; default 2; 0: linear) or blocks per scale (convolutional; 1).",
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
    objective: Literal["elbo", "iwae"] = Field(
        default="elbo", description="iwae: descend the importance-weighted bound (Burda et al. 2016)."
    )
    importance_samples: int = Field(default=5, ge=1, le=1000, description="Draws of z per row while training (iwae).")
    prior: Literal["normal", "mixture", "flow"] = Field(
        default="normal",
        description="p(z): N(0, I); VampPrior, a mixture of posteriors of learned pseudo-inputs (Tomczak & Welling "
        "2018); or a coupling flow on N(0, I).",
    )
    prior_components: int = Field(default=100, ge=1, le=2000, description="Pseudo-inputs of the mixture prior.")
    masking: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the training rows of which some cells are hidden at random, so that any cells can be "
        "predicted from the others; 0 is best where only densities are asked.",
    )
    condition: Literal["none", "label"] = Field(default="none", description="label: p(x | label), asked by `given`.")

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        _check_network(self.network, spec)
        _check_likelihood(self.likelihood, spec)
        _check_prior(self.prior, self.latents)
        if self.objective == "iwae" and self.free_bits:
            raise InvalidInput(
                "free bits belong to the objective `elbo`: the importance-weighted bound has no rate to free",
                errors=[FieldProblem(location="config.free_bits", message="leave it at 0, or use the objective elbo")],
            )


def _check_prior(prior: str, latents: int | None) -> None:
    if prior == "flow" and latents == 1:
        raise InvalidInput(
            "a flow prior couples at least two latents",
            errors=[FieldProblem(location="config.latents", message="ask for 2 or more, or for another prior")],
        )


def _check_likelihood(likelihood: str, spec: DataSpec) -> None:
    low, high = spec.bounds
    for cell, discrete in enumerate(spec.discrete):
        if spec.image is None and spec.features[cell].type in (ColumnType.CATEGORICAL, ColumnType.BOOLEAN):
            continue
        two = discrete and high[cell] - low[cell] == 1
        if (likelihood == "bernoulli" and not two) or (likelihood == "discretised_logistic" and not discrete):
            need = "two values" if likelihood == "bernoulli" else "whole numbers"
            raise InvalidInput(
                f"the likelihood `{likelihood}` is for {need}, and {spec.cell_name(cell)} holds others",
                errors=[FieldProblem(location="config.likelihood", message="use `auto`: each column by its type")],
            )


class HierarchicalVAEConfig(GradientConfig):
    """Top-down hierarchical VAE (Child 2021; Vahdat & Kautz 2020), scored by the IWAE bound."""

    kind = Kind.LATENT
    takes_missing = True
    answers = _answers(log_prob=AnswerKind.LOWER_BOUND, predict=AnswerKind.ESTIMATE)

    family: Literal["hierarchical_vae"]
    learning_rate: float = Field(default=3e-3, gt=0, le=1, description="Peak of the warm-up + cosine schedule.")
    groups: int | None = Field(default=None, ge=1, le=64, description="Groups of latents, from the top down.")
    latents: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Latent dimensions of a group (convolutional: channels per site; the vector on top has eight times "
        "as many).",
    )
    network: Literal["auto", "mlp", "convolutional"] = Field(
        default="auto", description="auto: convolutional for images of at least 16 pixels a side, else mlp."
    )
    width: int | None = Field(default=None, ge=4, le=4096, description="Hidden units or channels.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of hidden units dropped while training.")
    likelihood: Literal["auto", "bernoulli", "discretised_logistic", "gaussian"] = Field(
        default="auto",
        description="Of numbers; categories have a softmax. auto: bernoulli for two levels, discretised_logistic for "
        "other discrete cells, gaussian with learned variance for real ones.",
    )
    kl_warmup: float = Field(
        default=0.2, ge=0, le=1, description="Share of the steps over which the rate's weight grows from 0 to 1."
    )
    kl_balancing: bool = Field(
        default=False, description="Weigh the rates of groups against each other during the warm-up (NVAE)."
    )
    free_bits: float = Field(default=0.0, ge=0, le=10, description="Rate per latent dimension that is free, in nats.")
    prior: Literal["normal", "flow"] = Field(
        default="normal",
        description="Of the group on top; flow: couplings from its latents to a standard normal, learned with it.",
    )
    gradient_skip: float = Field(
        default=400.0, ge=0, description="Updates whose gradient has a larger norm than this are left out; 0: none are."
    )
    masking: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the training rows of which some cells are hidden at random, so that any cells can be "
        "predicted from the others; 0 is best where only densities are asked.",
    )
    condition: Literal["none", "label"] = Field(default="none", description="label: p(x | label), asked by `given`.")

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        _check_network(self.network, spec)
        _check_likelihood(self.likelihood, spec)
        _check_prior(self.prior, self.latents)


class FlowConfig(GradientConfig):
    """Normalising flow of coupling layers: additive = NICE, affine = RealNVP (Dinh et al. 2014, 2017), spline = NSF
    (Durkan et al. 2019), mixture_cdf = Flow++ (Ho et al. 2019)."""

    kind = Kind.BIJECTIVE
    answers = _answers(log_prob=AnswerKind.EXACT, predict=AnswerKind.ESTIMATE)

    family: Literal["flow"]
    coupling: Literal["additive", "affine", "spline", "mixture_cdf"] = Field(
        default="affine", description="What a coupling layer does."
    )
    network: Literal["auto", "mlp", "multiscale"] = Field(
        default="auto", description="auto: multiscale for images of at least 12 pixels a side, else mlp."
    )
    linear: Literal["auto", "permutation", "lu"] = Field(
        default="auto", description="Between couplings: fixed orders, or learned LU maps. auto: lu for spline."
    )
    layers: int | None = Field(default=None, ge=2, le=128, description="Coupling layers (per scale for multiscale).")
    width: int | None = Field(default=None, ge=4, le=4096, description="Hidden units or channels of a conditioner.")
    depth: int = Field(default=2, ge=1, le=16, description="Hidden layers or residual blocks of a conditioner.")
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Share of hidden units dropped while training; None: more for fewer rows."
    )
    bins: int = Field(default=8, ge=2, le=64, description="Bins of a spline.")
    tail_bound: float = Field(
        default=5.0, gt=0, le=100, description="Splines act within ± this many deviations; beyond, the identity."
    )
    components: int = Field(default=8, ge=1, le=64, description="Logistics of a mixture CDF.")
    attention: bool = Field(default=False, description="Self-attention in convolutional conditioners (Flow++).")
    dequantisation: Literal["uniform", "variational"] = Field(
        default="uniform", description="How discrete cells are spread over their bins while training and scoring."
    )
    smoothing: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Deviation of normal noise added to the cells of tables while training, in deviations of the cell: "
        "the density learned is that of the rows with this noise, smoother than without (Rothfuss et al. 2019).",
    )
    condition: Literal["none", "label"] = Field(default="none", description="label: p(x | label), asked by `given`.")

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        if self.smoothing and spec.image is not None:
            raise InvalidInput(
                "smoothing is for tables, and this dataset holds images",
                errors=[FieldProblem(location="config.smoothing", message="leave it out")],
            )


class AutoregressiveConfig(GradientConfig):
    """p(x) = ∏ p(x_i | those before): tables, images and texts, in one order or in any."""

    kind = Kind.AUTOREGRESSIVE
    modalities = ("table", "image", "text")
    takes_missing = True
    answers: ClassVar[Mapping[Verb, VerbSpec]] = {
        Verb.ENCODE: VerbSpec(supported=True, kind=AnswerKind.EXACT),
        Verb.DECODE: VerbSpec(
            supported=False, refusal="autoregressive has no latent variables to decode: train a vae, flow or pca"
        ),
        Verb.SAMPLE: VerbSpec(supported=True, kind=AnswerKind.EXACT),
        Verb.LOG_PROB: VerbSpec(supported=True, kind=AnswerKind.EXACT),
        Verb.PREDICT: VerbSpec(supported=True, kind=AnswerKind.EXACT),
        Verb.SIMILARITY: VerbSpec(supported=True, kind=AnswerKind.EXACT),
    }

    family: Literal["autoregressive"]
    backbone: Literal["auto", "transformer", "made", "gated_pixelcnn"] = Field(
        default="auto",
        description="transformer: texts, tables, small images. made: tables and images. gated_pixelcnn: images. auto: "
        "transformer for texts, else made.",
    )
    any_order: bool = Field(
        default=False, description="Train over random orders, so that any cells can be predicted from any others."
    )
    width: int | None = Field(default=None, ge=4, le=8192, description="Hidden units, channels, or embedding size.")
    depth: int | None = Field(default=None, ge=1, le=64, description="Hidden layers or blocks.")
    heads: int | None = Field(default=None, ge=1, le=64, description="Attention heads (transformer); divides width.")
    context: int | None = Field(
        default=None, ge=8, le=8192, description="Tokens that a text model sees at once; texts only."
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Share of hidden units dropped while training; None: more for fewer rows."
    )
    components: int = Field(default=10, ge=1, le=64, description="Logistics of the mixture of an ordered cell.")
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="Peak of the warm-up + cosine schedule.")
    tokens: Literal["bytes", "bpe"] = Field(
        default="bytes", description="What a text is made of: UTF-8 bytes, or pairs merged on the train text (BPE)."
    )
    vocabulary: int = Field(default=1024, ge=257, le=65536, description="Tokens of a BPE vocabulary.")
    condition: Literal["none", "label"] = Field(default="none", description="label: p(x | label), asked by `given`.")

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        needs = {"made": ("table", "image"), "gated_pixelcnn": ("image",)}.get(self.backbone, self.modalities)
        if spec.modality not in needs:
            raise InvalidInput(
                f"the backbone `{self.backbone}` does not read data that are {spec.modality}",
                errors=[FieldProblem(location="config.backbone", message="use `auto`, or one that fits the data")],
            )
        if self.backbone == "transformer" and spec.modality != "text" and spec.cells > TRANSFORMER_LARGEST_CELLS:
            raise InvalidInput(
                f"a transformer attends to at most {TRANSFORMER_LARGEST_CELLS} cells, and a row has {spec.cells}",
                errors=[FieldProblem(location="config.backbone", message="use made, or gated_pixelcnn for images")],
            )
        if self.width and self.heads and self.width % self.heads:
            raise InvalidInput(
                f"width {self.width} is not a multiple of {self.heads} heads",
                errors=[FieldProblem(location="config.heads", message="give heads that divide the width")],
            )


class GANConfig(GradientConfig):
    """Wasserstein GAN (Arjovsky et al. 2017): samples of a generator that a critic cannot tell from data."""

    kind = Kind.IMPLICIT
    answers: ClassVar[Mapping[Verb, VerbSpec]] = {
        Verb.ENCODE: VerbSpec(supported=False, refusal="gan has no code of a row: train an autoencoder, vae or flow"),
        Verb.DECODE: VerbSpec(supported=False, refusal="gan has no codes to decode: train an autoencoder, vae or flow"),
        Verb.SAMPLE: VerbSpec(supported=True, kind=AnswerKind.EXACT),
        Verb.LOG_PROB: VerbSpec(
            supported=False, refusal="gan gives up density: train a flow, vae or autoregressive model"
        ),
        Verb.PREDICT: VerbSpec(
            supported=False,
            refusal="gan has no conditionals of hidden cells: train an autoregressive model, vae or pca",
        ),
        Verb.SIMILARITY: VerbSpec(supported=False, refusal="gan has no vectors of rows: train a vae, flow or pca"),
    }

    family: Literal["gan"]
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Peak of the warm-up + cosine schedule.")
    ema_decay: float = Field(default=0.99, ge=0, lt=1, description="Decay per step of the averaged weights; 0 = off.")
    latents: int | None = Field(default=None, ge=1, le=4096, description="Dimensions of the generator's noise.")
    network: Literal["auto", "mlp", "convolutional"] = Field(
        default="auto", description="auto: convolutional for images of at least 16 pixels a side, else mlp."
    )
    width: int | None = Field(default=None, ge=4, le=4096, description="Hidden units or channels, of both players.")
    depth: int | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Hidden layers (mlp; default 3) or blocks per scale (convolutional; 1), of both players.",
    )
    regularisation: Literal["gradient_penalty", "spectral_norm"] = Field(
        default="gradient_penalty",
        description="What bounds the critic's slope: a penalty between rows of data and samples (Gulrajani et al. "
        "2017), or the largest singular value of each layer (Miyato et al. 2018).",
    )
    penalty: float | None = Field(
        default=None, gt=0, le=1000, description="Weight of the gradient penalty; None: 10 for images, 0.1 for tables."
    )
    critic_steps: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Updates of the critic for one of the generator; None: 1 for convolutional networks, 3 for mlp.",
    )
    condition: Literal["none", "label"] = Field(default="none", description="label: p(x | label), asked by `given`.")

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        _check_network(self.network, spec)


class VQVAEConfig(GradientConfig):
    """Vector-quantised autoencoder: one level of codes (van den Oord et al. 2017) or two (Razavi et al. 2019), and an
    autoregressive prior on them."""

    kind = Kind.LATENT
    takes_missing = True
    answers = _answers(log_prob=AnswerKind.LOWER_BOUND, predict=AnswerKind.ESTIMATE)

    family: Literal["vqvae"]
    learning_rate: float = Field(default=5e-3, gt=0, le=1, description="Peak of the codes' warm-up + cosine schedule.")
    ema_decay: float = Field(default=0.99, ge=0, lt=1, description="Decay per step of the averaged weights; 0 = off.")
    codes: int = Field(default=256, ge=2, le=8192, description="Vectors of the codebook of each level.")
    dimensions: int | None = Field(default=None, ge=1, le=256, description="Entries of a code vector; None: 16.")
    sites: int | None = Field(
        default=None, ge=1, le=256, description="Codes of a row of a table; images have one per place of a coarse grid."
    )
    levels: int = Field(
        default=1,
        ge=1,
        le=2,
        description="2: a grid of codes half as fine on top of the other (VQ-VAE-2); images only.",
    )
    quantiser: Literal["codebook", "fsq"] = Field(
        default="codebook",
        description="A learned codebook, or finite scalar quantisation (Mentzer et al. 2023), which cannot collapse.",
    )
    fsq_levels: tuple[Annotated[int, Field(ge=2, le=64)], ...] = Field(
        default=(8, 6, 5),
        min_length=1,
        max_length=8,
        description="fsq: values of each entry of a code; their product is the number of codes.",
    )
    score: Literal["euclidean", "dot"] = Field(
        default="euclidean", description="How vectors are compared with codes; dot: with both of unit length."
    )
    assignment: Literal["hard", "soft"] = Field(
        default="hard",
        description="soft: attention with the codebook for keys and values. Such a model has no codes, so it neither "
        "samples nor has a density, unless it is annealed.",
    )
    softness: float = Field(default=1.0, gt=0, le=1000, description="Temperature of soft assignment.")
    annealed: bool = Field(
        default=False, description="Cool soft assignment while training, until it is hard over the last fifth."
    )
    commitment: float = Field(default=0.25, ge=0, le=100, description="Weight of the distance of vectors to codes.")
    decay: float = Field(default=0.99, gt=0, lt=1, description="Decay per step of the codebook's averages.")
    restart: float = Field(
        default=0.1, ge=0, lt=1, description="Codes used less than this share of the mean start again; 0: none do."
    )
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
    masking: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of the training rows of which some cells are hidden at random. None: 0.5, for convolutions "
        "0: a hidden region of an image hides whole codes, which the prior draws.",
    )
    prior_share: float = Field(default=0.5, gt=0, lt=1, description="Share of the steps that train the prior.")
    prior_learning_rate: float = Field(default=3e-3, gt=0, le=1, description="Peak of the prior's schedule.")
    prior_width: int = Field(default=64, ge=4, le=2048, description="Embedding size of the prior's transformer.")
    prior_depth: int = Field(default=3, ge=1, le=32, description="Blocks of the prior's transformer.")
    prior_heads: int = Field(default=4, ge=1, le=64, description="Attention heads of the prior; divides its width.")
    prior_dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of the prior's units dropped in training.")
    condition: Literal["none", "label"] = Field(
        default="none", description="label: the prior is p(codes | label), asked by `given`."
    )

    @property
    def has_codes(self) -> bool:
        """Whether rows become codes: soft choices that stay soft have none."""
        return self.assignment == "hard" or self.annealed

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        _check_network(self.network, spec)
        _check_likelihood(self.likelihood, spec)
        if self.levels == 2 and (spec.image is None or self.network == "mlp"):
            raise _wrong("levels", "two levels are grids of codes, which images with a convolutional network have")
        if (
            self.levels == 2
            and self.network == "auto"
            and spec.image
            and min(spec.image.shape[:2]) < SMALLEST_CONVOLVED
        ):
            raise _wrong("levels", "images this small get an mlp; ask for network: convolutional, or one level")
        if self.prior_width % self.prior_heads:
            raise _wrong("prior_heads", f"must divide prior_width, {self.prior_width}")
        if self.assignment == "soft" and self.quantiser == "fsq":
            raise _wrong("quantiser", "fsq rounds and has no soft assignment; use `codebook`")
        if self.annealed and self.assignment == "hard":
            raise _wrong("annealed", "is for soft assignment; leave it out, or set assignment: soft")
        if not self.has_codes and self.condition == "label":
            raise _wrong("condition", "conditions the prior of codes, and soft assignment has none; set annealed: true")


def _embeds(family: str, predict: str) -> Mapping[Verb, VerbSpec]:
    """The verbs of a family that makes vectors and nothing else."""
    exact = VerbSpec(supported=True, kind=AnswerKind.EXACT)

    def no(why: str) -> VerbSpec:
        return VerbSpec(supported=False, refusal=f"{family} {why}")

    return {
        Verb.ENCODE: exact,
        Verb.SIMILARITY: exact,
        Verb.DECODE: no("only encodes: to decode vectors train an autoencoder, vae or flow"),
        Verb.SAMPLE: no("does not sample: train a gan, vae or vqvae"),
        Verb.LOG_PROB: no("has no density: train a flow, vae or autoregressive model"),
        Verb.PREDICT: no(predict),
    }


class SimCLRConfig(GradientConfig):
    """Contrast of two random views of each row (Chen et al. 2020; tables: Bahri et al. 2022)."""

    kind = Kind.EMBEDDING
    answers = _embeds("simclr", "has no conditionals of hidden cells: train an autoregressive model, vae or pca")

    family: Literal["simclr"]
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="Peak of the warm-up + cosine schedule.")
    weight_decay: float = Field(default=1e-4, ge=0, le=1, description="Decoupled weight decay (AdamW).")
    network: Literal["auto", "mlp", "small", "resnet18"] = Field(
        default="auto",
        description="small: a few residual convolutions; resnet18: with a 3 × 3 stem, for GPUs. auto: small for images "
        "of at least 16 pixels a side, else mlp.",
    )
    dimensions: int | None = Field(
        default=None, ge=2, le=4096, description="Entries of a vector; resnet18: eight times the width."
    )
    width: int | None = Field(default=None, ge=4, le=4096, description="Hidden units or channels (resnet18: 64).")
    depth: int | None = Field(default=None, ge=1, le=16, description="Hidden layers (mlp) or blocks per scale (small).")
    projection: int = Field(default=64, ge=2, le=2048, description="Entries that are contrasted; dropped afterwards.")
    temperature: float = Field(default=0.2, gt=0, le=10, description="Similarities are divided by it.")
    corruption: float = Field(
        default=0.6, gt=0, lt=1, description="Tables: share of the cells that a view takes from other rows (SCARF)."
    )
    smallest_crop: float = Field(default=0.4, gt=0, le=1, description="Images: least share of the area in a view.")
    turn: float = Field(default=10.0, ge=0, le=180, description="Images: degrees that a view may turn, either way.")
    flip: bool = Field(default=True, description="Images: whether views may be mirrored.")
    light: float = Field(default=0.4, ge=0, le=1, description="Images: how far brightness and contrast may change.")
    colour: float = Field(default=0.4, ge=0, le=1, description="Images: how far saturation and hue may change.")
    erase: float = Field(default=0.25, ge=0, le=1, description="Images: share of the views with a patch erased.")

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        if self.network in ("small", "resnet18") and spec.image is None:
            raise _wrong("network", f"{self.network} looks at images, and this dataset is a table; use `auto` or `mlp`")


class CaptionedConfig(GradientConfig):
    """What families of pictures with captions share."""

    modalities = ("image",)
    reads_captions = True

    tokens: Literal["bytes", "bpe"] = Field(
        default="bytes", description="What a caption is made of: UTF-8 bytes, or pairs merged on the train captions."
    )
    vocabulary: int = Field(default=1024, ge=257, le=65536, description="Tokens of a BPE vocabulary.")
    context: int | None = Field(
        default=None, ge=4, le=1024, description="Most tokens of a caption, its end included; None: the longest one's."
    )
    template: str = Field(
        default="{label}",
        max_length=200,
        description="Without a caption column: the caption of a label, say `a picture of a {label}`.",
    )

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        check_captions(spec, self.template, self.tokens)


class CLIPConfig(CaptionedConfig):
    """Contrast of pictures with their captions (Radford et al. 2021)."""

    kind = Kind.EMBEDDING
    answers = _embeds(
        "clip", "predicts which caption fits, not hidden cells: send `captions`, or train a vae or autoregressive model"
    )

    family: Literal["clip"]
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="Peak of the warm-up + cosine schedule.")
    weight_decay: float = Field(default=0.05, ge=0, le=1, description="Decoupled weight decay (AdamW).")
    dimensions: int = Field(default=64, ge=2, le=2048, description="Entries of the vectors of both sides.")
    image_network: Literal["cnn", "vit"] = Field(
        default="cnn", description="Of pictures: residual convolutions, or a transformer over patches."
    )
    width: int | None = Field(default=None, ge=4, le=2048, description="Channels (cnn) or embedding size (vit).")
    depth: int | None = Field(default=None, ge=1, le=32, description="Blocks per scale (cnn) or in all (vit).")
    patch: int = Field(default=4, ge=1, le=64, description="vit: pixels of a side of a patch.")
    text_width: int = Field(default=64, ge=4, le=2048, description="Embedding size of the transformer of captions.")
    text_depth: int = Field(default=2, ge=1, le=32, description="Its blocks.")
    heads: int = Field(default=4, ge=1, le=64, description="Attention heads; divides text_width, and width of a vit.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Share of hidden units dropped while training.")
    shift: float = Field(
        default=0.1, ge=0, lt=1, description="How far pictures are shifted, scaled and lit while training."
    )
    linear: bool = Field(
        default=False,
        description="Add a linear map of the pixels and the mean of a vector per token to the networks: what few "
        "pictures teach first.",
    )
    largest_scale: float = Field(
        default=100.0,
        ge=1,
        le=100,
        description="What cosines may be multiplied by at most; less for few pictures, which make a model too sure.",
    )

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        if self.text_width % self.heads:
            raise _wrong("heads", f"must divide text_width, {self.text_width}")
        if self.image_network == "vit":
            if self.width is not None and self.width % self.heads:
                raise _wrong("heads", f"must divide the width of the vit, {self.width}")
            height, width, _ = spec.row_shape
            if height % self.patch or width % self.patch:
                raise _wrong("patch", f"must divide both sides of the pictures, {height} × {width} pixels")


class DALLEConfig(CaptionedConfig):
    """Pictures drawn after a text: the codes of a vqvae, one after the other (Ramesh et al. 2021)."""

    kind = Kind.AUTOREGRESSIVE
    parent_families: ClassVar[Mapping[str, str]] = {"codes": "vqvae", "ranker": "clip"}
    answers = _answers(log_prob=AnswerKind.LOWER_BOUND, predict=AnswerKind.ESTIMATE)

    family: Literal["dalle"]
    codes: str = Field(
        min_length=1, max_length=200, description="A vqvae of such pictures: name, name@3 or name@alias. Its codes are "
        "drawn, and it decodes them."
    )  # fmt: skip
    ranker: str = Field(
        default="", max_length=200, description="A clip that ranks drawn pictures by their text; empty: none."
    )
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="Peak of the warm-up + cosine schedule.")
    width: int = Field(default=128, ge=4, le=4096, description="Embedding size of the transformer.")
    depth: int = Field(default=3, ge=1, le=64, description="Blocks.")
    heads: int = Field(default=4, ge=1, le=64, description="Attention heads; divides the width.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of hidden units dropped while training.")
    text_weight: float = Field(
        default=0.1, gt=0, le=10, description="Weight of the text's nats beside those of the codes."
    )
    text_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the training rows without their text, from which /sample can guide (Ho & Salimans 2022).",
    )

    def check_data(self, spec: DataSpec) -> None:
        super().check_data(spec)
        if self.width % self.heads:
            raise _wrong("heads", f"must divide the width, {self.width}")

    def check_parent(self, role: str, reference: str, parent: Manifest, spec: DataSpec) -> None:
        super().check_parent(role, reference, parent, spec)
        if role == "codes" and "prior_step" not in parent.graphs:
            raise _wrong(role, f"{reference} has no codes, since its assignment is soft; train one with hard codes")


def check_captions(spec: DataSpec, template: str, tokens: str) -> None:
    """Raise InvalidInput unless rows have captions, or labels that a template makes captions of."""
    if any(column.role is Role.CAPTION for column in spec.columns):
        return
    if spec.label is None or not spec.label.categories:
        raise InvalidInput(
            "pictures need captions, and this dataset has neither a caption nor a label column",
            errors=[FieldProblem(location="dataset", message="upload a file of captions with the pictures")],
        )
    if spec.label.missing:
        raise InvalidInput(
            f"captions come from the label column {spec.label.name}, which may have empty cells",
            errors=[FieldProblem(location="dataset", message="label every row, or give captions")],
        )
    if "{label}" not in template:
        raise _wrong("template", "must hold {label}, since the dataset has labels and no captions")
    if tokens == "bpe":
        raise _wrong("tokens", "bpe is made of a caption column, and this dataset has labels only; use `bytes`")


AnyConfig = Annotated[
    PCAConfig
    | AutoencoderConfig
    | VAEConfig
    | HierarchicalVAEConfig
    | VQVAEConfig
    | FlowConfig
    | AutoregressiveConfig
    | GANConfig
    | SimCLRConfig
    | CLIPConfig
    | DALLEConfig,
    Field(discriminator="family"),
]

CONFIG_CLASSES: dict[str, type[FamilyConfig]] = {
    "pca": PCAConfig,
    "autoencoder": AutoencoderConfig,
    "vae": VAEConfig,
    "hierarchical_vae": HierarchicalVAEConfig,
    "vqvae": VQVAEConfig,
    "flow": FlowConfig,
    "autoregressive": AutoregressiveConfig,
    "gan": GANConfig,
    "simclr": SimCLRConfig,
    "clip": CLIPConfig,
    "dalle": DALLEConfig,
}

config_adapter: TypeAdapter[AnyConfig] = TypeAdapter(AnyConfig)
