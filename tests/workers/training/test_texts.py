"""Texts as windows: what training reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from contracts.data import DataSpec, Part
from contracts.errors import InvalidInput
from contracts.families import AutoregressiveConfig, PCAConfig
from engine.tokeniser import BPETokeniser, Tokeniser
from tests.text_models import DOCUMENTS, ONE_TEXT, labelled
from workers.training.texts import PADDING, TextWindows, WindowRows, prepare_texts

END = 256
CONTEXT = 16


@dataclass(frozen=True)
class Rows:
    x: list[str]
    y: np.ndarray | None


@dataclass(frozen=True)
class Texts:
    """Texts in memory, by part, as a dataset answers them."""

    spec: DataSpec
    train: list[str]
    valid: list[str]
    labels: bool = False

    def count(self, part: Part | None = None) -> int:
        return len(self._of(part))

    def batches(self, part: Part | None, rows: int) -> Iterator[Rows]:
        texts = self._of(part)
        for start in range(0, len(texts), rows):
            places = np.arange(start, min(start + rows, len(texts)))
            yield Rows([texts[place] for place in places], places % 3 if self.labels else None)

    def _of(self, part: Part | None) -> list[str]:
        return {Part.TRAIN: self.train, Part.VALID: self.valid, Part.TEST: [], None: self.train + self.valid}[part]


LINES = [f"line {number} of one text\n" for number in range(60)]
ONE = Texts(ONE_TEXT, LINES[:48], LINES[48:])
SHORT = ["ab", "", "exactly 15 long", "a document that is longer than any context of sixteen", "ü🎉"]
MANY = Texts(labelled(DOCUMENTS, ("x", "y", "z")), SHORT, SHORT[::-1], labels=True)

Make = Callable[..., TextWindows]


@pytest.fixture
def windows(tmp_path: Path) -> Make:
    def make(reader: Texts, tokeniser: Tokeniser | None = None) -> TextWindows:
        return TextWindows(reader, tokeniser or Tokeniser(), CONTEXT, tmp_path / "scratch")

    return make


def every(reader: TextWindows, part: Part) -> WindowRows:
    return reader.read(part, np.arange(reader.count(part)))


def test_documents_are_closed_and_padded(windows: Make) -> None:
    reader = windows(MANY)
    rows = every(reader, Part.TRAIN)
    assert rows.x.dtype == np.int64
    assert rows.x.shape[1] == CONTEXT + 1
    assert rows.x[0].tolist() == [END, 97, 98, END, *[PADDING] * 13]
    assert rows.x[1].tolist() == [END, END, *[PADDING] * 15]
    assert rows.x[2].tolist() == [END, *b"exactly 15 long", END]
    assert rows.y is not None
    assert rows.y.tolist() == [0, 1, 2, *[0] * 4, 1]


@pytest.mark.parametrize("part", [Part.TRAIN, Part.VALID])
def test_each_token_of_a_document_is_predicted_once(windows: Make, part: Part) -> None:
    rows = every(windows(MANY), part)
    predicted = rows.x[:, 1:][rows.x[:, 1:] != PADDING]
    texts = MANY.train if part is Part.TRAIN else MANY.valid
    assert predicted.tolist() == [token for text in texts for token in (*text.encode(), END)]


def test_the_held_out_part_of_one_text_is_predicted_once(windows: Make) -> None:
    rows = every(windows(ONE), Part.VALID)
    predicted = rows.x[:, 1:][rows.x[:, 1:] != PADDING]
    assert bytes(predicted.tolist()).decode() == "".join(ONE.valid)
    assert rows.x[0, 0] == END
    assert (rows.x[1:, 0] != END).all()


def test_train_windows_of_one_text_overlap_and_are_full(windows: Make) -> None:
    reader = windows(ONE)
    rows = every(reader, Part.TRAIN)
    text = [END, *"".join(ONE.train).encode()]
    assert (rows.x != PADDING).all()
    starts = [*range(0, len(text) - CONTEXT - 1, CONTEXT // 8), len(text) - CONTEXT - 1]
    assert reader.count(Part.TRAIN) == len(starts)
    for place, start in enumerate(starts):
        expected = text[start : start + CONTEXT + 1]
        if place % 8 == 0:
            expected[0] = END
        assert rows.x[place].tolist() == expected


def test_one_text_shorter_than_a_window_is_padded(windows: Make) -> None:
    reader = windows(Texts(ONE_TEXT, ["abc"], []))
    assert every(reader, Part.TRAIN).x.tolist() == [[END, 97, 98, 99, *[PADDING] * 13]]
    assert reader.count(Part.VALID) == reader.count(Part.TEST) == 0


def test_windows_come_in_the_order_asked_for_and_the_same_each_time(windows: Make) -> None:
    reader = windows(ONE)
    whole = every(reader, Part.TRAIN).x
    chosen = reader.read(Part.TRAIN, np.array([9, 0, 3]))
    np.testing.assert_array_equal(chosen.x, whole[[9, 0, 3]])
    np.testing.assert_array_equal(reader.read(Part.TRAIN, slice(2, 5)).x, whole[2:5])
    np.testing.assert_array_equal(every(windows(ONE), Part.TRAIN).x, whole)
    with pytest.raises(InvalidInput, match="by part"):
        reader.read(None, slice(0, 1))


def test_the_profile_counts_windows_and_has_no_cells(windows: Make) -> None:
    reader = windows(ONE)
    profile = reader.profile()
    assert profile.rows == reader.count(Part.TRAIN)
    assert profile.mean.shape == profile.std.shape == (0,)
    assert reader.count() == reader.count(Part.TRAIN) + reader.count(Part.VALID)
    assert reader.tokens(Part.VALID) == 1 + len("".join(ONE.valid))


def test_nothing_is_left_in_the_scratch(windows: Make, tmp_path: Path) -> None:
    reader = windows(ONE)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert reader.read(Part.TRAIN, slice(0, 1)).x[0, 0] == END


def config(**more: object) -> AutoregressiveConfig:
    return AutoregressiveConfig.model_validate({"family": "autoregressive", **more})


def test_the_context_is_settled_by_the_data(tmp_path: Path) -> None:
    assert prepare_texts(ONE, config(), tmp_path)[0].model_dump()["context"] == 128
    assert prepare_texts(MANY, config(), tmp_path)[0].model_dump()["context"] == 48
    assert prepare_texts(MANY, config(context=20), tmp_path)[0].model_dump()["context"] == 20
    novel = Texts(DOCUMENTS, ["word " * 900], [])
    assert prepare_texts(novel, config(), tmp_path)[0].model_dump()["context"] == 256


def test_a_vocabulary_is_made_of_the_train_part_and_settles_its_size(tmp_path: Path) -> None:
    settled, reader = prepare_texts(ONE, config(tokens="bpe", vocabulary=2000), tmp_path)
    assert isinstance(reader.tokeniser, BPETokeniser)
    assert settled.model_dump()["vocabulary"] == reader.tokeniser.size < 2000
    rows = every(reader, Part.VALID)
    assert rows.x[0, 0] == reader.tokeniser.size
    predicted = rows.x[:, 1:][rows.x[:, 1:] != PADDING]
    assert reader.tokeniser.decode(predicted.tolist()) == "".join(ONE.valid)
    assert prepare_texts(ONE, config(tokens="bpe", vocabulary=2000), tmp_path)[1].tokeniser.content() == (
        reader.tokeniser.content()
    )


def test_training_goes_on_with_the_alphabet_it_began_with(tmp_path: Path) -> None:
    tokeniser = BPETokeniser.train(iter(["something else altogether " * 9]), 280)
    settled, reader = prepare_texts(ONE, config(tokens="bpe"), tmp_path, tokeniser)
    assert reader.tokeniser is tokeniser
    assert settled.model_dump()["vocabulary"] == tokeniser.size
    with pytest.raises(InvalidInput, match="another alphabet"):
        prepare_texts(ONE, config(tokens="bytes"), tmp_path, tokeniser)


def test_a_text_without_pairs_makes_no_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no pairs"):
        prepare_texts(Texts(DOCUMENTS, ["a", "b"], []), config(tokens="bpe"), tmp_path)


def test_the_lines_of_one_text_have_no_labels(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no labels"):
        prepare_texts(ONE, config(condition="label"), tmp_path)


def test_families_that_read_no_texts_say_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not read texts"):
        prepare_texts(ONE, PCAConfig(family="pca"), tmp_path)
