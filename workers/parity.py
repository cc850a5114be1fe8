"""The gate before publishing: ONNX answers what torch answers, on every provider that will serve.

Every graph runs at batch 1, 2 and 7 on real rows and fixed noise, through sessions as the engine opens them.
Floats must satisfy |a - b| ≤ absolute · scale + relative · |b| with the family's tolerance; the scale is 1 but for
cells in the data's own units, where it is the cell's deviation over the train rows if that is larger (a salary near 0
is not more precise than the others). Where an output is
a whole number in both (a drawn pixel, a code), a difference is forgiven only if the decision was within
tolerance: moving the real inputs by the tolerance up or down makes torch answer at least as far.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.artifact import GraphSpec, TensorSpec, Tolerance
from contracts.errors import Internal, InvalidInput
from engine.model import open_session
from engine.options import CPU_PROVIDER, SessionOptions, providers
from models.family import Family, Graph
from workers.export import example, frozen

BATCHES = (1, 2, 7)
Array = NDArray[Any]


class ParityError(Internal):
    code, title = "parity-failed", "ONNX and torch disagree"


class RowsLike(Protocol):
    """Features and labels of some rows."""

    @property
    def x(self) -> Any: ...
    @property
    def y(self) -> NDArray[np.int64] | None: ...


def parity(
    family: Family[Any],
    folder: Path,
    graphs: dict[str, GraphSpec],
    x: RowsLike,
    *,
    on: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return the largest difference seen, by ``graph.output``.

    ``x``: real rows (a few suffice; they are repeated up to seven). ``on``: providers, default all that
    would serve here. Raises ParityError naming the graph, the output and by how much it misses.
    """
    if len(x.x) == 0:
        raise InvalidInput("parity needs at least one row to compare on")
    largest: dict[str, float] = {}
    for name, graph in frozen(family).graphs().items():
        spec = graphs[name]
        for provider in on or providers():
            chosen = (provider,) if provider == CPU_PROVIDER else (provider, CPU_PROVIDER)
            session = open_session(folder / spec.file, SessionOptions(threads=1, providers=chosen))
            for rows in BATCHES:
                feeds = {tensor.name: _feed(tensor, rows, x) for tensor in spec.inputs}
                answers = session.run([tensor.name for tensor in spec.outputs], feeds)
                references = _run(graph, feeds)
                for tensor, answer, reference in zip(spec.outputs, answers, references, strict=True):
                    key = f"{name}.{tensor.name}"
                    where = f"{key} at batch {rows} on {provider}"
                    scale = _scale(family, spec, tensor)
                    seen = _compare(where, graph, feeds, tensor, answer, reference, family.tolerance, scale)
                    largest[key] = max(largest.get(key, 0.0), seen)
    return largest


def _feed(tensor: TensorSpec, rows: int, given: RowsLike) -> Array:
    """Return real rows for ``x`` and ``y``, a mask that hides every third cell, fixed noise for the rest."""
    if tensor.name in ("x", "y") and tensor.noise is None:
        source = given.x if tensor.name == "x" else given.y
        if source is None:
            raise InvalidInput("the model is conditional, and the rows for parity have no labels")
        taken = np.resize(np.arange(len(source)), rows)
        return np.ascontiguousarray(np.asarray(source)[taken], dtype=tensor.dtype)
    value = example(tensor, rows, seed=rows).numpy()
    if tensor.dtype == "bool":
        value = (np.arange(value.size) % 3 != 0).reshape(value.shape)
    return value


def _run(graph: Graph, feeds: dict[str, Array]) -> list[Array]:
    with torch.no_grad():
        answer = graph.module(*(torch.from_numpy(np.array(feeds[tensor.name])) for tensor in graph.inputs))
    return [part.numpy() for part in ((answer,) if isinstance(answer, torch.Tensor) else answer)]


def _compare(
    where: str,
    graph: Graph,
    feeds: dict[str, Array],
    tensor: TensorSpec,
    answer: Array,
    reference: Array,
    tolerance: Tolerance,
    scale: Array,
) -> float:
    """Return the largest difference; raise ParityError where it is beyond what is allowed."""
    if answer.shape != reference.shape:
        raise ParityError(f"{where}: ONNX answers the shape {answer.shape}, torch {reference.shape}")
    a, b = answer.astype(np.float64), reference.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # equal infinities have no difference
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
    allowed = tolerance.absolute * scale + tolerance.relative * np.abs(b)
    beyond = ~same & ~(difference <= allowed)
    whole = beyond & (a == np.floor(a)) & (b == np.floor(b))
    if whole.any():
        low, high = _reach(graph, feeds, tensor, reference, tolerance)
        forgiven = whole & (a >= low) & (a <= high)
        beyond &= ~forgiven
        difference = np.where(forgiven, 0.0, difference)
    if beyond.any():
        worst = np.unravel_index(int(np.argmax(np.where(beyond, np.nan_to_num(difference, nan=np.inf), -1))), a.shape)
        raise ParityError(
            f"{where}: ONNX answers {a[worst]:.9g} and torch {b[worst]:.9g}, a difference of {difference[worst]:.3g} "
            f"where {allowed[worst]:.3g} is allowed ({int(beyond.sum())} of {a.size} values differ); "
            "nothing was published"
        )
    return float(difference.max(initial=0.0))


def _scale(family: Family[Any], graph: GraphSpec, tensor: TensorSpec) -> Array:
    """Return what the absolute tolerance is counted in: ``(*row)`` for generated rows, else 1."""
    row = family.spec.row_shape if family.spec.modality != "text" else None
    generates = all(each.name != "x" for each in graph.inputs)
    if not generates or tensor.shape[1:] != row:
        return np.ones(())
    std = family.profile.std
    if family.spec.image is not None:
        std = np.full_like(std, np.sqrt(np.mean(std**2)))
    return np.maximum(1.0, std).reshape(row)


def _reach(
    graph: Graph, feeds: dict[str, Array], tensor: TensorSpec, reference: Array, tolerance: Tolerance
) -> tuple[Array, Array]:
    """Return the smallest and largest answers of torch when the real inputs move by the tolerance."""
    index = [each.name for each in graph.outputs].index(tensor.name)
    low, high = reference.astype(np.float64), reference.astype(np.float64)
    for each in graph.inputs:
        if not each.dtype.startswith("float") or each.name == "x":
            continue
        for sign in (-1.0, 1.0):
            moved = feeds[each.name] + sign * tolerance.absolute
            if each.noise == "uniform":
                moved = np.clip(moved, 0.0, np.nextafter(np.array(1.0, feeds[each.name].dtype), 0))
            answer = _run(graph, {**feeds, each.name: moved.astype(feeds[each.name].dtype)})[index]
            low, high = np.minimum(low, answer), np.maximum(high, answer)
    return low, high
