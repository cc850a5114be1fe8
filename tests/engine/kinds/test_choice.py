"""Choosing a token: what is kept, with what probability, by which uniform."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import InvalidInput
from engine.kinds.choice import Choice, log_softmax

P = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
GRID = (np.arange(20_000) + 0.5) / 20_000


def frequencies(choice: Choice, p: np.ndarray = P) -> np.ndarray:
    """How often each token is chosen over an even grid of uniforms."""
    chosen = choice(np.tile(np.log(p), (len(GRID), 1)), GRID)
    return np.bincount(chosen, minlength=len(p)) / len(GRID)


def test_without_settings_tokens_come_as_often_as_they_are_probable() -> None:
    np.testing.assert_allclose(frequencies(Choice()), P, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_raises_probabilities_to_a_power(temperature: float) -> None:
    power = P ** (1 / temperature)
    np.testing.assert_allclose(frequencies(Choice(temperature)), power / power.sum(), atol=1e-4)


@pytest.mark.parametrize("choice", [Choice(0.0), Choice(top_k=1), Choice(top_p=1e-9)])
def test_the_likeliest_token_alone(choice: Choice) -> None:
    assert frequencies(choice).tolist() == [0, 1, 0, 0, 0]


def test_top_k_keeps_the_k_likeliest() -> None:
    np.testing.assert_allclose(frequencies(Choice(top_k=2)), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], atol=1e-4)
    np.testing.assert_allclose(frequencies(Choice(top_k=99)), P, atol=1e-4)


def test_top_p_keeps_the_fewest_that_hold_the_mass() -> None:
    kept = np.array([0, 0.4, 0, 0.25, 0.2]) / 0.85
    np.testing.assert_allclose(frequencies(Choice(top_p=0.7)), kept, atol=1e-4)
    np.testing.assert_allclose(frequencies(Choice(top_p=1.0)), P, atol=1e-4)


def test_top_p_counts_the_mass_that_top_k_left() -> None:
    # Of 0.4 and 0.25, the first alone holds 0.6 of what is left.
    assert frequencies(Choice(top_k=2, top_p=0.6)).tolist() == [0, 1, 0, 0, 0]


def test_of_equal_tokens_those_of_smaller_number_stay() -> None:
    np.testing.assert_allclose(frequencies(Choice(top_k=2), np.full(4, 0.25)), [0.5, 0.5, 0, 0], atol=1e-4)


def test_a_uniform_next_to_one_still_chooses_a_token_that_is_possible() -> None:
    log_p = np.array([[np.log(0.3), np.log(0.7), -np.inf]])
    assert Choice()(log_p, np.array([np.nextafter(1.0, 0.0)])).tolist() == [1]


def test_log_softmax_is_normalised_for_large_logits() -> None:
    log_p = log_softmax(np.array([[1e4, 1e4 + 1.0, -1e4]], dtype=np.float32))
    np.testing.assert_allclose(np.exp(log_p).sum(), 1.0)
    np.testing.assert_allclose(log_p[0, 1] - log_p[0, 0], 1.0)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Choice(**settings)  # type: ignore[arg-type]
    assert [each.location for each in caught.value.errors] == [field]
