"""Directions of an embedding space: what they are made from, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, SkipValidation, model_validator

from contracts.jobs import NAME_PATTERN
from service.schemas.inputs import Closed, Given, Inputs
from service.schemas.verbs import Seed, VerbRequest
from store.catalogue import Direction

Method = Literal["mean_difference", "linear_probe"]


class ColumnCondition(Closed):
    """What a cell of a column must be: `equals` a value, or `above` and `below` numbers or dates (bounds left out)."""

    name: str = Field(min_length=1, description="A feature column of a table, or the label column.")
    equals: bool | float | str | None = None
    above: float | str | None = None
    below: float | str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        bounds = self.above is not None or self.below is not None
        if (self.equals is not None) == bounds:
            raise ValueError("give `equals`, or `above`, `below` or both of these")
        return self


class DatasetRows(Closed):
    """The rows of a dataset that have a label, or fulfil a condition on a column. Exactly one of them."""

    dataset: str = Field(min_length=1, description="Name or digest.")
    label: str | int | None = Field(default=None, description="Rows with this label.")
    column: ColumnCondition | None = None
    part: Literal["train", "valid", "test"] | None = Field(default=None, description="Rows of this part; None: of all.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.label is None) == (self.column is None):
            raise ValueError("give exactly one of `label` and `column`")
        return self


def _side(value: object) -> object:
    """A choice of a dataset's rows is checked here; rows are checked as one array by `service.inputs`."""
    is_choice = isinstance(value, Mapping) and "dataset" in value
    return DatasetRows.model_validate(value, strict=True) if is_choice else value


Side = Annotated[
    SkipValidation[Inputs | DatasetRows],
    BeforeValidator(_side),
    Field(description="At least 2 rows, in any form that `inputs` takes, or a choice of a dataset's rows."),
]


class DirectionRequest(VerbRequest):
    """A direction from the rows that lack something to those that have it."""

    body_field: ClassVar[str | None] = None

    name: str = Field(pattern=NAME_PATTERN, description="What it is called within the model's space.")
    positive: Side
    negative: Side
    method: Method = Field(
        default="mean_difference",
        description="mean_difference: between the sides' means; linear_probe: of a logistic regression.",
    )
    max_rows: int = Field(
        default=2000, ge=2, le=20_000, description="Most rows of a side that are used; of more, a choice by the seed."
    )
    seed: Seed = Field(default=0, description="Chooses rows beyond `max_rows` and those that the probe holds out.")
    given: Given | None = Field(
        default=None,
        description="For conditional models: one label for every row. None: rows of a dataset are read with theirs.",
    )
    replace: bool = Field(default=False, description="Put it in the place of another direction of that name.")

    @property
    def waits(self) -> bool:
        return True


class ProbeAccuracy(BaseModel):
    """How well a probe does on rows that it was not fitted on."""

    value: float = Field(description="Share of the held-out rows that are told right.")
    positive: int = Field(description="Held-out rows of the positive side.")
    negative: int


class DirectionResponse(BaseModel):
    """A direction. A strength s moves a vector by `s · scale · vector`."""

    space: str
    name: str
    method: str = Field(description="mean_difference or linear_probe.")
    model: str = Field(description="The `name@version` that encoded the rows.")
    dimensions: int
    positive: int = Field(description="Rows of that side that it was made from.")
    negative: int
    scale: float = Field(
        description="Length of a step of strength 1: the standard deviation of the rows' projections, "
        "each side weighing half."
    )
    distance: float = Field(
        description="Between the means of the sides along the vector; `distance / scale`, at most 2, is the strength "
        "from one to the other."
    )
    bias: float = Field(description="`vector · z + bias` > 0 where z is taken for positive.")
    accuracy: ProbeAccuracy | None = Field(
        description="Of a probe; null for other methods, and where a side has fewer than 5 rows."
    )
    digest: str = Field(description="Of what it was made from.")
    created_at: datetime
    vector: list[float] = Field(description="Of length 1, in the space.")

    @classmethod
    def of(cls, direction: Direction) -> Self:
        rows, accuracy = direction.rows, direction.accuracy
        return cls(
            space=direction.space,
            name=direction.name,
            method=direction.method,
            model=direction.model,
            dimensions=len(direction.vector),
            positive=rows.positive,
            negative=rows.negative,
            scale=direction.scale,
            distance=direction.distance,
            bias=direction.bias,
            accuracy=None
            if accuracy is None
            else ProbeAccuracy(value=accuracy, positive=rows.held_out_positive, negative=rows.held_out_negative),
            digest=direction.digest,
            created_at=direction.created_at,
            vector=direction.vector.tolist(),
        )


class DirectionPage(BaseModel):
    items: list[DirectionResponse]
    next: str | None = Field(default=None, description="`after` of the next page; null on the last one.")
