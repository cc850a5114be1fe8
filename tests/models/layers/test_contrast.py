"""Laws of the contrastive losses, in one process and over two."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.nn import functional

from models.layers.contrast import gathered, pair_losses, view_losses


def vectors(rows: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, rows, 4, generator=generator)
    return functional.normalize(a, dim=-1), functional.normalize(b, dim=-1)


def test_pairs_are_scored_by_both_cross_entropies() -> None:
    a, b = vectors()
    logits = 5 * a @ b.T
    target = torch.arange(6)
    expected = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(pair_losses(a, b, torch.tensor(5.0)).mean(), expected)


def test_alike_rows_are_no_negatives() -> None:
    a, b = vectors(4)
    a[1], b[1] = a[0], b[0]
    alike = torch.tensor([7, 7, 3, 4])
    masked = pair_losses(a, b, torch.tensor(20.0), alike)
    rest = pair_losses(a[1:], b[1:], torch.tensor(20.0))
    torch.testing.assert_close(masked[1:2], rest[:1])
    torch.testing.assert_close(masked[0], masked[1])
    assert float(pair_losses(a, b, torch.tensor(20.0))[0]) >= math.log(2) - 1e-4  # else they compete
    everyone = pair_losses(a, b, torch.tensor(20.0), torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(everyone, torch.zeros(4))


def test_views_are_scored_against_every_other_view() -> None:
    a, b = vectors(3)
    every = torch.cat([a, b]).double().numpy()
    cosine = every @ every.T / 0.5
    np.fill_diagonal(cosine, -np.inf)
    log_p = cosine - np.log(np.exp(cosine).sum(1, keepdims=True))
    expected = -(log_p[np.arange(3), np.arange(3) + 3] + log_p[np.arange(3) + 3, np.arange(3)]) / 2
    np.testing.assert_allclose(view_losses(a, b, 0.5).numpy(), expected, rtol=1e-4)


def test_one_process_gathers_itself() -> None:
    a, _ = vectors()
    rows, first = gathered(a)
    assert rows is a
    assert first == 0


def _worker(rank: int, file: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        rows = slice(0, 4) if rank == 0 else slice(4, 7)  # shares that differ by a row
        a, b = (each.requires_grad_(True) for each in vectors(7))
        alike = torch.tensor([0, 1, 2, 3, 1, 5, 6])[rows]
        losses = pair_losses(a[rows], b[rows], torch.tensor(4.0), alike) + view_losses(a[rows], b[rows], 0.3)
        losses.sum().backward()
        assert a.grad is not None
        assert b.grad is not None
        dist.all_reduce(a.grad)
        dist.all_reduce(b.grad)
        alone = pair_losses(a[rows], b[rows], torch.tensor(4.0), everywhere=False)
        np.savez(f"{out}-{rank}.npz", losses=losses.detach(), a=a.grad, b=b.grad, alone=alone.detach())
    finally:
        dist.destroy_process_group()


def test_two_processes_see_one_batch(tmp_path: Path) -> None:
    """Losses and gradients are those of one process with all rows."""
    multiprocessing.spawn(_worker, (str(tmp_path / "meet"), str(tmp_path / "out")), nprocs=2)
    found = [np.load(tmp_path / f"out-{rank}.npz") for rank in (0, 1)]
    a, b = (each.requires_grad_(True) for each in vectors(7))
    alike = torch.tensor([0, 1, 2, 3, 1, 5, 6])
    losses = pair_losses(a, b, torch.tensor(4.0), alike) + view_losses(a, b, 0.3)
    losses.sum().backward()
    np.testing.assert_allclose(np.concatenate([each["losses"] for each in found]), losses.detach(), rtol=1e-5)
    for each in found:
        assert a.grad is not None
        assert b.grad is not None
        np.testing.assert_allclose(each["a"], a.grad, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(each["b"], b.grad, rtol=1e-4, atol=1e-6)
    first = pair_losses(a[:4], b[:4], torch.tensor(4.0)).detach()
    np.testing.assert_allclose(found[0]["alone"], first, rtol=1e-5)


@pytest.mark.parametrize("rows", [2, 64])
def test_random_vectors_cost_the_logarithm_of_their_number(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (functional.normalize(torch.randn(rows, 512, generator=generator), dim=-1) for _ in range(2))
    assert float(pair_losses(a, b, torch.tensor(1.0)).mean()) == pytest.approx(math.log(rows), abs=0.1)
