"""Rows drawn given some of their cells: by the exact conditional, each with a draw of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contracts.artifact import AnswerKind
from contracts.data import Column, ColumnType, DataSpec
from contracts.errors import VerbUnsupported
from engine.kinds import program
from engine.kinds.gaussian import ExactGaussian
from engine.kinds.rows import check_rows

HIDDEN = np.array([True, False, True, False])


def conditional(oracle: Any, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h, s = np.flatnonzero(HIDDEN), np.flatnonzero(~HIDDEN)
    gain = oracle.covariance[np.ix_(h, s)] @ np.linalg.inv(oracle.covariance[np.ix_(s, s)])
    return oracle.mean[h] + (row[s] - oracle.mean[s]) @ gain.T, oracle.covariance[
        np.ix_(h, h)
    ] - gain @ oracle.covariance[np.ix_(s, h)]


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("exact_gaussian", AnswerKind.EXACT, 20_000),
        ("linear_gaussian", AnswerKind.ESTIMATE, 2000),
        ("affine", AnswerKind.ESTIMATE, 2000),
    ],
)
def test_draws_are_those_of_the_conditional(
    name: str, kind: AnswerKind, count: int, request: pytest.FixtureRequest
) -> None:
    oracle = request.getfixturevalue(name)
    answers = program(oracle.model())
    row = np.random.default_rng(3).multivariate_normal(oracle.mean, oracle.covariance)
    x, hidden = np.tile(row, (count, 1)), np.tile(HIDDEN, (count, 1))
    x[:, HIDDEN] = np.nan
    drawn = answers.complete(x, hidden, seed=5)
    assert drawn.kind is kind
    np.testing.assert_array_equal(drawn.rows[:, ~HIDDEN], x[:, ~HIDDEN])
    mean, covariance = conditional(oracle, row)
    found = drawn.rows[:, HIDDEN]
    # Importance-resampled draws are biased a little; independent ones are off by 4 / √count of a deviation at most.
    tolerance = (0.0 if kind is AnswerKind.EXACT else 0.08) + 4 / np.sqrt(count)
    std = np.sqrt(covariance.diagonal())
    np.testing.assert_allclose((found.mean(0) - mean) / std, 0, atol=tolerance)
    np.testing.assert_allclose(
        np.cov(found.T) / np.outer(std, std), covariance / np.outer(std, std), atol=2 * tolerance
    )
    if kind is AnswerKind.EXACT:
        assert drawn.effective_sample_size is None
    else:
        assert drawn.effective_sample_size is not None
        assert ((drawn.effective_sample_size >= 1) & (drawn.effective_sample_size <= drawn.samples)).all()


@pytest.mark.parametrize("name", ["exact_gaussian", "linear_gaussian", "affine"])
def test_a_row_depends_on_seed_place_and_itself_alone(name: str, request: pytest.FixtureRequest) -> None:
    answers = program(request.getfixturevalue(name).model())
    x, hidden = np.tile(np.array([np.nan, 1.0, np.nan, -1.0]), (6, 1)), np.tile(HIDDEN, (6, 1))
    whole = answers.complete(x, hidden, seed=1).rows
    assert len(np.unique(whole[:, 0])) == 6
    np.testing.assert_allclose(answers.complete(x[:2], hidden[:2], seed=1, first=3).rows, whole[3:5], rtol=1e-9)
    mixed = x.copy()
    mixed[:3, 1] = 0.5
    np.testing.assert_allclose(answers.complete(mixed, hidden, seed=1).rows[3:], whole[3:], rtol=1e-9)
    assert not np.array_equal(answers.complete(x, hidden, seed=2).rows, whole)


def test_a_row_of_nothing_hidden_is_itself(exact_gaussian: Any, linear_gaussian: Any) -> None:
    x = np.array([[0.5, 1.0, 2.0, -1.0]])
    for oracle in (exact_gaussian, linear_gaussian):
        np.testing.assert_array_equal(program(oracle.model()).complete(x, np.zeros((1, 4), bool), seed=1).rows, x)


def test_a_row_of_everything_hidden_is_a_sample(exact_gaussian: Any) -> None:
    answers = program(exact_gaussian.model())
    x, hidden = np.full((20_000, 4), np.nan), np.ones((20_000, 4), bool)
    drawn = answers.complete(x, hidden, seed=1).rows
    np.testing.assert_allclose(np.cov(drawn.T), exact_gaussian.covariance, atol=0.15)


def test_a_model_without_conditionals_refuses(build: Any) -> None:
    answers = program(build("affine", "real", "real", proposal=False).model())
    with pytest.raises(VerbUnsupported):
        answers.complete(np.array([[1.0, np.nan]]), np.array([[False, True]]), seed=1)


def test_the_probability_of_a_category_under_a_gaussian() -> None:
    from engine.conditional import Mixture

    columns = (
        Column(name="a", type=ColumnType.REAL),
        Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
        Column(name="open", type=ColumnType.BOOLEAN),
    )
    spec = DataSpec(modality="table", columns=columns)
    covariance = np.array([[1.0, 0.6, 0.3], [0.6, 0.8, 0.1], [0.3, 0.1, 0.4]])
    mixture = Mixture(np.zeros(1), np.array([[0.0, 1.4, 0.9]]), np.linalg.cholesky(covariance)[None])
    gaussian = ExactGaussian(mixture, spec, 1 << 20)
    x = np.array([[0.7, np.nan, np.nan], [-2.5, np.nan, np.nan]])
    found = gaussian.impute(check_rows(spec, x, np.isnan(x), None), 0, 40_000, 1)
    drawn = spec.quantise(found.draws)
    for row in range(2):
        for cell in (1, 2):
            answered = found.mean[row, cell] if cell == 1 else float(found.mean[row, cell] >= 0.5)
            share = (drawn[row, :, cell] == answered).mean()
            assert found.probability is not None
            assert abs(found.probability[row, cell] - share) < 0.01
