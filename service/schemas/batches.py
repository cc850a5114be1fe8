"""What a batch takes besides model, verb and dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from contracts.artifact import Verb
from service.schemas.inputs import Closed
from service.schemas.verbs import Seed


class BatchParameters(Closed):
    """Parameters of every row."""

    seed: Seed = 0
    samples: int | None = Field(default=None, ge=1, le=10_000, description="Monte-Carlo samples per row.")
    given: Literal["label"] | None = Field(default=None, description="label: condition each row on its own label.")


PARAMETERS: dict[Verb, type[BatchParameters]] = {
    Verb.ENCODE: BatchParameters,
    Verb.LOG_PROB: BatchParameters,
    Verb.PREDICT: BatchParameters,
}
