"""Which part each row belongs to.

``hash``: a row's content is hashed to h in [0, 1); test below ``test``, valid below ``test + valid``,
train above. Equal rows have equal hashes, so a duplicate never stands on both sides, and a row keeps
its part when rows are added or reordered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import Part, SplitRule
from contracts.errors import InvalidInput

PARTS = (Part.TRAIN, Part.VALID, Part.TEST)
TRAIN, VALID, TEST = 0, 1, 2
OPEN = 255  # not given: cut by hash

_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "valid": VALID,
    "val": VALID,
    "validation": VALID,
    "dev": VALID,
    "test": TEST,
    "testing": TEST,
    "t10k": TEST,
}


def part_code(name: str) -> int | None:
    """The code of a part by one of its usual names; None where it is none."""
    return _NAMES.get(name.strip().lower())


def hash_rows(x: NDArray[Any]) -> NDArray[np.uint64]:
    """Hash each row's content, ``(N, …)`` → ``(N,)``; 0.0 and -0.0 are one value, and so are all NaN."""
    rows = np.ascontiguousarray(x).reshape(len(x), int(np.prod(x.shape[1:], dtype=np.int64)))
    if rows.dtype == np.float64:
        rows = np.where(np.isnan(rows), np.nan, rows + 0.0)
    width = rows.shape[1] * rows.itemsize
    padded = np.zeros((len(rows), -(-width // 8) * 8), dtype=np.uint8)
    padded[:, :width] = rows.view(np.uint8).reshape(len(rows), width)
    state = np.full(len(rows), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for word in padded.view("<u8").T:
        state = _mix(state ^ word)
    return _mix(state + np.uint64(width))


def hash_texts(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Hash each string's UTF-8."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def assign(
    rule: SplitRule, hashes: NDArray[np.uint64], given: NDArray[np.uint8], sizes: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The part code of each row.

    Args:
        rule: how rows are put into parts.
        hashes: ``(N,)`` of the rows' content.
        given: ``(N,)`` part codes that files or a column say, `OPEN` where nothing does.
        sizes: ``(N,)`` characters of each row, for `tail`; zeros where rows are no texts.
    """
    if rule.by == "tail":
        return _tail(rule, sizes)
    if rule.by == "hash":
        return _by_hash(rule.valid, rule.test, hashes)
    if (given == OPEN).all():
        where = "no column has the role `split`" if rule.by == "column" else "the files give no parts"
        raise InvalidInput(f"split.by is `{rule.by}`, but {where}; use `hash`")
    codes = np.where(given == OPEN, TRAIN, given).astype(np.uint8)
    train = np.flatnonzero(codes == TRAIN)
    if not (codes == VALID).any() and rule.valid > 0 and len(train):
        codes[train] = np.where(_by_hash(rule.valid, 0.0, hashes[train]) == VALID, VALID, TRAIN)
    if not (codes == TRAIN).any():
        raise InvalidInput("no row is in the part `train`")
    return codes


def _by_hash(valid: float, test: float, hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    place = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
    codes = np.full(len(hashes), TRAIN, dtype=np.uint8)
    codes[place < test + valid] = VALID
    codes[place < test] = TEST
    # Few rows may leave a part empty by chance; the smallest hashes then fill it, all copies of a row together.
    for code, share in ((TEST, test), (VALID, valid)):
        if share > 0 and not (codes == code).any():
            rest = codes == TRAIN
            if rest.any():
                codes[rest & (hashes == hashes[rest].min())] = code
    if not (codes == TRAIN).any():
        # A handful of different rows, all of them below the cut: one for each other part, the rest to train on.
        cut = [code for code, share in ((TEST, test), (VALID, valid)) if share > 0]
        different = np.unique(hashes)
        if len(different) <= len(cut):
            raise InvalidInput(
                "the rows have too few different values to be split; set split.valid and split.test to 0"
            )
        codes[:] = TRAIN
        for code, value in zip(cut, different[: len(cut)], strict=True):
            codes[hashes == value] = code
    return codes


def _tail(rule: SplitRule, sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Cut by the share of characters (or of rows) before each row; the order is train, valid, test."""
    if not sizes.any():  # rows that are no texts count one each
        sizes = np.ones_like(sizes)
    before = (np.cumsum(sizes) - sizes) / max(int(sizes.sum()), 1)
    codes = np.full(len(sizes), TRAIN, dtype=np.uint8)
    codes[before >= 1 - rule.test - rule.valid] = VALID
    codes[before >= 1 - rule.test] = TEST
    if not (codes == TRAIN).any():
        raise InvalidInput("the text is too short to be split")
    return codes


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
