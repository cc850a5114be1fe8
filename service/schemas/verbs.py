"""Bodies of the verbs; the same fields are read from the query where the body is raw bytes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from service.schemas.inputs import Closed, Given, Inputs, Mask, Vectors

LARGEST_SEED = 2**63 - 1
# Seeds that are drawn here stay within what every JSON reader keeps exactly.
LARGEST_EXACT_SEED = 2**53

NumbersFormat = Literal["numbers", "base64"]
RowsFormat = Literal["numbers", "base64", "rows"]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
MetricName = Literal["cosine", "dot", "euclidean", "symmetric_kl", "wasserstein2"]


class VerbRequest(Closed):
    """What every verb takes."""

    body_field: ClassVar[str | None] = "inputs"
    """The field that a raw body stands for."""

    model: str = Field(min_length=1, max_length=200, description="`name` (its latest), `name@3` or `name@alias`.")
    space: str | None = Field(
        default=None, description="Pin the embedding space: 409 if the model's vectors live in another."
    )


class EncodeRequest(VerbRequest):
    """Rows to vectors."""

    inputs: Inputs
    given: Given | None = None
    format: NumbersFormat = Field(default="numbers", description="How the vectors are written in JSON.")


class DecodeRequest(VerbRequest):
    """Vectors to rows."""

    body_field: ClassVar[str | None] = "vectors"

    vectors: Vectors
    given: Given | None = None
    format: RowsFormat = Field(default="numbers", description="How the rows are written in JSON.")


class SampleRequest(VerbRequest):
    """New rows from the model."""

    body_field: ClassVar[str | None] = None

    n: int = Field(default=1, ge=1, description="Rows to draw.")
    seed: Seed | None = Field(default=None, description="None: a fresh one is drawn and answered.")
    temperature: float = Field(default=1.0, gt=0, le=10, description="Scales the deviation of the prior.")
    given: Given | None = None
    format: RowsFormat = Field(default="numbers", description="How the rows are written in JSON.")


class LogProbRequest(VerbRequest):
    """log p(x) of rows; of rows with hidden cells, the marginal of the shown ones."""

    inputs: Inputs
    mask: Mask = None
    seed: Seed = 0
    samples: int | None = Field(
        default=None, ge=1, description="Monte-Carlo samples per row, where the answer uses any."
    )
    given: Given | None = None


class PredictRequest(VerbRequest):
    """Hidden cells given the shown ones."""

    inputs: Inputs
    mask: Mask = None
    seed: Seed = 0
    draws: int = Field(default=1, ge=0, description="Completed rows drawn per row; 0: none.")
    samples: int | None = Field(
        default=None, ge=1, description="Monte-Carlo samples per row, where the answer uses any."
    )
    score_inputs: bool = Field(
        default=False,
        description="Score the values that stand under the mask instead of the predicted mean; they must be given.",
    )
    given: Given | None = None
    format: RowsFormat | None = Field(default=None, description="How rows are written; None: as they came.")


class Against(Closed):
    """What a query is compared with: rows in the request, or the rows of a dataset. Exactly one of them."""

    inputs: Inputs | None = None
    dataset: str | None = Field(default=None, min_length=1, description="Name or digest of a dataset.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.inputs is None) == (self.dataset is None):
            raise ValueError("give exactly one of `inputs` and `dataset`")
        return self


class SimilarityRequest(VerbRequest):
    """How alike rows are by their vectors: `a` with `b`, or the `top_k` of `against` for each `query`."""

    body_field: ClassVar[str | None] = None

    a: Inputs | None = None
    b: Inputs | None = None
    query: Inputs | None = None
    against: Against | None = None
    given: Given | None = Field(default=None, description="For conditional models: one label for every row.")
    top_k: int = Field(default=10, ge=1, le=1000, description="Neighbours per query; `against` only.")
    metric: MetricName = Field(
        default="cosine", description="symmetric_kl and wasserstein2 compare posteriors and need a model that has them."
    )

    @model_validator(mode="after")
    def _pair(self) -> Self:
        given = tuple(each is not None for each in (self.a, self.b, self.query, self.against))
        if given not in ((True, True, False, False), (False, False, True, True)):
            raise ValueError("give `a` and `b`, or `query` and `against`")
        return self
