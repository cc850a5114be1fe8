"""Rows drawn given some of their cells, over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from contracts.artifact import Verb, VerbSpec
from service.gateway import of
from service.schemas.answers import SampleResponse

REFUSAL = "test has no conditionals: train a pca"


@pytest.fixture(scope="module")
def mute(client: TestClient, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that samples and cannot predict."""
    folder = tmp_path_factory.mktemp("given") / "unconditional"
    kit.write_latent(folder, kit.reals, 0.0, {Verb.PREDICT: VerbSpec(supported=False, refusal=REFUSAL)})
    kit.publish(of(client.app), "unconditional", folder)
    return "unconditional"


def draw(client: TestClient, status: int = 200, **body: Any) -> Any:
    response = client.post("/sample", json={"seed": 1, **body})
    assert response.status_code == status, response.text
    return response.json()


def test_given_cells_stay_and_the_others_follow_the_conditional(client: TestClient) -> None:
    answer = draw(client, model="reals", n=500, given={"row": {"b": 7.5}})
    SampleResponse.model_validate(answer)
    rows = np.array(answer["rows"])
    assert (rows[:, 1] == 7.5).all()  # seven deviations away from the mean: a thing that rejection never meets
    # The model's cells are independent, so the others are N(1, 1) all the same.
    np.testing.assert_allclose(rows[:, [0, 2]].mean(axis=0), 1, atol=0.2)
    np.testing.assert_allclose(rows[:, [0, 2]].std(axis=0), 1, atol=0.15)
    assert (answer["kind"], answer["samples"]) == ("exact", None)
    assert "effective_sample_size" not in answer


def test_a_row_depends_on_seed_and_place_alone(client: TestClient) -> None:
    given = {"row": {"b": 2.0}}
    many, few = (draw(client, model="flow", n=n, given=given) for n in (20, 5))
    np.testing.assert_allclose(many["rows"][:5], few["rows"], rtol=1e-9)
    assert many["kind"] == "estimate"
    assert many["samples"] > 1
    assert len(many["effective_sample_size"]) == 20
    assert len({row[0] for row in many["rows"]}) == 20
    listed = draw(client, model="flow", n=3, given={"row": [{"b": 2.0}, {"a": 1.0, "c": 0.0}, {}]})
    np.testing.assert_allclose(listed["rows"][0], few["rows"][0], rtol=1e-9)
    assert [listed["rows"][1][0], listed["rows"][1][2]] == [1.0, 0.0]


def test_mixed_rows_keep_their_types_ranges_and_categories(client: TestClient) -> None:
    given = {"row": {"colour": "blue", "day": "1970-01-05", "open": True}}
    answer = draw(client, model="mixed", n=50, format="rows", given=given)
    for row in answer["rows"]:
        assert (row["colour"], row["day"], row["open"]) == ("blue", "1970-01-05", True)
        assert isinstance(row["height"], float)
        assert isinstance(row["count"], int)
        assert 0 <= row["count"] <= 15
    assert answer["kind"] == "estimate"


def test_a_conditional_model_takes_label_and_row(client: TestClient) -> None:
    zero, one = (
        np.array(draw(client, model="labelled", n=200, given={"label": label, "row": {"a": 9.0}})["rows"])
        for label in ("zero", "one")
    )
    assert (zero[:, 0] == 9.0).all()
    np.testing.assert_allclose(zero[:, 1:].mean(axis=0), 0, atol=0.3)
    # The label moves the rows by 10, as far as the proposal of these tests reaches.
    assert (one[:, 1:].mean(axis=0) > 1.5).all()
    assert draw(client, 422, model="labelled", n=2, given={"row": {"a": 9.0}})["status"] == 422


@pytest.mark.parametrize(
    ("model", "given", "places", "words"),
    [
        ("mixed", {"row": {"colour": "pink"}}, ["given.row.colour"], "category never seen; categories are red"),
        ("mixed", {"row": [{"open": True}, {"colour": "pink"}]}, ["given.row[1].colour"], "'pink'"),
        ("mixed", {"row": {"count": 99}}, ["given.row.count"], "0..15"),
        ("mixed", {"row": {"count": 1.5}}, ["given.row.count"], "whole number"),
        ("mixed", {"row": {"wings": 2}}, ["given.row.wings"], "is no column"),
        ("mixed", {"row": {"kind": "x"}}, ["given.row.kind"], "given.label"),
        ("mixed", {"row": {"height": "tall"}}, ["given.row.height"], "a number"),
        ("mixed", {"row": [{}]}, ["given.row"], "1 objects for 2 rows"),
        ("mixed", {}, ["given"], "label"),
        ("mixed", {"row": []}, None, ""),
        ("mixed", {"row": {"height": [1]}}, None, ""),
        ("pictures", {"row": {"a": 1}}, ["given.row"], "/predict"),
    ],
)
def test_wrong_cells_are_named(
    client: TestClient, model: str, given: object, places: list[str] | None, words: str
) -> None:
    problem = draw(client, 422, model=model, n=2, given=given)
    if places is not None:
        assert [each["location"] for each in problem["errors"]] == places
    assert words in str(problem)


def test_what_cannot_be_asked(client: TestClient, mute: str) -> None:
    assert draw(client, model=mute, n=2)["rows"]
    assert REFUSAL in draw(client, 409, model=mute, n=2, given={"row": {"a": 1}})["detail"]
    problem = draw(client, 422, model="reals", n=2, temperature=0.5, given={"row": {"a": 1}})
    assert problem["errors"][0]["location"] == "temperature"
