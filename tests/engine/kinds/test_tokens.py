"""Models of texts against the same model in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.artifact import AnswerKind, Verb, VerbSpec
from contracts.data import DataSpec, Measure
from contracts.errors import ArtifactCorrupt, DeadlineExceeded, Internal, InvalidInput, VerbUnsupported
from engine.call import call
from engine.kinds import program
from engine.kinds.choice import Choice
from engine.kinds.tokens import Blank, TokenProgram
from engine.model import Model
from engine.options import SessionOptions
from engine.tokeniser import BPETokeniser
from tests.text_models import DOCUMENTS, ONE_TEXT, TextOracle, write_text_model

SHORT, LONG = "to be or", "not to be, that is the question: whether 'tis nobler in the mind"
LIKELY = "abcdefgh"


def answers(oracle: TextOracle, **options: int) -> TokenProgram:
    found = program(Model.load(oracle.folder, SessionOptions(threads=1, **options)))
    assert isinstance(found, TokenProgram)
    return found


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> TextOracle:
    return write_text_model(tmp_path_factory.mktemp("documents"), DOCUMENTS, likely=LIKELY, end_logit=4.0)


@pytest.fixture(scope="module")
def one_text(tmp_path_factory: pytest.TempPathFactory) -> TextOracle:
    return write_text_model(tmp_path_factory.mktemp("one_text"), ONE_TEXT, likely=LIKELY, end_logit=-20.0)


@pytest.fixture(scope="module")
def any_order(tmp_path_factory: pytest.TempPathFactory) -> TextOracle:
    return write_text_model(tmp_path_factory.mktemp("any"), DOCUMENTS, any_order=True, likely=LIKELY)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> TextOracle:
    return write_text_model(tmp_path_factory.mktemp("labelled"), DOCUMENTS, labels=("x", "y"), likely=LIKELY)


def closed(oracle: TextOracle, text: str) -> list[int]:
    ends = [oracle.end] if oracle.manifest.data.split.by != "tail" else []
    return [oracle.end, *text.encode(), *ends]


# --- scoring ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["documents", "one_text", "any_order"])
def test_log_prob_is_that_of_the_chain(kind: str, request: pytest.FixtureRequest) -> None:
    oracle = request.getfixturevalue(kind)
    texts = [SHORT, "", LONG, "é🎉", "a"]
    found = answers(oracle).log_prob(texts)
    expected = [oracle.score(closed(oracle, text)) for text in texts]
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-4)
    assert (found.kind, found.measure, found.samples) == (AnswerKind.EXACT, Measure.PROBABILITY, None)
    assert found.text is not None
    assert found.text.tokens.tolist() == [len(closed(oracle, text)) - 1 for text in texts]
    assert found.text.bytes.tolist() == [len(text.encode()) for text in texts]
    assert (found.text.windows > 1).tolist() == [False, False, True, False, False]
    assert (found.text.context, found.text.stride) == (16, 8)


def test_a_text_is_scored_alike_whatever_stands_beside_it(documents: TextOracle) -> None:
    asked = answers(documents)
    alone = asked.log_prob([LONG]).values
    among = asked.log_prob([SHORT, LONG, "x" * 100]).values[1:2]
    np.testing.assert_allclose(alone, among, rtol=1e-6)


def test_many_texts_are_scored_in_bounded_batches(documents: TextOracle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(documents)
    whole = asked.log_prob([SHORT, LONG] * 20).values
    monkeypatch.setattr("engine.kinds.token_scoring._LOGITS", 16 * 257 * 3)
    rows: list[int] = []
    run = asked.model.run

    def watched(graph: str, feeds: dict[str, np.ndarray], outputs: list[str] | None = None) -> dict[str, np.ndarray]:
        rows.append(len(feeds["tokens"]))
        return run(graph, feeds, outputs)

    monkeypatch.setattr(asked.model, "run", watched)
    np.testing.assert_allclose(asked.log_prob([SHORT, LONG] * 20).values, whole, rtol=1e-6)
    assert max(rows) == 3


def test_labels_count(conditional: TextOracle) -> None:
    found = answers(conditional).log_prob([SHORT, LONG], given=np.array([1, 0]))
    expected = [conditional.score(closed(conditional, text), y) for text, y in ((SHORT, 1), (LONG, 0))]
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    with pytest.raises(InvalidInput, match="conditional"):
        answers(conditional).log_prob([SHORT])


def test_encode_is_the_mean_state_over_windows(one_text: TextOracle) -> None:
    found = answers(one_text).encode([SHORT, LONG, ""])
    expected = [one_text.arrays["E"][closed(one_text, text)].mean(0) for text in (SHORT, LONG, "")]
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-5)
    assert found.vectors.dtype == np.float32


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_texts_depend_on_seed_and_number_alone(documents: TextOracle) -> None:
    asked = answers(documents)
    many = asked.sample(12, seed=3)
    assert many.dtype == object
    assert asked.sample(12, seed=3).tolist() == many.tolist()
    assert asked.sample(4, seed=3).tolist() == many[:4].tolist()
    assert asked.sample(4, seed=3, first=5).tolist() == many[5:9].tolist()
    assert asked.sample(12, seed=4).tolist() != many.tolist()


def test_more_tokens_go_on_from_fewer(one_text: TextOracle) -> None:
    asked = answers(one_text)
    few, more = (asked.generate(3, seed=1, max_tokens=count, prefix="abc").texts for count in (20, 60))
    assert [text[: len(short)] for short, text in zip(few, more, strict=True)] == few


def test_first_tokens_come_as_often_as_they_are_probable(documents: TextOracle) -> None:
    n = 4000
    drawn = answers(documents).generate(n, seed=0, max_tokens=1)
    p = np.exp(documents.log_p([documents.end]))
    for token in np.argsort(-p)[:5]:
        seen = drawn.finish_reasons.count("stop") if token == documents.end else drawn.drawn.count(chr(token))
        assert abs(seen / n - p[token]) < 5 * np.sqrt(p[token] / n)


def test_the_end_stops_a_text_and_the_limit_cuts_it(documents: TextOracle) -> None:
    drawn = answers(documents).generate(40, seed=0, max_tokens=12)
    assert set(drawn.finish_reasons) == {"stop", "length"}
    for reason, tokens in zip(drawn.finish_reasons, drawn.tokens, strict=True):
        assert tokens == 12 if reason == "length" else tokens <= 12


@pytest.mark.parametrize("prefix", ["", "abc", "abcdefghabcdefghabcdefghabc"])
def test_what_is_drawn_has_the_probability_that_scoring_gives_it(one_text: TextOracle, prefix: str) -> None:
    """Through several slides of the window of 16 tokens; only texts whose bytes are whole characters are compared."""
    asked = answers(one_text)
    drawn = asked.generate(8, seed=0, choice=Choice(0.5), prefix=prefix, max_tokens=50)
    whole = [index for index, text in enumerate(drawn.texts) if "\ufffd" not in text]
    assert len(whole) >= 4
    scored = asked.log_prob([drawn.texts[index] for index in whole]).values
    known = asked.log_prob([prefix]).values if prefix else np.zeros(1)
    np.testing.assert_allclose(drawn.log_prob[whole], scored - known, rtol=1e-4, atol=1e-3)


def test_documents_end_with_the_probability_of_their_end(documents: TextOracle) -> None:
    asked = answers(documents)
    drawn = asked.generate(30, seed=2, choice=Choice(0.7), max_tokens=100)
    whole = [i for i, text in enumerate(drawn.texts) if drawn.finish_reasons[i] == "stop" and "\ufffd" not in text]
    assert len(whole) >= 4
    scored = asked.log_prob([drawn.texts[index] for index in whole]).values
    np.testing.assert_allclose(drawn.log_prob[whole], scored, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("prefix", ["", "ab"])
def test_the_pieces_of_a_stream_are_the_texts(documents: TextOracle, prefix: str) -> None:
    asked = answers(documents)
    whole = asked.generate(5, seed=9, prefix=prefix, max_tokens=30)
    texts, reasons, tokens = [""] * 5, [None] * 5, [0] * 5
    for piece in asked.stream(5, seed=9, prefix=prefix, max_tokens=30):
        assert reasons[piece.index] is None
        texts[piece.index] += piece.text
        reasons[piece.index], tokens[piece.index] = piece.finish_reason, piece.tokens
    assert texts == whole.texts
    assert reasons == whole.finish_reasons
    assert tokens == whole.tokens.tolist()


def test_a_closed_stream_draws_no_more(one_text: TextOracle) -> None:
    asked = answers(one_text)
    pieces = asked.stream(1, seed=0, max_tokens=10_000)
    for _ in range(5):
        next(pieces)
    pieces.close()
    runs = asked.model.counters["step"].runs
    assert 5 <= runs < 50
    assert list(pieces) == []
    assert asked.model.counters["step"].runs == runs


def test_a_call_that_is_over_draws_no_more(one_text: TextOracle) -> None:
    asked = answers(one_text)
    with call() as served:
        pieces = asked.stream(1, seed=0, max_tokens=10_000)
        next(pieces)
        served.cancelled.set()
        with pytest.raises(DeadlineExceeded, match="left"):
            list(pieces)
    assert asked.model.counters["step"].runs < 50


def test_more_texts_than_have_room_are_drawn_in_turns(documents: TextOracle, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answers(documents).generate(7, seed=1, max_tokens=20)
    monkeypatch.setattr("engine.kinds.token_drawing._CACHES", 6)
    parts = answers(documents).generate(7, seed=1, max_tokens=20)
    assert parts.texts == whole.texts
    assert [piece.index for piece in answers(documents).stream(4, seed=1, max_tokens=2)][-1] == 3


def test_a_state_larger_than_the_budget_still_runs(documents: TextOracle) -> None:
    drawn = answers(documents, element_budget=260).generate(3, seed=1, max_tokens=5)
    assert drawn.texts == answers(documents).generate(3, seed=1, max_tokens=5).texts


def test_a_conditional_model_draws_by_its_labels(conditional: TextOracle) -> None:
    asked = answers(conditional)
    by_label = [asked.generate(4, seed=0, max_tokens=20, given=np.array(y)).texts for y in (0, 1)]
    assert by_label[0] != by_label[1]
    mixed = asked.generate(4, seed=0, max_tokens=20, given=np.array([0, 1, 0, 1])).texts
    assert mixed == [by_label[0][0], by_label[1][1], by_label[0][2], by_label[1][3]]


# --- predicting ------------------------------------------------------------------------------------------------------


def test_continuations_are_exact_and_keyed_by_their_prefix(one_text: TextOracle) -> None:
    asked = answers(one_text)
    prefixes = ["ab", "abcdefgh" * 4, ""]
    found = asked.extend(prefixes, seed=5, draws=3, max_tokens=10, choice=Choice(0.3))
    assert [text.startswith(prefixes[i // 3]) for i, text in enumerate(found.texts)] == [True] * 9
    assert found.texts[3:6] == asked.extend(prefixes[1:2], seed=5, draws=3, max_tokens=10, choice=Choice(0.3)).texts
    assert found.texts[3] == asked.extend(prefixes[1:2], seed=5, draws=1, max_tokens=10, choice=Choice(0.3)).texts[0]
    assert len(set(found.drawn)) > 3
    whole = [index for index, text in enumerate(found.texts) if "\ufffd" not in text]
    known = np.repeat(asked.log_prob(prefixes).values, 3)
    scored = asked.log_prob([found.texts[index] for index in whole]).values
    np.testing.assert_allclose(found.log_prob[whole], scored - known[whole], rtol=1e-4, atol=1e-3)


def test_gaps_are_filled_given_both_sides(any_order: TextOracle) -> None:
    asked = answers(any_order)
    blanks = [Blank("ab", "gh", 3), Blank("", "a", 1)]
    found = asked.fill(blanks, seed=2, draws=4, choice=Choice(0.4))
    assert len(found.texts) == 8
    assert found.tokens.tolist() == [3] * 4 + [1] * 4
    assert set(found.finish_reasons) == {"length"}
    end = any_order.end
    for index, (text, middle) in enumerate(zip(found.texts, found.drawn, strict=True)):
        blank = blanks[index // 4]
        assert text == blank.before + middle + blank.after
        drawn = list(middle.encode())
        if len(drawn) != blank.tokens:  # bytes that are no characters were replaced
            continue
        before, after = [end, *blank.before.encode()], [*blank.after.encode(), end]
        places = [*range(len(before)), *range(len(before) + blank.tokens, len(before) + blank.tokens + len(after))]
        known, total = [*before, *after], 0.0
        for step, token in enumerate(drawn):
            places = [*places, len(before) + step]
            total += any_order.log_p([*known, *drawn[:step]], places)[token]
        np.testing.assert_allclose(found.log_prob[index], total, rtol=1e-4, atol=1e-3)


def test_the_end_is_never_drawn_into_a_gap(tmp_path: Path) -> None:
    oracle = write_text_model(tmp_path, DOCUMENTS, any_order=True, end_logit=20.0)
    found = answers(oracle).fill([Blank("a", "b", 4)], draws=5)
    assert found.tokens.tolist() == [4] * 5
    assert set(found.finish_reasons) == {"length"}


# --- vocabularies ----------------------------------------------------------------------------------------------------


def test_a_vocabulary_is_read_from_the_artifact(tmp_path: Path) -> None:
    tokeniser = BPETokeniser.train(iter(["the cat sat on the mat " * 30]), 270)
    oracle = write_text_model(tmp_path, DOCUMENTS, tokeniser=tokeniser.content(), tokens=tokeniser.size)
    found = answers(oracle).log_prob(["the cat sat"])
    tokens = tokeniser.encode("the cat sat").tolist()
    np.testing.assert_allclose(found.values, oracle.score([oracle.end, *tokens, oracle.end]), rtol=1e-5)
    assert found.text is not None
    assert found.text.tokens.tolist() == [len(tokens) + 1]
    assert len(tokens) < found.text.bytes[0] == 11


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    tokeniser = BPETokeniser.train(iter(["the cat sat on the mat " * 30]), 270)
    oracle = write_text_model(tmp_path, DOCUMENTS, tokeniser=tokeniser.content(), tokens=256)
    with pytest.raises(Internal, match="tokens"):
        answers(oracle)


def test_a_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    oracle = write_text_model(tmp_path, DOCUMENTS, tokeniser=b"{}")
    with pytest.raises(ArtifactCorrupt, match="tokenizer"):
        answers(oracle)


# --- bad input -------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[TokenProgram], object], str]] = {
    "numbers": (lambda p: p.log_prob(np.zeros((2, 3))), "must be a string"),
    "nothing": (lambda p: p.encode([]), "at least one"),
    "mask": (lambda p: p.log_prob(["a"], hidden=np.ones(1, dtype=bool)), "no hidden cells"),
    "n": (lambda p: p.generate(0, seed=0), "n must be"),
    "max_tokens": (lambda p: p.stream(1, seed=0, max_tokens=0), "max_tokens must be"),
    "first": (lambda p: p.sample(1, seed=0, first=-1), "first"),
    "draws": (lambda p: p.extend(["a"], draws=0), "draws must be"),
    "groups": (lambda p: p.sample(1, seed=0, temperature=[1.0, 1.0]), "one temperature"),
    "label": (lambda p: p.sample(1, seed=0, given=np.array([0])), "takes no `given`"),
    "gap": (lambda p: p.fill([Blank("a", "b", 2)]), "any_order"),
    "cells": (lambda p: p.predict(["a"]), "no cells"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_what_is_wrong(documents: TextOracle, case: str) -> None:
    ask, words = BAD[case]
    with pytest.raises(InvalidInput, match=words):
        ask(answers(documents))


@pytest.mark.parametrize("blank", [Blank("abcdefgh", "abcdefg", 4), Blank("a", "b", 0)])
def test_a_gap_must_fit_into_the_context(any_order: TextOracle, blank: Blank) -> None:
    with pytest.raises(InvalidInput, match="context holds 17"):
        answers(any_order).fill([blank])


def test_refused_verbs_stay_refused(documents: TextOracle) -> None:
    asked = answers(documents)
    with pytest.raises(VerbUnsupported, match="train a vae"):
        asked.decode(np.zeros((1, 3)))
    refused = VerbSpec(supported=False, refusal="train something else")
    asked.manifest = asked.manifest.model_copy(update={"verbs": dict.fromkeys(Verb, refused)})
    for ask in (
        lambda: asked.sample(1, seed=0),
        lambda: asked.log_prob(["a"]),
        lambda: asked.extend(["a"]),
        lambda: asked.fill([Blank("a", "b", 1)]),
        lambda: asked.encode(["a"]),
    ):
        with pytest.raises(VerbUnsupported, match="something else"):
            ask()


def test_a_spec_of_texts_measures_probability(documents: TextOracle) -> None:
    spec: DataSpec = documents.manifest.data
    assert spec.measure is Measure.PROBABILITY
    spec.check(np.array(["a"], dtype=object))
    with pytest.raises(InvalidInput, match="must be a string"):
        spec.check(np.array([1.0], dtype=object))
