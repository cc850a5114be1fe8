"""Divergences against closed forms for Gaussians: N(0, I) beside N(shift, I)."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from contracts.errors import InvalidInput
from metrics.divergences import kl_bracket, kl_from_densities, mmd, total_variation

Floats = NDArray[np.float64]


def gaussians(
    cells: int, shift: float, n: int = 4000, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    x, y = generator.standard_normal((n, cells)), generator.standard_normal((n, cells))
    y[:, 0] += shift
    return x, y


@pytest.mark.parametrize(("cells", "shift"), [(1, 2.0), (8, 1.0), (8, 2.0)])
def test_both_ends_of_the_bracket_are_near_the_true_divergence(cells: int, shift: float) -> None:
    bracket = kl_bracket(*gaussians(cells, shift))
    true = shift**2 / 2
    assert bracket.plug_in == pytest.approx(true, rel=0.15)
    assert bracket.donsker_varadhan == pytest.approx(true, rel=0.2)
    assert 0 < bracket.plug_in_error < bracket.donsker_varadhan_error < 0.3


def test_unequal_set_sizes_do_not_bias_the_bracket() -> None:
    x, y = gaussians(2, 1.0)
    bracket = kl_bracket(x, y[:1000])
    assert bracket.plug_in == pytest.approx(0.5, abs=0.1)
    assert bracket.donsker_varadhan == pytest.approx(0.5, abs=0.1)


def test_a_set_does_not_diverge_from_its_like() -> None:
    x, y = gaussians(4, 0.0)
    bracket = kl_bracket(x, y)
    assert abs(bracket.plug_in) < 0.05
    assert abs(bracket.donsker_varadhan) < 0.05
    test = total_variation(x, y)
    assert test.interval[0] == 0
    assert test.p_value > 0.01
    assert mmd(x[:400], y[:400]).p_value > 0.01


@pytest.mark.parametrize(("cells", "shift"), [(1, 2.0), (8, 1.0)])
def test_total_variation_is_bounded_from_below(cells: int, shift: float) -> None:
    answer = total_variation(*gaussians(cells, shift))
    true = 2 * norm.cdf(shift / 2) - 1
    assert answer.interval[0] < true < answer.interval[1] + 0.02
    assert answer.lower_bound == pytest.approx(true, abs=0.05)
    assert answer.p_value < 1e-6


def test_total_variation_of_far_sets_is_one_and_obeys_pinsker() -> None:
    answer = total_variation(*gaussians(2, 50.0, 500))
    assert answer.lower_bound == 1
    x, y = gaussians(3, 0.8)
    assert total_variation(x, y).interval[0] <= math.sqrt(kl_bracket(x, y).plug_in / 2)


@pytest.mark.parametrize(("cells", "shift"), [(1, 2.0), (8, 2.0)])
def test_mmd_agrees_with_its_closed_form(cells: int, shift: float) -> None:
    x, y = gaussians(cells, shift, 1200)
    variance = float(cells)
    answer = mmd(x, y, bandwidth_squared=variance, permutations=99)
    true = 2 * (variance / (variance + 2)) ** (cells / 2) * (1 - math.exp(-(shift**2) / (2 * (variance + 2))))
    assert answer.squared == pytest.approx(true, rel=0.1)
    assert answer.p_value == 0.01
    assert answer.bandwidth_squared == variance


def test_mmd_equals_the_sum_over_pairs() -> None:
    x, y = gaussians(2, 1.0, 7)
    y = y[:5]

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return math.exp(-float(((a - b) ** 2).sum()) / (2 * 1.5))

    xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    assert mmd(x, y, bandwidth_squared=1.5, permutations=1).squared == pytest.approx(xx + yy - 2 * xy)


def test_permutation_p_values_are_uniform_without_a_difference() -> None:
    p = [mmd(*gaussians(2, 0.0, 40, seed=seed), permutations=39, seed=seed).p_value for seed in range(120)]
    assert np.mean(np.array(p) <= 0.1) < 0.2
    assert np.mean(p) == pytest.approx(0.5, abs=0.1)


def test_equal_rows_have_a_bandwidth_too() -> None:
    answer = mmd(np.ones((5, 2)), np.ones((5, 2)))
    assert answer.squared == pytest.approx(0)
    assert answer.p_value == 1


def test_log_densities_give_the_divergence_without_a_classifier() -> None:
    x = np.random.default_rng(0).standard_normal(50_000)
    value, error = kl_from_densities(norm(0, 1).logpdf(x), norm(1, 2).logpdf(x))
    true = math.log(2) + (1 + 1) / 8 - 0.5
    assert value == pytest.approx(true, abs=4 * error)
    assert kl_from_densities([0.0, 0.0], [-1.0, -np.inf])[0] == math.inf


def test_seeds_decide_and_a_classifier_may_be_given() -> None:
    x, y = gaussians(3, 1.0, 400)
    assert kl_bracket(x, y, seed=1) == kl_bracket(x, y, seed=1)
    assert kl_bracket(x, y, seed=1) != kl_bracket(x, y, seed=2)
    linear = kl_bracket(x, y, classifier=LogisticRegression())
    assert linear.plug_in == pytest.approx(0.5, abs=0.25)
    wide = kl_bracket(*gaussians(80, 2.0, 1000))
    assert wide.donsker_varadhan < wide.plug_in


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((20, 2)), np.zeros((20, 3)), "one width"),
        (np.zeros((20, 2)), np.zeros((3, 2)), "at least 8 rows"),
        (np.zeros((20, 2)), np.full((20, 2), np.nan), "`y` holds NaN"),
        (np.zeros((0, 2)), np.zeros((20, 2)), "`x` must hold"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(x: NDArray[np.float64], y: NDArray[np.float64], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        kl_bracket(x, y)


def test_wrong_densities_and_bandwidths_are_refused() -> None:
    with pytest.raises(InvalidInput, match="same draws"):
        kl_from_densities([0.0], [0.0, 1.0])
    with pytest.raises(InvalidInput, match="`log_p` must be finite"):
        kl_from_densities([-np.inf, 0.0], [0.0, 1.0])
    with pytest.raises(InvalidInput, match="positive"):
        mmd(np.zeros((5, 2)), np.ones((5, 2)), bandwidth_squared=0.0)
