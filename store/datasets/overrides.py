"""What a user may say about an upload; the rest of the spec is inferred."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from contracts.data import ColumnType, Role, SplitRule
from contracts.errors import FieldProblem, InvalidInput

MOST_CATEGORIES = 10_000
_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnOverride(_Closed):
    """Fields of one column, by its name; None: inferred."""

    name: _Name
    type: ColumnType | None = None
    role: Role | None = None
    missing: bool | None = Field(
        default=None, description="Whether empty cells are allowed; None: in features that have some, nowhere else."
    )
    categories: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=MOST_CATEGORIES)
    minimum: float | None = Field(default=None, allow_inf_nan=False)
    maximum: float | None = Field(default=None, allow_inf_nan=False)


class ImageOverride(_Closed):
    """Size and depth of the stored images; None: as uploaded. Another size means resizing."""

    height: int | None = Field(default=None, ge=1, le=4096)
    width: int | None = Field(default=None, ge=1, le=4096)
    channels: Literal[1, 3] | None = None
    levels: int | None = Field(default=None, ge=2, le=256, description="Values are 0 … levels-1.")


class SplitOverride(_Closed):
    by: Literal["hash", "column", "given", "tail"] | None = None
    valid: float | None = Field(default=None, ge=0, lt=0.5)
    test: float | None = Field(default=None, ge=0, lt=0.5)

    def rule(self, by: Literal["hash", "column", "given", "tail"]) -> SplitRule:
        """The rule with what is not said filled in; ``by`` is what the format suggests."""
        default = SplitRule()
        return SplitRule(
            by=self.by or by,
            valid=default.valid if self.valid is None else self.valid,
            test=default.test if self.test is None else self.test,
        )


class Overrides(_Closed):
    """The overrides of an upload, in the words of `contracts.data.DataSpec`."""

    modality: Literal["table", "image", "text"] | None = None
    columns: tuple[ColumnOverride, ...] = ()
    image: ImageOverride = ImageOverride()
    split: SplitOverride = SplitOverride()
    label: _Name | None = Field(default=None, description="Short for the column's role `label`.")
    drop: tuple[_Name, ...] = Field(default=(), description="Columns that are left out.")
    header: bool | None = Field(default=None, description="CSV: whether the first line names the columns.")

    @model_validator(mode="after")
    def _consistent(self) -> Overrides:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("`columns` names a column twice")
        both = set(self.drop) & {*names, *([self.label] if self.label else [])}
        if both:
            raise ValueError(f"`drop` leaves out a column that is described: {', '.join(sorted(both))}")
        for column in self.columns:
            if column.name == self.label and column.role not in (None, Role.LABEL):
                raise ValueError(f"`label` and `columns` give column {column.name!r} different roles")
        return self

    @classmethod
    def parse(cls, overrides: dict[str, Any]) -> Overrides:
        """Validate what the user sent; InvalidInput names each wrong field."""
        try:
            return cls.model_validate(overrides)
        except ValidationError as error:
            problems = [
                FieldProblem(location=".".join(["overrides", *map(str, each["loc"])]), message=each["msg"])
                for each in error.errors()
            ]
            raise InvalidInput(
                f"the overrides are not valid; first: {problems[0].location}: {problems[0].message}", errors=problems
            ) from error

    def canonical(self) -> dict[str, Any]:
        """What was said, without what equals the defaults; part of the dataset's digest."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def column(self, name: str) -> ColumnOverride:
        """What was said of a column, the `label` shortcut included."""
        said = next((column for column in self.columns if column.name == name), ColumnOverride(name=name))
        return said.model_copy(update={"role": Role.LABEL}) if name == self.label else said

    def named(self) -> tuple[str, ...]:
        """Columns that are spoken of."""
        return (*(column.name for column in self.columns), *([self.label] if self.label else []))

    def check_names(self, known: list[str]) -> None:
        """InvalidInput unless every column that the overrides name exists."""
        said = [
            *((f"overrides.columns[{index}].name", column.name) for index, column in enumerate(self.columns)),
            *((f"overrides.drop[{index}]", name) for index, name in enumerate(self.drop)),
            *([("overrides.label", self.label)] if self.label is not None else []),
        ]
        shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        wrong = [
            FieldProblem(location=location, message=f"there is no column {name!r}; columns are: {shown}")
            for location, name in said
            if name not in known
        ]
        if wrong:
            raise InvalidInput(wrong[0].message, errors=wrong)
