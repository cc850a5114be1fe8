"""The transformer: causal, step by step as in one pass, and rotary positions that know distances alone."""

import pytest
import torch

from models.layers.transformer import Rotary, Transformer, turned


def make(rotary_places: int) -> Transformer:
    torch.manual_seed(0)
    return Transformer(width=16, depth=2, heads=2, context=9, rotary_places=rotary_places).eval()


@pytest.mark.parametrize("rotary", [0, 12])
def test_a_state_does_not_see_what_follows(rotary: int) -> None:
    net = make(rotary)
    h = torch.randn(1, 9, 16, requires_grad=True)
    places = torch.arange(9)[None]
    for position in range(9):
        (gradient,) = torch.autograd.grad(net(h, places, places + 1)[0, position].square().sum(), h)
        reached = gradient[0].abs().sum(-1) > 0
        assert reached.tolist() == [place <= position for place in range(9)]


@pytest.mark.parametrize("rotary", [0, 12])
@torch.no_grad()
def test_steps_over_a_cache_answer_what_one_pass_does_wherever_rows_stand(rotary: int) -> None:
    net = make(rotary)
    h = torch.randn(2, 9, 16)
    places = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(row)) for row in range(2)])
    asked = places.roll(-1, 1) + 1
    whole = net(h, places, asked)
    cache = torch.full((2, *net.cache_shape), 7.0)  # what stands there before does not matter
    # The second row starts three steps later.
    for step in range(12):
        position = torch.tensor([min(step, 8), min(max(0, step - 3), 8)])
        row = torch.arange(2)
        state, cache = net.step(h[row, position], position, cache, places[row, position], asked[row, position])
        torch.testing.assert_close(state, whole[row, position], rtol=1e-5, atol=1e-5)


def test_turned_products_depend_on_the_distance_alone() -> None:
    rotary = Rotary(50, 8)
    q, k = torch.randn(8), torch.randn(8)
    near = turned(q, rotary(torch.tensor(7))) @ turned(k, rotary(torch.tensor(3)))
    far = turned(q, rotary(torch.tensor(44))) @ turned(k, rotary(torch.tensor(40)))
    assert near.item() == pytest.approx(far.item(), abs=1e-5)
    other = turned(q, rotary(torch.tensor(9))) @ turned(k, rotary(torch.tensor(3)))
    assert other.item() != pytest.approx(near.item(), abs=1e-3)
