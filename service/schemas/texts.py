"""What the verbs answer of texts, where that is not what they answer of rows; and the events of a stream."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from contracts.artifact import AnswerKind
from contracts.data import Measure
from service.schemas.answers import CacheUse, VerbResponse

FinishReason = Literal["stop", "length"]
Conditioning = Literal["full", "sliding_window"]


class WindowSize(BaseModel):
    """How a text longer than the context is seen."""

    context: int = Field(description="Tokens that the model sees at once.")
    stride: int = Field(description="Tokens by which the window slides on.")


class TextSampleResponse(VerbResponse):
    """`/sample` of a model of texts."""

    seed: int = Field(description="The same seed, model and settings give the same texts.")
    temperature: float
    texts: list[str] = Field(description="Whole texts, the prefix included.")
    finish_reasons: list[FinishReason] = Field(description="stop: the model ended the text; length: `max_tokens` did.")
    tokens: list[int] = Field(description="Tokens drawn for each text, its end included.")
    log_prob: list[float] = Field(description="Nats of what was drawn, at temperature 1 and without top-k and top-p.")
    unit: Literal["nats"]
    kind: AnswerKind
    measure: Measure


class TextLogProbResponse(VerbResponse):
    """`/log_prob` of a model of texts."""

    log_prob: list[float | None] = Field(description="Nats of the whole text, the end of a document included.")
    unit: Literal["nats"]
    measure: Measure
    kind: AnswerKind
    log_perplexity: list[float | None] = Field(description="-log_prob per token, nats; null where nothing is scored.")
    bits_per_byte: list[float | None] = Field(description="-log_prob / (ln 2 · bytes); null for the empty text.")
    tokens: list[int] = Field(description="Tokens that were scored.")
    bytes: list[int] = Field(description="Bytes of UTF-8.")
    conditioning: Conditioning = Field(
        description="full: every token was conditioned on all before it. sliding_window: not so in the texts listed "
        "under `sliding`; their numbers are exact for the model that sees one window at a time."
    )
    window: WindowSize
    sliding: list[int] = Field(description="Texts longer than the context.")
    zero_density: list[int] = Field(description="Texts that the model says cannot occur.")
    seed: int
    cache: CacheUse


class TextPredictResponse(VerbResponse):
    """`/predict` of a model of texts: what follows each prefix, or what fills each gap; `draws` of each."""

    texts: list[list[str]] = Field(description="Completed texts.")
    drawn: list[list[str]] = Field(description="Only what was drawn of them.")
    finish_reasons: list[list[FinishReason]]
    tokens: list[list[int]] = Field(description="Tokens drawn, the end of a document included.")
    log_prob: list[list[float]] = Field(
        description="log p(drawn | shown) in nats, at temperature 1 and without top-k and top-p."
    )
    unit: Literal["nats"]
    measure: Measure
    kind: AnswerKind
    seed: int


class TextEvent(BaseModel):
    """Event `text` of a stream: characters that continue text `index`."""

    index: int
    text: str


class DoneEvent(BaseModel):
    """Event `done`, the last of a stream; after an event `error`, which holds a problem, there is none."""

    model: str
    seed: int
    finish_reasons: list[FinishReason]
    tokens: list[int]
