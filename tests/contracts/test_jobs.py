from __future__ import annotations

import pytest
from pydantic import ValidationError

from contracts.jobs import BatchRequest, Budget, JobStatus, TrainRequest

REQUEST = {"name": "m", "dataset": "d", "config": {"family": "pca"}}


def test_statuses() -> None:
    assert [status for status in JobStatus if not status.ended] == [JobStatus.QUEUED, JobStatus.RUNNING]


@pytest.mark.parametrize("values", [{}, {"steps": 5}, {"epochs": 0.5}, {"seconds": 2}])
def test_budgets(values: dict[str, float]) -> None:
    assert Budget(**values).model_dump(exclude_none=True) == values


@pytest.mark.parametrize(
    "values", [{"steps": 1, "epochs": 1}, {"steps": 0}, {"seconds": -1}, {"epochs": float("nan")}, {"minutes": 3}]
)
def test_bad_budgets(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Budget(**values)


def test_a_train_request_is_checked_against_the_menu() -> None:
    request = TrainRequest.model_validate(REQUEST)
    assert (request.seed, request.budget, request.config.family) == (0, Budget(), "pca")
    for change in (
        {"name": "A@1"}, {"name": ""}, {"dataset": ""}, {"config": {"family": "none"}}, {"config": {}}, {"seed": -1},
        {"seed": 2**63}, {"extra": 1},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            TrainRequest.model_validate({**REQUEST, **change})


def test_a_batch_request_names_a_verb() -> None:
    assert BatchRequest.model_validate({"model": "m", "verb": "encode", "dataset": "d"}).parameters == {}
    with pytest.raises(ValidationError):
        BatchRequest.model_validate({"model": "m", "verb": "train", "dataset": "d"})
