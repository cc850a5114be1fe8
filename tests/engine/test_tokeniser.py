"""Alphabets: every text comes back, streams never show half a character, and a vocabulary is made the same twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ArtifactCorrupt, InvalidInput
from engine.tokeniser import TOKENISER_FILE, BPETokeniser, Incremental, Tokeniser, as_texts, read_tokeniser

TEXT = "the cat sat on the mat; the dog sat on the cat. grüße, 東京 🎉!\n" * 40
BPE = BPETokeniser.train(iter([TEXT]), 300)
TRAIN = f"""
import sys
from engine.tokeniser import BPETokeniser
sys.stdout.buffer.write(BPETokeniser.train(iter([{TEXT!r}]), 300).content())
"""


@pytest.mark.parametrize("tokeniser", [Tokeniser(), BPE], ids=["bytes", "bpe"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_text_comes_back(tokeniser: Tokeniser, text: str) -> None:
    tokens = tokeniser.encode(text)
    assert tokens.dtype == np.int64
    assert tokeniser.decode(tokens.tolist()) == text
    assert b"".join(map(tokeniser.bytes_of, tokens.tolist())) == text.encode()
    incremental = Incremental(tokeniser)
    pieces = [incremental.feed(token) for token in tokens.tolist()]
    assert "".join(pieces) + incremental.end() == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces if "\ufffd" not in text)


def test_bytes_are_their_own_numbers() -> None:
    tokeniser = Tokeniser()
    assert tokeniser.size == 256
    assert tokeniser.encode("é!").tolist() == [0xC3, 0xA9, 0x21]
    assert tokeniser.content() is None


def test_a_vocabulary_shortens_the_text_it_was_made_from() -> None:
    assert 256 < BPE.size <= 300
    assert len(BPE.encode(TEXT)) < 0.7 * len(Tokeniser().encode(TEXT))
    assert BPE.bytes_of(int(BPE.encode(" the")[0])) == b" the"


def test_the_same_texts_make_the_same_vocabulary_in_another_process() -> None:
    again = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, check=True, timeout=60).stdout
    assert again == BPE.content()


def test_a_stream_that_breaks_off_within_a_character_says_so_at_its_end() -> None:
    incremental = Incremental(Tokeniser())
    assert [incremental.feed(token) for token in "🎉".encode()[:3]] == ["", "", ""]
    assert incremental.end() == "\ufffd"


def test_what_is_no_utf8_is_replaced_and_the_end_means_nothing() -> None:
    tokeniser = Tokeniser()
    assert tokeniser.decode([0xFF, 0x41, tokeniser.size]) == "\ufffdA"


def test_half_a_surrogate_pair_is_no_text() -> None:
    for tokeniser in (Tokeniser(), BPE):
        with pytest.raises(InvalidInput, match="surrogate"):
            tokeniser.encode("a\ud800")


def test_an_artifact_without_the_file_reads_bytes(tmp_path: Path) -> None:
    assert type(read_tokeniser(tmp_path, {"manifest.json"})) is Tokeniser
    (tmp_path / TOKENISER_FILE).write_bytes(BPE.content())
    read = read_tokeniser(tmp_path, {TOKENISER_FILE})
    assert read.pieces == BPE.pieces
    assert read.content() == BPE.content()


def without_bytes(content: bytes) -> bytes:
    document = json.loads(content)
    document["model"]["vocab"] = {"a": 0, "b": 1}
    document["model"]["merges"] = []
    return json.dumps(document).encode()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", without_bytes(BPE.content())])
def test_a_damaged_vocabulary_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / TOKENISER_FILE).write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=re_escape(TOKENISER_FILE)):
        read_tokeniser(tmp_path, {TOKENISER_FILE})


def test_a_missing_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match=re_escape(TOKENISER_FILE)):
        read_tokeniser(tmp_path, {TOKENISER_FILE})


def re_escape(name: str) -> str:
    return name.replace(".", r"\.")


def test_texts_are_strings() -> None:
    assert as_texts(["a", ""]) == ["a", ""]
    assert as_texts(np.array(["a"], dtype=object)) == ["a"]
    with pytest.raises(InvalidInput, match=r"inputs\[1\] must be a string"):
        as_texts(np.array(["a", 3.0], dtype=object))
    with pytest.raises(InvalidInput, match="at least one"):
        as_texts([])
