"""From a trained family to ONNX files: one per graph, symbolic batch, noise as input, no traces of this machine.

Every file is checked after it is written: the names, dtypes and shapes that the family promised, ``B`` still
symbolic, no operator that draws its own noise. A graph that fails is a defect of its family and raises
ExportError.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import torch
from onnxscript import opset20
from torch import Tensor, nn

from contracts.artifact import GraphSpec, TensorSpec
from contracts.errors import Internal, TooLarge
from models.family import Family, Graph

RANDOM_OPERATORS = ("Random", "Multinomial", "Bernoulli")
LARGEST_FILE_BYTES = 2**31 - 1
"""A protobuf message cannot be larger, and a graph is one file."""

_ONNX_DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.BOOL: "bool",
}


class ExportError(Internal):
    code, title = "export-failed", "A graph could not be exported"


def export(family: Family[Any], folder: Path) -> dict[str, GraphSpec]:
    """Write ``<graph>.onnx`` for each graph of ``family`` into ``folder`` and return their specs.

    The family is left as it was: a copy goes to the CPU, into eval mode and through ``freeze``. Raises ExportError
    naming the graph and what is wrong with it, TooLarge if a graph does not fit into one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    specs = {}
    for name, graph in frozen(family).graphs().items():
        specs[name] = GraphSpec(file=f"{name}.onnx", inputs=graph.inputs, outputs=graph.outputs)
        model = _trace(name, graph)
        rename(model, [tensor.name for tensor in graph.inputs], [tensor.name for tensor in graph.outputs])
        strip(model)
        check(name, model, graph.inputs, graph.outputs)
        size = model.ByteSize()
        if size > LARGEST_FILE_BYTES:
            raise TooLarge(f"the graph `{name}` has {size} bytes and one ONNX file holds 2 GiB: train a narrower model")
        (folder / specs[name].file).write_bytes(model.SerializeToString(deterministic=True))
    return specs


def frozen(family: Family[Any]) -> Family[Any]:
    """Return a copy of ``family`` on the CPU, in eval mode and frozen: what its graphs are made of."""
    model = copy.deepcopy(family).cpu().eval()
    model.freeze()
    return model


def example(tensor: TensorSpec, rows: int, seed: int = 0) -> Tensor:
    """Return a plausible value of an input, its symbolic sizes set to ``rows``: normals, uniforms, zeros, all shown,
    permutations for orders, positive numbers for temperatures and weights."""
    shape = tuple(size if isinstance(size, int) else rows for size in tensor.shape)
    generator = np.random.default_rng(seed)
    if tensor.dtype == "bool":
        return torch.ones(shape, dtype=torch.bool)
    if tensor.name == "order":
        return torch.from_numpy(generator.random(shape).argsort(axis=1))
    if tensor.name in ("temperature", "weight"):
        return torch.from_numpy(0.5 + generator.random(shape)).to(getattr(torch, tensor.dtype))
    if tensor.dtype in ("int64", "uint8"):
        return torch.zeros(shape, dtype=getattr(torch, tensor.dtype))
    drawn = generator.random(shape) if tensor.noise == "uniform" else generator.standard_normal(shape)
    return torch.from_numpy(drawn).to(getattr(torch, tensor.dtype))


def _trace(name: str, graph: Graph) -> onnx.ModelProto:
    module: nn.Module = graph.module.eval()
    # A batch of one would be taken for a constant.
    arguments = tuple(example(tensor, 2) for tensor in graph.inputs)
    sizes = {size for tensor in graph.inputs for size in tensor.shape if isinstance(size, str)}
    dimensions = {size: torch.export.Dim(size) for size in sorted(sizes)}
    shapes = tuple(
        {axis: dimensions[size] for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in graph.inputs
    )
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                dynamic_shapes=shapes,
                verbose=False,
                custom_translation_table={torch.ops.aten.scalar_tensor.default: _scalar},
            )
    except Exception as error:  # the exporter's errors share no base class
        raise ExportError(f"the graph `{name}` does not export: {error}") from error
    if program is None:
        raise ExportError(f"the graph `{name}` does not export: the exporter answered nothing")
    model: onnx.ModelProto = program.model_proto
    return model


def _scalar(s: Any, dtype: int = -1, layout: str = "", device: str = "", pin_memory: bool = False) -> Any:
    """A number of the source as a constant of the dtype wanted.

    The exporter's own translation goes through float32, and 0.001 would be another number in a float64 graph.
    """
    wanted = onnx.TensorProto.FLOAT if dtype == -1 else int(dtype)
    if not isinstance(s, int | float):
        return opset20.Cast(s, to=wanted)
    return opset20.Constant(value=onnx.helper.make_tensor("", wanted, [], [s]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its developers off the terminal; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def rename(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the graph's inputs and outputs their names, in place.

    The exporter's own renaming does not look whether a weight or a value in between bears that name already.
    """
    graph = model.graph
    named: list[tuple[str, str]] = [(value.name, name) for value, name in zip(graph.input, inputs, strict=False)]
    named += [(value.name, name) for value, name in zip(graph.output, outputs, strict=False)]
    if len({old for old, _ in named}) < len(named):
        raise ExportError("two outputs of a graph are one value, or an input comes back unchanged; leave one out")
    new: dict[str, str] = dict(named)

    def fresh(name: str) -> str:
        return new.get(name, f"inner.{name}" if name else name)

    def visit(part: onnx.GraphProto) -> None:
        for value in (*part.input, *part.output, *part.value_info, *part.initializer):
            value.name = fresh(value.name)
        for node in part.node:
            node.input[:] = [fresh(name) for name in node.input]
            node.output[:] = [fresh(name) for name in node.output]
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    visit(inner)

    visit(graph)


def strip(model: onnx.ModelProto) -> None:
    """Remove stack traces, module paths and doc strings, in place: they name files of this machine."""
    model.doc_string = ""
    del model.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _strip_nodes(function.node)
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    graph.name = "main"
    for named in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        named.doc_string = ""
        del named.metadata_props[:]
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    _strip_graph(inner)


def operators(model: onnx.ModelProto) -> set[str]:
    """Return the types of all operators, those of functions and of subgraphs included."""

    def walk(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
        for node in nodes:
            yield node.op_type
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    yield from walk(inner.node)

    found = set(walk(model.graph.node))
    for function in model.functions:
        found.update(walk(function.node))
    return found


def check(name: str, model: onnx.ModelProto, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise ExportError unless the file keeps what the specs promise and draws no noise of its own."""
    random = sorted(op for op in operators(model) if op.startswith(RANDOM_OPERATORS))
    if random:
        raise ExportError(f"the graph `{name}` draws its own noise ({', '.join(random)}); make noise an input")
    for role, values, specs in (("input", model.graph.input, inputs), ("output", model.graph.output, outputs)):
        names = [value.name for value in values]
        if names != [spec.name for spec in specs]:
            raise ExportError(f"the graph `{name}` has the {role}s {names}, not {[spec.name for spec in specs]}")
        for value, spec in zip(values, specs, strict=True):
            found = value.type.tensor_type
            dtype = _ONNX_DTYPES.get(found.elem_type)
            shape = tuple(d.dim_param or d.dim_value for d in found.shape.dim)
            if dtype != spec.dtype or shape != spec.shape:
                raise ExportError(
                    f"the {role} `{value.name}` of the graph `{name}` is {dtype} {shape}, not {spec.dtype} {spec.shape}"
                )
