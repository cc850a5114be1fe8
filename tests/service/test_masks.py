"""Pictures whose hidden pixels a picture says: masks, transparency, forms."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from PIL import Image

PIXELS = (np.arange(20).reshape(4, 5) % 17).astype(np.uint8)
LOWER = np.repeat([False, False, True, True], 5).reshape(4, 5)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels, mode=mode).save(stream, "PNG") if mode else Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def picture(data: bytes) -> dict[str, str]:
    return {"image": base64.b64encode(data).decode()}


def grey(levels: np.ndarray) -> bytes:
    """Levels 0..16 as the file that stands for them."""
    return png(np.rint(levels * (255 / 16)).astype(np.uint8))


MASK = png(np.where(LOWER, 255, 0).astype(np.uint8))


def predict(client: TestClient, status: int = 200, **body: Any) -> Any:
    response = client.post("/predict", json={"model": "pictures", **body})
    assert response.status_code == status, response.text
    return response.json()


@pytest.fixture(scope="module")
def expected(client: TestClient) -> Any:
    """The answer to a mask of booleans."""
    return predict(client, inputs=PIXELS[None].tolist(), mask=LOWER[None].tolist())


def test_a_mask_picture_hides_what_is_light(client: TestClient, expected: Any) -> None:
    assert (np.array(expected["std"])[0, ..., 0] > 0).tolist() == LOWER.tolist()
    inputs = [picture(grey(PIXELS))]
    for mask in (picture(MASK), [picture(MASK)]):
        assert predict(client, inputs=inputs, mask=mask)["mean"] == expected["mean"]
    # Painted on nothing, in colour, a little grey: the same.
    painted = np.zeros((4, 5, 4), np.uint8)
    painted[LOWER] = (255, 240, 230, 255)
    painted[~LOWER] = (255, 255, 255, 20)
    assert predict(client, inputs=inputs, mask=picture(png(painted)))["mean"] == expected["mean"]


def test_one_mask_serves_all_rows_or_each_has_its_own(client: TestClient) -> None:
    inputs = [picture(grey(PIXELS)), picture(grey(PIXELS[::-1]))]
    upper = picture(png(np.where(LOWER, 0, 255).astype(np.uint8)))
    both = predict(client, inputs=inputs, mask=[picture(MASK), upper])
    assert (np.array(both["std"])[..., 0] > 0).tolist() == [LOWER.tolist(), (~LOWER).tolist()]
    shared = predict(client, inputs=inputs, mask=picture(MASK))
    assert (np.array(shared["std"])[..., 0] > 0).tolist() == [LOWER.tolist()] * 2


def test_transparent_pixels_are_hidden(client: TestClient, expected: Any) -> None:
    value = np.rint(PIXELS * (255 / 16)).astype(np.uint8)
    see_through = np.stack([value, value, value, np.where(LOWER, 0, 255).astype(np.uint8)], axis=-1)
    assert predict(client, inputs=[picture(png(see_through))])["mean"] == expected["mean"]
    raw = client.post(
        "/predict", params={"model": "pictures"}, content=png(see_through), headers={"Content-Type": "image/png"}
    )
    assert raw.json()["mean"] == expected["mean"]
    marginal, whole = (
        client.post("/log_prob", json={"model": "pictures", "inputs": [picture(data)]}).json()["log_prob"]
        for data in (png(see_through), grey(PIXELS))
    )
    assert marginal != whole
    # Verbs of whole rows do not look at it.
    vectors = [
        client.post("/encode", json={"model": "pictures", "inputs": [picture(data)]}).json()["vectors"]
        for data in (png(see_through), grey(PIXELS))
    ]
    assert vectors[0] == vectors[1]


def test_a_raw_picture_takes_its_mask_from_the_query(client: TestClient, expected: Any) -> None:
    answer = client.post(
        "/predict",
        params={"model": "pictures", "mask": orjson.dumps(picture(MASK)).decode()},
        content=grey(PIXELS),
        headers={"Content-Type": "image/png"},
    )
    assert answer.json()["mean"] == expected["mean"]


def test_a_form_holds_pictures_and_masks(client: TestClient, expected: Any) -> None:
    files: list[tuple[str, Any]] = [
        ("inputs", ("a.png", grey(PIXELS), "image/png")),
        ("mask", ("m.png", MASK, "image/png")),
    ]
    answer = client.post("/predict", data={"model": "pictures", "draws": "2"}, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.json()["mean"] == expected["mean"]
    assert np.array(answer.json()["draws"]).shape == (1, 2, 4, 5, 1)
    given = client.post("/predict", data={"model": "labelled", "given": '{"label": "one"}'}, files=files)
    assert given.status_code == 422
    two = client.post("/predict", data={"model": "pictures"}, files=[*files, files[0]])
    assert len(two.json()["mean"]) == 2


def test_the_answer_is_a_picture_of_the_mean_or_of_the_draws(client: TestClient, expected: Any) -> None:
    body = {"model": "pictures", "inputs": [picture(grey(PIXELS))] * 2, "mask": picture(MASK), "draws": 3}
    shown = {}
    for name in ("mean", "draws"):
        answer = client.post("/predict", json={**body, "picture": name}, headers={"Accept": "image/png"})
        assert answer.headers["content-type"] == "image/png"
        shown[name] = np.asarray(Image.open(io.BytesIO(answer.content)))
    mean = np.rint(np.clip(np.array(expected["mean"])[0, ..., 0], 0, 16) * 255 / 16)
    np.testing.assert_array_equal(shown["mean"][:4, :5], mean)
    assert shown["draws"].shape == (2 * 5 - 1, 3 * 6 - 1)
    np.testing.assert_array_equal(shown["draws"][:2, 6:11], mean[:2])
    assert not np.array_equal(shown["draws"][2:4, :5], shown["draws"][2:4, 6:11])


@pytest.mark.parametrize(
    ("mask", "status", "words"),
    [
        (picture(png(np.zeros((3, 5), np.uint8))), 422, "mask.image: is 5x3 pixels"),
        ([picture(MASK)] * 3, 422, "3 pictures for 1 rows"),
        ([picture(MASK), [1]], 422, "mask"),
        (picture(b"no picture"), 400, "mask"),
        ({"image": 3}, 422, "base64"),
        ({"image": "", "more": 1}, 422, "mask"),
        (picture(png(np.zeros((4, 5), np.uint8))), 422, "hides no cell"),
    ],
)
def test_wrong_masks_are_named(client: TestClient, mask: Any, status: int, words: str) -> None:
    problem = predict(client, status, inputs=[picture(grey(PIXELS))], mask=mask)
    assert words in str(problem)


def test_draws_that_are_not_drawn_make_no_picture(client: TestClient) -> None:
    problem = predict(client, 422, inputs=PIXELS[None].tolist(), mask=LOWER[None].tolist(), draws=0, picture="draws")
    assert problem["errors"][0]["location"] == "draws"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"--x\r\n", "multipart/form-data; boundary=x", 400),
        (b"", "multipart/form-data", 400),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="inputs"; filename="a.csv"\r\n\r\n1,2\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            415,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n\xff\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            400,
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\npictures\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            422,
        ),
    ],
)
def test_bad_forms(client: TestClient, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/predict", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert client.post("/encode", content=content, headers={"Content-Type": kind}).status_code == 415
