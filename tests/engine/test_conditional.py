import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from contracts.errors import ArtifactCorrupt
from engine.conditional import Mixture, group_patterns, log_sum_exp


def random_mixture(seed: int, components: int, n: int) -> Mixture:
    rng = np.random.default_rng(seed)
    factors = np.tril(rng.normal(size=(components, n, n)))
    factors[:, np.arange(n), np.arange(n)] = 0.5 + rng.random((components, n))
    weights = rng.dirichlet(np.ones(components))
    return Mixture(np.log(weights), 2 * rng.normal(size=(components, n)), factors)


def covariances(mixture: Mixture) -> np.ndarray:
    return mixture.cholesky @ mixture.cholesky.transpose(0, 2, 1)


def reference_marginal(mixture: Mixture, x: np.ndarray, cells: np.ndarray) -> np.ndarray:
    each = [
        weight + multivariate_normal(mean[cells], covariance[np.ix_(cells, cells)]).logpdf(x[:, cells]).reshape(len(x))
        for weight, mean, covariance in zip(mixture.log_weights, mixture.means, covariances(mixture), strict=True)
    ]
    return np.logaddexp.reduce(np.stack(each), axis=0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), components=st.integers(1, 3), n=st.integers(2, 6), data=st.data())
def test_marginal_times_conditional_is_the_joint(seed, components, n, data):
    mixture = random_mixture(seed, components, n)
    hidden = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    x = 2 * np.random.default_rng(seed + 1).normal(size=(5, n))
    pattern = mixture.pattern(hidden)
    given_shown = pattern.condition(x)
    joint = reference_marginal(mixture, x, np.arange(n))
    np.testing.assert_allclose(mixture.log_density(x), joint, rtol=1e-9, atol=1e-9)
    both = given_shown.log_marginal + given_shown.log_density(x[:, hidden])
    np.testing.assert_allclose(both, joint, rtol=1e-8, atol=1e-8)
    if (~hidden).any():
        shown = np.flatnonzero(~hidden)
        np.testing.assert_allclose(pattern.log_marginal(x), reference_marginal(mixture, x, shown), atol=1e-8)


def test_one_component_conditions_by_the_textbook_formula():
    mixture = random_mixture(0, 1, 5)
    covariance, mean = covariances(mixture)[0], mixture.means[0]
    hidden = np.array([True, False, False, True, False])
    h, s = np.flatnonzero(hidden), np.flatnonzero(~hidden)
    x = np.random.default_rng(1).normal(size=(3, 5))
    gain = covariance[np.ix_(h, s)] @ np.linalg.inv(covariance[np.ix_(s, s)])
    conditional = mixture.pattern(hidden).condition(x)
    np.testing.assert_allclose(conditional.mean(), mean[h] + (x[:, s] - mean[s]) @ gain.T, atol=1e-10)
    variance = np.diag(covariance[np.ix_(h, h)] - gain @ covariance[np.ix_(s, h)])
    np.testing.assert_allclose(conditional.variance(), np.tile(variance, (3, 1)), atol=1e-10)


def test_draws_have_the_moments_that_are_claimed():
    mixture = random_mixture(3, 3, 4)
    hidden = np.array([True, True, False, True])
    x = np.array([[0.0, 0.0, 0.4, 0.0]])
    conditional = mixture.pattern(hidden).condition(x)
    rng = np.random.default_rng(0)
    count = 40_000
    draws = conditional.take(np.zeros(count, dtype=np.int64)).draw(rng.random(count), rng.normal(size=(count, 3)))
    error = np.sqrt(conditional.variance()[0] / count)
    assert (np.abs(draws.mean(axis=0) - conditional.mean()[0]) < 5 * error).all()
    np.testing.assert_allclose(draws.var(axis=0), conditional.variance()[0], rtol=0.05)
    free = mixture.draw(rng.random(count), rng.normal(size=(count, 4)))
    weights = np.exp(mixture.log_weights)
    np.testing.assert_allclose(free.mean(axis=0), weights @ mixture.means, atol=0.08)
    cold = mixture.draw(rng.random(100), rng.normal(size=(100, 4)), temperature=0.0)
    assert {tuple(row) for row in cold} <= {tuple(row) for row in mixture.means}


def test_nothing_hidden_and_nothing_shown_are_ordinary_patterns():
    mixture = random_mixture(1, 2, 3)
    x = np.ones((2, 3))
    whole = mixture.pattern(np.zeros(3, dtype=bool)).condition(x)
    assert whole.mean().shape == (2, 0)
    np.testing.assert_allclose(whole.log_marginal, mixture.log_density(x))
    nothing = mixture.pattern(np.ones(3, dtype=bool)).condition(x)
    np.testing.assert_allclose(nothing.log_marginal, 0.0, atol=1e-12)
    np.testing.assert_allclose(nothing.log_density(x), mixture.log_density(x))


def test_a_nearly_singular_covariance_keeps_its_digits():
    rng = np.random.default_rng(0)
    loading = rng.normal(size=(6, 2)) * 1e4
    covariance = loading @ loading.T + 1e-4 * np.eye(6)
    mixture = Mixture(np.zeros(1), np.zeros((1, 6)), np.linalg.cholesky(covariance)[None])
    z = rng.normal(size=2)
    x = (loading @ z)[None]
    conditional = mixture.pattern(np.arange(6) >= 3).condition(x)
    np.testing.assert_allclose(conditional.mean(), x[:, 3:], rtol=1e-4)


def test_far_rows_keep_a_conditional_without_nan():
    mixture = random_mixture(2, 2, 3)
    conditional = mixture.pattern(np.array([True, False, False])).condition(np.full((1, 3), 1e200))
    assert conditional.log_marginal[0] == -np.inf
    np.testing.assert_allclose(np.exp(conditional.log_responsibilities).sum(), 1.0)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.booleans()] * 10), min_size=1, max_size=30))
def test_patterns_partition_the_rows(masks):
    hidden = np.array(masks)
    seen = []
    for rows, pattern in group_patterns(hidden):
        assert (hidden[rows] == pattern).all()
        seen.extend(rows.tolist())
    assert sorted(seen) == list(range(len(masks)))
    assert len(list(group_patterns(hidden))) == len(set(masks))


def test_log_sum_exp_of_nothing_is_minus_infinity():
    values = np.array([[-np.inf, -np.inf], [0.0, 0.0], [-1000.0, -1000.0]])
    np.testing.assert_allclose(log_sum_exp(values), [-np.inf, np.log(2), np.log(2) - 1000])


@pytest.mark.parametrize(
    "constants",
    [
        {"p.means": np.zeros((1, 2))},
        {"p.log_weights": np.zeros(2), "p.means": np.zeros((1, 2)), "p.cholesky": np.zeros((1, 2, 2))},
        {"p.log_weights": np.zeros(1), "p.means": np.zeros((1, 2)), "p.cholesky": np.zeros((1, 3, 3))},
    ],
)
def test_damaged_constants_are_named(constants):
    with pytest.raises(ArtifactCorrupt, match="mixture `p`"):
        Mixture.from_constants(constants, "p")
    assert Mixture.from_constants(constants, "other") is None
