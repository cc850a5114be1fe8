from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from contracts.errors import InvalidInput
from engine.interpolation import Mode, interpolate

NUMBERS = st.floats(-100, 100).map(lambda value: round(value, 3))
PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(*(arrays.arrays(np.float64, shape, elements=NUMBERS) for _ in "ab"))
)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(2, 7), st.sampled_from(Mode))
def test_a_path_begins_and_ends_where_it_was_told_and_is_finite(
    pair: tuple[np.ndarray, np.ndarray], steps: int, mode: Mode
) -> None:
    a, b = pair
    path = interpolate(a, b, steps, mode)
    assert path.shape == (len(a), steps, a.shape[1])
    np.testing.assert_array_equal(path[:, 0], a)
    np.testing.assert_array_equal(path[:, -1], b)
    assert np.isfinite(path).all()
    longest = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    assert (np.linalg.norm(path, axis=2) <= longest[:, None] + 1e-9).all()


def test_lerp_is_a_straight_line() -> None:
    path = interpolate(np.array([[0.0, 4.0]]), np.array([[8.0, 0.0]]), 5, Mode.LERP)
    np.testing.assert_allclose(path[0], [[0, 4], [2, 3], [4, 2], [6, 1], [8, 0]])


def test_slerp_turns_evenly_while_its_length_grows_evenly() -> None:
    path = interpolate(np.array([[2.0, 0.0, 0.0]]), np.array([[0.0, 4.0, 0.0]]), 4, Mode.SLERP)[0]
    angles = np.degrees(np.arctan2(path[:, 1], path[:, 0]))
    np.testing.assert_allclose(angles, [0, 30, 60, 90], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), [2, 8 / 3, 10 / 3, 4])


def test_slerp_agrees_with_shoemake_between_vectors_of_one_length() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 6, 9))
    a, b = (3 * each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    omega = np.arccos((a * b).sum(axis=1) / 9)[:, None, None]
    t = np.linspace(0, 1, 5)[None, :, None]
    expected = (np.sin((1 - t) * omega) * a[:, None] + np.sin(t * omega) * b[:, None]) / np.sin(omega)
    np.testing.assert_allclose(interpolate(a, b, 5, Mode.SLERP), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "middle"),
    [
        ([2.0, 0.0], [4.0, 0.0], [3.0, 0.0]),  # one direction
        ([2.0, 2.0], [2.0, 2.0], [2.0, 2.0]),  # one point
        ([0.0, 0.0], [4.0, 2.0], [2.0, 1.0]),  # a zero has no direction
        ([4.0, 2.0], [0.0, 0.0], [2.0, 1.0]),
        ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]),
        ([2.0], [-4.0], [-1.0]),  # one dimension has no way around
    ],
)
def test_slerp_is_a_line_where_no_arc_is_defined(a: list[float], b: list[float], middle: list[float]) -> None:
    path = interpolate(np.array([a]), np.array([b]), 3, Mode.SLERP)
    np.testing.assert_allclose(path[0, 1], middle, atol=1e-12)


def test_slerp_between_opposite_vectors_goes_around_the_origin() -> None:
    a = np.array([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])
    path = interpolate(a, -2 * a, 5, Mode.SLERP)
    lengths = np.linalg.norm(a, axis=1)[:, None] * (1 + np.linspace(0, 1, 5))
    np.testing.assert_allclose(np.linalg.norm(path, axis=2), lengths)
    np.testing.assert_allclose((path[:, 2] * a).sum(axis=1), 0, atol=1e-12)  # half-way it stands upright on a
    np.testing.assert_array_equal(path, interpolate(a, -2 * a, 5, Mode.SLERP))


def test_a_pair_does_not_depend_on_the_others() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 7, 4))
    b[3], a[5] = -a[3], 0.0
    whole = interpolate(a, b, 6, Mode.SLERP)
    for row in range(7):
        np.testing.assert_allclose(interpolate(a[row : row + 1], b[row : row + 1], 6, Mode.SLERP)[0], whole[row])


@pytest.mark.parametrize(("shape", "steps"), [((2, 3), 1), ((3, 3), 4), ((2, 2), 4)])
def test_ends_that_do_not_fit_are_told(shape: tuple[int, int], steps: int) -> None:
    with pytest.raises(InvalidInput, match=r"at least 2|one shape"):
        interpolate(np.ones((2, 3)), np.ones(shape), steps, Mode.LERP)
