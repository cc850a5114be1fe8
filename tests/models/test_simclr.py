"""Laws of simclr: views of rows, what is dropped, and a representation that beats what it starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from contracts.artifact import Verb
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from contracts.errors import InvalidInput
from contracts.families import SimCLRConfig
from models import build
from models.family import Batch, LossStage, Noise
from models.simclr import ResNetEncoder, SimCLR

TABLE = DataSpec(modality="table", columns=tuple(Column(name=f"x{i}", type=ColumnType.REAL) for i in range(12)))
GREY = DataSpec(modality="image", image=ImageShape(height=8, width=8, levels=17))


def profile(x: NDArray[Any]) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def make(spec: DataSpec, x: NDArray[Any], **knobs: Any) -> SimCLR:
    torch.manual_seed(0)
    family = build(SimCLRConfig.model_validate({"family": "simclr", **knobs}), spec, profile(x))
    assert isinstance(family, SimCLR)
    return family


def fit(family: SimCLR, x: NDArray[Any], steps: int, rows: int = 128) -> None:
    (stage,) = family.stages()
    assert isinstance(stage, LossStage)
    optimiser = torch.optim.AdamW(family.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    family.train()
    for step in range(steps):
        index = torch.randint(0, len(x), (rows,), generator=generator)
        batch = Batch(torch.from_numpy(x)[index])
        optimiser.zero_grad()
        noise = Noise(0, 0, step, rows=slice(0, rows), total=rows)
        stage.loss(batch, noise, step / steps).objective.backward()
        optimiser.step()
    family.eval()


def accuracy(family: SimCLR, x: NDArray[Any], y: NDArray[Any]) -> float:
    with torch.no_grad():
        z = family.encoder(torch.from_numpy(x)).numpy()
    half = len(x) // 2
    return float(KNeighborsClassifier(5, metric="cosine").fit(z[:half], y[:half]).score(z[half:], y[half:]))


def clusters() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two directions of six tell the class; the other cells are wide noise."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 1200)
    x = 3.0 * rng.standard_normal((1200, 12))
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1.0]])[y]
    x[:, :6] = np.repeat(signs, 3, axis=1) + 0.4 * rng.standard_normal((1200, 6))
    return x, y


def test_tables_learn_what_cells_have_in_common() -> None:
    """Cells that tell the same are kept, and noise that nothing goes with is not."""
    x, y = clusters()
    family = make(TABLE, x, dimensions=8, width=64)
    before = accuracy(family, x, y)
    fit(family, x, 300)
    after = accuracy(family, x, y)
    assert after > before + 0.05
    assert after > 0.9


def test_pictures_learn_digits_without_labels() -> None:
    data = load_digits()
    x, y = data.images.astype(np.uint8)[..., None], data.target
    family = make(GREY, x, network="small", flip=False, smallest_crop=0.5, width=16)
    before = accuracy(family, x, y)
    fit(family, x, 150)
    assert accuracy(family, x, y) > max(0.85, before)


def test_a_row_of_a_table_is_contrasted_with_itself_in_part() -> None:
    x, _ = clusters()
    family = make(TABLE, x, corruption=0.3)
    noise = Noise(0, 0, 0, rows=slice(0, len(x)), total=len(x))
    first, second = family.pair(torch.from_numpy(x), noise)
    assert torch.equal(first, torch.from_numpy(x))
    changed = second != first
    assert float(changed.double().mean()) == pytest.approx(0.3, abs=0.02)
    for cell in range(3):  # what is put in comes from the same column
        assert torch.isin(second[:, cell], first[:, cell]).all()


def test_views_of_pictures_keep_their_levels() -> None:
    x = load_digits().images.astype(np.uint8)[:32, ..., None]
    family = make(GREY, x)
    noise = Noise(0, 0, 0, rows=slice(0, 32), total=32)
    first, second = family.pair(torch.from_numpy(x), noise)
    for view in (first, second):
        assert view.shape == x.shape
        assert float(view.min()) >= -1e-3
        assert float(view.max()) <= 16 + 1e-3
    assert not torch.allclose(first, second)


def test_the_projection_is_dropped() -> None:
    x, _ = clusters()
    family = make(TABLE, x, dimensions=8, projection=5)
    graph = family.graphs()["embed"]
    assert graph.outputs[0].shape == ("B", 8)
    assert not any(name.startswith("projection") for name, _ in graph.module.named_parameters())
    assert family.project(torch.from_numpy(x[:3])).shape == (3, 5)
    assert family.verbs()[Verb.ENCODE].supported
    assert "vae" in (family.verbs()[Verb.LOG_PROB].refusal or "")


def test_resnet18_has_a_small_stem_and_eight_times_its_width() -> None:
    spec = DataSpec(modality="image", image=ImageShape(height=16, width=16, channels=3))
    family = make(spec, np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)), network="resnet18", width=8)
    assert isinstance(family.encoder, ResNetEncoder)
    assert family.latent_dimensions == 64
    stem = family.encoder.net.trunk[0]
    assert (stem.kernel_size, stem.stride) == ((3, 3), (1, 1))
    convolutions = [m for m in family.encoder.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == 17  # and one layer that stands for the classifier: 18
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in family.modules())


def test_pictures_networks_need_pictures() -> None:
    with pytest.raises(InvalidInput, match=r"config\.network: resnet18 looks at images"):
        SimCLRConfig(family="simclr", network="resnet18").check_data(TABLE)
