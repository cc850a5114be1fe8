"""Figures of densities against closed forms, scikit-learn and repeated draws."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from contracts.errors import InvalidInput
from metrics.densities import anomaly_auroc, bits_per_dim, log_mean_exp, mean_log_prob


def test_bits_per_dim_of_a_uniform_byte_is_eight() -> None:
    assert bits_per_dim(-784 * math.log(256), 784) == pytest.approx(8)
    assert bits_per_dim([-math.log(2), -2 * math.log(2)], 1).tolist() == pytest.approx([1, 2])
    with pytest.raises(InvalidInput, match="at least one cell"):
        bits_per_dim([-1.0], 0)


def test_mean_log_prob_and_its_error() -> None:
    estimate = mean_log_prob([-1.0, -2.0, -3.0])
    assert (estimate.value, estimate.count) == (-2.0, 3)
    assert estimate.standard_error == pytest.approx(1 / math.sqrt(3))
    assert mean_log_prob([-1.0, -math.inf]).value == -math.inf
    assert math.isnan(mean_log_prob([-1.0]).standard_error)


def test_log_mean_exp_has_no_overflow_and_an_honest_error() -> None:
    value, error = log_mean_exp([1000.0, 1000.0])
    assert value == pytest.approx(1000)
    assert error == pytest.approx(0)
    assert log_mean_exp(np.full((3, 2), -np.inf))[0].tolist() == [-np.inf, -np.inf]
    assert np.isnan(log_mean_exp([[0.5]])[1]).all()
    # log-normal weights with mean 1: many repetitions tell the true spread of the estimate
    draws = np.random.default_rng(0).normal(-0.125, 0.5, (200, 4000))
    values, errors = log_mean_exp(draws)
    assert values.mean() == pytest.approx(0, abs=5e-3)
    assert errors.mean() == pytest.approx(values.std(), rel=0.1)
    with pytest.raises(InvalidInput, match="at least one weight"):
        log_mean_exp(np.empty((0, 3)))


def test_auroc_agrees_with_scikit_learn_with_ties_and_zero_densities() -> None:
    generator = np.random.default_rng(0)
    log_prob = np.round(generator.normal(size=500), 1)
    anomaly = generator.integers(0, 2, 500)
    assert anomaly_auroc(log_prob, anomaly) == pytest.approx(roc_auc_score(anomaly, -log_prob))
    log_prob[anomaly == 1] = -np.inf
    assert anomaly_auroc(log_prob, anomaly == 1) == 1
    assert anomaly_auroc(np.zeros(500), anomaly) == 0.5


@pytest.mark.parametrize(
    ("log_prob", "anomaly", "message"),
    [
        ([1.0, 2.0], [0, 0], "both 0"),
        ([1.0, 2.0], [0, 2], "both 0"),
        ([1.0, math.nan], [0, 1], "NaN at row 1"),
        ([[1.0], [2.0]], [0, 1], "vector"),
        ([1.0, 2.0], [0, 1, 1], "one per row"),
    ],
)
def test_wrong_input_to_auroc_is_named(log_prob: list[float], anomaly: list[int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        anomaly_auroc(log_prob, anomaly)
