import numpy as np
import pytest
from scipy.stats import multivariate_normal, truncnorm

from engine import truncated
from engine.conditional import Mixture

OPEN = np.full(2, -np.inf), np.full(2, np.inf)


def conditional(rows, components=2, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    factors = np.tril(rng.normal(size=(components, 3, 3)))
    factors[:, np.arange(3), np.arange(3)] = 0.6 + rng.random((components, 3))
    mixture = Mixture(np.log(rng.dirichlet(np.ones(components))), shift + rng.normal(size=(components, 3)), factors)
    pattern = mixture.pattern(np.array([False, True, True]))
    return pattern.condition(np.zeros((rows, 3)))


def random(rows, cells, seed=1):
    rng = np.random.default_rng(seed)
    return rng.random(rows), rng.random((rows, cells))


def test_without_bounds_it_is_the_mixture():
    given = conditional(40_000)
    drawn = truncated.draw(given, *random(40_000, 2), *OPEN)
    np.testing.assert_allclose(truncated.log_density(given, drawn, *OPEN), given.log_density(drawn), atol=1e-9)
    np.testing.assert_allclose(drawn.mean(axis=0), given.mean()[0], atol=0.05)
    np.testing.assert_allclose(drawn.var(axis=0), given.variance()[0], rtol=0.05)


@pytest.mark.parametrize("shift", [0.0, 3.0, -40.0, 40.0])
def test_draws_stay_inside_and_their_density_is_normalised(shift):
    """Importance weights of a constant over the box estimate its volume, however far away the Gaussian's mass."""
    given = conditional(20_000, shift=shift)
    lower, upper = np.array([0.0, -1.0]), np.array([1.0, 2.0])
    drawn = truncated.draw(given, *random(20_000, 2), lower, upper)
    assert ((drawn >= lower) & (drawn < upper)).all()
    log_q = truncated.log_density(given, drawn, lower, upper)
    assert np.isfinite(log_q).all()
    if abs(shift) < 10:  # far away the draws crowd in a corner, and weights vary too much to average
        inverse = np.exp(-log_q)
        assert abs(inverse.mean() - 3.0) < 5 * inverse.std() / np.sqrt(len(inverse))


def test_one_cell_is_the_truncated_normal():
    given = Mixture(np.zeros(1), np.array([[1.0]]), np.array([[[2.0]]])).pattern(np.array([True]))
    conditioned = given.condition(np.zeros((1000, 1)))
    uniforms = (np.arange(1000) + 0.5)[:, None] / 1000
    lower, upper = np.array([0.0]), np.array([1.5])
    drawn = truncated.draw(conditioned, np.zeros(1000), uniforms, lower, upper)
    reference = truncnorm(-0.5, 0.25, loc=1.0, scale=2.0)
    np.testing.assert_allclose(drawn[:, 0], reference.ppf(uniforms[:, 0]), atol=1e-9)
    np.testing.assert_allclose(
        truncated.log_density(conditioned, drawn, lower, upper), reference.logpdf(drawn[:, 0]), atol=1e-9
    )


def test_weights_give_the_mass_of_the_box():
    """E[N(h) / q(h)] over draws is the Gaussian's mass in the box: what the simulator was made for."""
    covariance = np.array([[1.0, 0.6], [0.6, 1.0]])
    given = Mixture(np.zeros(1), np.zeros((1, 2)), np.linalg.cholesky(covariance)[None])
    conditioned = given.pattern(np.array([True, True])).condition(np.zeros((20_000, 2)))
    lower, upper = np.array([0.5, 1.0]), np.array([2.0, np.inf])
    drawn = truncated.draw(conditioned, *random(20_000, 2), lower, upper)
    weights = np.exp(conditioned.log_density(drawn) - truncated.log_density(conditioned, drawn, lower, upper))
    gaussian = multivariate_normal(np.zeros(2), covariance)
    truth = gaussian.cdf([2.0, 30.0], lower_limit=lower)
    assert abs(weights.mean() - truth) < 5 * weights.std() / np.sqrt(len(weights)) + 1e-5


def test_extreme_uniforms_are_finite():
    given = conditional(3)
    uniforms = np.array([[0.0, 0.0], [1 - 2.0**-53, 0.0], [0.0, 1 - 2.0**-53]])
    assert np.isfinite(truncated.draw(given, np.array([0.0, 0.5, 1 - 2.0**-53]), uniforms, *OPEN)).all()


def test_nothing_hidden_draws_nothing():
    mixture = Mixture(np.zeros(1), np.zeros((1, 2)), np.eye(2)[None])
    given = mixture.pattern(np.zeros(2, dtype=bool)).condition(np.zeros((4, 2)))
    nothing = np.zeros(0)
    drawn = truncated.draw(given, np.zeros(4), np.zeros((4, 0)), nothing, nothing)
    assert drawn.shape == (4, 0)
    assert (truncated.log_density(given, drawn, nothing, nothing) == 0).all()
