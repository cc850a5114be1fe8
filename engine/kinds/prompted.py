"""Pictures after texts: codes drawn one after the other behind the tokens of a text.

A program speaks of given texts once `asking` has bound them; before, of no text: p(x) as the model sees rows whose text
was dropped. Classifier-free guidance with strength s draws each code from the normalised

    log p(c | none) + s (log p(c | text) - log p(c | none))

(J. Ho and T. Salimans 2022, arXiv:2207.12598): 1 is the model itself. Where the model has the graphs ``rank_image`` and
``rank_text``, pictures are ranked by the cosine of their vectors with the text's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import FieldProblem, InvalidInput
from engine import noise
from engine.kinds import code_drawing
from engine.kinds.choice import Choice
from engine.kinds.code_drawing import Guide
from engine.kinds.codes import CodesProgram
from engine.kinds.rows import Floats, Index, Mask, Rows, check_rows
from engine.model import Model
from engine.tokeniser import TOKENISER_FILE, read_tokeniser, text_tokens

RANKER_FILE = f"ranker.{TOKENISER_FILE}"


@dataclass(frozen=True)
class Drawn:
    """Pictures ``rows`` (n, *row), best first where ``scores`` (n,), cosines with the text, are known."""

    rows: NDArray[np.generic]
    scores: Floats | None


class PromptedProgram(CodesProgram):
    """Graphs of codes, ``prior_start``, and of a ranker ``rank_image`` and ``rank_text``."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        (tokens,) = model.manifest.graphs["prior_start"].inputs
        context = tokens.shape[1]
        assert isinstance(context, int)
        self.context = context
        self._tokeniser = read_tokeniser(model.folder, model.manifest.files)
        self._nothing: Index = np.full((1, context), self._tokeniser.size, dtype=np.int64)
        self._texts: list[str] = []
        self._table = self._nothing
        self._guidance, self._top_k, self._top_p = 1.0, None, None

    _guidance: float
    _top_k: int | None
    _top_p: float | None

    def asking(
        self,
        texts: Sequence[str],
        *,
        guidance: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> PromptedProgram:
        """Return a program whose verbs are given ``texts``, one for all rows or one per row: ``given`` then holds their
        numbers, without it rows take them in turn. Raises InvalidInput where a text cannot be read."""
        if not np.isfinite(guidance) or guidance < 0:
            message = f"must be a number of at least 0, got {guidance}"
            raise InvalidInput(f"guidance {message}", errors=[FieldProblem(location="guidance", message=message)])
        Choice(1.0, top_k, top_p)  # says what is wrong with them
        bound = copy.copy(self)
        bound._texts = list(texts)
        bound._table = text_tokens(self._tokeniser, texts, self.context)
        bound._guidance, bound._top_k, bound._top_p = guidance, top_k, top_p
        return bound

    def shortened(self, text: str) -> str:
        """The beginning of a text that fits into the context, as training saw it."""
        return self._tokeniser.shortened(text, self.context)

    @property
    def ranks(self) -> bool:
        """Whether drawn pictures can be ranked by their text."""
        return self.model.has("rank_image")

    def best(self, n: int, *, candidates: int, seed: int, temperature: float | Sequence[float] = 1.0) -> Drawn:
        """Draw ``candidates`` pictures of the one text asked for and return the ``n`` that fit it best, in that order.

        Raises InvalidInput where the model has no ranker, or there is not one text.
        """
        if not self.ranks:
            raise _wrong("candidates", "needs a model with a ranker: train with `ranker` naming a clip")
        if len(self._texts) != 1:
            raise _wrong("candidates", "ranks pictures of one text; ask for one text at a time")
        if candidates < n:
            raise _wrong("candidates", f"is {candidates}, fewer than the {n} pictures that are asked for")
        rows = self.sample(candidates, seed=seed, temperature=temperature)
        scores = self.rank(rows, self._texts[0])
        order = np.argsort(-scores, kind="stable")[:n]
        return Drawn(rows[order], scores[order])

    def rank(self, rows: NDArray[np.generic], text: str) -> Floats:
        """Return the cosine ``(n,)`` of each picture with a text, by the ranker."""
        (tokens,) = self.manifest.graphs["rank_text"].inputs
        context = tokens.shape[1]
        assert isinstance(context, int)
        reader = read_tokeniser(self.model.folder, self.manifest.files, RANKER_FILE)
        fed = text_tokens(reader, [reader.shortened(text, context)], context)
        vector = self.call("rank_text", {"tokens": fed})["vector"].astype(np.float64)[0]
        pictures = self.call("rank_image", {"x": rows})["vector"].astype(np.float64)
        scores: Floats = pictures @ vector
        return scores

    # --- the condition -------------------------------------------------------------------------------------------

    def labels(self, given: Index | None, rows: int) -> Index:
        """Numbers of the texts, by row."""
        count = len(self._table)
        if given is None:
            return np.arange(rows, dtype=np.int64) % count
        numbers = np.broadcast_to(np.asarray(given, dtype=np.int64), (rows,))
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= count):
            raise InvalidInput(f"`given` must hold numbers of texts in 0..{count - 1}")
        return np.ascontiguousarray(numbers)

    def rows(self, x: NDArray[np.generic], hidden: Mask | None, given: Index | None) -> Rows:
        y = self.labels(given, len(x) if np.ndim(x) else 0)
        checked = check_rows(self.spec, x, hidden, None)
        # Noise follows the text itself, not its number.
        keys = noise.row_digests(checked.x, checked.shown, self._table[y])
        return Rows(checked.x, checked.shown, y, keys)

    def _condition(self, y: Index | None) -> dict[str, NDArray[np.generic]]:
        return {"tokens": self._table[np.zeros(1, dtype=np.int64) if y is None else y]}

    def _draw_codes(self, keys: noise.Keys, seed: int, temperatures: Sequence[float], y: Index | None) -> Index:
        choices = [Choice(temperature, self._top_k, self._top_p) for temperature in temperatures]
        guide = None
        if self._guidance != 1.0 and self._texts:
            guide = Guide({"tokens": np.repeat(self._nothing, len(keys), axis=0)}, self._guidance)
        return code_drawing.draw(self.model, keys, seed, choices, self._condition(y), guide)


def _wrong(location: str, message: str) -> InvalidInput:
    return InvalidInput(f"{location} {message}", errors=[FieldProblem(location=location, message=message)])
