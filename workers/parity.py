"""The gate before publishing: ONNX answers what torch answers, on every provider that will serve.

Every graph runs at batch 1, 2 and 7 on real rows and fixed noise, through sessions as the engine opens them.
Floats must satisfy |a - b| ≤ absolute · scale + relative · |b| with the family's tolerance; the scale is 1 but for
cells in the data's own units, where it is the cell's deviation over the train rows if that is larger (a salary near 0
is not more precise than the others). Where an output is
a whole number in both (a drawn pixel, a code), a difference is forgiven only if the decision was within
tolerance: moving the real inputs by the tolerance up or down makes torch answer at least as far, or, for the
numbers of codes, the graph's ``guide`` of both codes is equal within it.
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

    ``x``: real rows (a few suffice; they are repeated up to seven; a missing cell takes its column's mean, since the
    engine never feeds a graph one without a value). ``on``: providers, default all that
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
                feeds = {tensor.name: _feed(tensor, rows, x, family) for tensor in spec.inputs}
                answers = session.run([tensor.name for tensor in spec.outputs], feeds)
                references = _run(graph, feeds)
                guide = {t.name: value for t, value in zip(spec.outputs, references, strict=True)}.get("guide")
                for tensor, answer, reference in zip(spec.outputs, answers, references, strict=True):
                    key = f"{name}.{tensor.name}"
                    where = f"{key} at batch {rows} on {provider}"
                    scale = _scale(family, spec, tensor, feeds)
                    guided = guide if tensor.name == "codes" else None
                    seen = _compare(where, graph, feeds, tensor, answer, reference, family.tolerance, scale, guided)
                    largest[key] = max(largest.get(key, 0.0), seen)
    return largest


def _feed(tensor: TensorSpec, rows: int, given: RowsLike, family: Family[Any]) -> Array:
    """Return real rows for ``x`` and ``y``, a mask that hides every third cell, fixed noise for the rest.

    Of windows of texts the tokens and what follows them, at the places that they have there.
    """
    if tensor.name in ("x", "y") and tensor.noise is None:
        source = given.x if tensor.name == "x" else given.y
        if source is None:
            raise InvalidInput("the model is conditional, and the rows for parity have no labels")
        taken = np.asarray(source)[np.resize(np.arange(len(source)), rows)]
        if taken.dtype.kind == "f" and np.isnan(taken).any():
            mean = np.where(family.spec.discrete, np.floor(family.profile.mean + 0.5), family.profile.mean)
            taken = np.where(np.isnan(taken), mean, taken)
        return np.ascontiguousarray(taken, dtype=tensor.dtype)
    for feed in (window_feed, cell_feed):
        if (values := feed(tensor, rows, given.x)) is not None:
            return values
    own = family.feed(tensor.name, rows)
    if own is not None:
        return np.ascontiguousarray(own.numpy(), dtype=tensor.dtype)
    value = example(tensor, rows, seed=rows).numpy()
    if tensor.dtype == "bool":
        value = (np.arange(value.size) % 3 != 0).reshape(value.shape)
    return value


def window_feed(tensor: TensorSpec, rows: int, x: Any) -> Array | None:
    """Return what graphs over tokens take of windows ``x`` (N, C + 1), where -1 stands for no token; None for an input
    that is none of theirs."""
    windows = np.asarray(x)
    if windows.ndim != 2 or windows.dtype != np.int64:
        return None
    windows = np.maximum(windows[np.resize(np.arange(len(windows)), rows)], 0)
    length = windows.shape[1] - 1
    if len(tensor.shape) == 2 and isinstance(tensor.shape[1], int):
        length = min(length, tensor.shape[1])
    at = np.arange(rows) % length
    values: dict[str, Array] = {
        "tokens": windows[:, :length],
        "targets": windows[:, 1 : length + 1],
        "places": np.broadcast_to(np.arange(length), (rows, length)),
        "next_places": np.broadcast_to(np.arange(1, length + 1), (rows, length)),
        "weight": np.full((rows, length), 1.0 / length),
        "token": windows[:, 0],
        "position": at,
        "place": at,
        "next_place": at + 1,
    }
    value = values.get(tensor.name)
    return None if value is None else np.ascontiguousarray(value, dtype=tensor.dtype)


def cell_feed(tensor: TensorSpec, rows: int, x: Any) -> Array | None:
    """Return what a graph that goes cell by cell takes of rows ``x``, each at another place of its sequence; None for
    an input that is none of its own."""
    if tensor.name not in ("value", "cell", "next", "position"):
        return None
    flat = np.asarray(x).reshape(len(x), -1)
    cell = np.arange(rows) % flat.shape[1]
    value = flat[np.arange(rows) % len(flat), cell]
    values: dict[str, Array] = {"value": value, "cell": cell, "next": np.roll(cell, 1), "position": cell}
    return np.nan_to_num(values[tensor.name]).astype(tensor.dtype)


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
    guide: Array | None = None,
) -> float:
    """Return the largest difference; raise ParityError where it is beyond what is allowed.

    ``guide`` ``(*answer.shape, K)``: what whole numbers below K were chosen by, the largest wins.
    """
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
        forgiven = whole & ((a >= low) & (a <= high) | _tied(guide, a, b, tolerance))
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


def _tied(guide: Array | None, a: Array, b: Array, tolerance: Tolerance) -> Array:
    """Whether two choices were equally good within the tolerance."""
    if guide is None:
        return np.zeros(a.shape, dtype=bool)
    choices = np.clip(np.stack([a, b], -1), 0, guide.shape[-1] - 1).astype(np.int64)
    ours, theirs = np.moveaxis(np.take_along_axis(guide, choices, -1), -1, 0)
    return np.asarray(np.abs(ours - theirs) <= tolerance.absolute + tolerance.relative * np.abs(theirs))


def _scale(family: Family[Any], graph: GraphSpec, tensor: TensorSpec, feeds: dict[str, Array]) -> Array:
    """Return what the absolute tolerance is counted in: the cells' units for generated rows or cells, else 1."""
    if family.spec.modality == "text":
        return np.ones(())
    row = family.spec.row_shape
    std = family.profile.std
    if family.spec.image is not None:
        std = np.full_like(std, np.sqrt(np.mean(std**2)))
    unit = np.maximum(1.0, std)
    steps = any(each.name == "draw" for each in graph.outputs) and tensor.name in ("mean", "std", "draw")
    if steps and "next" in feeds:
        scale: Array = unit[feeds["next"]]
        return scale
    generates = steps or all(each.name != "x" for each in graph.inputs)
    if not generates or tensor.shape[1:] not in (row, unit.shape):
        return np.ones(())
    return unit if tensor.shape[1:] == unit.shape else unit.reshape(row)


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
