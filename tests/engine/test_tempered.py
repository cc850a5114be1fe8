"""Tempering: right where the proposal is far off, plain importance sampling where it is good, each row for itself."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from engine.tempered import temper

KEYS = np.arange(5, dtype=np.uint64)
DIMENSIONS = 6


class Target:
    """log of 7 N(x; mean, deviation²) against the proposal N(0, I), with the map x = v; counts its calls."""

    def __init__(self, mean, deviation):
        self.normal = multivariate_normal(np.full(DIMENSIONS, mean), deviation**2 * np.eye(DIMENSIONS))
        self.base = multivariate_normal(np.zeros(DIMENSIONS))
        self.calls = 0

    def __call__(self, rows, v):
        self.calls += 1
        log_w = np.log(7) + self.normal.logpdf(v) - self.base.logpdf(v)
        return v.copy(), log_w.reshape(v.shape[:2])


def run(target, keys=KEYS, *, draws=200, steps=20, moves=6):
    return temper(target, keys, 0, draws=draws, normals=DIMENSIONS, steps=steps, moves=moves)


def test_it_reaches_a_density_far_from_the_proposal():
    cloud = run(Target(2.0, 0.3))
    mean = (cloud.weights[..., None] * cloud.x).sum(axis=1)
    spread = np.sqrt((cloud.weights[..., None] * (cloud.x - mean[:, None]) ** 2).sum(axis=1))
    np.testing.assert_allclose(mean.mean(axis=0), 2.0, atol=0.1)
    np.testing.assert_allclose(spread.mean(axis=0), 0.3, rtol=0.2)
    assert abs(cloud.log_mass.mean() - np.log(7)) < 0.5
    assert (cloud.size > 20).all()
    plain = run(Target(2.0, 0.3), steps=1)
    assert (plain.size < 5).all()


def test_a_good_proposal_is_importance_sampled():
    target = Target(0.1, 0.95)
    cloud = run(target)
    assert target.calls == 1
    assert (np.abs(cloud.log_mass - np.log(7)) < 5 * cloud.standard_error).all()
    np.testing.assert_allclose(cloud.size, 1 / np.square(cloud.weights).sum(axis=1))
    w = np.exp(Target(0.1, 0.95)(None, cloud.x)[1])
    np.testing.assert_allclose(cloud.log_mass, np.log(w.mean(axis=1)))


def test_a_row_goes_its_own_way():
    together = run(Target(1.0, 0.3))
    for chosen in ([2], [4, 0]):
        apart = run(Target(1.0, 0.3), KEYS[chosen])
        np.testing.assert_array_equal(apart.x, together.x[chosen])
        np.testing.assert_array_equal(apart.log_mass, together.log_mass[chosen])
    assert len(set(together.log_mass)) == len(KEYS)


@pytest.mark.parametrize("steps", [1, 8])
def test_a_row_without_any_weight_has_no_mass(steps):
    def nowhere(rows, v):
        log_w = np.where(KEYS[rows][:, None] == 3, -np.inf, np.zeros(v.shape[:2]))
        return v, log_w

    cloud = temper(nowhere, KEYS, 0, draws=10, normals=2, steps=steps, moves=1)
    assert cloud.log_mass.tolist() == [0, 0, 0, -np.inf, 0]
    assert np.isfinite(cloud.weights).all()
    np.testing.assert_allclose(cloud.weights.sum(axis=1), 1)


def test_draws_without_weight_are_left_behind():
    """Most of the proposal lies where the density is zero."""

    def corner(rows, v):
        return v, np.where((v > 1).all(axis=2), 0.0, -np.inf)

    cloud = temper(corner, KEYS, 0, draws=400, normals=2, steps=10, moves=4)
    assert (cloud.x[cloud.weights > 0] > 1).all()
    truth = 2 * np.log(multivariate_normal(0).cdf(-1))
    assert abs(cloud.log_mass.mean() - truth) < 0.5


def test_a_single_draw_has_no_error_to_tell():
    cloud = run(Target(0.0, 1.0), draws=1)
    assert np.isnan(cloud.standard_error).all()
    np.testing.assert_allclose(cloud.log_mass, np.log(7))
