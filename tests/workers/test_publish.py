from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from contracts.artifact import Card, GraphSpec, Manifest
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput
from contracts.families import FlowConfig, PCAConfig
from models import build
from models.family import Batch, Family, FitStage
from store.artifacts import artifact_digest, load_card, load_manifest, verify
from workers.publish import assemble, picture_grid, space_id

TABLE = DataSpec(modality="table", columns=tuple(Column(name=name, type=ColumnType.REAL) for name in "abc"))
IMAGE = DataSpec(modality="image", image=ImageShape(height=4, width=5, channels=1, levels=17))
CARD = Card(metrics={"log_prob_nats": -1.0}, parity={"density.log_prob": 0.0}, timings={}, rows={"train": 50})


def trained(scale: float = 1.0, spec: DataSpec = TABLE) -> Family[PCAConfig]:
    x = np.random.default_rng(0).normal(size=(50, 3)) * scale
    profile = DataProfile(50, x.mean(0), x.std(0), x.min(0), x.max(0))
    family = build(PCAConfig(family="pca", components=2), spec, profile)
    stage = family.stages()[0]
    assert isinstance(stage, FitStage)
    stage.fit([Batch(torch.from_numpy(x))], [])
    return family


def exported(folder: Path, family: Family[PCAConfig]) -> dict[str, GraphSpec]:
    """Stand-ins for the files: what is in them does not matter here."""
    graphs = {}
    for name, graph in family.graphs().items():
        (folder / f"{name}.onnx").write_bytes(name.encode())
        graphs[name] = GraphSpec(file=f"{name}.onnx", inputs=graph.inputs, outputs=graph.outputs)
    return graphs


def put_together(folder: Path, **more: object) -> Manifest:
    family = trained()
    arguments = {"graphs": exported(folder, family), "seed": 7, "steps": 1, "dataset": "d" * 64, **more}
    return assemble(family, folder, **arguments)  # type: ignore[arg-type]


def test_the_folder_is_what_the_store_verifies(tmp_path: Path) -> None:
    draft = put_together(tmp_path)
    assert "card.json" not in draft.files
    manifest = put_together(tmp_path, card=CARD, parents={"vqvae": "a" * 64})
    assert load_manifest(tmp_path) == manifest
    assert load_card(tmp_path) == CARD
    verify(tmp_path, manifest, artifact_digest(manifest))
    assert {path.name for path in tmp_path.iterdir()} == {*manifest.files, "manifest.json"}
    assert manifest.family == "pca"
    assert manifest.config == {"family": "pca", "components": 2}
    assert manifest.latent_dimensions == 2
    assert manifest.condition is None
    assert manifest.parents == {"vqvae": "a" * 64}
    assert manifest.libraries["torch"] == torch.__version__
    assert manifest.constants == ("gaussian.cholesky", "gaussian.log_weights", "gaussian.means")


def test_weights_and_constants_are_those_of_the_family(tmp_path: Path) -> None:
    put_together(tmp_path)
    state, constants = trained().state_dict(), trained().constants()
    for saved, expected in (("weights.safetensors", state), ("constants.safetensors", constants)):
        found = load_file(tmp_path / saved)
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_model_that_is_not_finite_is_not_put_together(tmp_path: Path) -> None:
    family = trained()
    graphs = exported(tmp_path, family)
    family.mean[0] = float("nan")
    with pytest.raises(InvalidInput, match="`mean` holds values that are not finite"):
        assemble(family, tmp_path, graphs=graphs, seed=0, steps=0, dataset="d" * 64)
    assert not (tmp_path / "manifest.json").exists()


def test_missing_graphs_are_named(tmp_path: Path) -> None:
    family = trained()
    graphs = exported(tmp_path, family)
    (tmp_path / "density.onnx").unlink()
    with pytest.raises(InvalidInput, match=r"lacks density\.onnx"):
        assemble(family, tmp_path, graphs=graphs, seed=0, steps=0, dataset="d" * 64)


def test_a_conditional_model_lists_its_categories(tmp_path: Path) -> None:
    label = Column(name="kind", type=ColumnType.CATEGORICAL, role=Role.LABEL, categories=("p", "q"))
    spec = TABLE.model_copy(update={"columns": (*TABLE.columns, label)})
    profile = DataProfile(50, np.zeros(3), np.ones(3), -np.ones(3), np.ones(3))
    for condition, expected in (("label", ("p", "q")), ("none", None)):
        family = build(FlowConfig(family="flow", layers=2, width=4, condition=condition), spec, profile)
        manifest = assemble(family, tmp_path, graphs=exported(tmp_path, family), seed=0, steps=0, dataset="d" * 64)
        assert manifest.condition == expected


def test_the_space_is_that_of_weights_and_data() -> None:
    space = space_id(trained())
    assert len(space) == 32
    assert space_id(trained()) == space
    assert space_id(trained(scale=2.0)) != space
    renamed = tuple(column.model_copy(update={"name": f"{column.name}2"}) for column in TABLE.columns)
    assert space_id(trained(spec=TABLE.model_copy(update={"columns": renamed}))) != space


def test_the_preview_is_a_grid_of_whole_pictures(tmp_path: Path) -> None:
    rows = np.zeros((5, 4, 5, 1), dtype=np.uint8)
    rows[4] = 16  # the brightest of 17 levels
    picture = Image.open(io.BytesIO(picture_grid(rows, IMAGE)))
    assert picture.mode == "L"
    factor = picture.width // (3 * 6 + 1)  # three across, a pixel between
    assert picture.size == (19 * factor, 11 * factor)
    small = np.asarray(picture)[factor // 2 :: factor, factor // 2 :: factor]
    assert (small[1:5, 1:6] == 0).all()
    assert (small[6:10, 7:12] == 255).all()
    colours = DataSpec(modality="image", image=ImageShape(height=4, width=5, channels=3))
    many = picture_grid(np.zeros((100, 4, 5, 3), np.uint8), colours)
    grid = Image.open(io.BytesIO(many))
    assert grid.mode == "RGB"
    assert grid.width / grid.height == pytest.approx((8 * 6 + 1) / (8 * 5 + 1))  # 64 of them, eight by eight
    with pytest.raises(InvalidInput, match="only images"):
        picture_grid(rows, TABLE)


def test_the_preview_is_a_file_of_the_artifact(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 17, size=(30, 4, 5, 1)).astype(np.uint8)
    flat = x.reshape(30, -1).astype(np.float64)
    profile = DataProfile(30, flat.mean(0), flat.std(0), flat.min(0), flat.max(0))
    family = build(PCAConfig(family="pca", components=2), IMAGE, profile)
    graphs = exported(tmp_path, family)
    manifest = assemble(family, tmp_path, graphs=graphs, seed=0, steps=0, dataset="d" * 64, card=CARD, preview=x)
    assert "preview.png" in manifest.files
    assert Image.open(tmp_path / "preview.png").format == "PNG"
