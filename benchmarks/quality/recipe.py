"""A recipe: everything that one row of the quality table is made of, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.families import AnyConfig
from contracts.jobs import NAME_PATTERN, Budget

FOLDER = Path(__file__).resolve().parents[2] / "recipes"


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(_Closed):
    """A model of ours, trained as a job would."""

    name: str
    config: AnyConfig
    budget: Budget


class Peer(_Closed):
    """A model of somebody else: a key of the row module's peers, and how it is run."""

    name: str
    peer: str
    seconds: float | None = Field(default=None, gt=0, description="Training time; None: it ends by itself.")
    settings: dict[str, int | float | str] = Field(default_factory=dict)


class Bar(_Closed):
    """What has to hold: the model's figures of a metric against a bound or against other models' figures.

    ``over`` several data sets: each of them, most of them, or their mean.
    """

    says: str = Field(description="The bar in words.")
    model: str
    metric: str
    over: Literal["each", "most", "mean"] = "each"
    at_most: float | None = None
    at_least: float | None = None
    better_than: tuple[str, ...] = ()
    by: float = Field(default=0.0, ge=0, description="By how much better than the others, in the metric's unit.")

    @model_validator(mode="after")
    def _one(self) -> Bar:
        if (self.at_most is not None) + (self.at_least is not None) + bool(self.better_than) != 1:
            raise ValueError("a bar is one of at_most, at_least or better_than")
        return self


class Recipe(_Closed):
    """``recipes/<name>.json``."""

    name: str = Field(pattern=NAME_PATTERN)
    title: str
    row: str = Field(description="Module of benchmarks.quality.rows that measures it.")
    command: str
    data: tuple[str, ...] = Field(min_length=1, description="Data sets, as the row's module names them.")
    models: tuple[Model, ...] = Field(min_length=1)
    peers: tuple[Peer, ...] = ()
    options: dict[str, int | float] = Field(default_factory=dict, description="Rows scored, samples K, ….")
    bars: tuple[Bar, ...]
    expected: dict[str, float] = Field(description="model → its figure on the machine that wrote the recipe; a mean "
                                       "over the data sets where there are several.")  # fmt: skip
    minutes: float = Field(gt=0, description="Of the whole row, on that machine.")
    machine: Literal["2 CPU cores", "GPU"] = "2 CPU cores"
    notes: str = ""
    attempts: tuple[str, ...] = Field(default=(), description="Where a bar is missed: what was tried, with figures.")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        known = [*(model.name for model in self.models), *(peer.name for peer in self.peers)]
        if len(set(known)) != len(known):
            raise ValueError("models and peers must have different names")
        spoken_of = {name for bar in self.bars for name in (bar.model, *bar.better_than)} | set(self.expected)
        # A row may tell a model's figure twice, the second time under "<model>, <how>".
        told = {name for name in spoken_of if any(name.startswith(f"{each}, ") for each in known)}
        if unknown := sorted(spoken_of - told - set(known)):
            raise ValueError(f"bars or expected figures name models that do not run: {', '.join(unknown)}")
        return self


def load(name: str, folder: Path = FOLDER) -> Recipe:
    """Return a recipe by name. Raises FileNotFoundError, naming those there are."""
    path = folder / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe `{name}`; there are {', '.join(names(folder))}")
    return Recipe.model_validate_json(path.read_text())


def names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all recipes, in order."""
    return sorted(path.stem for path in folder.glob("*.json"))
