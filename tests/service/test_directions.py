"""/directions, and `directions` of /encode and /decode, against models whose vectors are a row's first two cells."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from contracts.artifact import Verb, VerbSpec
from service.gateway import of
from service.schemas.directions import DirectionPage, DirectionResponse

UP = [[4.0, 1.0, 9.0], [6.0, 1.0, 9.0]]
DOWN = [[0.0, 1.0, 5.0], [2.0, 1.0, 5.0], [1.0, 1.0, 5.0], [1.0, 1.0, 5.0]]
# Means 5 and 1, variances 1 and 1/2: each side weighs half.
SCALE = float(np.sqrt((1 + 0.5) / 2 + 2**2))


@pytest.fixture
def name() -> str:
    return f"d-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def flowers(client: TestClient) -> Iterator[str]:
    """A table that fits `reals`: `a` is 0…59, `b` holds its parity, the kind tells below 30 from the rest."""
    lines = ["a,b,c,kind"] + [f"{i}.0,{i % 2}.5,{(i * 7) % 11}.25,{'low' if i < 30 else 'high'}" for i in range(60)]
    spec = '{"label": "kind", "columns": [{"name": "a", "type": "real"}]}'
    files = {"files": ("flowers.csv", "\n".join(lines).encode(), "text/csv")}
    answer = client.post("/datasets", data={"name": "flowers", "spec": spec}, files=files)
    assert answer.status_code == 201, answer.text
    yield "flowers"
    client.delete("/datasets/flowers")


def make(client: TestClient, status: int = 201, **body: object) -> dict:
    response = client.post("/directions", json={"model": "reals", "positive": UP, "negative": DOWN, **body})
    assert response.status_code == status, response.text
    if status < 300:
        DirectionResponse.model_validate_json(response.content)
        assert response.headers["location"] == f"/directions/{response.json()['space']}/{response.json()['name']}"
    return response.json()


def test_a_direction_is_made_shown_listed_and_deleted(client: TestClient, name: str) -> None:
    made = make(client, name=name)
    assert made["vector"] == [1.0, 0.0]
    assert (made["method"], made["model"], made["dimensions"]) == ("mean_difference", "reals@1", 2)
    assert (made["positive"], made["negative"], made["accuracy"]) == (2, 4, None)
    assert made["distance"] == pytest.approx(4)
    assert made["scale"] == pytest.approx(SCALE)
    assert made["bias"] == pytest.approx(-3)
    assert made["space"] == client.get("/models/reals").json()["space"]
    where = f"/directions/{made['space']}/{name}"
    assert client.get(where).json() == made
    for query in ("?model=reals", f"?space={made['space']}", ""):
        page = DirectionPage.model_validate_json(client.get(f"/directions{query}").content)
        assert name in [each.name for each in page.items]
    assert name not in [each["name"] for each in client.get("/directions?model=reals@2").json()["items"]]
    assert client.delete(where).status_code == 204
    for method in ("get", "delete"):
        assert client.request(method, where).status_code == 404


def test_lists_page(client: TestClient, name: str) -> None:
    names = [f"{name}-{letter}" for letter in "abc"]
    for each in names:
        make(client, name=each)
    seen, after = [], None
    while True:
        page = client.get("/directions", params={"model": "reals", "limit": 2, **({"after": after} if after else {})})
        seen += [each["name"] for each in page.json()["items"]]
        after = page.json()["next"]
        if after is None:
            break
    assert [each for each in seen if each in names] == names
    assert seen == sorted(seen)
    assert client.get("/directions?after=nonsense").status_code == 422


def test_a_name_holds_what_it_was_made_from(client: TestClient, name: str) -> None:
    made = make(client, name=name)
    assert make(client, 200, name=name) == made
    assert make(client, 200, name=name, seed=5) == made  # nothing in it was drawn
    problem = make(client, 409, name=name, negative=DOWN[:2])
    assert problem["type"].endswith("name-taken")
    assert "replace" in problem["detail"]
    assert client.get(f"/directions/{made['space']}/{name}").json() == made
    assert make(client, name=name, negative=DOWN[:2], replace=True)["negative"] == 2
    elsewhere = make(client, name=name, model="reals@2")
    assert elsewhere["space"] != made["space"]


def test_a_probe_tells_its_held_out_accuracy(client: TestClient, name: str) -> None:
    random = np.random.default_rng(0)
    up, down = random.normal([3.0, 0.0, 0.0], size=(40, 3)), random.normal(size=(20, 3))
    body = {"positive": up.tolist(), "negative": down.tolist(), "method": "linear_probe"}
    made = make(client, name=name, **body)
    assert made["accuracy"]["value"] > 0.7
    assert (made["accuracy"]["positive"], made["accuracy"]["negative"]) == (8, 4)
    assert made["vector"][0] > 0.9
    assert np.linalg.norm(made["vector"]) == pytest.approx(1)
    assert make(client, 200, name=name, **body) == made
    make(client, 409, name=name, seed=1, **body)
    assert make(client, name=f"{name}-few", method="linear_probe")["accuracy"] is None


def test_rows_come_in_every_form_and_from_datasets(client: TestClient, flowers: str, name: str) -> None:
    objects = [dict(zip("abc", row, strict=True)) for row in UP]
    assert make(client, 201, name=name, positive=objects)["vector"] == [1.0, 0.0]
    make(client, 200, name=name)
    sides = {
        "label": ({"label": "high"}, {"label": "low"}),
        "above": ({"column": {"name": "a", "above": 29}}, {"column": {"name": "a", "below": 29.5}}),
        "kind": ({"column": {"name": "kind", "equals": "high"}}, {"column": {"name": "kind", "equals": "low"}}),
        "between": ({"column": {"name": "a", "above": 29.0, "below": 1e9}}, {"label": "low"}),
    }
    made = [
        make(
            client,
            name=f"{name}-{kind}",
            positive={"dataset": flowers, **positive},
            negative={"dataset": flowers, **negative},
        )
        for kind, (positive, negative) in sides.items()
    ]
    assert len({each["digest"] for each in made}) == 1  # the same rows whatever way they were chosen
    assert (made[0]["positive"], made[0]["negative"], made[0]["distance"]) == (30, 30, pytest.approx(30))
    parity = make(
        client,
        name=f"{name}-parity",
        positive={"dataset": flowers, "column": {"name": "b", "equals": 1.5}},
        negative=[[1.0, 0.5, 0.0]] * 2,
    )
    assert parity["positive"] == 30


def test_more_rows_than_wanted_are_chosen_by_the_seed(client: TestClient, flowers: str, name: str) -> None:
    body = {
        "positive": {"dataset": flowers, "label": "high", "part": "train"},
        "negative": [[float(i), 0.0, 0.0] for i in range(50)],
        "max_rows": 7,
    }
    made = make(client, name=name, **body)
    assert (made["positive"], made["negative"]) == (7, 7)
    assert make(client, 200, name=name, **body) == made
    assert make(client, name=name, **body, seed=1, replace=True)["digest"] != made["digest"]


def test_a_conditional_model_reads_rows_with_labels(client: TestClient, name: str) -> None:
    # Its vectors are x - 10 y: the label given to both sides moves the bias alone.
    zero = make(client, name=f"{name}-0", model="labelled", given={"label": "zero"})
    one = make(client, name=f"{name}-1", model="labelled", given={"label": "one"})
    np.testing.assert_allclose(zero["vector"], one["vector"])
    np.testing.assert_allclose(one["bias"] - zero["bias"], 10 * sum(one["vector"]))
    assert "conditional" in make(client, 422, name=name, model="labelled")["detail"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"positive": UP[:1]}, 422, "positive holds 1 rows of this side; at least 2"),
        ({"negative": []}, 422, "negative"),
        ({"negative": UP}, 422, "same mean"),
        ({"negative": [[1.0, 2.0]] * 2}, 422, "negative: rows must have shape [3]"),
        ({"positive": [[1.0, None, 2.0]] * 2}, 409, "hidden cells"),
        ({"positive": {"dataset": "none", "label": 1}}, 404, "there is no dataset 'none'"),
        ({"positive": {"dataset": "flowers"}}, 422, "positive: give exactly one of `label` and `column`"),
        ({"positive": {"dataset": "flowers", "label": "middle"}}, 422, "positive.label: is 'middle', a category never"),
        ({"positive": {"dataset": "flowers", "column": {"name": "z", "equals": 1}}}, 422, "use one of a, b, c, kind"),
        (
            {"positive": {"dataset": "flowers", "column": {"name": "a", "equals": "x"}}},
            422,
            "column.equals: is 'x' but",
        ),
        ({"positive": {"dataset": "flowers", "column": {"name": "a"}}}, 422, "positive.column: give `equals`"),
        ({"positive": {"dataset": "flowers", "column": {"name": "a", "over": 1}}}, 422, "positive.column.over"),
        ({"positive": {"dataset": "flowers", "column": {"name": "kind", "above": 1}}}, 422, "is the label"),
        ({"positive": {"dataset": "flowers", "column": {"name": "a", "above": 58.5}}}, 422, "has 1 rows of this side"),
        ({"positive": {"dataset": "flowers", "label": "low", "part": "tail"}}, 422, "positive.part"),
        ({"model": "mixed", "positive": {"dataset": "flowers", "label": "low"}}, 422, "are not those that mixed@1"),
        ({"method": "guess"}, 422, "method"),
        ({"name": "No Name"}, 422, "name"),
        ({"model": "nothing"}, 404, "there is no model"),
        ({"space": "elsewhere"}, 409, "pins elsewhere"),
        ({"max_rows": 1}, 422, "max_rows"),
    ],
)
def test_what_makes_no_direction_is_told(
    client: TestClient, flowers: str, name: str, body: dict, status: int, told: str
) -> None:
    problem = make(client, status, **{"name": name, **body})
    assert told in problem["detail"]
    assert client.get("/directions", params={"model": "reals", "limit": 1000}).text.count(name) == 0


def test_a_model_that_cannot_encode_says_so(client: TestClient, kit: object, tmp_path: object, name: str) -> None:
    refusal = VerbSpec(supported=False, refusal="it makes no vectors: train a vae")
    for verb in (Verb.ENCODE, Verb.DECODE):
        model = f"no-{verb}"
        kit.write_latent(tmp_path / model, kit.reals, 0.5, {verb: refusal})  # type: ignore[attr-defined, operator]
        kit.publish(of(client.app), model, tmp_path / model)  # type: ignore[attr-defined, operator]
    assert "train a vae" in make(client, 409, name=name, model="no-encode")["detail"]
    for model in ("no-encode", "no-decode"):
        refused = client.post("/interpolate", json={"model": model, "a": UP, "b": UP})
        assert refused.status_code == 409
        assert refused.json()["type"].endswith("verb-unsupported")
    assert make(client, name=name, model="no-decode")["vector"] == [1.0, 0.0]
    for model in ("no-encode", "no-decode"):
        client.delete(f"/models/{model}/versions/1")


def test_encode_and_decode_move_along_directions(client: TestClient, name: str) -> None:
    scale = make(client, name=name)["scale"]
    other = f"{name}-up"
    make(client, name=other, positive=[[1.0, 5.0, 0.0]] * 2, negative=[[1.0, 1.0, 0.0], [1.0, 3.0, 0.0]])
    second = client.get("/directions", params={"model": "reals", "limit": 1000}).json()["items"]
    up = next(each["scale"] for each in second if each["name"] == other)

    asked = {"model": "reals", "inputs": UP, "directions": {name: 2, other: -0.5}}
    encoded = client.post("/encode", json=asked).json()
    np.testing.assert_allclose(encoded["vectors"], [[x + 2 * scale, y - 0.5 * up] for x, y, _ in UP], rtol=1e-12)
    assert encoded["directions"] == {name: 2, other: -0.5}
    plain = client.post("/encode", json={"model": "reals", "inputs": UP}).json()
    assert plain["vectors"] == [row[:2] for row in UP]
    assert plain["directions"] is None
    assert plain["log_scale"] == encoded["log_scale"]

    body = {"model": "reals", "vectors": [[0.5, 1.0]], "directions": {name: -1}}
    decoded = client.post("/decode", json=body).json()
    np.testing.assert_allclose(decoded["rows"], [[1.5 - scale, 2.0, 1.0]])
    assert decoded["directions"] == {name: -1}


def test_a_raw_body_takes_directions_in_the_query(client: TestClient, kit: object, name: str) -> None:
    scale = make(client, name=name)["scale"]
    headers = {"Content-Type": "application/x-npy"}
    for path, rows in (("/encode", UP), ("/decode", [[4.0, 1.0], [6.0, 1.0]])):
        response = client.post(
            path,
            params={"model": "reals", "directions": f'{{"{name}": 1.5}}'},
            content=kit.npy(rows),  # type: ignore[attr-defined]
            headers={**headers, "Accept": "application/x-npy"},
        )
        assert response.status_code == 200, response.text
        assert response.headers["x-directions"] == f'{{"{name}":1.5}}'
        first = np.load(io.BytesIO(response.content))[0, 0]
        assert first == pytest.approx((4.0 if path == "/encode" else 5.0) + 1.5 * scale)


@pytest.mark.parametrize(
    ("directions", "status", "told"),
    [
        ({"beard": 1}, 404, "no direction 'beard'"),
        ({"beard": "much"}, 422, "directions.beard"),
        ({"beard": 1e9}, 422, "directions.beard"),
        ({f"d{i}": 1 for i in range(33)}, 422, "directions"),
        (["beard"], 422, "directions"),
    ],
)
def test_wrong_directions_are_told(client: TestClient, name: str, directions: object, status: int, told: str) -> None:
    make(client, name=name)
    for path, rows in (("/encode", {"inputs": UP}), ("/decode", {"vectors": [[0.5, 1.0]]})):
        response = client.post(path, json={"model": "reals", **rows, "directions": directions})
        assert response.status_code == status, response.text
        assert told in response.json()["detail"]
        if status == 404:
            assert name in response.json()["detail"]


def test_pictures_stand_in_as_many_columns_as_asked(client: TestClient) -> None:
    body = {"model": "pictures", "vectors": [[float(i), 0.0] for i in range(6)]}
    sizes = []
    for across in (None, 6, 2, 99):
        response = client.post("/decode", json={**body, "across": across}, headers={"Accept": "image/png"})
        assert response.status_code == 200, response.text
        sizes.append(Image.open(io.BytesIO(response.content)).size)
    # Pictures are 4 high and 5 wide, 1 apart.
    assert sizes == [(3 * 6 - 1, 2 * 5 - 1), (6 * 6 - 1, 4), (2 * 6 - 1, 3 * 5 - 1), (6 * 6 - 1, 4)]
    assert client.post("/decode", json={**body, "across": 0}).status_code == 422
