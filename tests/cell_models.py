"""Autoregressive models of a known table of probabilities over a few true or false columns, built node by node.

Every conditional is that of the table, so whatever the order the chain rule gives the same number, and each verb has
a closed form. Regimes: *fixed*, *ordered* (steps over a cache) and *shown*; see `contracts.artifact`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from contracts.artifact import GraphSpec, Kind, TensorSpec
from contracts.data import Column, ColumnType, DataSpec
from engine.kinds import program
from engine.kinds.autoregressive import CellProgram
from engine.model import Model
from engine.options import SessionOptions
from tests.engine.conftest import write_artifact, write_graph

CELLS = 4
SPEC = DataSpec(
    modality="table", columns=tuple(Column(name=f"c{index}", type=ColumnType.BOOLEAN) for index in range(CELLS))
)
STATES = np.array(list(itertools.product([0.0, 1.0], repeat=CELLS)))
FIXED_ORDER = (2, 0, 3, 1)

node = helper.make_node


def tensor(name: str, *shape: int, dtype: str = "float64", noise: str | None = None) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("B", *shape), noise=noise)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TableOracle:
    """An artifact's folder beside the ``probabilities`` (16,) of `STATES` that it models."""

    folder: Path
    probabilities: NDArray[np.float64]

    def program(self, **options: int) -> CellProgram:
        found = program(Model.load(self.folder, SessionOptions(threads=1, **options)))
        assert isinstance(found, CellProgram)
        return found

    def shown(self, x: NDArray[np.float64], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
        """p of the shown cells of each row ``(B,)``."""
        fits = ((x[:, None] == STATES) | hidden[:, None]).all(-1)
        return fits @ self.probabilities

    def moments(self, x: NDArray[np.float64], hidden: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
        """Mean and deviation of each cell given the shown ones ``(B, CELLS)``."""
        weight = ((x[:, None] == STATES) | hidden[:, None]).all(-1) * self.probabilities
        mean = weight @ STATES / weight.sum(-1, keepdims=True)
        return mean, np.sqrt(mean * (1 - mean))


def write_table_model(folder: Path, regime: str, *, seed: int = 0, missing: bool = False) -> TableOracle:
    """Write a model of random probabilities; ``missing``: with columns declared to miss values."""
    folder.mkdir(parents=True, exist_ok=True)
    probabilities = np.random.default_rng(seed).dirichlet(np.full(len(STATES), 0.7))
    rank = np.argsort(FIXED_ORDER)
    arrays = {
        "states": STATES.T[None],  # (1, D, S)
        "p": probabilities[None, None],
        "cells": np.arange(CELLS),
        "places": np.arange(CELLS, dtype=np.float64),
        "before": (rank[None] < rank[:, None]).astype(np.float64)[None],  # (1, i, j): j before i
        "one": np.array(1.0),
        "half": np.array(0.5),
        "least": np.array(1e-300),
        "last": np.array([-1]),
        "second": np.array([1]),
        "third": np.array([2]),
        "two": np.array([1, 2]),
        "zero_i": np.array([0]),
        "one_i": np.array([1]),
        "two_i": np.array([2]),
    }
    u = tensor("u", CELLS, noise="uniform")
    x = tensor("x", CELLS)
    answers = [tensor(name, CELLS) for name in ("mean", "std", "draw")]
    given, known = _knowledge(regime)
    graphs = {
        "score": _write(folder, "score", [x, *given], [tensor("log_prob", CELLS)], [*known, *_odds(), *_score(regime)],
                        arrays),
        "embed": _write(folder, "embed", [x], [tensor("vector", CELLS)], [node("Mul", ["x", "half"], ["vector"])],
                        arrays),
    }  # fmt: skip
    if regime == "ordered":
        inputs = [tensor("value"), *(tensor(name, dtype="int64") for name in ("cell", "next", "position"))]
        inputs += [tensor("cache", 2, CELLS), tensor("u", 1, noise="uniform"), tensor("temperature")]
        outputs = [*(tensor(name) for name in ("mean", "std", "draw")), tensor("new_cache", 2, CELLS)]
        nodes = [*_cache(), *_odds(), *_asked(), *_answers("q1", "u_")]
    else:
        inputs, outputs = [x, *given, u, tensor("temperature")], answers
        nodes = [*known, *_odds(), node("Unsqueeze", ["temperature", "last"], ["t"]), *_answers("p1", "u")]
    graphs["step"] = _write(folder, "step", inputs, outputs, nodes, arrays)
    constants = {"order": np.array(FIXED_ORDER, dtype=np.float64)} if regime == "fixed" else {}
    columns = tuple(column.model_copy(update={"missing": missing}) for column in SPEC.columns)
    write_artifact(
        folder,
        kind=Kind.AUTOREGRESSIVE,
        spec=SPEC.model_copy(update={"columns": columns}),
        graphs=graphs,
        latents=CELLS,
        constants=constants,
    )
    return TableOracle(folder, probabilities)


def _write(
    folder: Path,
    name: str,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    nodes: list[onnx.NodeProto],
    arrays: dict[str, NDArray[np.generic]],
) -> GraphSpec:
    used = {source for each in nodes for source in each.input}
    return write_graph(
        folder, name, inputs, outputs, nodes, {key: value for key, value in arrays.items() if key in used}
    )


def _knowledge(regime: str) -> tuple[list[TensorSpec], list[onnx.NodeProto]]:
    """Further inputs, and the nodes that tell what is ``known`` (B or 1, i, j) when cell i is asked for."""
    if regime == "fixed":
        return [], [node("Identity", ["before"], ["known"])]
    if regime == "shown":
        return [tensor("shown", CELLS, dtype="bool")], [
            node("Cast", ["shown"], ["mask"], to=TensorProto.DOUBLE),
            node("Unsqueeze", ["mask", "second"], ["known"]),
        ]
    return [tensor("order", CELLS, dtype="int64")], [
        node("Unsqueeze", ["order", "second"], ["o"]),  # (B, 1, t)
        node("Unsqueeze", ["cells", "last"], ["c"]),  # (i, 1)
        node("Equal", ["o", "c"], ["same"]),
        node("Cast", ["same"], ["there"], to=TensorProto.DOUBLE),
        node("Mul", ["there", "places"], ["placed"]),
        node("ReduceSum", ["placed", "last"], ["rank"], keepdims=0),
        node("Unsqueeze", ["rank", "second"], ["rank_j"]),
        node("Unsqueeze", ["rank", "last"], ["rank_i"]),
        node("Less", ["rank_j", "rank_i"], ["less"]),
        node("Cast", ["less"], ["known"], to=TensorProto.DOUBLE),
    ]


def _odds() -> list[onnx.NodeProto]:
    """``p1`` (B, i): the probability that cell i is true given the known cells of x."""
    return [
        node("Unsqueeze", ["x", "last"], ["xs"]),  # (B, j, 1)
        node("Sub", ["xs", "states"], ["apart"]),  # (B, j, S)
        node("Abs", ["apart"], ["wrong"]),
        node("MatMul", ["known", "wrong"], ["mistakes"]),  # (B, i, S)
        node("Less", ["mistakes", "half"], ["right"]),
        node("Cast", ["right"], ["fits"], to=TensorProto.DOUBLE),
        node("Mul", ["fits", "p"], ["weight"]),
        node("Mul", ["weight", "states"], ["true"]),
        node("ReduceSum", ["true", "last"], ["numerator"], keepdims=0),
        node("ReduceSum", ["weight", "last"], ["denominator"], keepdims=0),
        node("Div", ["numerator", "denominator"], ["p1"]),
    ]


def _score(regime: str) -> list[onnx.NodeProto]:
    last = "each" if regime == "shown" else "log_prob"
    nodes = [
        node("Sub", ["one", "p1"], ["p0"]),
        node("Greater", ["x", "half"], ["is_true"]),
        node("Where", ["is_true", "p1", "p0"], ["chosen"]),
        node("Max", ["chosen", "least"], ["floored"]),
        node("Log", ["floored"], [last]),
    ]
    if regime == "shown":
        nodes += [node("Sub", ["one", "mask"], ["asked"]), node("Mul", ["each", "asked"], ["log_prob"])]
    return nodes


def _cache() -> list[onnx.NodeProto]:
    """Put a value into the cache of values and of what is known: rows of ``cache`` (B, 2, D)."""
    return [
        node("Unsqueeze", ["cell", "last"], ["cell_"]),
        node("Equal", ["cell_", "cells"], ["at"]),
        node("Cast", ["at"], ["here"], to=TensorProto.DOUBLE),
        node("Unsqueeze", ["here", "second"], ["here_"]),
        node("Slice", ["cache", "zero_i", "one_i", "second"], ["values"]),
        node("Slice", ["cache", "one_i", "two_i", "second"], ["had"]),
        node("Unsqueeze", ["value", "two"], ["value_"]),
        node("Mul", ["here_", "value_"], ["put"]),
        node("Add", ["values", "put"], ["new_values"]),
        node("Max", ["had", "here_"], ["known"]),
        node("Concat", ["new_values", "known"], ["new_cache"], axis=1),
        node("Squeeze", ["new_values", "second"], ["x"]),
    ]


def _asked() -> list[onnx.NodeProto]:
    """Keep the cell ``next``."""
    return [
        node("Identity", ["temperature"], ["t"]),
        node("Squeeze", ["u", "second"], ["u_"]),
        node("Unsqueeze", ["next", "last"], ["next_"]),
        node("GatherElements", ["p1", "next_"], ["picked"], axis=1),
        node("Squeeze", ["picked", "second"], ["q1"]),
    ]


def _answers(chance: str, u: str) -> list[onnx.NodeProto]:
    """Moments and a draw at a temperature of cells that are true with ``chance``."""
    return [
        node("Div", ["one", "t"], ["power"]),
        node("Sub", ["one", chance], ["other"]),
        node("Pow", [chance, "power"], ["up"]),
        node("Pow", ["other", "power"], ["down"]),
        node("Add", ["up", "down"], ["both"]),
        node("Div", ["up", "both"], ["mean"]),
        node("Sub", ["one", "mean"], ["miss"]),
        node("Mul", ["mean", "miss"], ["variance"]),
        node("Sqrt", ["variance"], ["std"]),
        node("GreaterOrEqual", [u, "miss"], ["drawn"]),
        node("Cast", ["drawn"], ["draw"], to=TensorProto.DOUBLE),
    ]
