"""Autoregressive models of texts: p(x) = Π_t p(x_t | x_<t) over tokens, with ⊥ at both ends of a document.

A document x is scored as log p(x_1 … x_n ⊥ | ⊥), so the numbers of all documents add up to one. A model of one long
text (a dataset split by its tail) has never seen an end: it is scored as log p(x_1 … x_n | ⊥), where ⊥ in front
means that the text was entered somewhere, and the numbers of all texts of n tokens add up to one. What is longer than
the context is seen through sliding windows (`engine.kinds.windows`), in scoring and in drawing alike: the numbers are
exact for the model with that window. With a BPE vocabulary a text counts as the tokens that the vocabulary cuts it
into.

Graphs ``score``, ``step``, ``embed``; rows are strings, as a list or as an array of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from contracts.errors import FieldProblem, Internal, InvalidInput
from engine.answers import Encoding, Generated, LogProb, Piece, TextSizes
from engine.kinds.choice import Choice
from engine.kinds.program import Program
from engine.kinds.rows import Index, Mask
from engine.kinds.token_drawing import Drawer, Wanted, sequence_keys
from engine.kinds.token_scoring import TextScorer
from engine.kinds.windows import stride_of
from engine.model import Model
from engine.tokeniser import as_texts, read_tokeniser

Texts = NDArray[np.generic] | Sequence[str]

MAX_TOKENS = 256
"""Tokens of a drawn text, where the caller names no limit."""


@dataclass(frozen=True)
class Blank:
    """A gap of ``tokens`` tokens between two texts."""

    before: str
    after: str
    tokens: int


class TokenProgram(Program):
    """The verbs on texts; `predict` is `extend` (after a prefix) and `fill` (a gap; models of any order) here."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.tokeniser = read_tokeniser(model.folder, model.manifest.files)
        self.context = int(model.manifest.config["context"])
        step = model.manifest.graphs["step"]
        (logits,) = (tensor for tensor in step.outputs if tensor.name == "logits")
        alphabet = logits.shape[1]
        if not isinstance(alphabet, int) or self.tokeniser.size >= alphabet:
            raise Internal(f"the graph `step` knows {alphabet} tokens, and the tokeniser has {self.tokeniser.size}")
        self.end = alphabet - 1
        self.any_order = any(tensor.name == "place" for tensor in step.inputs)
        self._scorer = TextScorer(model, context=self.context, end=self.end, any_order=self.any_order)
        self._drawer = Drawer(model, self.tokeniser, context=self.context, end=self.end)

    @property
    def documents(self) -> bool:
        """Whether rows are whole documents, with an end; else pieces of one long text."""
        return self.spec.split.by != "tail"

    def encode(self, x: Texts, *, hidden: Mask | None = None, given: Index | None = None) -> Encoding:
        """Return the mean of each text's hidden states ``(B, L)``; over windows that do not overlap, if it is long."""
        self.require(Verb.ENCODE)
        texts = _shown(x, hidden)
        y = self.labels(given, len(texts))
        vectors = self._scorer.embedded(map(self.sequence, texts), y)
        return Encoding(np.stack(vectors).astype(np.float32))

    def log_prob(
        self,
        x: Texts,
        *,
        hidden: Mask | None = None,
        seed: int = 0,
        samples: int | None = None,
        given: Index | None = None,
    ) -> LogProb:
        """Return log p of each text in nats, exact, and how many tokens and bytes it has; ``seed`` and ``samples``
        change nothing."""
        self.require(Verb.LOG_PROB)
        texts = _shown(x, hidden)
        y = self.labels(given, len(texts))
        values = np.zeros(len(texts))
        tokens, windows = np.zeros((2, len(texts)), dtype=np.int64)
        for window, scores in self._scorer.scored(map(self.sequence, texts), y):
            values[window.row] += scores.sum()
            tokens[window.row] += len(scores)
            windows[window.row] += 1
        sizes = np.array([len(text.encode()) for text in texts], dtype=np.int64)
        text = TextSizes(tokens, sizes, np.maximum(windows, 1), self.context, stride_of(self.context))
        return LogProb(values, AnswerKind.EXACT, self.manifest.measure, text=text)

    def sample(
        self,
        n: int,
        *,
        seed: int,
        temperature: float | Sequence[float] = 1.0,
        given: Index | None = None,
        first: int = 0,
    ) -> NDArray[np.generic]:
        """Return ``n`` texts as an array of objects; text i depends on (seed, first + i) alone."""
        (heat,) = self._temperatures(temperature)
        return objects(self.generate(n, seed=seed, choice=Choice(heat), given=given, first=first).texts)

    def generate(
        self,
        n: int,
        *,
        seed: int,
        choice: Choice | None = None,
        prefix: str = "",
        max_tokens: int = MAX_TOKENS,
        given: Index | None = None,
        first: int = 0,
    ) -> Generated:
        """Return ``n`` texts that begin with ``prefix`` and go on for at most ``max_tokens`` drawn tokens.

        Each token takes one uniform of (seed, first + i, place of the token).
        """
        wanted = self._samples(n, prefix, max_tokens, given, first)
        return self._drawer.draw(wanted, [prefix] * n, seed, choice or Choice())

    def stream(
        self,
        n: int,
        *,
        seed: int,
        choice: Choice | None = None,
        prefix: str = "",
        max_tokens: int = MAX_TOKENS,
        given: Index | None = None,
        first: int = 0,
    ) -> Iterator[Piece]:
        """Yield what `generate` answers as it comes; the pieces of a text make it up, the first being its prefix.

        The arguments are checked at once. Closing the iterator, or the end of the call, stops the drawing.
        """
        wanted = self._samples(n, prefix, max_tokens, given, first)
        return self._drawer.stream(wanted, prefix, seed, choice or Choice())

    def extend(
        self,
        prefixes: Texts,
        *,
        seed: int = 0,
        draws: int = 1,
        choice: Choice | None = None,
        max_tokens: int = MAX_TOKENS,
        given: Index | None = None,
    ) -> Generated:
        """Return ``draws`` continuations of each prefix, those of one prefix together; noise is keyed by the prefix."""
        self.require(Verb.PREDICT)
        _at_least_one(draws=draws, max_tokens=max_tokens)
        texts = as_texts(prefixes)
        y = self.labels(given, len(texts))
        known = [self.sequence(text, closed=False).tolist() for text in texts]
        limits = np.full(len(texts), max_tokens, dtype=np.int64)
        keys = sequence_keys(known, None, y)
        wanted = Wanted(known, limits, y, keys, np.zeros_like(limits)).repeated(draws)
        return self._drawer.draw(wanted, [text for text in texts for _ in range(draws)], seed, choice or Choice())

    def fill(
        self,
        blanks: Sequence[Blank],
        *,
        seed: int = 0,
        draws: int = 1,
        choice: Choice | None = None,
        given: Index | None = None,
    ) -> Generated:
        """Return ``draws`` fillings of each gap given the text on both sides; models of any order only."""
        self.require(Verb.PREDICT)
        _at_least_one(draws=draws, inputs=len(blanks))
        if not self.any_order:
            raise InvalidInput(
                "this model goes left to right and continues prefixes only; to fill gaps train with any_order: true"
            )
        y = self.labels(given, len(blanks))
        known, places = zip(*(self._gap(index, blank) for index, blank in enumerate(blanks)), strict=True)
        limits = np.array([blank.tokens for blank in blanks], dtype=np.int64)
        keys = sequence_keys(known, places, y)
        wanted = Wanted(known, limits, y, keys, np.zeros_like(limits), places).repeated(draws)
        each = [blank for blank in blanks for _ in range(draws)]
        found = self._drawer.draw(wanted, [blank.before for blank in each], seed, choice or Choice())
        return replace(found, texts=[text + blank.after for text, blank in zip(found.texts, each, strict=True)])

    def predict(self, x: Texts, hidden: Mask | None = None, **more: object) -> NoReturn:
        """Refuse: a text has no cells to hide."""
        self.require(Verb.PREDICT)
        raise InvalidInput("a text has no cells to hide; send prefixes to go on from, or gaps {before, after, tokens}")

    def sequence(self, text: str, *, closed: bool = True) -> Index:
        """Return ⊥ and the tokens of a text; ⊥ again where it is ``closed`` and a document."""
        ends = [self.end] if closed and self.documents else []
        return np.concatenate(([self.end], self.tokeniser.encode(text), ends)).astype(np.int64)

    def _samples(self, n: int, prefix: str, max_tokens: int, given: Index | None, first: int) -> Wanted:
        self.require(Verb.SAMPLE)
        _at_least_one(n=n, max_tokens=max_tokens)
        if first < 0:
            raise InvalidInput(f"first must be at least 0, got {first}")
        known = self.sequence(prefix, closed=False).tolist()
        keys = np.arange(first, first + n, dtype=np.uint64)
        limits = np.full(n, max_tokens, dtype=np.int64)
        return Wanted([known] * n, limits, self.labels(given, n), keys, np.zeros(n, dtype=np.int64))

    def _gap(self, index: int, blank: Blank) -> tuple[list[int], list[int]]:
        """The known tokens around a gap in the order in which they are seen, and the places of these and the gap."""
        before = self.sequence(blank.before, closed=False)
        after = self.sequence(blank.after)[1:]
        length = len(before) + blank.tokens + len(after)
        if blank.tokens < 1 or length > self.context + 1:
            raise _wrong(
                f"inputs[{index}]",
                f"takes {len(before) + len(after)} tokens around a gap of {blank.tokens}; a gap has at least one, and "
                f"the context holds {self.context + 1} in all: shorten `before` or `after`",
            )
        gap = range(len(before), len(before) + blank.tokens)
        places = [*range(len(before)), *range(gap.stop, length), *gap]
        return [*before.tolist(), *after.tolist()], places


def objects(texts: Sequence[str]) -> NDArray[np.generic]:
    """Return texts as an array of objects ``(B,)``, as programs take and answer them."""
    array: NDArray[np.object_] = np.empty(len(texts), dtype=object)
    array[:] = list(texts)
    return array


def _shown(x: Texts, hidden: Mask | None) -> list[str]:
    if hidden is not None and hidden.any():
        raise InvalidInput("texts have no hidden cells; leave the mask out")
    return as_texts(x)


def _at_least_one(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise _wrong(name, f"must be at least 1, got {value}")


def _wrong(location: str, message: str) -> InvalidInput:
    return InvalidInput(f"{location} {message}", errors=[FieldProblem(location=location, message=message)])
