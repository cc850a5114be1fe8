"""A small model of texts built node by node, beside the same model in numpy: no torch, no training.

State c_t = Σ_{s ≤ t} E[token_s]; logits of the next token: W[token_t] + c_t U + P[place_t] + N[next place] + L[y].
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contracts.artifact import AnswerKind, Card, FileEntry, GraphSpec, Kind, Manifest, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataSpec, Role, SplitRule
from engine.tokeniser import TOKENISER_FILE

STATE = 3
ELEMENTS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

DOCUMENTS = DataSpec(modality="text", columns=(Column(name="text", type=ColumnType.TEXT),))
ONE_TEXT = DOCUMENTS.model_copy(update={"split": SplitRule(by="tail")})


def labelled(spec: DataSpec, labels: Sequence[str]) -> DataSpec:
    column = Column(name="label", type=ColumnType.CATEGORICAL, role=Role.LABEL, categories=tuple(labels))
    return spec.model_copy(update={"columns": (*spec.columns, column)})


@dataclass(frozen=True)
class TextOracle:
    """The folder of an artifact and its arrays."""

    folder: Path
    manifest: Manifest
    context: int
    arrays: dict[str, np.ndarray]

    @property
    def end(self) -> int:
        return len(self.arrays["W"]) - 1

    def log_p(self, seen: Sequence[int], places: Sequence[int] | None = None, y: int | None = None) -> np.ndarray:
        """log p(next | seen), ``(V,)``; ``places`` of the seen tokens and, last, of the next one."""
        a = self.arrays
        at = list(range(len(seen) + 1)) if places is None else list(places)
        logits = a["W"][seen[-1]] + a["E"][list(seen)].sum(0) @ a["U"] + a["P"][at[-2]]
        logits = logits + (a["N"][at[-1]] if "N" in a else 0) + (a["L"][y] if y is not None else 0)
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    def score(self, sequence: Sequence[int], y: int | None = None) -> float:
        """log p of all tokens after the first, each seen through the last window that starts at a multiple of half a
        context and holds what comes before it."""
        total = 0.0
        for t in range(1, len(sequence)):
            start = 0
            while t - start > self.context:
                start += self.context // 2
            total += self.log_p(sequence[start:t], y=y)[sequence[t]]
        return total


def write_text_model(
    folder: Path,
    spec: DataSpec,
    *,
    context: int = 16,
    seed: int = 0,
    any_order: bool = False,
    labels: Sequence[str] = (),
    tokeniser: bytes | None = None,
    tokens: int = 256,
    likely: str = "",
    end_logit: float = 0.0,
) -> TextOracle:
    """Write the model. ``likely`` characters get a higher logit than other bytes; ``end_logit`` is added to ⊥."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    alphabet = tokens + 1
    bias = np.zeros(alphabet)
    bias[[ord(each) for each in likely]] = 7.0
    bias[-1] += end_logit
    arrays = {
        "W": rng.normal(size=(alphabet, alphabet)) + bias,
        "E": rng.normal(size=(alphabet, STATE)),
        "U": 0.2 * rng.normal(size=(STATE, alphabet)),
        "P": 0.3 * rng.normal(size=(context + 1, alphabet)),
    }
    if any_order:
        arrays["N"] = rng.normal(size=(context + 1, alphabet))
    if labels:
        arrays["L"] = 2.0 * rng.normal(size=(len(labels), alphabet))
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    graphs = _graphs(folder, arrays, any_order=any_order, labelled=bool(labels))
    if tokeniser is not None:
        (folder / TOKENISER_FILE).write_bytes(tokeniser)
    card = Card(metrics={"nats_per_token": 1.0}, parity={}, timings={}, rows={"train": 1})
    (folder / "card.json").write_text(card.model_dump_json())
    files = {
        path.name: FileEntry(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
    }
    verbs = {verb: VerbSpec(supported=True, kind=AnswerKind.EXACT) for verb in Verb}
    verbs[Verb.DECODE] = VerbSpec(supported=False, refusal="autoregressive has no latent variables: train a vae")
    manifest = Manifest(
        family="autoregressive",
        kind=Kind.AUTOREGRESSIVE,
        config={"context": context, "tokens": "bpe" if tokeniser else "bytes"},
        data=labelled(spec, labels) if labels else spec,
        latent_dimensions=STATE,
        condition=tuple(labels) or None,
        graphs=graphs,
        verbs=verbs,
        measure=spec.measure,
        seed=0,
        steps=0,
        dataset="0" * 64,
        space=hashlib.sha256(folder.name.encode()).hexdigest()[:32],
        files=files,
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return TextOracle(folder, manifest, context, {name: array.astype(np.float64) for name, array in arrays.items()})


def _graphs(folder: Path, a: dict[str, np.ndarray], *, any_order: bool, labelled: bool) -> dict[str, GraphSpec]:
    alphabet = len(a["W"])
    y = [_tensor("y", "int64")] if labelled else []
    pair = [_tensor(name, "int64", "T") for name in ("places", "next_places")] if any_order else []
    one = [_tensor(name, "int64") for name in ("place", "next_place")] if any_order else []
    axis = {"axis": np.array(1), "axes1": np.array([1])}
    # ``score``: places are 0 … T-1 where they are not given.
    nodes = [
        helper.make_node("Gather", ["W", "tokens"], ["w"]),
        helper.make_node("Gather", ["E", "tokens"], ["e"]),
        helper.make_node("CumSum", ["e", "axis"], ["c"]),
        helper.make_node("MatMul", ["c", "U"], ["cu"]),
        helper.make_node("Add", ["w", "cu"], ["h0"]),
    ]
    if any_order:
        nodes += _added("P", "places", "h0", "h1") + _added("N", "next_places", "h1", "h2")
    else:
        nodes += [
            helper.make_node("Shape", ["tokens"], ["shape"], start=1, end=2),
            helper.make_node("Slice", ["P", "zero", "shape", "zero"], ["p"]),
            helper.make_node("Add", ["h0", "p"], ["h2"]),
        ]
    if labelled:
        nodes += [
            helper.make_node("Gather", ["L", "y"], ["l"]),
            helper.make_node("Unsqueeze", ["l", "axes1"], ["l1"]),
            helper.make_node("Add", ["h2", "l1"], ["h3"]),
        ]
    nodes += [
        helper.make_node("LogSoftmax", ["h3" if labelled else "h2"], ["log_p"], axis=-1),
        helper.make_node("Unsqueeze", ["targets", "last"], ["t"]),
        helper.make_node("GatherElements", ["log_p", "t"], ["picked"], axis=2),
        helper.make_node("Squeeze", ["picked", "last"], ["log_prob"]),
    ]
    constants = {**a, **axis, "last": np.array([2]), "zero": np.array([0])}
    sequence = [_tensor("tokens", "int64", "T"), _tensor("targets", "int64", "T"), *pair, *y]
    score = _write(folder, "score", sequence, [_tensor("log_prob", "float32", "T")], nodes, constants)
    nodes = [
        helper.make_node("Gather", ["W", "token"], ["w"]),
        helper.make_node("Gather", ["E", "token"], ["e"]),
        helper.make_node("Add", ["cache", "e"], ["new_cache"]),
        helper.make_node("MatMul", ["new_cache", "U"], ["cu"]),
        helper.make_node("Add", ["w", "cu"], ["h0"]),
        *_added("P", "place" if any_order else "position", "h0", "h1"),
        *(_added("N", "next_place", "h1", "h2") if any_order else [helper.make_node("Identity", ["h1"], ["h2"])]),
        *(_added("L", "y", "h2", "logits") if labelled else [helper.make_node("Identity", ["h2"], ["logits"])]),
    ]
    step = _write(
        folder, "step", [_tensor("token", "int64"), _tensor("position", "int64"), _tensor("cache", "float32", STATE),
                         *one, *y],
        [_tensor("logits", "float32", alphabet), _tensor("new_cache", "float32", STATE)], nodes, a,
    )  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["E", "tokens"], ["e"]),
        helper.make_node("Unsqueeze", ["weight", "last"], ["w1"]),
        helper.make_node("Mul", ["e", "w1"], ["we"]),
        helper.make_node("ReduceSum", ["we", "axes1"], ["vector"], keepdims=0),
    ]
    state = [_tensor("tokens", "int64", "T"), _tensor("weight", "float32", "T"), *y]
    embed = _write(folder, "embed", state, [_tensor("vector", "float32", STATE)], nodes, constants)
    return {"score": score, "step": step, "embed": embed}


def _added(table: str, index: str, before: str, after: str) -> list[Any]:
    rows = f"{table}_rows"
    return [helper.make_node("Gather", [table, index], [rows]), helper.make_node("Add", [before, rows], [after])]


def _tensor(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("B", *shape))  # type: ignore[arg-type]


def _write(
    folder: Path,
    name: str,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    nodes: list[Any],
    arrays: dict[str, np.ndarray],
) -> GraphSpec:
    def values(tensors: list[TensorSpec]) -> list[Any]:
        return [helper.make_tensor_value_info(t.name, ELEMENTS[t.dtype], list(t.shape)) for t in tensors]

    used = {each for node in nodes for each in node.input}
    constants = [numpy_helper.from_array(array, key) for key, array in arrays.items() if key in used]
    graph = helper.make_graph(nodes, name, values(inputs), values(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return GraphSpec(file=f"{name}.onnx", inputs=tuple(inputs), outputs=tuple(outputs))
