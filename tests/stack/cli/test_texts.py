"""Texts by the command line: upload, train, stream, score, continue."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.cli import main
from service.cli.files import FileError, read_inputs

Cli = Callable[..., Any]
TINY = ("--set", "width=16", "--set", "depth=1", "--set", "context=16", "--steps", "60")


@pytest.fixture(scope="module")
def name() -> str:
    return f"story-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def story(cli: Cli, name: str, tmp_path: Path) -> str:
    """A small model of one text; trained once, found the next times."""
    if name not in [model["name"] for model in cli("models", "list") or []]:
        lines = "".join(f"{name}: the cat sat on the mat {i} times.\n" for i in range(120))
        (tmp_path / "story.txt").write_text(lines)
        added = cli("datasets", "add", name, str(tmp_path / "story.txt"))
        assert added["spec"]["modality"] == "text"
        cli("train", name, "-d", name, "-f", "autoregressive", *TINY)
    return name


def test_a_text_is_streamed_as_it_comes(cli: Cli, story: str, tmp_path: Path) -> None:
    asked = ["sample", story, "--prefix", "the cat", "--max-tokens", "40", "--seed", "1"]
    whole = cli(*asked)["texts"][0]
    assert whole.startswith("the cat")
    events = cli(*asked, "--stream")
    assert "".join(event["text"] for event in events if event["event"] == "text") == whole
    assert (events[-1]["event"], events[-1]["tokens"], events[-1]["model"]) == ("done", [40], f"{story}@1")
    assert cli(*asked, "--stream", as_json=False) == whole + "\n"
    cli(*asked, "--stream", "-o", str(tmp_path / "new.txt"), as_json=False)
    assert (tmp_path / "new.txt").read_text(encoding="utf-8") == whole


def test_texts_are_printed_and_written_whole(cli: Cli, story: str, tmp_path: Path) -> None:
    asked = ["sample", story, "-n", "2", "--max-tokens", "9", "--seed", "3", "--top-k", "5", "--top-p", "0.9"]
    texts = cli(*asked)["texts"]
    assert len(texts) == 2
    shown = cli(*asked, as_json=False)
    assert all(text in shown for text in texts)
    cli(*asked, "-o", str(tmp_path / "new.jsonl"))
    assert [json.loads(line)["text"] for line in (tmp_path / "new.jsonl").read_text().splitlines()] == texts


def test_files_are_texts_and_lines_of_objects_are(cli: Cli, story: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat")
    (tmp_path / "b.txt").write_text("zzzz qqqq")
    answer = cli("log-prob", story, str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    assert answer["tokens"] == [22, 9]
    assert answer["log_perplexity"][0] < answer["log_perplexity"][1]
    (tmp_path / "c.jsonl").write_text('{"text": "the cat sat on the mat"}\n{"text": "zzzz qqqq", "label": "x"}\n')
    again = cli("log-prob", story, str(tmp_path / "c.jsonl"))
    assert again["log_prob"] == pytest.approx(answer["log_prob"])
    table = cli("log-prob", story, str(tmp_path / "c.jsonl"), as_json=False)
    assert "bits per byte" in table
    assert "sliding windows of 16 tokens" in table


def test_prefixes_are_continued(cli: Cli, story: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat")
    asked = ["predict", story, str(tmp_path / "a.txt"), "--draws", "2", "--max-tokens", "8", "--temperature", "0.5"]
    answer = cli(*asked)
    assert [text.startswith("the cat") for text in answer["texts"][0]] == [True, True]
    shown = cli(*asked, as_json=False)
    assert all(text in shown for text in answer["texts"][0])


def test_neighbours_among_texts(cli: Cli, story: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(f'"{story}: the cat sat on the mat 7 times.\\n"\n')
    found = cli("similarity", story, str(tmp_path / "q.jsonl"), "--dataset", story, "--metric", "euclidean")
    assert found["indices"][0][0] == 7


def test_the_card_shows_how_well_texts_are_predicted(cli: Cli, story: str) -> None:
    shown = cli("models", "show", story, as_json=False)
    for figure in ("bits_per_byte", "nats_per_character", "perplexity"):
        assert figure in shown


def test_wrong_requests_say_what_is_wrong(cli: Cli, story: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("sample", story, "--stream", "--max-tokens", "999999", code=1)["status"] == 422
    assert cli("sample", "absent", "--stream", code=1)["status"] == 404
    assert main(["sample", story, "--stream", "-n", "3"]) == 2
    assert "one text" in capsys.readouterr().err


def test_an_empty_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(FileError, match="empty"):
        read_inputs([str(tmp_path / "empty.txt")])
