"""Orders and masks that training draws: permutations, counts, and what is absent stays out."""

import torch

from models.layers.orders import inverse, random_order, random_shown, random_spans, shown_first


def uniforms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_random_orders_are_permutations_with_the_last_cells_last() -> None:
    last = torch.zeros(50, 7, dtype=torch.bool)
    last[:, 2] = True
    order = random_order(uniforms(50, 7), last)
    assert torch.equal(order.sort(1).values, torch.arange(7).expand(50, 7))
    assert (order[:, -1] == 2).all()
    assert len(torch.unique(order, dim=0)) > 10


def test_inverse_tells_where_a_cell_stands() -> None:
    order = random_order(uniforms(5, 9))
    assert torch.equal(torch.gather(order, 1, inverse(order)), torch.arange(9).expand(5, 9))


def test_shown_counts_are_uniform_and_leave_one_to_predict() -> None:
    shown, hidden = random_shown(uniforms(40_000, 4), uniforms(40_000, 1, seed=1))
    counts = torch.bincount(shown.sum(1), minlength=4) / 40_000
    assert torch.allclose(counts, torch.full((4,), 0.25), atol=0.01)
    assert torch.equal(hidden[:, 0], 4.0 - shown.sum(1))
    # Each cell is as likely as another.
    assert torch.allclose(shown.float().mean(0), torch.full((4,), 1.5 / 4), atol=0.01)


def test_absent_cells_are_neither_shown_nor_counted() -> None:
    present = torch.ones(500, 5, dtype=torch.bool)
    present[:, 1] = False
    present[0] = False
    shown, hidden = random_shown(uniforms(500, 5), uniforms(500, 1, seed=1), present)
    assert not shown[:, 1].any()
    assert not shown[0].any()
    assert hidden[0] == 0
    assert (hidden[1:, 0] == 4.0 - shown[1:].sum(1)).all()
    assert (hidden[1:] >= 1).all()


def test_shown_cells_come_first_each_part_ascending() -> None:
    shown = torch.tensor([[False, True, False, True, False]])
    absent = torch.tensor([[True, False, False, False, False]])
    assert shown_first(shown).tolist() == [[1, 3, 0, 2, 4]]
    assert shown_first(shown, absent).tolist() == [[1, 3, 2, 4, 0]]


def test_spans_come_in_many_lengths_and_some_texts_stay_whole() -> None:
    shown = random_spans(uniforms(4000, 32), uniforms(4000, 4, seed=1))
    whole = shown.all(1).float().mean()
    assert 0.25 < whole < 0.45
    part = shown[~shown.all(1) & shown.any(1)]
    changes = (part[:, 1:] != part[:, :-1]).sum(1)
    assert (changes == 1).any()
    assert (changes > 12).any()
