from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest
import torch
from torch import Tensor, nn

import workers.export
from contracts.artifact import Kind, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec
from contracts.errors import TooLarge
from contracts.families import FamilyConfig
from engine.model import open_session
from engine.options import SessionOptions
from models.family import Family, Graph, Stage, Tiny
from workers.export import ExportError, check, example, export, frozen, operators, rename, strip

SPEC = DataSpec(modality="table", columns=tuple(Column(name=name, type=ColumnType.REAL) for name in "ab"))
PROFILE = DataProfile(2, np.zeros(2), np.ones(2), np.zeros(2), np.ones(2))
X = TensorSpec(name="x", dtype="float64", shape=("B", 2))
Z = TensorSpec(name="z", dtype="float64", shape=("B", 2))


class _Named(nn.Module):
    """Its weight bears the name of its output, and `mean` the name of what torch calls the operation."""

    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.full((2,), 3.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.z + x.mean(-1, keepdim=True)


class _Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class _Fixed(nn.Module):
    """Answers two rows, however many come."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(2, 2, dtype=torch.float64) + 0 * x[:1]


class _Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x.T @ x) + x[:1]


class _Numbers(nn.Module):
    """Numbers that float32 cannot hold, in each way that a graph takes them."""

    def forward(self, x: Tensor) -> Tensor:
        y = 0.001 + x * 0.54 - 0.3 / (x * x + 0.7)
        return torch.where(x > 0.1, y, 0.123).clamp(min=-1.1, max=1e6 + 0.1) + (x * x) ** 1.7


class OneGraph(Family[FamilyConfig]):
    """A family of one graph, for the exporter's sake."""

    kind = Kind.EMBEDDING
    module: nn.Module
    inputs: tuple[TensorSpec, ...] = (X,)
    outputs: tuple[TensorSpec, ...] = (Z,)

    @classmethod
    def tiny(cls) -> list[Tiny]:
        return []

    def stages(self) -> list[Stage]:
        return []

    def verbs(self) -> dict[Verb, VerbSpec]:
        return {}

    def graphs(self) -> dict[str, Graph]:
        return {"embed": Graph(self.module, self.inputs, self.outputs)}

    def freeze(self) -> None:
        self.is_frozen = True


def family(module: nn.Module, **specs: tuple[TensorSpec, ...]) -> OneGraph:
    made = OneGraph(FamilyConfig(family="one"), SPEC, PROFILE)
    made.module = module
    for name, value in specs.items():
        setattr(made, name, value)
    return made


def test_names_are_kept_apart_and_any_batch_runs(tmp_path: Path) -> None:
    mean = TensorSpec(name="mean", dtype="float64", shape=("B", 2))
    for output in (Z, mean):
        specs = export(family(_Named(), outputs=(output,)), tmp_path / output.name)
        assert specs["embed"].file == "embed.onnx"
        session = open_session(tmp_path / output.name / "embed.onnx", SessionOptions(threads=1))
        for rows in (1, 2, 7):
            x = np.random.default_rng(rows).normal(size=(rows, 2))
            (answer,) = session.run([output.name], {"x": x})
            np.testing.assert_allclose(answer, 3 * x + x.mean(-1, keepdims=True), rtol=1e-12)


def test_numbers_in_the_source_keep_the_precision_of_the_graph(tmp_path: Path) -> None:
    export(family(_Numbers()), tmp_path)
    x = np.random.default_rng(0).normal(size=(50, 2))
    (answer,) = open_session(tmp_path / "embed.onnx", SessionOptions(threads=1)).run(["z"], {"x": x})
    np.testing.assert_allclose(answer, _Numbers()(torch.from_numpy(x)).numpy(), rtol=1e-14, atol=1e-14)


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        export(family(_Named()), tmp_path / folder)
    assert (tmp_path / "first" / "embed.onnx").read_bytes() == (tmp_path / "second" / "embed.onnx").read_bytes()


def test_the_terminal_stays_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(family(_Named()), tmp_path)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_family_is_left_as_it_was(tmp_path: Path) -> None:
    made = family(_Named())
    made.train()
    export(made, tmp_path)
    assert made.training
    assert not hasattr(made, "is_frozen")
    copy = frozen(made)
    assert copy.is_frozen
    assert not copy.training


def test_a_graph_that_draws_its_own_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"draws its own noise.*Random"):
        export(family(_Noisy()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_with_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"output `z` of the graph `embed` is float64 \(2, 2\)"):
        export(family(_Fixed()), tmp_path)


def test_a_promise_that_the_graph_breaks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"is float64.*not float32"):
        export(family(_Named(), outputs=(Z.model_copy(update={"dtype": "float32"}),)), tmp_path)
    with pytest.raises(ExportError, match="has the outputs"):
        export(family(_Named(), outputs=(Z, Z.model_copy(update={"name": "more"}))), tmp_path)


def test_an_operator_without_counterpart_names_its_graph(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the graph `embed` does not export"):
        export(family(_Unexportable()), tmp_path)


def test_a_graph_beyond_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.export, "LARGEST_FILE_BYTES", 10)
    with pytest.raises(TooLarge, match="train a narrower model"):
        export(family(_Named()), tmp_path)


def branching() -> onnx.ModelProto:
    """An `If` whose branch draws noise, full of doc strings and metadata."""
    noise = onnx.helper.make_node("RandomNormal", [], ["x"], shape=[1], doc_string="/somewhere/a.py")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    branch = onnx.helper.make_graph([noise], "branch", [], [value], doc_string="branch")
    condition = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.BOOL, [])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("If", ["z"], ["y"], then_branch=branch, else_branch=branch)
    node.metadata_props.add(key="stack", value="File /somewhere/a.py")
    graph = onnx.helper.make_graph([node], "top", [condition], [result], doc_string="top")
    model = onnx.helper.make_model(graph, doc_string="model")
    model.metadata_props.add(key="where", value="/somewhere")
    return model


def test_subgraphs_are_searched_stripped_and_renamed() -> None:
    model = branching()
    assert operators(model) == {"If", "RandomNormal"}
    rename(model, ["x"], ["out"])  # `x` is taken inside the branch
    strip(model)
    data = model.SerializeToString()
    assert b"somewhere" not in data
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "out"]
    onnx.checker.check_model(model)
    with pytest.raises(ExportError, match="RandomNormal"):
        check("top", model, [], [])


def test_examples_are_what_inputs_take() -> None:
    uniform = example(TensorSpec(name="u", dtype="float32", shape=("B", 5), noise="uniform"), 3)
    assert uniform.shape == (3, 5)
    assert uniform.dtype == torch.float32
    assert 0 <= float(uniform.min()) <= float(uniform.max()) < 1
    assert example(TensorSpec(name="shown", dtype="bool", shape=("B",)), 3).all()
    assert not example(TensorSpec(name="y", dtype="int64", shape=("B",)), 3).any()
