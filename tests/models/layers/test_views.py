"""Laws of random views: nothing asked changes nothing, each row by its own numbers, everything stays a picture."""

from __future__ import annotations

import pytest
import torch

from models.layers.views import UNIFORMS, Recipe, views

STILL = Recipe(smallest_crop=1, turn=0, flip=False, light=0, colour=0, grey=0, erase=0)


def pictures(channels: int, rows: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(rows, channels, 12, 10, generator=generator)


def uniforms(rows: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.rand(rows, UNIFORMS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_recipe_that_asks_nothing_changes_nothing(channels: int) -> None:
    x = pictures(channels)
    u = uniforms()
    u[:, 1] = 0.5  # of no other shape
    torch.testing.assert_close(views(x, u, STILL), x, rtol=1e-4, atol=1e-4)


def test_a_flip_mirrors() -> None:
    x, u = pictures(1), uniforms()
    u[:, 1], u[:, 5] = 0.5, torch.tensor([0.1, 0.9, 0.1, 0.9, 0.4])
    out = views(x, u, Recipe(smallest_crop=1, turn=0, flip=True, light=0, colour=0, grey=0, erase=0))
    for row, flipped in enumerate((True, False, True, False, True)):
        expected = x[row].flip(-1) if flipped else x[row]
        torch.testing.assert_close(out[row], expected, rtol=1e-4, atol=1e-4)


def test_a_crop_shows_its_part_enlarged() -> None:
    x = torch.zeros(1, 1, 20, 20)
    x[:, :, :10, :10] = 1
    u = torch.full((1, UNIFORMS), 0.5)
    u[0, [0, 2, 3]] = torch.tensor([0.0, 0.0, 0.0])  # the smallest crop, at the top left
    out = views(x, u, Recipe(smallest_crop=0.25, turn=0, flip=False, light=0, erase=0))
    assert float(out.mean()) > 0.95
    u[0, [2, 3]] = torch.tensor([1.0, 1.0])
    assert float(views(x, u, Recipe(smallest_crop=0.25, turn=0, flip=False, light=0, erase=0)).mean()) < 0.05


def test_light_and_patches_change_what_they_should() -> None:
    x = torch.full((1, 1, 20, 20), 0.5)
    u = torch.full((1, UNIFORMS), 0.5)
    u[0, 8] = 1.0
    assert float(views(x, u, Recipe(smallest_crop=1, turn=0, flip=False, light=0.4, erase=0)).mean()) == pytest.approx(
        0.7
    )
    x[:, :, :, 10:] = 0.0
    u[0, [8, 12]] = torch.tensor([0.5, 0.0])
    u[0, [13, 14]] = 0.0
    erased = views(x, u, Recipe(smallest_crop=1, turn=0, flip=False, light=0, erase=0.5))
    assert erased[0, 0, :4, :4].unique().tolist() == pytest.approx([0.25], abs=1e-3)
    torch.testing.assert_close(erased[0, 0, 5:, :9], x[0, 0, 5:, :9], rtol=1e-4, atol=1e-4)


def test_colour_is_for_coloured_pictures() -> None:
    x, u = pictures(3), uniforms()
    u[:, 1], u[:, 11] = 0.5, 0.0  # without colour
    out = views(x, u, Recipe(smallest_crop=1, turn=0, flip=False, light=0, colour=0.8, grey=0.5, erase=0))
    torch.testing.assert_close(out[:, 0], out[:, 1])
    torch.testing.assert_close(out[:, 1], out[:, 2])
    u[:, 11] = 0.9
    assert not torch.allclose(views(x, u, Recipe(smallest_crop=1, turn=0, flip=False, light=0, grey=0.5, erase=0)), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_changed_by_their_own_numbers_and_stay_pictures(channels: int) -> None:
    x, u = pictures(channels, 40), uniforms(40)
    out = views(x, u, Recipe())
    assert out.shape == x.shape
    assert float(out.min()) >= -1e-4
    assert float(out.max()) <= 1 + 1e-4
    torch.testing.assert_close(views(x[7:9], u[7:9], Recipe()), out[7:9], rtol=1e-4, atol=1e-4)
    assert torch.equal(views(x, u, Recipe()), out)
