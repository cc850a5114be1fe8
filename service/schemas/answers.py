"""What the verbs answer, as documented; the bytes are written by `service.answers` and tested against these."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from contracts.artifact import AnswerKind
from contracts.data import Measure
from engine.answers import Order
from service.schemas.inputs import Row, Tensor

Numbers = list[list[float | None]]
Pictures = list[list[list[list[float | None]]]]
Rows = Numbers | Pictures | Tensor | list[Row]
Draws = list[Numbers] | list[Pictures] | Tensor | list[list[Row]]


class CacheUse(BaseModel):
    """Rows by how the cache met them."""

    hit: int
    miss: int
    bypass: int = Field(description="Not looked up: it would not have paid, or the cache is away.")


class VerbResponse(BaseModel):
    """What every verb answers."""

    model: str = Field(description="The resolved `name@version`.")


Applied = Annotated[
    dict[str, float] | None, Field(description="Directions that the vectors were moved along, and how far.")
]


class EncodeResponse(VerbResponse):
    space: str = Field(description="The embedding space; vectors of different spaces must not be compared.")
    dimensions: int
    groups: list[int] | None = Field(
        default=None, description="Where a vector is made of groups of latents: their sizes, the top first."
    )
    directions: Applied = None
    vectors: Numbers | Tensor | None = Field(default=None, description="One per row; absent where `codes` was asked.")
    codes: list[list[int]] | Tensor | None = Field(
        default=None, description="Where asked for: the numbers of each row's codes, the top level's first."
    )
    grids: list[list[int]] | None = Field(
        default=None, description="With `codes`: rows and columns of each level's codes, the top first."
    )
    codebook_size: int | None = Field(default=None, description="With `codes`: how many different codes there are.")
    log_scale: Numbers | Tensor | None = Field(
        default=None, description="Log of the posterior's standard deviation, where the model has a posterior."
    )
    cache: CacheUse
    non_finite: dict[str, list[int]] | None = Field(
        default=None, description="Rows that hold a number out of range, written as null."
    )


class DecodeResponse(VerbResponse):
    space: str
    directions: Applied = None
    rows: Rows
    non_finite: dict[str, list[int]] | None = None


class InterpolateResponse(VerbResponse):
    """`rows` and `vectors` by pair and step: `rows[i][0]` is the decoded `a[i]`, `rows[i][-1]` the decoded `b[i]`."""

    space: str
    mode: Literal["lerp", "slerp"]
    steps: int
    rows: Draws
    vectors: list[Numbers] | Tensor
    cache: CacheUse
    non_finite: dict[str, list[int]] | None = Field(
        default=None, description="Pairs that hold a number out of range, written as null."
    )


class SampleResponse(VerbResponse):
    seed: int = Field(description="The same seed, model and n give the same rows.")
    temperature: float | list[float] = Field(description="As asked: one, or one for each group of latents.")
    rows: Rows
    kind: AnswerKind | None = Field(
        default=None, description="Of rows given cells: exact draws of the conditional, or an estimate of them."
    )
    samples: int | None = Field(default=None, description="Of rows given cells: weighted draws behind each, if any.")
    scores: list[float] | None = Field(
        default=None, description="Of ranked pictures: cosines with the text, the best first."
    )
    effective_sample_size: list[float | None] | None = Field(
        default=None, description="Of rows given cells: how many of `samples` count, row by row."
    )


class LogProbResponse(VerbResponse):
    log_prob: list[float | None] = Field(description="Nats; null where the density is zero, see `zero_density`.")
    unit: Literal["nats"]
    measure: Measure
    kind: AnswerKind
    order: Order | None = Field(
        default=None,
        description="Of autoregressive models: the order under which the number holds. raster: the cells' own; "
        "shown_first: shown cells before hidden ones, each in their own.",
    )
    bits_per_dim: list[float | None] = Field(description="-log_prob / (ln 2 · shown cells).")
    samples: int | None = Field(default=None, description="Monte-Carlo samples per row; None: none were needed.")
    standard_error: list[float | None] | None = Field(default=None, description="Of each log_prob, nats.")
    zero_density: list[int] = Field(description="Rows that the model says cannot occur.")
    seed: int
    cache: CacheUse


class PredictResponse(VerbResponse):
    mean: Rows = Field(description="Shown cells as they came, hidden ones as expected (a category: the likeliest).")
    std: Rows = Field(description="Standard deviation of each cell; 0 where shown.")
    probability: Rows | None = Field(
        default=None,
        description="Of the category or truth value that the mean tells, where one is hidden: 1 where shown, null in "
        "numbers. Not in base64.",
    )
    draws: Draws | None = Field(default=None, description="Completed rows, `draws` per row.")
    log_prob: list[float | None] = Field(description="log p(hidden | shown), nats.")
    log_prob_at: Literal["inputs", "mean"] = Field(description="Where it was evaluated.")
    unit: Literal["nats"]
    measure: Measure
    kind: AnswerKind
    samples: int | None = None
    standard_error: list[float | None] | None = None
    effective_sample_size: list[float | None] | None = None
    zero_density: list[int]
    seed: int
    non_finite: dict[str, list[int]] | None = None


class CaptionPredictResponse(VerbResponse):
    """`/predict` with `captions`: how probable each is for each picture, if it is one of these."""

    captions: list[str]
    best: list[str] = Field(description="The most probable caption of each picture.")
    probabilities: Numbers = Field(description="`(B, K)`: pictures by captions; each line adds up to one.")
    log_prob: Numbers = Field(description="Their logarithms, nats.")
    unit: Literal["nats"]
    scale: float = Field(description="What cosines were multiplied by.")


class SimilarityResponse(VerbResponse):
    """`scores (A, B)` of `a` with `b`; or the nearest of `against`, nearest first, with their `indices`."""

    space: str
    metric: str
    larger_is_nearer: bool
    scores: Numbers
    indices: list[list[int]] | None = Field(
        default=None, description="Rows of `against` (of a dataset: places in the whole dataset)."
    )
    dataset: str | None = Field(default=None, description="Digest of the dataset compared with.")
    cache: CacheUse
    non_finite: dict[str, list[int]] | None = None
