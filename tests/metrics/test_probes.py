"""Probes on vectors whose classes are known to be apart, or not."""

import numpy as np
import pytest

from contracts.errors import InvalidInput
from metrics.probes import probes


def clusters(rows: int, apart: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    return apart * np.eye(3)[y] @ np.eye(3, 6) + rng.standard_normal((rows, 6)), y


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_classes_that_are_apart_are_told_and_others_are_not(method: str) -> None:
    (x, y), (held, truth) = clusters(600, 6.0, 0), clusters(400, 6.0, 1)
    few, many, every = probes(x, y, held, truth, method=method, per_class=(5, 50, None))  # type: ignore[arg-type]
    assert every.accuracy > 0.97
    assert every.accuracy >= few.accuracy - 0.02
    assert (few.per_class, few.rows, many.rows, every.rows) == (5, 15, 150, 600)
    assert every.standard_error == pytest.approx(np.sqrt(every.accuracy * (1 - every.accuracy) / 400))
    (x, y), (held, truth) = clusters(600, 0.0, 0), clusters(400, 0.0, 1)
    assert probes(x, y, held, truth, method=method)[0].accuracy < 0.45  # type: ignore[arg-type]


def test_fewer_labels_are_part_of_more_and_the_seed_chooses() -> None:
    (x, y), (held, truth) = clusters(300, 1.5, 0), clusters(400, 1.5, 1)
    first = probes(x, y, held, truth, per_class=(4, None), seed=3)
    again = probes(x, y, held, truth, per_class=(4,), seed=3)
    other = probes(x, y, held, truth, per_class=(4,), seed=4)
    assert first[0] == again[0] != other[0]
    assert probes(x, y, held, truth, per_class=(10_000,))[0].rows == 300


def test_what_cannot_be_probed_is_refused() -> None:
    x, y = clusters(10, 1.0, 0)
    with pytest.raises(InvalidInput, match="at least two classes"):
        probes(x, np.zeros(10, dtype=int), x, y)
    with pytest.raises(InvalidInput, match="one width"):
        probes(x, y, x[:, :3], y)
    with pytest.raises(InvalidInput, match="at least 1"):
        probes(x, y, x, y, per_class=(0,))
