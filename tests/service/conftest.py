"""A gateway over a real store with real artifacts, whose graphs are built node by node: no torch, no training.

Each latent model says that its (dequantised) cells are N(b, I): log p, marginals and conditionals are known exactly.
Its vectors are the first two cells, its posterior's log-scale is -1. The bijection is z = x - b - 10 y.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from contracts.artifact import AnswerKind, Card, FileEntry, GraphSpec, Kind, Manifest, TensorSpec, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataSpec, ImageShape, Role
from service.app import create_app
from service.gateway import Gateway, of
from service.settings import GatewaySettings
from store.catalogue import ModelVersion

LATENTS = 2
ELEMENTS = {"float64": TensorProto.DOUBLE, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}

REALS = DataSpec(modality="table", columns=tuple(Column(name=n, type=ColumnType.REAL) for n in ("a", "b", "c")))
MIXED = DataSpec(
    modality="table",
    columns=(
        Column(name="height", type=ColumnType.REAL),
        Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=15),
        Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
        Column(name="open", type=ColumnType.BOOLEAN),
        Column(name="day", type=ColumnType.DATE),
        Column(name="kind", type=ColumnType.CATEGORICAL, role=Role.LABEL, categories=("x", "y")),
    ),
)
PICTURES = DataSpec(modality="image", image=ImageShape(height=4, width=5, channels=1, levels=17))
COLOURED = DataSpec(modality="image", image=ImageShape(height=3, width=2, channels=3))


def _graph(
    folder: Path,
    name: str,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    nodes: list[Any],
    arrays: dict[str, Any],
) -> GraphSpec:
    def values(tensors: list[TensorSpec]) -> list[Any]:
        return [helper.make_tensor_value_info(t.name, ELEMENTS[t.dtype], list(t.shape)) for t in tensors]

    constants = [numpy_helper.from_array(np.asarray(array), key) for key, array in arrays.items()]
    graph = helper.make_graph(nodes, name, values(inputs), values(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return GraphSpec(file=f"{name}.onnx", inputs=tuple(inputs), outputs=tuple(outputs))


def _tensor(name: str, *shape: int, dtype: str = "float64", noise: str | None = None) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("B", *shape), noise=noise)  # type: ignore[arg-type]


def _flat(spec: DataSpec) -> tuple[list[Any], list[TensorSpec], dict[str, Any]]:
    """Nodes that give ``d (B, cells)`` = x + u on discrete cells - b."""
    noise = [_tensor("u", spec.cells, noise="uniform")] if spec.discrete.any() else []
    nodes = [
        helper.make_node("Flatten", ["x"], ["x_flat"], axis=1),
        helper.make_node("Cast", ["x_flat"], ["x_float"], to=TensorProto.DOUBLE),
    ]
    spread = "x_float"
    if noise:
        nodes += [
            helper.make_node("Mul", ["u", "discrete"], ["ud"]),
            helper.make_node("Add", ["x_float", "ud"], ["x_spread"]),
        ]
        spread = "x_spread"
    nodes.append(helper.make_node("Sub", [spread, "b"], ["d"]))
    arrays = {"discrete": spec.discrete.astype(np.float64)} if noise else {}
    return nodes, noise, arrays


def _log_density(nodes: list[Any], of: str, cells: int) -> tuple[list[Any], dict[str, Any]]:
    return (
        [
            *nodes,
            helper.make_node("Mul", [of, of], ["squared"]),
            helper.make_node("ReduceSum", ["squared", "axis"], ["q"], keepdims=0),
            helper.make_node("Mul", ["q", "half"], ["h"]),
            helper.make_node("Sub", ["h", "norm"], ["log_prob"]),
        ],
        {"axis": np.array([1]), "half": np.array(-0.5), "norm": np.array(0.5 * cells * np.log(2 * np.pi))},
    )


def write_latent(folder: Path, spec: DataSpec, centre: float, verbs: dict[Verb, VerbSpec] | None = None) -> None:
    folder.mkdir(parents=True)
    cells, b = spec.cells, np.full(spec.cells, centre)
    x = _tensor("x", *spec.row_shape, dtype=str(spec.dtype))
    select = np.eye(cells)[:, :LATENTS]
    nodes, noise, arrays = _flat(spec)
    scored, more = _log_density(nodes, "d", cells)
    back = helper.make_node("Reshape", ["m", "rows"], ["mean"])
    drawn = helper.make_node("Reshape", ["s", "rows"], ["draw"])
    graphs = {
        "posterior": _graph(
            folder, "posterior", [x], [_tensor("mean", LATENTS), _tensor("log_scale", LATENTS)],
            [
                helper.make_node("Flatten", ["x"], ["x_flat"], axis=1),
                helper.make_node("Cast", ["x_flat"], ["x_float"], to=TensorProto.DOUBLE),
                helper.make_node("MatMul", ["x_float", "select"], ["mean"]),
                helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
                helper.make_node("Sub", ["nothing", "one"], ["log_scale"]),
            ],
            {"select": select, "zero": np.array(0.0), "one": np.array(1.0)},
        ),
        "likelihood": _graph(
            folder, "likelihood", [_tensor("z", LATENTS), _tensor("eps", cells, noise="normal")],
            [_tensor("mean", *spec.row_shape), _tensor("draw", *spec.row_shape)],
            [
                helper.make_node("MatMul", ["z", "select"], ["zs"]),
                helper.make_node("Add", ["zs", "b"], ["m"]),
                helper.make_node("Add", ["m", "eps"], ["s"]),
                back, drawn,
            ],
            {"select": select.T, "b": b, "rows": np.array([-1, *spec.row_shape])},
        ),
        "density": _graph(
            folder, "density", [x, *noise], [_tensor("log_prob")], scored, {"b": b, **arrays, **more}
        ),
    }  # fmt: skip
    constants = {
        "gaussian.log_weights": np.zeros(1),
        "gaussian.means": b[None],
        "gaussian.cholesky": np.eye(cells)[None],
    }
    _finish(folder, Kind.LATENT, spec, graphs, constants, verbs=verbs, latents=LATENTS)


def write_bijective(folder: Path, spec: DataSpec, centre: float, labels: Sequence[str] = ()) -> None:
    folder.mkdir(parents=True)
    cells, b = spec.cells, np.full(spec.cells, centre)
    nodes, noise, arrays = _flat(spec)
    y = [TensorSpec(name="y", dtype="int64", shape=("B",))] if labels else []
    shift = [
        helper.make_node("Cast", ["y"], ["y_float"], to=TensorProto.DOUBLE),
        helper.make_node("Unsqueeze", ["y_float", "axis"], ["y_column"]),
        helper.make_node("Mul", ["y_column", "ten"], ["moved"]),
    ] if labels else []  # fmt: skip
    last = helper.make_node("Sub", ["d", "moved"], ["z"]) if labels else helper.make_node("Identity", ["d"], ["z"])
    scored, more = _log_density([*nodes, *shift, last], "z", cells)
    more |= {"ten": np.array(10.0)} if labels else {}
    inverse = [helper.make_node("Add", ["z", "b"], ["m"])]
    inverse += (
        [*shift, helper.make_node("Add", ["m", "moved"], ["x"])]
        if labels
        else [helper.make_node("Identity", ["m"], ["x"])]
    )
    graphs = {
        "forward": _graph(
            folder, "forward", [_tensor("x", cells), *noise, *y], [_tensor("z", cells), _tensor("log_prob")], scored,
            {"b": b, **arrays, **more},
        ),
        "inverse": _graph(
            folder, "inverse", [_tensor("z", cells), *y], [_tensor("x", cells)], inverse,
            {"b": b} | ({"axis": np.array([1]), "ten": np.array(10.0)} if labels else {}),
        ),
    }  # fmt: skip
    constants = {
        "proposal.log_weights": np.zeros(1),
        "proposal.means": b[None],
        "proposal.cholesky": 1.2 * np.eye(cells)[None],
    }
    _finish(folder, Kind.BIJECTIVE, spec, graphs, constants, latents=cells, condition=tuple(labels) or None)


def _finish(
    folder: Path,
    kind: Kind,
    spec: DataSpec,
    graphs: dict[str, GraphSpec],
    constants: dict[str, np.ndarray],
    *,
    latents: int,
    verbs: dict[Verb, VerbSpec] | None = None,
    condition: tuple[str, ...] | None = None,
) -> None:
    save_file(constants, folder / "constants.safetensors")
    if spec.image is not None:
        (folder / "preview.png").write_bytes(b"\x89PNG not looked at here")
    card = Card(metrics={"log_prob_nats": -1.0}, parity={}, timings={}, rows={"train": 1})
    (folder / "card.json").write_text(card.model_dump_json())
    files = {
        path.name: FileEntry(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size)
        for path in folder.iterdir()
    }
    everything = {verb: VerbSpec(supported=True, kind=AnswerKind.EXACT) for verb in Verb}
    manifest = Manifest(
        family="pca",
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
        space=hashlib.sha256("".join(sorted(entry.sha256 for entry in files.values())).encode()).hexdigest()[:16],
        files=files,
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def publish(gateway: Gateway, name: str, folder: Path) -> ModelVersion:
    """Store a folder as a new version."""
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    card = Card.model_validate_json((folder / "card.json").read_text())
    digest, size = gateway.store.artifacts.publish(folder)
    version = gateway.store.catalogue.import_version(name=name, digest=digest, manifest=manifest, card=card, size=size)
    gateway.resolver.forget()
    return version


def publish_all(gateway: Gateway, folder: Path) -> None:
    """Every model of these tests; `reals` has two versions, the second with alias `new`."""
    refusal = "test refuses to score: train something else"
    write_latent(folder / "reals", REALS, 1.0)
    write_latent(folder / "reals2", REALS, 2.0)
    write_latent(folder / "mixed", MIXED, 1.0)
    write_latent(folder / "pictures", PICTURES, 8.0)
    write_latent(folder / "coloured", COLOURED, 100.0)
    write_latent(folder / "mute", REALS, 0.0, {Verb.LOG_PROB: VerbSpec(supported=False, refusal=refusal)})
    write_bijective(folder / "flow", REALS, 1.0)
    write_bijective(folder / "labelled", REALS, 0.0, ("zero", "one"))
    for name in ("reals", "mixed", "pictures", "coloured", "mute", "flow", "labelled"):
        publish(gateway, name, folder / name)
    publish(gateway, "reals", folder / "reals2")
    gateway.store.catalogue.set_alias("reals", "new", 2)
    gateway.store.catalogue.set_alias("reals", "latest", 1)


def settings_for(home: Path, **more: Any) -> GatewaySettings:
    """Settings of a gateway under ``home`` that reaches no Redis."""
    values = {"queue_url": "redis://127.0.0.1:1/0", "cache_url": None, "reap_seconds": 3600, "min_rows": 2}
    return GatewaySettings(home=home, **(values | more))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Start gateways of one's own with the settings that are given."""
    clients: list[TestClient] = []

    def run(**more: Any) -> TestClient:
        client = TestClient(create_app(settings_for(tmp_path / "home", **more)), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield run
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A gateway with every model, shared by tests that change nothing or name their own datasets."""
    home = tmp_path_factory.mktemp("gateway")
    app = create_app(settings_for(home / "home", max_rows=1000, max_samples=500, max_body_bytes=4 << 20))
    with TestClient(app, raise_server_exceptions=False) as running:
        publish_all(of(app), home / "artifacts")
        yield running


def npy(array: Any) -> bytes:
    """An array as an NPY file."""
    stream = io.BytesIO()
    np.save(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def csv(rows: int = 40, seed: int = 0, header: str = "a,b,c") -> bytes:
    """A table of reals."""
    numbers = np.random.default_rng(seed).normal(size=(rows, header.count(",") + 1))
    return "\n".join([header, *(",".join(f"{v:.6f}" for v in row) for row in numbers)]).encode()


@dataclass(frozen=True)
class Kit:
    """What tests make things with; modules of tests do not import each other."""

    reals: DataSpec = REALS
    mixed: DataSpec = MIXED
    pictures: DataSpec = PICTURES
    coloured: DataSpec = COLOURED
    npy: Callable[..., bytes] = npy
    csv: Callable[..., bytes] = csv
    write_latent: Callable[..., None] = write_latent
    publish: Callable[..., ModelVersion] = publish
    settings: Callable[..., GatewaySettings] = settings_for


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
