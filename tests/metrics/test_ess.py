"""The effective sample size lies between one and the number of draws."""

import numpy as np
import pytest

from contracts.errors import InvalidInput
from metrics.ess import effective_sample_size


def test_equal_weights_all_count_and_a_single_large_one_counts_once() -> None:
    w = np.array([[700.0, 0.0, -np.inf], [700.0, -800.0, -np.inf], [700.0, -800.0, -np.inf]])
    assert effective_sample_size(w).tolist() == pytest.approx([3, 1, 0])
    assert effective_sample_size(w.T, axis=1).tolist() == pytest.approx([3, 1, 0])


def test_gaussian_weights_agree_with_theory() -> None:
    """For log-normal weights of variance v in the log, ESS / K tends to exp(-v)."""
    w = np.random.default_rng(0).normal(0, 0.5, 400_000)
    assert effective_sample_size(w) / len(w) == pytest.approx(np.exp(-0.25), rel=0.01)


@pytest.mark.parametrize("weights", [[], [0.0, np.nan], [np.inf, 0.0]])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(InvalidInput, match="log_weights"):
        effective_sample_size(weights)
