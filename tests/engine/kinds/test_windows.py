"""Sliding windows: every token once, with enough before it, and the same window for scoring and for drawing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kinds.windows import apart, first_window, padded_length, sliding, stride_of


@given(context=st.integers(8, 33), tokens=st.integers(0, 200))
def test_each_token_is_predicted_once_from_the_window_that_drawing_would_use(context: int, tokens: int) -> None:
    sequence = np.arange(tokens + 1)
    seen_from: dict[int, int] = {}
    for window in sliding(4, sequence, context):
        assert window.row == 4
        assert len(window.tokens) == len(window.targets) <= context
        np.testing.assert_array_equal(window.targets, window.tokens + 1)
        for place in range(window.first, len(window.tokens)):
            assert int(window.targets[place]) not in seen_from
            seen_from[int(window.targets[place])] = int(window.tokens[0])
    assert sorted(seen_from) == list(range(1, tokens + 1))
    for target, start in seen_from.items():
        assert start == first_window(target, context)
        assert target - start >= min(target, context - stride_of(context))


@given(context=st.integers(8, 33), tokens=st.integers(1, 200))
def test_windows_apart_cover_a_sequence_once(context: int, tokens: int) -> None:
    pieces = [window.tokens for window in apart(0, np.arange(tokens), context)]
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(tokens))
    assert max(map(len, pieces)) <= context


@pytest.mark.parametrize(("length", "padded"), [(1, 16), (16, 16), (17, 32), (40, 64), (128, 128)])
def test_windows_are_padded_to_few_lengths(length: int, padded: int) -> None:
    assert padded_length(length, 128) == padded
