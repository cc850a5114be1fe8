"""Bodies of the verbs; the same fields are read from the query where the body is raw bytes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from contracts.artifact import Verb
from service.schemas.inputs import Closed, Codes, Given, Inputs, Mask, RowsOrTexts, SampleGiven, Texts, Vectors

LARGEST_SEED = 2**63 - 1
# Seeds that are drawn here stay within what every JSON reader keeps exactly.
LARGEST_EXACT_SEED = 2**53

NumbersFormat = Literal["numbers", "base64"]
RowsFormat = Literal["numbers", "base64", "rows"]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Strengths = Annotated[
    dict[str, Annotated[float, Field(ge=-1000, le=1000)]],
    Field(
        max_length=32,
        description="Directions of the model's space by name, see /directions. A strength is counted in standard "
        "deviations of the rows that the direction was made from; vectors move by the sum of all.",
    ),
]
Across = Annotated[
    int | None, Field(ge=1, le=1000, description="Pictures on a line of a PNG; None: as many as make it near square.")
]
Temperature = Annotated[float, Field(gt=0, le=10)]
TopK = Annotated[
    int | None, Field(ge=1, description="Texts, and pictures after texts: draw from the so many likeliest tokens only.")
]
TopP = Annotated[
    float | None,
    Field(
        gt=0,
        le=1,
        description="Texts, and pictures after texts: draw from the fewest likeliest tokens that hold so much of the "
        "mass.",
    ),
]
MaxTokens = Annotated[int | None, Field(ge=1, description="Texts: most tokens that are drawn for each; None: 256.")]
MetricName = Literal["cosine", "dot", "euclidean", "symmetric_kl", "wasserstein2"]


class VerbRequest(Closed):
    """What every verb takes."""

    body_field: ClassVar[str | None] = "inputs"
    """The field that a raw body stands for."""

    model: str = Field(min_length=1, max_length=200, description="`name` (its latest), `name@3` or `name@alias`.")
    space: str | None = Field(
        default=None, description="Pin the embedding space: 409 if the model's vectors live in another."
    )

    @classmethod
    def takes_form(cls) -> bool:
        """Whether pictures and their masks may come as the files of a form."""
        return "mask" in cls.model_fields

    def needs(self, verb: Verb) -> Verb:
        """The verb that a model must answer for this request to ``verb``."""
        return verb

    @property
    def waits(self) -> bool:
        """Whether its answer takes longer than its like, or waits for more than a model in memory, so that it may not
        hold up the event loop."""
        return False


class MovedRequest(VerbRequest):
    """A verb whose vectors may be moved along directions."""

    directions: Strengths | None = None

    @property
    def waits(self) -> bool:
        return bool(self.directions)


class EncodeRequest(MovedRequest):
    """Rows to vectors."""

    inputs: RowsOrTexts
    codes: bool = Field(
        default=False, description="Of models that have codes: answer their numbers in the place of their vectors."
    )
    given: Given | None = None
    format: NumbersFormat = Field(default="numbers", description="How the vectors are written in JSON.")


class DecodeRequest(MovedRequest):
    """Vectors, or codes, to rows: exactly one of them."""

    body_field: ClassVar[str | None] = "vectors"

    vectors: Vectors | None = None
    codes: Codes | None = None
    given: Given | None = None
    format: RowsFormat = Field(default="numbers", description="How the rows are written in JSON.")
    across: Across = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.vectors is None) == (self.codes is None):
            raise ValueError("give exactly one of `vectors` and `codes`")
        return self


class InterpolateRequest(VerbRequest):
    """Rows on the way from `a` to `b`, through the model's space."""

    body_field: ClassVar[str | None] = None

    a: Inputs
    b: Annotated[Inputs, Field(description="As many rows as `a`: the first goes with the first.")]
    steps: int = Field(default=8, ge=2, le=1000, description="Rows of a path, both ends included.")
    mode: Literal["lerp", "slerp"] = Field(
        default="slerp",
        description="lerp: a straight line; slerp: an arc, which keeps the length that draws of the prior have.",
    )
    given: Given | None = Field(default=None, description="One label for all, or one per pair.")
    format: RowsFormat = Field(default="numbers", description="How rows and vectors are written in JSON.")


class DrawnRequest(VerbRequest):
    """A verb that draws; what concerns texts alone is refused for other models."""

    top_k: TopK = None
    top_p: TopP = None
    max_tokens: MaxTokens = None


class SampleRequest(DrawnRequest):
    """New rows from the model."""

    body_field: ClassVar[str | None] = None

    n: int = Field(default=1, ge=1, description="Rows to draw.")
    seed: Seed | None = Field(default=None, description="None: a fresh one is drawn and answered.")
    temperature: Temperature | Annotated[list[Temperature], Field(min_length=1, max_length=64)] = Field(
        default=1.0,
        description="Scales the deviation of the prior; a list: of each group of latents, the top first. Of texts: "
        "divides the logits of each token.",
    )
    prefix: str | None = Field(default=None, description="Texts: what each begins with.")
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Pictures after texts: how far to go the way of the text; 1 (None) is the model itself.",
    )
    expected: bool | None = Field(
        default=None,
        description="Of models of codes: answer the expected row of drawn codes, without the noise that the likelihood "
        "gives each cell. None: only for pictures after texts.",
    )
    candidates: int | None = Field(
        default=None, ge=1, description="Pictures after one text: draw so many, answer the `n` that fit best, in order."
    )
    stream: bool = Field(
        default=False, description="Texts: answer server-sent events as the texts come; so does `Accept`."
    )
    given: SampleGiven | None = None
    format: RowsFormat = Field(default="numbers", description="How the rows are written in JSON.")

    @property
    def waits(self) -> bool:
        return self.given is not None and (self.given.row is not None or self.given.text is not None)


class LogProbRequest(VerbRequest):
    """log p(x) of rows; of rows with hidden cells, the marginal of the shown ones."""

    inputs: Inputs
    mask: Mask = None
    seed: Seed = 0
    samples: int | None = Field(
        default=None, ge=1, description="Monte-Carlo samples per row, where the answer uses any."
    )
    given: Given | None = None


class PredictRequest(DrawnRequest):
    """Hidden cells given the shown ones; of texts, what follows a prefix or fills a gap; of pictures, which of some
    captions fits."""

    inputs: Inputs
    captions: Annotated[Texts | None, Field(description="Models of pictures and captions: what to choose from.")] = None
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
    temperature: Temperature | None = Field(
        default=None, description="Texts: divides the logits of each token that is drawn; None: 1."
    )
    picture: Literal["mean", "draws"] = Field(
        default="mean", description="What a PNG or NPY answer holds; of the draws a PNG has one line per row."
    )

    def needs(self, verb: Verb) -> Verb:
        return verb if self.captions is None else Verb.ENCODE


class Against(Closed):
    """What a query is compared with: rows in the request, or the rows of a dataset. Exactly one of them."""

    inputs: RowsOrTexts | None = None
    dataset: str | None = Field(default=None, min_length=1, description="Name or digest of a dataset.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.inputs is None) == (self.dataset is None):
            raise ValueError("give exactly one of `inputs` and `dataset`")
        return self


class SimilarityRequest(VerbRequest):
    """How alike rows are by their vectors: `a` with `b`, or the `top_k` of `against` for each `query`."""

    body_field: ClassVar[str | None] = None

    a: RowsOrTexts | None = None
    b: RowsOrTexts | None = None
    query: RowsOrTexts | None = None
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
