"""What a row measures: figures by data set, metric and model, and whether they meet its bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.quality.recipe import Bar, Recipe

Better = Literal["higher", "lower"]


class Figure(BaseModel):
    """One model's figure on one data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    metric: str = Field(description="With its unit.")
    model: str
    value: float
    standard_error: float | None = Field(default=None, description="Over the rows that were scored.")
    better: Better
    kind: str = Field(description="exact, lower bound with K, estimate, or what else the figure is.")
    train_seconds: float = 0.0
    score_seconds: float = 0.0
    note: str = ""


class Judged(BaseModel):
    """A bar with what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str
    met: bool
    measured: str


class Finished(BaseModel):
    """A finished row, as it is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    figures: tuple[Figure, ...]
    bars: tuple[Judged, ...]
    seed: int
    minutes: float
    machine: str
    threads: int
    libraries: dict[str, str]


def mean_figure(scores: ArrayLike, **about: object) -> Figure:
    """Return the figure of scores per row ``(n,)``: their mean with its standard error."""
    array = np.asarray(scores, dtype=np.float64)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else None
    return Figure.model_validate({"value": float(array.mean()), "standard_error": error, **about})


def judge(recipe: Recipe, figures: Sequence[Figure]) -> tuple[Judged, ...]:
    """Return every bar of the recipe with whether the figures meet it; one without figures is missed."""
    return tuple(_judge(bar, figures) for bar in recipe.bars)


def _judge(bar: Bar, figures: Sequence[Figure]) -> Judged:
    ours = {figure.data: figure for figure in figures if (figure.model, figure.metric) == (bar.model, bar.metric)}
    if not ours:
        return Judged(says=bar.says, met=False, measured="not measured")
    sign = 1.0 if next(iter(ours.values())).better == "higher" else -1.0
    against = {
        name: {figure.data: figure.value for figure in figures if (figure.model, figure.metric) == (name, bar.metric)}
        for name in bar.better_than
    }
    absent = [name for name, values in against.items() if set(values) != set(ours)]
    if absent:
        return Judged(says=bar.says, met=False, measured=f"not measured: {', '.join(absent)}")
    if bar.over == "mean":
        value = float(np.mean([figure.value for figure in ours.values()]))
        others = {name: float(np.mean(list(values.values()))) for name, values in against.items()}
        met, other = _holds(bar, value, others, sign)
        return Judged(says=bar.says, met=met, measured=f"{_show(value)} against {other}")
    held, shown = 0, []
    for data, figure in ours.items():
        others = {name: values[data] for name, values in against.items()}
        met, other = _holds(bar, figure.value, others, sign)
        held += met
        shown.append(f"{_show(figure.value)} against {other}" + (f" on {data}" if len(ours) > 1 else ""))
    met = held == len(ours) if bar.over == "each" else 2 * held > len(ours)
    summary = shown[0] if len(shown) == 1 else f"{held} of {len(ours)}: {'; '.join(shown)}"
    return Judged(says=bar.says, met=met, measured=summary)


def _holds(bar: Bar, value: float, others: dict[str, float], sign: float) -> tuple[bool, str]:
    if bar.at_most is not None:
        return value <= bar.at_most, f"at most {bar.at_most:g}"
    if bar.at_least is not None:
        return value >= bar.at_least, f"at least {bar.at_least:g}"
    best = max(others, key=lambda name: sign * others[name])
    return sign * (value - others[best]) > bar.by, f"{_show(others[best])} ({best})"


def _show(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"
