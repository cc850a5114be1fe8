from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from contracts.errors import InvalidInput
from models.layers.mixture import fit_mixture


def score(mixture: dict[str, torch.Tensor], x: np.ndarray) -> float:
    parts = [
        weight + multivariate_normal(mean, root @ root.T).logpdf(x)
        for weight, mean, root in zip(
            *(mixture[name].numpy() for name in ("log_weights", "means", "cholesky")), strict=True
        )
    ]
    return float(np.logaddexp.reduce(parts).mean())


def test_two_clusters_in_odd_units_are_found() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [1000.0, 0.5]])
    x = centres[rng.integers(0, 2, 1000)] + rng.normal(size=(1000, 2)) * [20.0, 0.02]
    mixture = fit_mixture(torch.from_numpy(x))
    one = fit_mixture(torch.from_numpy(x), candidates=(1,))
    assert len(mixture["log_weights"]) >= 2
    assert len(one["log_weights"]) == 1
    assert score(mixture, x) > score(one, x) + 0.3
    np.testing.assert_allclose(one["means"][0], x.mean(0), rtol=1e-6)
    assert mixture["log_weights"].exp().sum().item() == pytest.approx(1.0)


def test_the_fit_is_deterministic() -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(200, 3)))
    first, second = fit_mixture(x), fit_mixture(x)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_few_or_constant_rows_give_one_proper_gaussian(rows: int) -> None:
    mixture = fit_mixture(torch.full((rows, 3), 4.0))
    assert mixture["means"].tolist() == [[4.0, 4.0, 4.0]]
    assert (mixture["cholesky"][0].diagonal() > 0).all()


def test_wide_rows_stay_within_the_work() -> None:
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(400, 1000)))
    assert len(fit_mixture(x, candidates=(1, 10))["log_weights"]) == 1


def test_no_rows_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one row"):
        fit_mixture(torch.zeros(0, 2))
