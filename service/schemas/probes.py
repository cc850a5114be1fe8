"""Probes of a model's vectors: what is asked, and what they find."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from service.schemas.answers import VerbResponse
from service.schemas.inputs import Closed, Given
from service.schemas.verbs import Seed, VerbRequest

PerClass = Annotated[int, Field(ge=1, le=1_000_000)]


class ProbeRequest(VerbRequest):
    """A classifier on the frozen vectors of a dataset's train rows, scored on its held-out rows."""

    body_field: ClassVar[str | None] = None

    dataset: str = Field(min_length=1, description="Name or digest of a dataset with a label column.")
    method: Literal["linear", "knn"] = Field(
        default="linear", description="linear: logistic regression; knn: vote of the nearest by cosine."
    )
    labels_per_class: list[PerClass] = Field(
        default=[10, 100], max_length=20, description="Numbers of labels to learn from; all rows are always tried too."
    )
    neighbours: int = Field(default=10, ge=1, le=1000, description="knn: rows that vote.")
    max_rows: int = Field(
        default=5000, ge=2, le=100_000, description="Most train rows that are encoded; of more, a choice by the seed."
    )
    max_test_rows: int = Field(default=2000, ge=1, le=100_000, description="The same for held-out rows.")
    baseline: bool = Field(default=True, description="Whether the raw cells are probed beside the vectors.")
    seed: Seed = Field(default=0, description="Chooses rows.")
    given: Given | None = Field(
        default=None, description="For conditional models: one label for every row. Theirs would tell the answer."
    )

    @property
    def waits(self) -> bool:
        return True


class ProbeResult(Closed):
    """What a classifier does on rows that it was not fitted on."""

    labels_per_class: int | None = Field(description="null: all rows.")
    rows: int = Field(description="Rows that it learned from.")
    accuracy: float
    standard_error: float
    raw_accuracy: float | None = Field(default=None, description="The same classifier on the raw cells.")


class ProbeResponse(VerbResponse):
    space: str
    dataset: str = Field(description="Digest.")
    method: str
    part: Literal["valid", "test"] = Field(description="The held-out rows that were used.")
    classes: list[str]
    test_rows: int
    rows_left_out: int = Field(description="Rows with empty cells, where the model encodes complete rows only.")
    majority: float = Field(description="Share of the most frequent class among the held-out rows.")
    results: list[ProbeResult]
    accuracy: list[float] = Field(description="Of each result, in their order.")
