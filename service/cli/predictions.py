"""A prediction as people read it: a hidden cell as ``mean ± sd``, a category as its likeliest value (probability)."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.cli.client import Json
from service.cli.output import cell, console, print_table


def print_prediction(answer: Json, body: Json, columns: Sequence[Json]) -> None:
    """Print the rows that had a hidden cell, the hidden ones completed, and what was asked of them.

    ``answer`` has rows by column name; ``columns`` are the table's features, as the model's data spec has them.
    """
    names = [column["name"] for column in columns]
    hidden = hidden_cells(body, names)
    lines = []
    for row in map(int, np.flatnonzero(hidden.any(axis=1))):
        mean, std = answer["mean"][row], answer["std"][row]
        share = answer["probability"][row] if "probability" in answer else {}
        shown = [
            completed(mean[name], std[name], share.get(name), column["type"]) if is_hidden else cell(mean[name])
            for name, column, is_hidden in zip(names, columns, hidden[row], strict=True)
        ]
        lines.append((row, *shown, answer["log_prob"][row]))
    print_table(("row", *names, "log p(hidden | shown)"), lines)
    sizes = [size for size in answer.get("effective_sample_size") or [] if size is not None]
    facts = {
        "model": answer["model"],
        "seed": answer["seed"],
        "kind": answer["kind"],
        "samples": answer.get("samples"),
        "least effective sample size": min(sizes, default=None),
    }
    console.print(
        cell({name: value for name, value in facts.items() if value is not None}), style="dim", soft_wrap=True
    )


def completed(mean: Any, std: float | None, probability: float | None, kind: str) -> str:
    """A predicted cell: a number or a day with its deviation, a category or truth value with its probability."""
    if kind in ("categorical", "boolean"):
        return cell(mean) if probability is None else f"{cell(mean)} ({probability:.2f})"
    if mean is None or std is None:
        return cell(mean)
    return f"{mean} ± {std:.2g} days" if kind == "date" else with_deviation(float(mean), std)


def with_deviation(mean: float, std: float) -> str:
    """``mean ± std``, to the two leading digits of the deviation."""
    if not (math.isfinite(std) and 1e-6 <= std < 1e9):
        return f"{mean:.6g} ± {std:.2g}"
    digits = max(0, 1 - math.floor(math.log10(std)))
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def hidden_cells(body: Json, names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which cells ``(B, columns)`` a request hides, by null or by its mask."""
    inputs, mask = body["inputs"], body.get("mask")
    if mask is not None:
        return np.frombuffer(base64.b64decode(mask["base64"]), dtype=np.bool_).reshape(-1, len(names))
    rows = [[row.get(name) for name in names] if isinstance(row, dict) else row for row in inputs]
    return np.array([[value is None for value in row] for row in rows])
