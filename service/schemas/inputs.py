"""How rows may stand in a JSON body.

The types describe the wire for OpenAPI; `service.inputs` reads the parsed body straight into one
array and checks it there, so `SkipValidation` keeps pydantic from walking every number.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, model_validator

Dtype = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]


class Closed(BaseModel):
    """A model that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid")


class Tensor(Closed):
    """Little-endian bytes of an array in C order."""

    dtype: Dtype
    shape: list[int] = Field(max_length=8, description="Its product times the size of the dtype is the byte count.")
    base64: str = Field(description="Standard base64 of the bytes.", json_schema_extra={"contentEncoding": "base64"})


class Picture(Closed):
    """One PNG or JPEG."""

    image: str = Field(
        description="Base64 of the file; a `data:` URL is read too.", json_schema_extra={"contentEncoding": "base64"}
    )


Cell = float | bool | str | None
Row = dict[str, Cell]
Number = float | None

AnyRows = (
    list[list[Number]]
    | list[list[list[Number]]]
    | list[list[list[list[Number]]]]
    | Tensor
    | list[Picture]
    | list[Row]
    | list[str]
)

Inputs = Annotated[
    SkipValidation[AnyRows],
    Field(
        description="Rows as nested numbers (`(B, D)` tables, `(B, H, W)` or `(B, H, W, C)` images; booleans count as "
        "0 and 1), a base64 tensor of that shape, objects by column name, images, or strings "
        "(of /predict also gaps `{before, after, tokens}`). "
        "null is a hidden cell where the verb takes hidden cells."
    ),
]

CAPTION = Annotated[str, Field(min_length=1, max_length=10_000)]
Texts = Annotated[list[CAPTION], Field(min_length=1, max_length=10_000)]


class TextInputs(Closed):
    """Texts in the place of rows, for models that read both."""

    texts: Texts


RowsOrTexts = Annotated[
    SkipValidation[AnyRows | TextInputs],
    Field(
        description="Rows, in any form that other verbs take; for a model of pictures and captions also "
        '`{"texts": [...]}`.'
    ),
]


Mask = Annotated[
    SkipValidation[
        list[list[bool]]
        | list[list[list[bool]]]
        | list[list[list[list[bool]]]]
        | Tensor
        | Picture
        | list[Picture]
        | None
    ],
    Field(
        description="True = hidden; the shape of the inputs. Or a picture for all rows, or one per row, of the rows' "
        "size: light pixels are hidden, black and transparent ones shown. Beside null cells and the transparent pixels "
        "of the inputs, all count."
    ),
]

Vectors = Annotated[
    SkipValidation[list[list[float]] | Tensor],
    Field(description="Vectors `(B, L)` of the model's space, as nested numbers or a base64 tensor."),
]

Codes = Annotated[
    SkipValidation[list[list[int]] | Tensor],
    Field(description="Numbers of codes `(B, N)`, the top level's first, as nested numbers or a base64 tensor."),
]

Labels = Annotated[str | list[str], Field(description="One label for all rows, or one per row.")]


Prompts = Annotated[
    CAPTION | Texts,
    Field(description="One text for all rows, or one per row, of models that draw pictures after texts."),
]


class Given(Closed):
    """What a model is conditioned on: a label, or a text."""

    label: Labels | None = None
    text: Prompts | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.label is None) == (self.text is None):
            raise ValueError("give `label` or `text`")
        return self


class SampleGiven(Closed):
    """What rows are drawn given: a conditional model's label, or known cells of a table's row, or both; or a text."""

    label: Labels | None = None
    text: Prompts | None = None
    row: Annotated[
        Row | Annotated[list[Row], Field(min_length=1)] | None,
        Field(
            description="Cells by column name; the others are drawn from the model's conditional. One object for all "
            "rows, or one per row. Needs a model that answers /predict."
        ),
    ] = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.label is None and self.row is None and self.text is None:
            raise ValueError("give `label`, `row` or both, or `text`")
        if self.text is not None and (self.label is not None or self.row is not None):
            raise ValueError("`text` stands alone: leave `label` and `row` out")
        return self
