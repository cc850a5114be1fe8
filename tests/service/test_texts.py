"""The verbs on texts over HTTP, against a model whose exact answers are known."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import uvicorn
from fastapi.testclient import TestClient
from pydantic import BaseModel

from engine.tokeniser import BPETokeniser
from service.app import create_app
from service.cli.client import read_events
from service.gateway import Gateway, of
from service.schemas.answers import EncodeResponse, SimilarityResponse
from service.schemas.texts import (
    DoneEvent,
    TextEvent,
    TextLogProbResponse,
    TextPredictResponse,
    TextSampleResponse,
)
from tests.text_models import DOCUMENTS, ONE_TEXT, TextOracle, write_text_model

LONG = "not to be, that is the question: whether 'tis nobler in the mind"
LIKELY = "abcdefgh"
LINES = "".join(f"line {number} of some text\n" for number in range(40)).encode()


def write_all(folder: Path) -> dict[str, TextOracle]:
    vocabulary = BPETokeniser.train(iter(["the cat sat on the mat " * 30]), 270)
    return {
        "story": write_text_model(folder / "story", ONE_TEXT, likely=LIKELY, end_logit=-20.0),
        "notes": write_text_model(folder / "notes", DOCUMENTS, likely=LIKELY, any_order=True),
        "moods": write_text_model(folder / "moods", DOCUMENTS, labels=("sad", "glad"), likely=LIKELY),
        "words": write_text_model(
            folder / "words", DOCUMENTS, tokeniser=vocabulary.content(), tokens=vocabulary.size, seed=3
        ),
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Iterator[tuple[TestClient, dict[str, TextOracle]]]:
    home = tmp_path_factory.mktemp("texts")
    app = create_app(kit.settings(home / "home", max_rows=50, max_samples=40, max_tokens=5000))
    with TestClient(app, raise_server_exceptions=False) as client:
        oracles = write_all(home / "artifacts")
        for name, oracle in oracles.items():
            kit.publish(of(app), name, oracle.folder)
        kit.write_latent(home / "reals", kit.reals, 1.0)
        kit.publish(of(app), "reals", home / "reals")
        answered = client.post("/datasets?name=lines&filename=lines.txt", content=LINES)
        assert answered.status_code == 201, answered.text
        yield client, oracles


@pytest.fixture
def client(running: tuple[TestClient, dict[str, TextOracle]]) -> TestClient:
    return running[0]


@pytest.fixture
def story(running: tuple[TestClient, dict[str, TextOracle]]) -> TextOracle:
    return running[1]["story"]


def ask(client: TestClient, path: str, schema: type[BaseModel], **body: object) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert schema.model_validate_json(response.content)
    assert set(response.json()) <= set(schema.model_fields)
    answer: dict[str, Any] = response.json()
    return answer


def events(client: TestClient, **body: object) -> list[dict[str, Any]]:
    with client.stream("POST", "/sample", json={"stream": True, **body}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(read_events(response.iter_lines()))


# --- answers ---------------------------------------------------------------------------------------------------------


def test_log_prob_says_what_it_is_per_token_and_per_byte(client: TestClient, story: TextOracle) -> None:
    answer = ask(client, "/log_prob", TextLogProbResponse, model="story", inputs=["ab", "é", ""])
    expected = np.array([story.score([256, *text.encode()]) for text in ("ab", "é", "")])
    np.testing.assert_allclose(answer["log_prob"], expected, rtol=1e-5, atol=1e-9)
    assert answer["tokens"] == answer["bytes"] == [2, 2, 0]
    np.testing.assert_allclose(answer["log_perplexity"][:2], -expected[:2] / 2, rtol=1e-5)
    np.testing.assert_allclose(answer["bits_per_byte"][:2], -expected[:2] / 2 / math.log(2), rtol=1e-5)
    assert answer["log_perplexity"][2] is answer["bits_per_byte"][2] is None
    assert (answer["kind"], answer["measure"], answer["unit"]) == ("exact", "probability", "nats")
    assert (answer["conditioning"], answer["sliding"]) == ("full", [])


def test_texts_longer_than_the_context_are_named(client: TestClient, story: TextOracle) -> None:
    answer = ask(client, "/log_prob", TextLogProbResponse, model="story", inputs=["ab", LONG])
    assert answer["conditioning"] == "sliding_window"
    assert answer["sliding"] == [1]
    assert answer["window"] == {"context": 16, "stride": 8}
    np.testing.assert_allclose(answer["log_prob"][1], story.score([256, *LONG.encode()]), rtol=1e-5)


def test_sample_answers_whole_texts_by_seed(client: TestClient) -> None:
    body = {"model": "story", "n": 3, "seed": 4, "max_tokens": 12, "prefix": "abc", "temperature": 0.5}
    answer = ask(client, "/sample", TextSampleResponse, **body)
    assert answer == ask(client, "/sample", TextSampleResponse, **body)
    assert [text[:3] for text in answer["texts"]] == ["abc"] * 3
    assert answer["finish_reasons"] == ["length"] * 3
    assert answer["tokens"] == [12] * 3
    more = ask(client, "/sample", TextSampleResponse, **body | {"n": 5})
    assert more["texts"][:3] == answer["texts"]
    drawn = ask(client, "/sample", TextSampleResponse, model="story", max_tokens=3)
    assert ask(client, "/sample", TextSampleResponse, model="story", max_tokens=3, seed=drawn["seed"]) == drawn


def test_top_k_and_top_p_narrow_the_choice(client: TestClient) -> None:
    greedy = [
        ask(client, "/sample", TextSampleResponse, model="story", n=4, seed=1, max_tokens=8, **more)["texts"]
        for more in ({"top_k": 1}, {"top_p": 1e-6})
    ]
    assert greedy[0] == greedy[1] == [greedy[0][0]] * 4


def test_predict_continues_prefixes(client: TestClient, story: TextOracle) -> None:
    body = {"model": "story", "inputs": ["ab", LONG], "draws": 3, "max_tokens": 6, "temperature": 0.3}
    answer = ask(client, "/predict", TextPredictResponse, **body)
    for row, prefix in enumerate(["ab", LONG]):
        assert len(answer["texts"][row]) == 3
        for text, drawn, score in zip(*(answer[name][row] for name in ("texts", "drawn", "log_prob")), strict=True):
            assert text == prefix + drawn
            if "\ufffd" not in drawn:
                expected = story.score([256, *text.encode()]) - story.score([256, *prefix.encode()])
                assert score == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert answer["kind"] == "exact"


def test_predict_fills_gaps_of_models_of_any_order(client: TestClient) -> None:
    gap = {"before": "ab", "after": "gh", "tokens": 3}
    answer = ask(client, "/predict", TextPredictResponse, model="notes", inputs=[gap, gap], draws=2, seed=3)
    assert answer["texts"][0] == answer["texts"][1]
    assert [text[:2] + text[-2:] for text in answer["texts"][0]] == ["abgh"] * 2
    assert answer["tokens"] == [[3, 3]] * 2
    refused = client.post("/predict", json={"model": "story", "inputs": [gap]})
    assert refused.status_code == 422
    assert "any_order" in refused.json()["detail"]


def test_vectors_of_texts_are_compared(client: TestClient, story: TextOracle) -> None:
    encoded = ask(client, "/encode", EncodeResponse, model="story", inputs=["ab", LONG])
    expected = [story.arrays["E"][[256, *text.encode()]].mean(0) for text in ("ab", LONG)]
    np.testing.assert_allclose(encoded["vectors"], expected, rtol=1e-4, atol=1e-5)
    pairs = ask(client, "/similarity", SimilarityResponse, model="story", a=["ab"], b=["ab", LONG])
    assert pairs["scores"][0][0] == pytest.approx(1.0)
    near = {"model": "story", "query": ["line 7 of some text\n"], "top_k": 2, "metric": "euclidean"}
    found = ask(client, "/similarity", SimilarityResponse, **near, against={"dataset": "lines"})
    assert found["indices"][0][0] == 7
    found = ask(client, "/similarity", SimilarityResponse, **near, against={"inputs": ["x", "line 7 of some text\n"]})
    assert found["indices"][0][0] == 1


def test_a_conditional_model_takes_labels(client: TestClient) -> None:
    body = {"model": "moods", "inputs": ["ab", "ab"], "given": {"label": ["sad", "glad"]}}
    scores = ask(client, "/log_prob", TextLogProbResponse, **body)["log_prob"]
    assert scores[0] != scores[1]
    missing = client.post("/sample", json={"model": "moods"})
    assert missing.status_code == 422
    assert "given" in missing.json()["detail"]
    labelled = ask(client, "/sample", TextSampleResponse, model="moods", seed=1, given={"label": "glad"}, max_tokens=5)
    assert (
        events(client, model="moods", seed=1, given={"label": "glad"}, max_tokens=5)[-1]["data"]["tokens"]
        == (labelled["tokens"])
    )


def test_a_vocabulary_travels_with_its_archive(client: TestClient) -> None:
    before = ask(client, "/log_prob", TextLogProbResponse, model="words", inputs=["the cat sat"])
    assert before["tokens"][0] < before["bytes"][0]
    archive = client.get("/models/words/download").content
    moved = client.post("/models/import?name=moved", content=archive, headers={"Content-Type": "application/x-tar"})
    assert moved.status_code in (200, 201), moved.text
    after = ask(client, "/log_prob", TextLogProbResponse, model="moved", inputs=["the cat sat"])
    assert after["log_prob"] == before["log_prob"]


def test_texts_come_as_arrow_and_not_as_npy(client: TestClient) -> None:
    body = {"model": "story", "n": 2, "seed": 1, "max_tokens": 5}
    whole = ask(client, "/sample", TextSampleResponse, **body)
    arrow = client.post("/sample", json=body, headers={"Accept": "application/vnd.apache.arrow.stream"})
    assert pa.ipc.open_stream(arrow.content).read_all()["texts"].to_pylist() == whole["texts"]
    npy = client.post("/sample", json=body, headers={"Accept": "application/x-npy"})
    assert npy.status_code == 406
    assert "texts" in npy.json()["detail"]


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_comes_to_what_the_answer_is(client: TestClient, n: int) -> None:
    body = {"model": "story", "n": n, "seed": 7, "max_tokens": 30, "prefix": "ab"}
    whole = ask(client, "/sample", TextSampleResponse, **body)
    *pieces, done = events(client, **body)
    texts = [""] * n
    for event in pieces:
        assert event["type"] == "text"
        piece = TextEvent.model_validate(event["data"])
        texts[piece.index] += piece.text
    assert texts == whole["texts"]
    assert len(pieces) > 10 * n
    assert done["type"] == "done"
    end = DoneEvent.model_validate(done["data"])
    assert (end.model, end.seed, end.finish_reasons) == ("story@1", 7, ["length"] * n)
    assert end.tokens == whole["tokens"]


def test_accept_asks_for_a_stream_too(client: TestClient) -> None:
    body = {"model": "story", "max_tokens": 3, "seed": 1}
    response = client.post("/sample", json=body, headers={"Accept": "text/event-stream"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.count("event: done") == 1


def test_characters_of_several_bytes_come_whole(client: TestClient) -> None:
    pieces = [event["data"]["text"] for event in events(client, model="story", prefix="é🎉", max_tokens=2, seed=0)[:-1]]
    assert pieces[0] == "é🎉"
    assert all(piece.encode() for piece in pieces)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "absent"}, 404),
        ({"model": "reals"}, 422),
        ({"model": "story", "max_tokens": 5001}, 422),
        ({"model": "story", "top_p": 2.0}, 422),
        ({"model": "moods"}, 422),
    ],
)
def test_what_goes_wrong_before_the_first_event_is_a_problem(
    client: TestClient, body: dict[str, object], status: int
) -> None:
    response = client.post("/sample", json={"stream": True, **body})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


def test_a_stream_over_the_deadline_ends_with_an_error(tmp_path: Path, kit: Any) -> None:
    app = create_app(kit.settings(tmp_path / "home", deadline_seconds=0.5, max_tokens=1_000_000))
    with TestClient(app, raise_server_exceptions=False) as client:
        kit.publish(of(app), "story", write_text_model(tmp_path / "a", ONE_TEXT, end_logit=-20.0).folder)
        found = events(client, model="story", max_tokens=1_000_000, seed=0)
    assert found[0]["type"] == "text"
    assert found[-1]["type"] == "error"
    assert found[-1]["data"]["status"] == 504


@pytest.fixture
def served(tmp_path: Path, kit: Any) -> Iterator[tuple[str, Gateway]]:
    """A gateway behind a real server, whose clients can leave."""
    app = create_app(kit.settings(tmp_path / "home", deadline_seconds=60, max_tokens=1_000_000))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.02)
        kit.publish(of(app), "story", write_text_model(tmp_path / "a", ONE_TEXT, end_logit=-20.0).folder)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", of(app)
        server.should_exit = True
        thread.join()


def test_drawing_stops_when_the_client_leaves(served: tuple[str, Gateway]) -> None:
    url, gateway = served
    digest = gateway.resolver.resolve("story").digest
    limit = 1_000_000
    body = {"model": "story", "stream": True, "max_tokens": limit, "seed": 0}
    with gateway.pool.use(digest) as program:
        with httpx.stream("POST", f"{url}/sample", json=body) as response:
            lines = response.iter_lines()
            for _ in range(30):
                next(lines)
        steps = program.model.counters["step"]
        # The steps that were under way end; then there are no more.
        before = -1
        for _ in range(30):
            if before == steps.runs:
                break
            before = steps.runs
            time.sleep(0.3)
        else:
            pytest.fail(f"{steps.runs} steps, and still drawing for nobody")
        assert 0 < before < limit / 10
        assert gateway.execution.waiting == 0
    after = httpx.post(f"{url}/sample", json={"model": "story", "max_tokens": 3})
    assert after.status_code == 200


# --- bad input -------------------------------------------------------------------------------------------------------

TEXT_BAD: list[tuple[str, dict[str, Any], str]] = [
    ("/log_prob", {"inputs": [[1.0, 2.0]]}, "inputs[0]"),
    ("/log_prob", {"inputs": ["a", 3]}, "inputs[1]"),
    ("/log_prob", {"inputs": [None]}, "inputs[0]"),
    ("/log_prob", {"inputs": []}, "inputs"),
    ("/log_prob", {"inputs": {"dtype": "float32", "shape": [1], "base64": "AAAAAA=="}}, "inputs"),
    ("/log_prob", {"inputs": ["a"], "mask": [[True]]}, "mask"),
    ("/encode", {"inputs": "ab"}, "inputs"),
    ("/encode", {"inputs": []}, "inputs"),
    ("/similarity", {"a": ["x"], "b": [1]}, "b[0]"),
    ("/predict", {"inputs": ["a"], "mask": [[True]]}, "mask"),
    ("/predict", {"inputs": ["a"], "samples": 4}, "samples"),
    ("/predict", {"inputs": ["a"], "score_inputs": True}, "score_inputs"),
    ("/predict", {"inputs": ["a"], "format": "rows"}, "format"),
    ("/predict", {"inputs": ["a", {"before": "a", "after": "b", "tokens": 1}]}, "inputs[1]"),
    ("/predict", {"inputs": [{"before": "a", "after": "b"}]}, "inputs[0]"),
    ("/predict", {"inputs": [{"before": "a", "after": "b", "tokens": 0}]}, "inputs[0].tokens"),
    ("/predict", {"inputs": [{"before": 1, "after": "b", "tokens": 2}]}, "inputs[0].before"),
    ("/predict", {"inputs": [{"before": "a", "after": "b", "tokens": 2}], "max_tokens": 3}, "max_tokens"),
    ("/sample", {"top_p": 0.0}, "top_p"),
    ("/sample", {"top_p": 1.1}, "top_p"),
    ("/sample", {"top_k": 0}, "top_k"),
    ("/sample", {"max_tokens": 5001}, "max_tokens"),
    ("/sample", {"max_tokens": 0}, "max_tokens"),
    ("/sample", {"n": 41}, "n"),
    ("/sample", {"temperature": [1.0, 0.5]}, "temperature"),
    ("/sample", {"format": "base64"}, "format"),
    ("/sample", {"prefix": 3}, "prefix"),
]


@pytest.mark.parametrize(("path", "body", "place"), TEXT_BAD)
def test_bad_input_is_refused_by_its_place(client: TestClient, path: str, body: dict[str, Any], place: str) -> None:
    response = client.post(path, json={"model": "notes", **body})
    assert response.status_code == 422, response.text
    assert place in [each["location"] for each in response.json()["errors"]]


def test_half_a_surrogate_pair_is_no_text(client: TestClient) -> None:
    raw = json.dumps({"model": "story", "inputs": ["a\ud800"]})
    response = client.post("/log_prob", content=raw, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/log_prob", {"inputs": ["a text"]}, "is a string"),
        ("/encode", {"inputs": ["a text"]}, "is a string"),
        ("/sample", {"prefix": "a"}, "prefix"),
        ("/sample", {"top_k": 3}, "top_k"),
        ("/sample", {"stream": True}, "stream"),
        ("/predict", {"inputs": [[None, 1, 2]], "max_tokens": 3}, "max_tokens"),
    ],
)
def test_a_model_of_rows_refuses_what_is_for_texts(
    client: TestClient, path: str, body: dict[str, Any], words: str
) -> None:
    response = client.post(path, json={"model": "reals", **body})
    assert response.status_code == 422
    assert words in response.json()["detail"]


def test_too_many_texts_are_refused(client: TestClient) -> None:
    response = client.post("/log_prob", json={"model": "story", "inputs": ["a"] * 51})
    assert response.status_code == 413


def test_a_gap_longer_than_the_context_is_refused(client: TestClient) -> None:
    gap = {"before": LONG, "after": "b", "tokens": 1}
    response = client.post("/predict", json={"model": "notes", "inputs": [gap]})
    assert response.status_code == 422
    assert "context" in response.json()["detail"]


def test_decode_says_what_to_use_instead(client: TestClient) -> None:
    response = client.post("/decode", json={"model": "story", "vectors": [[0.0, 0.0, 0.0]]})
    assert response.status_code == 409
    assert "vae" in response.json()["detail"]


def test_batches_take_texts_for_what_they_can_be_asked(client: TestClient) -> None:
    for verb in ("encode", "log_prob"):
        queued = client.post("/batches", json={"model": "story", "verb": verb, "dataset": "lines"})
        assert queued.status_code == 202, queued.text
    refused = client.post("/batches", json={"model": "story", "verb": "predict", "dataset": "lines"})
    assert refused.status_code == 422
    other = client.post("/batches", json={"model": "reals", "verb": "encode", "dataset": "lines"})
    assert other.status_code == 422
