"""Laws of quantisers: the nearest code wins, averages follow, unused codes return, soft choices become hard."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.layers.quantisers import FSQ, AttentionCodebook, Codebook, attend, centres, perplexity, scores, usage


def clusters(rows: int = 200) -> tuple[Tensor, Tensor]:
    """Vectors ``(B, 2, 2)`` near four corners, and the corners."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    which = torch.randint(0, 4, (rows, 2), generator=generator)
    return corners[which] + 0.1 * torch.randn(rows, 2, 2, generator=generator), corners


def nearest(a: Tensor, b: Tensor) -> float:
    return float(torch.cdist(a, b).min(1).values.max())


def test_scores_are_negative_squared_distances() -> None:
    w, v = torch.randn(3, 5, 4), torch.randn(7, 4)
    expected = -torch.square(w[:, :, None] - v).sum(-1)
    torch.testing.assert_close(scores(w, v), expected, rtol=1e-4, atol=1e-5)


def test_k_means_begins_at_the_clusters() -> None:
    w, corners = clusters()
    assert nearest(corners, centres(w, 4)) < 0.05
    assert centres(w[:1], 8).shape == (8, 2)  # fewer vectors than codes
    assert len(torch.unique(centres(w[:1], 8), dim=0)) == 8


def test_averages_follow_the_vectors_that_choose_a_code() -> None:
    w, corners = clusters()
    book = Codebook(4, 2, decay=0.5)
    book.start(w + 1.0)
    for _ in range(30):
        book.observe(w, book.choose(w), torch.rand(200, 2), restart=False)
        book.update()
    assert nearest(corners, book.codebook()) < 0.05
    before = book.codebook()
    book.update()  # nothing new was seen
    torch.testing.assert_close(book.codebook(), before)


def test_unused_codes_start_again_at_vectors_of_the_batch() -> None:
    w, _ = clusters()
    for restart in (True, False):
        book = Codebook(6, 2, decay=0.5)
        book.total.copy_(torch.cat([torch.tensor([[0.0, 0.0]]), torch.full((5, 2), 100.0)]))
        for _ in range(40):
            book.observe(w, book.choose(w), torch.rand(200, 2), restart=restart)
            book.update()
        used = len(torch.unique(book.choose(w)))
        assert used == (6 if restart else 1)


def test_the_gradient_passes_straight_through() -> None:
    book = Codebook(4, 2)
    w = torch.randn(3, 5, 2, requires_grad=True)
    quantised = book.straight_through(w, book.choose(w))
    torch.testing.assert_close(quantised, book.lookup(book.choose(w)))
    (3 * quantised).sum().backward()
    assert w.grad is not None
    torch.testing.assert_close(w.grad, torch.full_like(w, 3.0))
    soft = AttentionCodebook(4, 2)
    soft.straight_through(w, soft.choose(w)).sum().backward()
    assert soft.vectors.grad is not None
    chosen = functional.one_hot(soft.choose(w).flatten(), 4).sum(0).to(torch.float32)
    torch.testing.assert_close(soft.vectors.grad, chosen[:, None].expand(-1, 2))


@pytest.mark.parametrize("score", ["euclidean", "dot"])
def test_soft_assignment_becomes_hard_as_its_temperature_falls(score: str) -> None:
    torch.manual_seed(1)
    book = AttentionCodebook(8, 4, score=score)  # type: ignore[arg-type]
    w = book.unit(torch.randn(6, 5, 4))
    hard = book.lookup(book.choose(w))
    gaps = [float((attend(w, book.codebook(), t) - hard).abs().max()) for t in (1.0, 0.1, 1e-2, 1e-5)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-4
    assert gaps[0] > 0.05


def test_the_inner_product_chooses_by_direction_alone() -> None:
    torch.manual_seed(0)
    book = Codebook(8, 3, score="dot")
    v = book.codebook()
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(8))
    w = torch.randn(2, 4, 3)
    expected = torch.argmax(w @ v.T, -1)
    assert torch.equal(book.choose(book.unit(w)), expected)
    assert torch.equal(book.choose(book.unit(10 * w)), expected)


@pytest.mark.parametrize("levels", [(8, 6, 5), (3,), (2, 2), (5, 4)])
def test_scalar_quantisation_rounds_to_its_grid(levels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    fsq = FSQ(levels)
    assert fsq.codebook().shape == (fsq.codes, len(levels))
    assert len(torch.unique(fsq.codebook(), dim=0)) == fsq.codes
    every = torch.arange(fsq.codes)[None]
    assert torch.equal(fsq.choose(fsq.lookup(every)), every)
    w = fsq.unit(torch.randn(5000, 4, len(levels)))
    nearest_code = torch.argmax(scores(w, fsq.codebook()), -1)
    assert (fsq.choose(w) == nearest_code).float().mean() > 0.999  # ties aside
    assert len(torch.unique(fsq.choose(w))) == fsq.codes


def test_perplexity_counts_codes_in_equal_use() -> None:
    assert float(perplexity(torch.arange(8).repeat(5)[None], 16)) == pytest.approx(8, rel=1e-4)
    assert float(perplexity(torch.zeros(1, 9, dtype=torch.int64), 16)) == pytest.approx(1, rel=1e-4)
    assert float(usage(torch.arange(8).repeat(5)[None], 16)) == pytest.approx(0.5)
