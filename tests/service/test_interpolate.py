"""/interpolate, against models whose vectors are the first two cells of a row."""

from __future__ import annotations

import base64
import io

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.schemas.answers import InterpolateResponse

A, B = [[3.0, 0.0, 7.0]], [[0.0, 5.0, 7.0]]
PIXELS = [[[index % 17 for index in range(start, start + 5)] for start in range(4)] for _ in range(2)]


def ask(client: TestClient, **body: object) -> dict:
    response = client.post("/interpolate", json={"model": "reals", "a": A, "b": B, **body})
    assert response.status_code == 200, response.text
    InterpolateResponse.model_validate_json(response.content)
    return response.json()


def test_rows_lie_on_the_way_between_two(client: TestClient) -> None:
    answer = ask(client, steps=3, mode="lerp")
    assert answer["vectors"] == [[[3.0, 0.0], [1.5, 2.5], [0.0, 5.0]]]
    assert answer["rows"] == [[[4.0, 1.0, 1.0], [2.5, 3.5, 1.0], [1.0, 6.0, 1.0]]]
    assert (answer["model"], answer["mode"], answer["steps"]) == ("reals@1", "lerp", 3)
    assert answer["space"] == client.get("/models/reals").json()["space"]
    assert sum(answer["cache"].values()) == 2


def test_an_arc_is_the_default_and_keeps_its_length(client: TestClient) -> None:
    answer = ask(client)
    assert (answer["mode"], answer["steps"]) == ("slerp", 8)
    np.testing.assert_allclose(np.linalg.norm(answer["vectors"][0], axis=1), np.linspace(3, 5, 8))


def test_pairs_go_together_and_do_not_touch_each_other(client: TestClient) -> None:
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(4, 3)).tolist() for _ in "ab")
    whole = ask(client, a=a, b=b, steps=5)
    assert np.shape(whole["rows"]) == (4, 5, 3)
    for index in range(4):
        alone = ask(client, a=a[index : index + 1], b=b[index : index + 1], steps=5)
        np.testing.assert_allclose(alone["rows"][0], whole["rows"][index])


def test_rows_come_and_go_by_name_and_as_tensors(client: TestClient) -> None:
    cells = {"height": 1.5, "count": 3, "colour": "green", "open": True, "day": "1970-01-11"}
    answer = ask(client, model="mixed", a=[cells], b=[{**cells, "height": 2.5}], steps=2, format="rows")
    assert [row["height"] for row in answer["rows"][0]] == [2.5, 3.5]
    assert answer["rows"][0][0]["colour"] in ("red", "green", "blue")
    tensor = ask(client, steps=4, format="base64")
    assert (tensor["rows"]["shape"], tensor["vectors"]["shape"]) == ([1, 4, 3], [1, 4, 2])


def test_labels_go_with_their_pair(client: TestClient) -> None:
    # x = z + 10 y, so a path between rows of one label stays theirs.
    body = {"model": "labelled", "a": [*A, *A], "b": [*B, *B], "steps": 3, "mode": "lerp"}
    answer = ask(client, **body, given={"label": ["zero", "one"]})
    np.testing.assert_allclose(answer["rows"][0], [[3, 0, 7], [1.5, 2.5, 7], [0, 5, 7]])
    np.testing.assert_allclose(answer["rows"][1], answer["rows"][0])
    np.testing.assert_allclose(answer["vectors"][1], np.array(answer["vectors"][0]) - 10)


@pytest.mark.parametrize("accept", ["image/png", "application/x-npy", "application/vnd.apache.arrow.stream"])
def test_pictures_have_a_line_for_each_pair(client: TestClient, accept: str) -> None:
    body = {"model": "pictures", "a": PIXELS, "b": PIXELS[::-1], "steps": 7}
    response = client.post("/interpolate", json=body, headers={"Accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["x-steps"] == "7"
    if accept == "image/png":
        assert Image.open(io.BytesIO(response.content)).size == (7 * 6 - 1, 2 * 5 - 1)
    elif accept == "application/x-npy":
        assert np.load(io.BytesIO(response.content)).shape == (2, 7, 4, 5, 1)
    else:
        assert pa.ipc.open_stream(response.content).read_all().num_rows == 2


def test_a_table_by_arrow_has_a_row_for_each_step(client: TestClient) -> None:
    body = {"model": "reals", "a": A, "b": B, "steps": 5}
    accept = {"Accept": "application/vnd.apache.arrow.stream"}
    found = pa.ipc.open_stream(client.post("/interpolate", json=body, headers=accept).content).read_all()
    assert (found.num_rows, found.column_names) == (5, ["a", "b", "c"])


def test_pictures_come_as_files(client: TestClient) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5), 255, dtype=np.uint8)).save(file, "PNG")
    picture = [{"image": base64.b64encode(file.getvalue()).decode()}]
    answer = ask(client, model="pictures", a=picture, b=PIXELS[:1], steps=2)
    assert answer["vectors"][0][0] == [16.0, 16.0]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"b": [*B, *B]}, 422, "b: has 2 rows and `a` has 1"),
        ({"a": []}, 422, "a: is empty"),
        ({"a": [[1.0, 2.0]]}, 422, "a: rows must have shape [3]"),
        ({"b": [[1.0, None, 2.0]]}, 422, "b[0]: has hidden cells"),
        ({"steps": 1}, 422, "steps"),
        ({"steps": 1001}, 422, "steps"),
        ({"mode": "cubic"}, 422, "mode"),
        ({"given": {"label": "one"}}, 422, "not conditional"),
        ({"model": "labelled"}, 422, "conditional"),
        ({"space": "elsewhere"}, 409, "pins elsewhere"),
        ({"model": "nothing"}, 404, "there is no model"),
        ({"c": 1}, 422, "c"),
    ],
)
def test_what_has_no_path_is_told(client: TestClient, body: dict, status: int, told: str) -> None:
    response = client.post("/interpolate", json={"model": "reals", "a": A, "b": B, **body})
    assert response.status_code == status, response.text
    assert told in response.json()["detail"]


def test_tables_have_no_pictures(client: TestClient) -> None:
    refused = client.post("/interpolate", json={"model": "reals", "a": A, "b": B}, headers={"Accept": "image/png"})
    assert refused.status_code == 406
