from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contracts.artifact import Kind, TensorSpec, Tolerance, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataProfile, DataSpec
from contracts.errors import InvalidInput
from contracts.families import FamilyConfig
from models.family import Family, Graph, Stage, Tiny
from workers.export import export
from workers.parity import ParityError, parity

SPEC = DataSpec(modality="table", columns=tuple(Column(name=name, type=ColumnType.REAL) for name in "ab"))
PROFILE = DataProfile(2, np.zeros(2), np.ones(2), np.zeros(2), np.ones(2))


@dataclass(frozen=True)
class Rows:
    x: Any
    y: np.ndarray | None = None


class _Affine(nn.Module):
    """z = factor · x, and a whole number that steps where u passes ``threshold``."""

    def __init__(self, factor: float, threshold: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))
        self.threshold = nn.Parameter(torch.tensor(threshold, dtype=torch.float64))

    def forward(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.factor * x, 5 * (u >= self.threshold).to(torch.float64)


class TwoOutputs(Family[FamilyConfig]):
    kind = Kind.EMBEDDING
    tolerance = Tolerance(absolute=1e-4, relative=1e-4)

    def __init__(self, factor: float = 1.0, threshold: float = 0.5) -> None:
        super().__init__(FamilyConfig(family="two"), SPEC, PROFILE)
        self.net = _Affine(factor, threshold)

    @classmethod
    def tiny(cls) -> list[Tiny]:
        return []

    def stages(self) -> list[Stage]:
        return []

    def verbs(self) -> dict[Verb, VerbSpec]:
        return {}

    def graphs(self) -> dict[str, Graph]:
        def cells(name: str) -> TensorSpec:
            return TensorSpec(name=name, dtype="float64", shape=("B", 2))

        u = TensorSpec(name="u", dtype="float64", shape=("B", 2), noise="uniform")
        return {"embed": Graph(self.net, (cells("x"), u), (cells("z"), cells("draw")))}


ROWS = Rows(np.random.default_rng(0).normal(size=(4, 2)) + 10)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    export(TwoOutputs(), folder)
    return folder


def specs(folder: Path) -> dict[str, Any]:
    from contracts.artifact import GraphSpec

    graph = TwoOutputs().graphs()["embed"]
    return {"embed": GraphSpec(file="embed.onnx", inputs=graph.inputs, outputs=graph.outputs)}


def test_equal_graphs_pass_and_their_differences_are_told(exported: Path) -> None:
    assert parity(TwoOutputs(), exported, specs(exported), ROWS) == {"embed.z": 0.0, "embed.draw": 0.0}


def test_a_difference_within_tolerance_passes_and_is_told(exported: Path) -> None:
    seen = parity(TwoOutputs(factor=1 + 5e-5), exported, specs(exported), ROWS)
    assert 1e-5 < seen["embed.z"] < 2e-3


def test_a_difference_beyond_tolerance_names_graph_output_and_size(exported: Path) -> None:
    with pytest.raises(
        ParityError,
        match=r"embed\.z at batch 1 on CPUExecutionProvider: .* a difference of 1\.01 where 0\.00121 is allowed",
    ):
        parity(TwoOutputs(factor=1.1), exported, specs(exported), ROWS)


def test_a_missing_cell_takes_its_columns_mean(exported: Path) -> None:
    hollow = Rows(np.where(np.arange(8).reshape(4, 2) % 3 == 0, np.nan, ROWS.x))
    assert parity(TwoOutputs(), exported, specs(exported), hollow)["embed.z"] == 0.0
    model = TwoOutputs(factor=1.1)
    model.profile = DataProfile(2, np.full(2, 50.0), np.ones(2), np.zeros(2), np.ones(2))
    with pytest.raises(ParityError, match="a difference of 5 where"):  # a tenth of the mean: not hidden by a NaN
        parity(model, exported, specs(exported), Rows(np.full((4, 2), np.nan)))


def test_not_a_number_is_a_difference(exported: Path) -> None:
    with pytest.raises(ParityError, match=r"embed\.z .* torch nan"):
        parity(TwoOutputs(factor=float("nan")), exported, specs(exported), ROWS)
    hollow = Rows(np.full((3, 2), np.inf))  # equal infinities agree
    assert parity(TwoOutputs(), exported, specs(exported), hollow)["embed.z"] == 0.0


def nearest_uniform() -> float:
    """The value of u, among those that parity feeds, that lies nearest to 1/2."""
    from workers.export import example

    u = TwoOutputs().graphs()["embed"].inputs[1]
    drawn = np.concatenate([example(u, rows, seed=rows).numpy().ravel() for rows in (1, 2, 7)])
    return float(drawn[np.argmin(np.abs(drawn - 0.5))])


def test_a_decision_within_tolerance_is_forgiven(tmp_path: Path) -> None:
    edge = nearest_uniform()
    export(TwoOutputs(threshold=edge - 1e-6), tmp_path)
    # torch now decides the other way for one cell, by a hair
    seen = parity(TwoOutputs(threshold=edge + 1e-6), tmp_path, specs(tmp_path), ROWS)
    assert seen["embed.draw"] == 0.0
    with pytest.raises(ParityError, match=r"embed\.draw .* a difference of 5"):
        parity(TwoOutputs(threshold=edge + 1e-2), tmp_path, specs(tmp_path), ROWS)


def test_parity_needs_rows(exported: Path) -> None:
    with pytest.raises(InvalidInput, match="at least one row"):
        parity(TwoOutputs(), exported, specs(exported), Rows(np.zeros((0, 2))))


def test_a_conditional_model_needs_labels(exported: Path) -> None:
    family = TwoOutputs()
    graph = specs(exported)["embed"]
    labelled = graph.model_copy(update={"inputs": (*graph.inputs, TensorSpec(name="y", dtype="int64", shape=("B",)))})
    with pytest.raises(InvalidInput, match="have no labels"):
        parity(family, exported, {"embed": labelled}, ROWS)


class _Decoder(nn.Module):
    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return z + self.error


class Generator(TwoOutputs):
    """Cells in units with a deviation of 1000."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.profile = DataProfile(2, np.zeros(2), np.array([1000.0, 0.01]), np.zeros(2), np.ones(2))
        self.net = _Decoder(error)  # type: ignore[assignment]

    def graphs(self) -> dict[str, Graph]:
        z, x = (TensorSpec(name=name, dtype="float64", shape=("B", 2)) for name in "zx")
        return {"inverse": Graph(self.net, (z,), (x,))}


def test_generated_cells_are_compared_in_units_of_their_spread(tmp_path: Path) -> None:
    graphs = export(Generator(0.0), tmp_path)
    with pytest.raises(ParityError, match=r"1 of 2 values differ"):  # 0.05 is little for 1000 and much for 0.01
        parity(Generator(0.05), tmp_path, graphs, ROWS)
    with pytest.raises(ParityError, match=r"2 of 2 values differ"):
        parity(Generator(0.5), tmp_path, graphs, ROWS)
