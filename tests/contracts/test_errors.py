from __future__ import annotations

import contracts.errors as errors
from contracts.errors import FieldProblem, InvalidInput, LatentserveError


def tree(root: type[LatentserveError]) -> list[type[LatentserveError]]:
    return [root, *(each for child in root.__subclasses__() for each in tree(child))]


def test_each_error_says_what_it_is() -> None:
    classes = [each for each in tree(LatentserveError) if each.__module__ == "contracts.errors"]
    named = [each for each in classes if each is not errors.Internal]
    assert len({each.code for each in named}) == len(named)
    for each in classes:
        problem = each("what to do").problem("r1")
        assert problem.type == f"urn:latentserve:problem:{each.code}"
        assert (problem.title, problem.status, problem.detail) == (each.title, each.status, "what to do")
        assert problem.request_id == "r1"
        assert 400 <= problem.status < 600
        assert str(each("what to do")) == "what to do"
        assert each.__name__ in errors.__all__
        assert each is LatentserveError or each.__name__ in (errors.__doc__ or "")


def test_places_and_retry() -> None:
    place = FieldProblem(location="inputs[3].age", message="is missing")
    error = InvalidInput("wrong", errors=[place], retry_after_seconds=2)
    assert error.problem().errors == [place]
    assert error.retry_after_seconds == 2
