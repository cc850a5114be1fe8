"""Models of cells against a table of probabilities: whatever the regime and the order, the chain rule must give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.artifact import AnswerKind, Verb
from contracts.data import Measure
from contracts.errors import DeadlineExceeded, InvalidInput, VerbUnsupported
from engine.call import call
from tests.cell_models import CELLS, STATES, TableOracle, write_table_model

REGIMES = ["fixed", "ordered", "shown"]
ANY_ORDER = ["ordered", "shown"]
PATTERNS = np.array(
    [[False, True, False, True], [True, True, True, True], [False, False, False, False], [True, False, True, False]]
)
ROWS = np.array([[1.0, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]])
AFTER = np.array([[False, True, False, True], [True, True, False, True], [False, True, False, False]])
"""Patterns that hide what comes last in the fixed order (2, 0, 3, 1)."""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TableOracle]:
    made: dict[tuple[str, bool], TableOracle] = {}

    def get(regime: str, missing: bool = False) -> TableOracle:
        if (regime, missing) not in made:
            folder: Path = tmp_path_factory.mktemp(f"{regime}-{missing}")
            made[regime, missing] = write_table_model(folder, regime, missing=missing)
        return made[regime, missing]

    return get


# --- log_prob --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regime", REGIMES)
def test_complete_rows_have_the_probabilities_of_the_table(regime: str, oracle: Callable[..., TableOracle]) -> None:
    truth = oracle(regime)
    answer = truth.program().log_prob(STATES)
    np.testing.assert_allclose(np.exp(answer.values), truth.probabilities, rtol=1e-9)
    assert (answer.kind, answer.measure) == (AnswerKind.EXACT, Measure.PROBABILITY)
    assert (answer.samples, answer.standard_error) == (None, None)
    assert answer.order == ("raster" if regime == "fixed" else "shown_first")


@pytest.mark.parametrize("regime", ANY_ORDER)
def test_marginals_of_any_pattern_are_exact(regime: str, oracle: Callable[..., TableOracle]) -> None:
    truth = oracle(regime)
    answer = truth.program().log_prob(ROWS, hidden=PATTERNS)
    np.testing.assert_allclose(np.exp(answer.values), truth.shown(ROWS, PATTERNS), rtol=1e-9)
    assert answer.kind is AnswerKind.EXACT


def test_a_fixed_order_sums_over_what_comes_last(oracle: Callable[..., TableOracle]) -> None:
    truth = oracle("fixed")
    answer = truth.program().log_prob(ROWS[:3], hidden=AFTER)
    np.testing.assert_allclose(np.exp(answer.values), truth.shown(ROWS[:3], AFTER), rtol=1e-9)


def test_a_fixed_order_refuses_gaps_and_says_what_to_train(oracle: Callable[..., TableOracle]) -> None:
    asked = oracle("fixed").program()
    gap = np.array([[False, False, True, False]])
    with pytest.raises(VerbUnsupported, match="any_order: true"):
        asked.log_prob(ROWS[:1], hidden=gap)
    with pytest.raises(VerbUnsupported, match="any_order: true"):
        asked.predict(ROWS[:1], gap)


def test_the_element_budget_changes_no_score(oracle: Callable[..., TableOracle]) -> None:
    truth = oracle("shown")
    small = truth.program(element_budget=30).log_prob(ROWS, hidden=PATTERNS).values
    np.testing.assert_allclose(small, truth.program().log_prob(ROWS, hidden=PATTERNS).values, rtol=1e-12)


def test_some_conditionals_estimate_the_sum_of_all(oracle: Callable[..., TableOracle]) -> None:
    truth = oracle("shown")
    asked = truth.program()
    exact = asked.log_prob(STATES).values
    some = [asked.log_prob(STATES, samples=2, seed=seed) for seed in range(400)]
    assert {(answer.kind, answer.samples) for answer in some} == {(AnswerKind.ESTIMATE, 2)}
    np.testing.assert_allclose(np.mean([answer.values for answer in some], axis=0), exact, atol=0.35)
    assert some[0].standard_error is not None
    assert (some[0].standard_error > 0).any()
    assert asked.log_prob(STATES, samples=CELLS).kind is AnswerKind.EXACT
    assert np.isnan(asked.log_prob(STATES, samples=1).standard_error).all()  # type: ignore[arg-type]


# --- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regime", REGIMES)
def test_marginal_and_conditional_add_up_to_the_joint(regime: str, oracle: Callable[..., TableOracle]) -> None:
    truth = oracle(regime)
    asked = truth.program()
    x, hidden = (ROWS[:3], AFTER) if regime == "fixed" else (ROWS, PATTERNS)
    found = asked.predict(x, hidden, score_inputs=True)
    assert (found.kind, found.log_prob_at) == (AnswerKind.EXACT, "inputs")
    joint = asked.log_prob(x).values
    np.testing.assert_allclose(asked.log_prob(x, hidden=hidden).values + found.log_prob, joint, atol=1e-9)
    assert (found.log_prob[~hidden.any(axis=1)] == 0).all()


@pytest.mark.parametrize("regime", REGIMES)
def test_moments_are_those_of_the_conditional(regime: str, oracle: Callable[..., TableOracle]) -> None:
    truth = oracle(regime)
    x, hidden = (ROWS[:3], AFTER) if regime == "fixed" else (ROWS, PATTERNS)
    found = truth.program().predict(x, hidden, samples=4000)
    mean, std = truth.moments(x, hidden)
    tolerance = 1e-9 if regime == "shown" else 0.03
    np.testing.assert_allclose(found.mean, np.where(hidden, mean, x), atol=tolerance)
    np.testing.assert_allclose(found.std, np.where(hidden, std, 0), atol=tolerance)
    assert found.probability is not None
    np.testing.assert_allclose(found.probability[hidden], np.maximum(mean, 1 - mean)[hidden], atol=tolerance)
    assert found.samples == (None if regime == "shown" else 4000)


@pytest.mark.parametrize("regime", REGIMES)
def test_draws_follow_the_joint_conditional(regime: str, oracle: Callable[..., TableOracle]) -> None:
    truth = oracle(regime)
    hidden = np.array([[False, True, False, True]])
    x = ROWS[:1]
    found = truth.program().predict(x, hidden, draws=20_000, samples=1)
    drawn = found.draws[0]
    assert (drawn[:, [0, 2]] == x[0, [0, 2]]).all()
    completed = np.array([x[0]] * 4)
    completed[:, 1], completed[:, 3] = [0, 0, 1, 1], [0, 1, 0, 1]
    expected = truth.shown(completed, np.zeros((4, CELLS), bool)) / truth.shown(x, hidden)
    seen = np.bincount((2 * drawn[:, 1] + drawn[:, 3]).astype(int), minlength=4) / len(drawn)
    np.testing.assert_allclose(seen, expected, atol=0.02)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_row_is_predicted_alike_whatever_stands_beside_it(regime: str, oracle: Callable[..., TableOracle]) -> None:
    truth = oracle(regime)
    x, hidden = (ROWS[:3], AFTER) if regime == "fixed" else (ROWS, PATTERNS)
    among = truth.program().predict(x, hidden, draws=9, seed=3)
    for row in range(len(x)):
        alone = truth.program(element_budget=40).predict(x[row : row + 1], hidden[row : row + 1], draws=9, seed=3)
        np.testing.assert_array_equal(alone.draws[0], among.draws[row])
        np.testing.assert_allclose(alone.mean[0], among.mean[row], rtol=1e-12)
        np.testing.assert_allclose(alone.log_prob[0], among.log_prob[row], rtol=1e-12)
    other = truth.program().predict(x, hidden, draws=9, seed=4)
    assert not np.array_equal(other.draws, among.draws)


def test_log_prob_is_taken_at_the_mean_put_on_the_grid(oracle: Callable[..., TableOracle]) -> None:
    truth = oracle("shown")
    asked = truth.program()
    hidden = np.array([[False, False, False, True]])
    found = asked.predict(ROWS[:1], hidden)
    point = np.where(hidden, np.floor(found.mean + 0.5), ROWS[:1])
    expected = np.log(truth.shown(point, np.zeros_like(hidden)) / truth.shown(point, hidden))
    np.testing.assert_allclose(found.log_prob, expected, rtol=1e-9)


def test_completed_rows_follow_the_conditional(oracle: Callable[..., TableOracle]) -> None:
    """`complete` gives equal rows draws of their own."""
    truth = oracle("ordered")
    hidden = np.repeat(np.array([[False, True, False, False]]), 4000, axis=0)
    found = truth.program().complete(np.repeat(ROWS[:1], 4000, axis=0), hidden, seed=1)
    mean, _ = truth.moments(ROWS[:1], hidden[:1])
    assert np.asarray(found.rows)[:, 1].mean() == pytest.approx(mean[0, 1], abs=0.03)


# --- sample and encode -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regime", REGIMES)
def test_samples_come_with_the_probabilities_of_the_table(regime: str, oracle: Callable[..., TableOracle]) -> None:
    truth = oracle(regime)
    drawn = truth.program().sample(20_000, seed=0)
    seen = np.bincount((drawn @ [8, 4, 2, 1]).astype(int), minlength=16) / len(drawn)
    np.testing.assert_allclose(seen, truth.probabilities, atol=0.015)


@pytest.mark.parametrize("regime", REGIMES)
def test_row_i_depends_on_the_seed_and_i_alone(regime: str, oracle: Callable[..., TableOracle]) -> None:
    asked = oracle(regime).program(element_budget=200)
    whole = asked.sample(40, seed=5)
    np.testing.assert_array_equal(asked.sample(10, seed=5, first=25), whole[25:35])
    assert not np.array_equal(asked.sample(40, seed=6), whole)


@pytest.mark.parametrize("regime", REGIMES)
def test_temperature_sharpens_each_conditional(regime: str, oracle: Callable[..., TableOracle]) -> None:
    truth = oracle(regime)
    first = 2 if regime == "fixed" else 0
    p = float(truth.probabilities[STATES[:, first] == 1].sum())
    drawn = truth.program().sample(20_000, seed=0, temperature=0.5)
    assert drawn[:, first].mean() == pytest.approx(p**2 / (p**2 + (1 - p) ** 2), abs=0.015)


def test_encode_answers_the_pooled_state_of_complete_rows(oracle: Callable[..., TableOracle]) -> None:
    asked = oracle("shown").program()
    np.testing.assert_allclose(asked.encode(ROWS).vectors, ROWS / 2)
    with pytest.raises(VerbUnsupported, match="complete rows"):
        asked.encode(ROWS, hidden=PATTERNS)


# --- gaps ------------------------------------------------------------------------------------------------------------


def test_columns_that_missed_values_in_training_may_hide_them(oracle: Callable[..., TableOracle]) -> None:
    """The oracle's graph makes nothing of NaN but NaN: a score of zero density, where one without a gap is finite."""
    asked = oracle("fixed", missing=True).program()
    gap = np.array([[False, False, True, False], [False, True, False, False]])
    answer = asked.log_prob(ROWS[:2], hidden=gap)
    assert answer.kind is AnswerKind.EXACT
    assert answer.values.tolist()[0] == -np.inf
    with pytest.raises(VerbUnsupported, match="predict cells from later ones"):
        asked.predict(ROWS[:1], gap[:1])


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_input_is_named(oracle: Callable[..., TableOracle]) -> None:
    asked = oracle("ordered").program()
    with pytest.raises(InvalidInput, match=r"shape"):
        asked.log_prob(np.zeros((2, CELLS + 1)))
    with pytest.raises(InvalidInput, match=r"inputs\[0\].c1"):
        asked.log_prob(np.array([[0, 2, 0, 0]]))
    with pytest.raises(InvalidInput, match="samples"):
        asked.predict(ROWS, PATTERNS, samples=0)
    with pytest.raises(InvalidInput, match="temperature"):
        asked.sample(1, seed=0, temperature=-1.0)
    with pytest.raises(InvalidInput, match="given"):
        asked.sample(1, seed=0, given=np.array([0]))


@pytest.mark.parametrize("regime", REGIMES)
def test_a_call_that_is_over_stops_the_loop(regime: str, oracle: Callable[..., TableOracle]) -> None:
    asked = oracle(regime).program()
    with call(deadline_seconds=0.0), pytest.raises(DeadlineExceeded):
        asked.sample(3, seed=0)


def test_decode_is_refused_by_the_family() -> None:
    from contracts.families import AutoregressiveConfig

    assert "vae" in (AutoregressiveConfig.answers[Verb.DECODE].refusal or "")
