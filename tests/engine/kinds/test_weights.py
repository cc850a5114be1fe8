import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kinds.weights import clean, effective_sample_size, log_mean_exp, normalise, resample

LOGS = st.lists(st.floats(-700, 700), min_size=2, max_size=30)


@settings(deadline=None)
@given(LOGS)
def test_log_mean_exp_lies_between_its_terms(logs):
    log_w = np.array([logs])
    value = log_mean_exp(log_w).values[0]
    assert min(logs) - 1e-9 <= value <= max(logs) + 1e-9


@settings(deadline=None)
@given(LOGS)
def test_effective_size_is_between_one_and_all(logs):
    weights = normalise(np.array([logs]))
    assert np.isclose(weights.sum(), 1)
    assert 1 - 1e-9 <= effective_sample_size(weights)[0] <= len(logs) + 1e-9


def test_equal_weights_have_no_error_and_full_size():
    mean = log_mean_exp(np.full((1, 10), -3.0))
    np.testing.assert_allclose(mean.values, -3)
    np.testing.assert_allclose(mean.standard_error, 0, atol=1e-12)
    np.testing.assert_allclose(effective_sample_size(normalise(np.zeros((1, 10)))), 10)


def test_what_cannot_be_told_is_nan():
    assert np.isnan(log_mean_exp(np.zeros((2, 1))).standard_error).all()
    lost = log_mean_exp(np.full((1, 5), -np.inf))
    assert lost.values[0] == -np.inf
    assert np.isnan(lost.standard_error[0])
    np.testing.assert_allclose(normalise(np.full((1, 5), -np.inf)), 0.2)


def test_an_overflowed_weight_counts_as_zero():
    assert clean(np.array([np.nan, 1.0])).tolist() == [-np.inf, 1.0]


def test_resampling_follows_the_weights():
    weights = np.array([[0.5, 0.0, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0]])
    uniforms = (np.arange(1000) + 0.5) / 1000
    picked = resample(weights, np.stack((uniforms, uniforms)))
    assert np.bincount(picked[0], minlength=4).tolist() == [500, 0, 250, 250]
    assert (picked[1] == 3).all()
    assert resample(weights, np.array([[1 - 2.0**-53], [0.0]])).tolist() == [[3], [3]]
