from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import InvalidInput
from metrics.directions import linear_probe, mean_difference


def sides(n: int = 400, gap: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two round clouds of deviation 1 that lie ``gap`` apart along a known unit vector."""
    random = np.random.default_rng(seed)
    axis = np.array([3.0, 0.0, 4.0]) / 5
    return random.normal(size=(n, 3)) + gap * axis, random.normal(size=(n // 2, 3)), axis


def test_the_mean_difference_is_the_unit_vector_between_the_means() -> None:
    found = mean_difference([[1.0, 1.0], [3.0, 1.0]], [[0.0, 0.0], [0.0, -2.0]])
    np.testing.assert_allclose(found.vector, np.array([2.0, 2.0]) / np.sqrt(8))
    assert found.distance == pytest.approx(np.sqrt(8))
    # Half-way between the means (2, 1) and (0, -1) nothing is decided.
    assert found.vector @ [1.0, 0.0] + found.bias == pytest.approx(0)
    assert (found.accuracy, found.held_out) == (None, (0, 0))


def test_the_scale_is_the_deviation_of_projections_whatever_the_counts() -> None:
    positive, negative, _ = sides()
    for find in (mean_difference, linear_probe):
        found = find(positive, negative)
        up, down = positive @ found.vector, negative @ found.vector
        balanced = np.concatenate([up, np.repeat(down, 2)])
        assert found.scale == pytest.approx(balanced.std())
        assert found.distance / found.scale < 2
        again = find(np.tile(positive, (3, 1)), negative)
        assert again.scale == pytest.approx(found.scale, rel=0.05)


@pytest.mark.parametrize("find", [mean_difference, linear_probe])
def test_a_known_axis_is_found(find: object) -> None:
    positive, negative, axis = sides(4000)
    found = find(positive, negative)  # type: ignore[operator]
    assert np.linalg.norm(found.vector) == pytest.approx(1)
    assert found.vector @ axis > 0.99
    assert found.distance == pytest.approx(3, abs=0.1)
    assert found.scale == pytest.approx(np.sqrt(1 + 1.5**2), abs=0.1)


def test_the_accuracy_is_measured_on_rows_that_were_held_out() -> None:
    positive, negative, _ = sides(4000)
    found = linear_probe(positive, negative)
    assert found.held_out == (800, 400)
    # Two normals of deviation 1, 3 apart and two to one: the best border tells about 93.7 % right.
    assert found.accuracy == pytest.approx(0.937, abs=0.02)
    random = np.random.default_rng(1)
    nothing = linear_probe(random.normal(size=(60, 40)), random.normal(size=(60, 40)))
    assert nothing.accuracy is not None
    assert nothing.accuracy < 0.75  # on its own rows such a probe would tell nearly all right
    assert nothing.held_out == (12, 12)


def test_few_rows_have_no_accuracy() -> None:
    found = linear_probe([[0.0, 1.0], [0.5, 1.0]], [[0.0, -1.0]] * 4)
    assert (found.accuracy, found.held_out) == (None, (0, 0))
    assert found.vector[1] > 0.9


def test_the_same_rows_and_seed_give_the_same_direction() -> None:
    positive, negative, _ = sides(40)
    first, again, other = (linear_probe(positive, negative, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.vector, again.vector)
    assert first.accuracy == again.accuracy
    assert (first.vector != other.vector).any()


def test_a_probe_depends_neither_on_units_nor_on_the_origin() -> None:
    positive, negative, _ = sides(100)
    found = linear_probe(positive, negative)
    moved = linear_probe(1000 * positive + 7, 1000 * negative + 7)
    np.testing.assert_allclose(moved.vector, found.vector, atol=1e-4)
    assert moved.accuracy == found.accuracy
    assert moved.scale == pytest.approx(1000 * found.scale, rel=1e-3)


@pytest.mark.parametrize("find", [mean_difference, linear_probe])
@pytest.mark.parametrize(
    ("positive", "negative", "told"),
    [
        ([[1.0, 2.0]], [[0.0, 1.0]] * 3, "at least 2 rows"),
        ([[1.0, 2.0]] * 3, [[0.0]] * 3, "one length"),
        ([[1.0, 2.0]] * 3, [[1.0, 2.0]] * 3, "same"),
        ([[1.0, np.nan]] * 3, [[1.0, 2.0]] * 3, "`positive` holds NaN"),
    ],
)
def test_what_has_no_direction_is_told(find: object, positive: object, negative: object, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        find(positive, negative)  # type: ignore[operator]
