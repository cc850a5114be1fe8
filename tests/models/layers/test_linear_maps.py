"""Linear maps by LU factors: frozen they are what they were, and no state remembers it."""

from __future__ import annotations

import pytest
import torch

from models.layers.linear_maps import LU, channel_order


def moved(channels: int) -> LU:
    layer = LU(channels, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return layer


def test_it_starts_as_its_order() -> None:
    x = torch.randn(4, 5)
    z, log_det = LU(5, seed=3)(x)
    torch.testing.assert_close(z, x[:, channel_order(5, 3)])
    assert not log_det.any()
    assert torch.equal(channel_order(4, None), torch.tensor([3, 2, 1, 0]))


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3, 2)])
def test_freezing_changes_no_answer(shape: tuple[int, ...]) -> None:
    layer = moved(5)
    x = torch.randn(*shape, dtype=torch.float64)
    before = layer(x)
    back = layer.inverse(before[0])
    keys = set(layer.state_dict())
    layer.freeze()
    after = layer(x)
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(layer.inverse(after[0]), back)
    torch.testing.assert_close(back, x)
    assert set(layer.state_dict()) == keys
