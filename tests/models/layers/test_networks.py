"""Encoders and decoders: shapes of every size of image, masks, one-hot categories, defaults by data."""

import numpy as np
import pytest
import torch

from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from models.layers.networks import (
    Cells,
    Decoder,
    Encoder,
    ScalePlan,
    default_batch_size,
    default_latents,
    default_width,
    is_convolutional,
)

TABLE = DataSpec(
    modality="table",
    columns=(
        Column(name="colour", type=ColumnType.CATEGORICAL, categories=("r", "g", "b")),
        Column(name="length", type=ColumnType.REAL),
        Column(name="sex", type=ColumnType.CATEGORICAL, categories=("f", "m")),
    ),
)
ROWS = np.array([[0, 10.0, 0], [2, 20.0, 1], [1, 30.0, 1]])


def profile(x: np.ndarray) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(rows=len(x), mean=flat.mean(0), std=flat.std(0), minimum=flat.min(0), maximum=flat.max(0))


def image(height: int, width: int, channels: int) -> tuple[DataSpec, torch.Tensor, DataProfile]:
    spec = DataSpec(modality="image", image=ImageShape(height=height, width=width, channels=channels))
    x = np.random.default_rng(0).integers(0, 256, (5, height, width, channels)).astype(np.uint8)
    return spec, torch.from_numpy(x), profile(x)


@pytest.mark.parametrize("size", [(5, 9, 1), (8, 8, 3), (16, 17, 1), (28, 28, 1), (33, 20, 3)])
def test_convolutions_take_images_of_any_size(size: tuple[int, int, int]) -> None:
    spec, x, statistics = image(*size)
    encoder = Encoder(spec, statistics, 6, convolutional=True, width=4, depth=1, sees_mask=True, condition=2)
    decoder = Decoder(spec, 6, 3 * spec.cells, convolutional=True, width=4, depth=1, condition=2)
    condition = torch.eye(2)[[0, 1, 0, 1, 1]]
    z = encoder(x, x > 100, condition)
    assert z.shape == (5, 6)
    assert decoder(z, condition).shape == (5, 3 * spec.cells)


def test_the_coarsest_maps_are_small() -> None:
    for side in (4, 8, 9, 28, 64, 100):
        plan = ScalePlan(side, side, 4)
        _, height, width = plan.coarsest
        assert max(height, width) <= 8
        assert height * 2**plan.halvings >= side


def test_outputs_of_a_convolutional_decoder_belong_to_their_pixel() -> None:
    """The last two layers unfold channels into pixels: a change of one small patch must stay a patch."""
    spec, _, _ = image(16, 16, 3)
    decoder = Decoder(spec, 2, 2 * spec.cells, convolutional=True, width=4, depth=1)
    last = decoder.trunk[-2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(len(last.bias)))
    out = decoder(torch.zeros(1, 2)).reshape(16, 16, 3, 2)
    # channels of the last convolution count (channel, per cell, position in the 2 x 2 block)
    expected = torch.arange(24).reshape(3, 2, 2, 2).permute(2, 3, 0, 1)
    assert torch.equal(out[:2, :2], expected.float())
    assert torch.equal(out[14:, 14:], expected.float())


def test_rows_do_not_see_each_other_while_training_either() -> None:
    spec, x, statistics = image(16, 16, 1)
    encoder = Encoder(spec, statistics, 4, convolutional=True, width=8, depth=1).train()
    assert torch.allclose(encoder(x)[:2], encoder(x[:2]), atol=1e-5)


def test_cells_are_standardised_and_one_hot_and_zero_where_hidden() -> None:
    cells = Cells(TABLE, profile(ROWS))
    assert cells.width == 3 + 2
    v = cells(torch.from_numpy(ROWS))
    assert torch.allclose(v[:, 0].mean(), torch.tensor(0.0), atol=1e-6)
    assert torch.allclose(v[:, 0].std(correction=0), torch.tensor(1.0), atol=1e-6)
    assert v[:, 2:].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    shown = torch.tensor([[False, True, True], [True, False, True], [False, False, False]])
    hidden = cells(torch.from_numpy(np.where(shown.numpy(), ROWS, np.nan)), shown)
    assert torch.isfinite(hidden).all()
    assert hidden[0, 2:].tolist() == [0, 0, 0]
    assert hidden[1, 0] == 0
    assert torch.equal(hidden[2], torch.zeros(5))


def test_the_mask_tells_hidden_from_average() -> None:
    encoder = Encoder(TABLE, profile(ROWS), 3, convolutional=False, width=8, depth=1, sees_mask=True)
    average = torch.tensor([[0.0, 20.0, 1.0]], dtype=torch.float64)
    shown = torch.tensor([[True, False, True]])
    assert not torch.allclose(encoder(average, shown), encoder(average))
    assert torch.equal(encoder(average, torch.ones_like(shown)), encoder(average))


def test_an_untrained_decoder_stays_near_the_mean_of_the_data() -> None:
    spec, _, _ = image(28, 28, 1)
    torch.manual_seed(0)
    for convolutional in (False, True):
        decoder = Decoder(spec, 8, spec.cells, convolutional=convolutional, width=16, depth=1)
        assert decoder(torch.randn(4, 8)).abs().mean() < 0.3


def test_defaults_grow_with_the_data() -> None:
    small, _, _ = image(8, 8, 1)
    large, _, _ = image(28, 28, 1)
    assert not is_convolutional("auto", small)
    assert is_convolutional("auto", large)
    assert not is_convolutional("mlp", large)
    assert not is_convolutional("auto", TABLE)
    assert default_latents(TABLE) == 3
    assert default_latents(small) < default_latents(large)
    assert default_width(TABLE, 500, convolutional=False) < default_width(small, 500, convolutional=False)
    sizes = [default_batch_size(rows, convolutional=False) for rows in (1, 200, 1500, 50_000, 10**7)]
    assert sizes == sorted(sizes)
    assert sizes[0] >= 16
    assert sizes[-1] <= 256
