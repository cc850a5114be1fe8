"""The order of rows: permutations in constant memory, the same rows whatever the number of processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contracts.data import Part
from workers.training.batches import Pass, RowOrder, permute, share, to_batch


@given(count=st.integers(1, 3000), key=st.integers(0, 2**63 - 1))
def test_permute_is_a_permutation(count: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(count), count, key)), np.arange(count))


def test_permute_takes_huge_counts_without_memory() -> None:
    count = 10**12
    sent = permute(np.arange(1000), count, 7)
    assert len(np.unique(sent)) == 1000
    assert sent.min() >= 0
    assert sent.max() < count
    assert abs(float(sent.mean()) / count - 0.5) < 0.05


def test_permute_leaves_no_order_behind() -> None:
    sent = permute(np.arange(5000), 5000, 1)
    assert abs(np.corrcoef(np.arange(5000), sent)[0, 1]) < 0.05
    assert abs(np.corrcoef(sent[:-1], sent[1:])[0, 1]) < 0.05


def test_every_epoch_visits_every_row_in_its_own_order() -> None:
    order = RowOrder(rows=97, seed=5)
    first, second = order.take(0, 97), order.take(97, 194)
    assert sorted(first) == sorted(second) == list(range(97))
    assert not np.array_equal(first, second)


def test_taking_is_independent_of_where_batches_are_cut() -> None:
    order = RowOrder(rows=50, seed=1)
    whole = order.take(0, 160)
    assert np.array_equal(np.concatenate([order.take(i, i + 32) for i in range(0, 160, 32)]), whole)


@given(total=st.integers(1, 1000), world=st.integers(1, 9))
def test_shares_are_a_partition(total: int, world: int) -> None:
    covered = [row for rank in range(world) for row in range(total)[share(total, rank, world)]]
    assert covered == list(range(total))


def test_pass_repeats_itself_and_keeps_to_its_limit(reader: Any) -> None:
    rows = Pass(reader, Part.TRAIN, batch_rows=64, key=3, limit=150)
    first = torch.cat([batch.x for batch in rows])
    again = torch.cat([batch.x for batch in rows])
    assert len(first) == rows.rows == 150
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.from_numpy(reader.parts[Part.TRAIN][:150]))


def test_to_batch_copies_read_only_arrays(reader: Any) -> None:
    rows = reader.read(Part.TRAIN, slice(0, 4))
    rows.x = np.array(rows.x)
    rows.x.flags.writeable = False
    batch = to_batch(rows)
    batch.x[0] = 1
    assert batch.x.dtype is torch.uint8
    with pytest.raises(ValueError, match="read-only"):
        rows.x[0] = 1
