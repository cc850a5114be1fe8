"""The verbs over HTTP, against models whose exact answers are known."""

from __future__ import annotations

import io
import math

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import BaseModel

from service.schemas.answers import (
    DecodeResponse,
    EncodeResponse,
    LogProbResponse,
    PredictResponse,
    SampleResponse,
    SimilarityResponse,
)

ROWS = [[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]]
MIXED = [
    {"height": 1.5, "count": 3, "colour": "green", "open": True, "day": "1970-01-11"},
    {"height": -0.5, "count": 0, "colour": "red", "open": False, "day": "1970-01-02"},
]


def log_normal(x: np.ndarray, centre: float) -> np.ndarray:
    x = np.atleast_2d(x)
    return -0.5 * ((x - centre) ** 2).sum(axis=1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def ask(client: TestClient, path: str, schema: type[BaseModel] | None = None, **body: object) -> dict:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    if schema is not None:  # what is written by hand is what the document says
        answer = schema.model_validate_json(response.content)
        assert set(response.json()) <= set(schema.model_fields), set(response.json()) - set(schema.model_fields)
        assert answer
    return response.json()


def test_encode_answers_vectors_their_space_and_the_resolved_model(client: TestClient) -> None:
    answer = ask(client, "/encode", EncodeResponse, model="reals", inputs=ROWS)
    assert answer["vectors"] == [[1.0, 2.0], [0.5, -1.0]]
    assert answer["log_scale"] == [[-1.0, -1.0]] * 2
    assert answer["model"] == "reals@1"
    assert answer["dimensions"] == 2
    assert sum(answer["cache"].values()) == 2


@pytest.mark.parametrize(("reference", "resolved"), [("reals@2", "reals@2"), ("reals@new", "reals@2")])
def test_references_name_versions_and_aliases(client: TestClient, reference: str, resolved: str) -> None:
    answer = ask(client, "/encode", model=reference, inputs=ROWS)
    assert answer["model"] == resolved


def test_a_pinned_space_is_kept_or_refused(client: TestClient) -> None:
    space = ask(client, "/encode", model="reals", inputs=ROWS)["space"]
    assert ask(client, "/encode", model="reals", inputs=ROWS, space=space)["space"] == space
    refused = client.post("/encode", json={"model": "reals@2", "inputs": ROWS, "space": space})
    assert refused.status_code == 409
    assert refused.json()["type"].endswith("space-mismatch")


def test_log_prob_is_exact_and_says_what_it_is(client: TestClient) -> None:
    answer = ask(client, "/log_prob", LogProbResponse, model="reals", inputs=ROWS)
    expected = log_normal(np.array(ROWS), 1.0)
    np.testing.assert_allclose(answer["log_prob"], expected, rtol=1e-12)
    np.testing.assert_allclose(answer["bits_per_dim"], -expected / (3 * math.log(2)), rtol=1e-12)
    assert (answer["unit"], answer["measure"], answer["kind"]) == ("nats", "density", "exact")
    assert answer["samples"] is None
    assert answer["zero_density"] == []


def test_log_prob_of_hidden_cells_is_the_marginal_of_the_shown(client: TestClient) -> None:
    answer = ask(client, "/log_prob", LogProbResponse, model="reals", inputs=[[1.0, None, 3.0], [None] * 3])
    np.testing.assert_allclose(answer["log_prob"], [log_normal(np.array([1.0, 3.0]), 1.0)[0], 0.0], rtol=1e-9)
    np.testing.assert_allclose(answer["bits_per_dim"][0], -answer["log_prob"][0] / (2 * math.log(2)), rtol=1e-9)
    assert answer["bits_per_dim"][1] is None


def test_log_prob_of_discrete_cells_is_a_seeded_bound_with_its_error(client: TestClient) -> None:
    pictures = np.random.default_rng(0).integers(0, 17, (3, 4, 5)).tolist()
    body = {"model": "pictures", "inputs": pictures, "samples": 7}
    answer = ask(client, "/log_prob", LogProbResponse, **body, seed=1)
    assert (answer["measure"], answer["kind"], answer["samples"]) == ("probability", "lower_bound", 7)
    assert all(error > 0 for error in answer["standard_error"])
    again = ask(client, "/log_prob", **body, seed=1)
    assert again["log_prob"] == answer["log_prob"]
    assert ask(client, "/log_prob", **body, seed=2)["log_prob"] != answer["log_prob"]
    alone = ask(client, "/log_prob", model="pictures", inputs=pictures[1:2], samples=7, seed=1)
    np.testing.assert_allclose(alone["log_prob"][0], answer["log_prob"][1], rtol=1e-12)


def test_a_row_of_zero_density_is_null_and_listed(client: TestClient) -> None:
    answer = ask(client, "/log_prob", LogProbResponse, model="reals", inputs=[[1, 1, 1], [1e200, 1, 1]])
    assert answer["log_prob"][0] is not None
    assert answer["log_prob"][1] is None
    assert answer["zero_density"] == [1]
    assert b"Infinity" not in orjson.dumps(answer)


def test_sample_is_reproduced_by_its_seed_whatever_n_is(client: TestClient) -> None:
    first = ask(client, "/sample", SampleResponse, model="reals", n=3)
    again = ask(client, "/sample", model="reals", n=5, seed=first["seed"])
    assert again["rows"][:3] == first["rows"]
    assert ask(client, "/sample", model="reals", n=3)["seed"] != first["seed"]
    table = ask(client, "/sample", SampleResponse, model="mixed", n=4, format="rows")
    assert set(table["rows"][0]) == {"height", "count", "colour", "open", "day"}
    assert all(row["colour"] in ("red", "green", "blue") for row in table["rows"])


def test_given_conditions_a_conditional_model(client: TestClient) -> None:
    one = ask(client, "/log_prob", model="labelled", inputs=ROWS, given={"label": "one"})
    np.testing.assert_allclose(one["log_prob"], log_normal(np.array(ROWS), 10.0), rtol=1e-9)
    both = ask(client, "/log_prob", model="labelled", inputs=ROWS, given={"label": ["one", "zero"]})
    expected = [log_normal(np.array(ROWS[0]), 10.0)[0], log_normal(np.array(ROWS[1]), 0.0)[0]]
    np.testing.assert_allclose(both["log_prob"], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "given", "status"),
    [
        ("labelled", {"label": "two"}, 422),
        ("labelled", {"label": ["one"]}, 422),
        ("labelled", None, 422),
        ("reals", {"label": "one"}, 422),
        ("labelled", {"label": 1}, 422),
    ],
)
def test_wrong_labels_are_refused(client: TestClient, model: str, given: object, status: int) -> None:
    assert client.post("/log_prob", json={"model": model, "inputs": ROWS, "given": given}).status_code == status


def test_decode_answers_rows_in_every_form(client: TestClient) -> None:
    answer = ask(client, "/decode", DecodeResponse, model="reals", vectors=[[0.5, 1.0]])
    assert answer["rows"] == [[1.5, 2.0, 1.0]]
    objects = ask(client, "/decode", DecodeResponse, model="reals", vectors=[[0.5, 1.0]], format="rows")
    assert objects["rows"] == [{"a": 1.5, "b": 2.0, "c": 1.0}]
    tensor = ask(client, "/decode", DecodeResponse, model="reals", vectors=[[0.5, 1.0]], format="base64")
    assert tensor["rows"]["shape"] == [1, 3]
    space = ask(client, "/encode", model="reals", inputs=ROWS)["space"]
    assert answer["space"] == space


def test_predict_answers_the_exact_conditional(client: TestClient) -> None:
    answer = ask(client, "/predict", PredictResponse, model="reals", inputs=[[3.0, None, None]], draws=200, seed=5)
    np.testing.assert_allclose(answer["mean"], [[3.0, 1.0, 1.0]], atol=1e-9)
    np.testing.assert_allclose(answer["std"], [[0.0, 1.0, 1.0]], atol=1e-9)
    assert answer["kind"] == "exact"
    assert answer["log_prob_at"] == "mean"
    np.testing.assert_allclose(answer["log_prob"], [-math.log(2 * math.pi)], rtol=1e-9)
    draws = np.array(answer["draws"])
    assert draws.shape == (1, 200, 3)
    assert (draws[..., 0] == 3.0).all()
    assert abs(draws[..., 1].mean() - 1.0) < 0.4


def test_predict_scores_the_values_under_the_mask(client: TestClient) -> None:
    mask = [[False, True, True]]
    answer = ask(client, "/predict", model="reals", inputs=[[3.0, 0.0, 2.0]], mask=mask, score_inputs=True, draws=0)
    assert answer["log_prob_at"] == "inputs"
    assert "draws" not in answer
    np.testing.assert_allclose(answer["log_prob"], log_normal(np.array([0.0, 2.0]), 1.0), rtol=1e-9)
    lacking = {"model": "reals", "inputs": [[3.0, None, 2.0]], "mask": mask, "score_inputs": True}
    assert client.post("/predict", json=lacking).status_code == 422


def test_predict_answers_rows_as_they_came(client: TestClient) -> None:
    rows = [{**MIXED[0], "colour": None, "day": None}]
    answer = ask(client, "/predict", PredictResponse, model="mixed", inputs=rows, draws=2)
    assert answer["mean"][0]["height"] == 1.5
    assert answer["mean"][0]["colour"] in ("red", "green", "blue")
    assert answer["std"][0]["height"] == 0
    assert isinstance(answer["std"][0]["colour"], float)
    assert len(answer["draws"][0]) == 2
    assert answer["kind"] == "estimate"
    numbers = ask(client, "/predict", PredictResponse, model="flow", inputs=[[1.0, None, 2.0]], samples=500)
    assert len(numbers["mean"][0]) == 3
    assert numbers["effective_sample_size"][0] > 10
    complete = client.post("/predict", json={"model": "reals", "inputs": ROWS})
    assert complete.status_code == 422
    assert "hides no cell" in complete.json()["detail"]


def test_similarity_of_pairs(client: TestClient) -> None:
    answer = ask(client, "/similarity", SimilarityResponse, model="reals", a=ROWS, b=ROWS, metric="euclidean")
    vectors = np.array(ROWS)[:, :2]
    expected = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-9)
    assert answer["larger_is_nearer"] is False
    kl = ask(client, "/similarity", model="reals", a=ROWS, b=ROWS, metric="symmetric_kl")
    np.testing.assert_allclose(kl["scores"], expected**2 * math.exp(2), rtol=1e-6, atol=1e-9)


def test_similarity_finds_the_nearest_of_given_rows_and_of_a_dataset(client: TestClient) -> None:
    others = np.random.default_rng(3).normal(size=(60, 3))
    given = ask(
        client, "/similarity", SimilarityResponse, model="reals", query=ROWS, metric="euclidean", top_k=4,
        against={"inputs": others.tolist()},
    )  # fmt: skip
    distances = np.linalg.norm(np.array(ROWS)[:, None, :2] - others[None, :, :2], axis=-1)
    np.testing.assert_array_equal(given["indices"], np.argsort(distances, axis=1)[:, :4])
    lines = ["a,b,c", *(",".join(repr(float(v)) for v in row) for row in others)]
    made = client.post("/datasets?name=near&filename=near.csv", content="\n".join(lines))
    assert made.status_code == 201, made.text
    found = ask(
        client, "/similarity", SimilarityResponse, model="reals", query=ROWS, metric="euclidean", top_k=4,
        against={"dataset": "near"},
    )  # fmt: skip
    assert found["indices"] == given["indices"]
    np.testing.assert_allclose(found["scores"], given["scores"], rtol=1e-12)
    assert found["dataset"] == made.json()["digest"]
    other = client.post(
        "/similarity", json={"model": "mixed", "query": MIXED, "against": {"dataset": "near"}, "top_k": 2}
    )
    assert other.status_code == 422


def test_similarity_of_a_conditional_model_takes_a_label(client: TestClient) -> None:
    answer = ask(client, "/similarity", model="labelled", a=ROWS, b=ROWS, given={"label": "one"}, metric="euclidean")
    assert answer["scores"][0][0] == 0
    assert client.post("/similarity", json={"model": "labelled", "a": ROWS, "b": ROWS}).status_code == 422


def test_rows_by_column_name_are_the_numbers_they_stand_for(client: TestClient) -> None:
    numbers = [[1.5, 3, 1, 1, 10], [-0.5, 0, 0, 0, 1]]
    by_name = ask(client, "/log_prob", model="mixed", inputs=MIXED, seed=3)
    by_place = ask(client, "/log_prob", model="mixed", inputs=numbers, seed=3)
    assert by_name["log_prob"] == by_place["log_prob"]
    assert by_name["measure"] == "mixed"


def test_pictures_come_and_go_as_png(client: TestClient) -> None:
    response = client.post("/sample", json={"model": "pictures", "n": 5, "seed": 1}, headers={"Accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-seed"] == "1"
    grid = Image.open(io.BytesIO(response.content))
    assert grid.size == (3 * 6 - 1, 2 * 5 - 1)
    rows = np.array(ask(client, "/sample", model="pictures", n=1, seed=1)["rows"], dtype=np.uint8)
    single = client.post("/sample", json={"model": "pictures", "n": 1, "seed": 1}, headers={"Accept": "image/png"})
    raw = client.post("/encode?model=pictures", content=single.content, headers={"Content-Type": "image/png"})
    assert raw.status_code == 200, raw.text
    assert raw.json()["vectors"] == [[float(v) for v in rows.reshape(-1)[:2]]]
    table = client.post("/sample", json={"model": "reals"}, headers={"Accept": "image/png"})
    assert table.status_code == 406


def test_an_alias_that_moves_is_seen_within_a_second(client: TestClient, until) -> None:
    client.put("/models/reals/aliases/mover", json={"version": 1})
    assert ask(client, "/encode", model="reals@mover", inputs=ROWS)["model"] == "reals@1"
    client.app.state.gateway.store.catalogue.set_alias("reals", "mover", 2)  # as another gateway would
    until(lambda: ask(client, "/encode", model="reals@mover", inputs=ROWS)["model"] == "reals@2", 2, "the move is seen")
    assert client.delete("/models/reals/aliases/mover").status_code == 204
    assert client.post("/encode", json={"model": "reals@mover", "inputs": ROWS}).status_code == 404


def test_answers_carry_an_id_and_timings(client: TestClient) -> None:
    response = client.post("/encode", json={"model": "reals", "inputs": ROWS}, headers={"X-Request-ID": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert "inference;dur=" in response.headers["server-timing"]
    strange = client.post("/encode", json={"model": "reals", "inputs": ROWS}, headers={"X-Request-ID": "bad id"})
    assert strange.headers["x-request-id"] != "bad id"
