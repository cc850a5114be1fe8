from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contracts.data import SplitRule
from contracts.errors import InvalidInput
from store.datasets.splits import OPEN, TEST, TRAIN, VALID, assign, hash_rows, hash_texts, part_code


def by_hash(x: np.ndarray, **shares: float) -> np.ndarray:
    return assign(SplitRule(**shares), hash_rows(x), np.full(len(x), OPEN, np.uint8), np.zeros(len(x), np.int64))


def test_shares() -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 3))
    codes = by_hash(x, valid=0.2, test=0.05)
    shares = np.bincount(codes) / len(x)
    np.testing.assert_allclose(shares, [0.75, 0.2, 0.05], atol=0.01)


@given(
    hnp.arrays(
        np.float64, st.tuples(st.integers(4, 30), st.integers(1, 5)), elements=st.sampled_from([0.0, -0.0, 1.0, 2.5])
    ),
)
def test_equal_rows_share_a_part_in_any_order(x: np.ndarray) -> None:
    if len(np.unique(x, axis=0)) < 3:
        return
    codes = by_hash(x)
    parts = {}
    for row, code in zip(x.tolist(), codes, strict=True):
        assert parts.setdefault(tuple(value + 0.0 for value in row), code) == code
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(by_hash(x[order]), codes[order])
    assert set(codes) == {TRAIN, VALID, TEST}


def test_few_different_rows_always_leave_some_to_train_on() -> None:
    # Found by chance: all three different rows hash below the cut.
    x = np.array([[0.0, 2.5, 2.5, 2.5], [2.5, 2.5, 2.5, 0.0], [2.5, 2.5, 2.5, 2.5], [2.5, 2.5, 2.5, 2.5]])
    assert sorted(set(by_hash(x))) == [TRAIN, VALID, TEST]


def test_hashes_depend_on_every_byte_and_place() -> None:
    x = np.zeros((41, 40), np.uint8)
    x[np.arange(40), np.arange(40)] = 1
    assert len(set(hash_rows(x).tolist())) == 41
    assert len(set(hash_rows(np.array([[1.0, 2.0], [2.0, 1.0], [np.nan, 1.0]])).tolist())) == 3
    assert hash_rows(np.zeros((2, 3))).tolist() == hash_rows(-np.zeros((2, 3))).tolist()
    assert len(set(hash_texts(["", "a", "b", "ab"]).tolist())) == 4


def test_the_split_stays_what_it_was() -> None:
    """A change of these codes would move held-out rows into training when a file is uploaded again."""
    assert by_hash(np.arange(40.0).reshape(20, 2)).tolist() == PINNED


PINNED = [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]


def test_shares_of_nothing() -> None:
    assert set(by_hash(np.arange(9.0).reshape(9, 1), valid=0, test=0)) == {TRAIN}
    with pytest.raises(InvalidInput, match="too few different values"):
        by_hash(np.zeros((9, 1)))


def test_given_parts() -> None:
    hashes, sizes = hash_rows(np.arange(100.0)), np.zeros(100, np.int64)
    given_codes = np.array([OPEN] * 60 + [TEST] * 40, np.uint8)
    codes = assign(SplitRule(by="given"), hashes, given_codes, sizes)
    assert (codes[60:] == TEST).all()
    assert set(codes[:60]) == {TRAIN, VALID}
    given_codes[:10] = VALID
    assert (assign(SplitRule(by="given"), hashes, given_codes, sizes)[10:60] == TRAIN).all()
    with pytest.raises(InvalidInput, match="no row is in the part `train`"):
        assign(SplitRule(by="given"), hashes, np.full(100, TEST, np.uint8), sizes)


def test_tail() -> None:
    sizes = np.array([70, 10, 10, 10])
    rule = SplitRule(by="tail")
    assert assign(rule, np.zeros(4, np.uint64), np.full(4, OPEN, np.uint8), sizes).tolist() == [0, 0, 1, 2]


def test_names_of_parts() -> None:
    assert [part_code(name) for name in ("Train", " val ", "t10k", "dev", "holdout")] == [0, 1, 2, 1, None]


def test_the_tail_of_a_table_is_its_last_rows() -> None:
    codes = assign(SplitRule(by="tail"), np.zeros(20, np.uint64), np.full(20, OPEN, np.uint8), np.zeros(20, np.int64))
    assert codes.tolist() == [TRAIN] * 16 + [VALID] * 2 + [TEST] * 2
