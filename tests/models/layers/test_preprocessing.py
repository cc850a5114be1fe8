from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from contracts.errors import InvalidInput
from models.layers.preprocessing import Dequantise, Logit, Preprocess, Scale, Standardise, moments

MIXED = DataSpec(
    modality="table",
    columns=(
        Column(name="a", type=ColumnType.REAL),
        Column(name="n", type=ColumnType.INTEGER, minimum=0, maximum=9),
        Column(name="c", type=ColumnType.REAL),
    ),
)
IMAGE = DataSpec(modality="image", image=ImageShape(height=3, width=2, channels=3, levels=256))


def rows(spec: DataSpec, count: int = 50) -> tuple[np.ndarray, DataProfile]:
    rng = np.random.default_rng(0)
    if spec is IMAGE:
        x = rng.integers(0, 256, size=(count, *spec.row_shape)).astype(np.uint8)
    else:
        x = np.stack([1e6 + rng.normal(size=count), rng.integers(0, 10, count), np.full(count, 4.0)], axis=1)
    flat = x.reshape(count, -1).astype(np.float64)
    return x, DataProfile(count, flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def test_moments_are_those_of_the_dequantised_cells() -> None:
    x, profile = rows(MIXED, 20_000)
    mean, std = moments(MIXED, profile)
    spread = x[:, 1] + np.random.default_rng(1).random(len(x))
    assert mean[1] == pytest.approx(spread.mean(), abs=0.01)
    assert std[1] == pytest.approx(spread.std(), abs=0.01)
    assert mean[0] == profile.mean[0]
    assert std[2] == pytest.approx(4e-3)  # never varies, and still divides


def test_small_units_are_units_and_rounding_is_no_variation() -> None:
    columns = (Column(name="small", type=ColumnType.REAL), Column(name="still", type=ColumnType.REAL))
    still = -0.06140064
    x = np.stack([1e-9 * np.random.default_rng(0).normal(size=1324), np.full(1324, still)], axis=1)
    profile = DataProfile(len(x), x.mean(0), np.array([x[:, 0].std(), 9e-17]), x.min(0), x.max(0))
    _, std = moments(DataSpec(modality="table", columns=columns), profile)
    assert std[0] == profile.std[0]
    assert std[1] == pytest.approx(1e-3)


def test_noise_is_added_to_discrete_cells_only() -> None:
    x, _ = rows(MIXED)
    u = torch.rand(50, 3, dtype=torch.float64)
    spread = Dequantise(MIXED)(torch.from_numpy(x), u)
    expected = x.copy()
    expected[:, 1] += u[:, 1].numpy()
    np.testing.assert_array_equal(spread.numpy(), expected)
    middle = Dequantise(MIXED)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(middle - x, [[0, 0.5, 0]] * 50)


@pytest.mark.parametrize(("spec", "logit"), [(MIXED, False), (IMAGE, False), (IMAGE, True)])
def test_the_map_inverts_and_counts_its_volume(spec: DataSpec, logit: bool) -> None:
    x, profile = rows(spec)
    layer = Preprocess(spec, profile, logit=logit)
    u = torch.rand(50, spec.cells, dtype=torch.float64)
    v, log_det = layer(torch.from_numpy(x), u)
    assert v.shape == (50, spec.cells)
    spread = layer.dequantise(torch.from_numpy(x), u)
    torch.testing.assert_close(layer.inverse(v).flatten(1), spread, rtol=1e-12, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda cells: layer.map(cells[None])[0][0], spread[0])
    assert log_det[0].item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-9)


def test_the_logit_is_finite_at_both_ends() -> None:
    v, log_det = Logit(256)(torch.tensor([[0.0, 256.0]], dtype=torch.float64))
    assert torch.isfinite(v).all()
    assert torch.isfinite(log_det).all()
    assert v[0, 0].item() == pytest.approx(-v[0, 1].item())


def test_encoder_inputs_are_standard_and_float32() -> None:
    x, profile = rows(MIXED)
    v = Standardise(MIXED, profile)(torch.from_numpy(x))
    assert v.dtype == torch.float32
    torch.testing.assert_close(v[:, :2].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    pixels, profile = rows(IMAGE)
    v = Standardise(IMAGE, profile)(torch.from_numpy(pixels))
    assert v.shape == pixels.shape
    assert v.std().item() == pytest.approx(1.0, abs=0.05)
    assert len(np.unique(Standardise(IMAGE, profile).std)) == 1


def test_wrong_settings_are_refused() -> None:
    _, profile = rows(MIXED)
    with pytest.raises(InvalidInput, match="logit is for images"):
        Preprocess(MIXED, profile, logit=True)
    with pytest.raises(InvalidInput, match="0 < alpha < 1/2"):
        Logit(256, alpha=0.5)
    with pytest.raises(InvalidInput, match="positive"):
        Scale(np.zeros(2), np.array([1.0, 0.0]))
