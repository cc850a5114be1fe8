"""Pictures and texts in one space: vectors of either, and which of some captions fits a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import Verb
from contracts.errors import InvalidInput
from engine.answers import Encoding
from engine.kinds.choice import log_softmax
from engine.kinds.embedding import EmbeddingProgram
from engine.kinds.rows import Floats
from engine.model import Model
from engine.tokeniser import read_tokeniser, text_tokens


@dataclass(frozen=True)
class Match:
    """``log_prob`` (B, K): log p(caption k | picture i, one of these captions), nats, and the logits' ``scale``."""

    log_prob: Floats
    scale: float


class PairProgram(EmbeddingProgram):
    """Graphs ``embed`` of pictures and ``embed_text`` of tokens; the constant ``logit_scale``."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        (tokens,) = model.manifest.graphs["embed_text"].inputs
        context = tokens.shape[1]
        assert isinstance(context, int)
        self.context = context
        self._tokeniser = read_tokeniser(model.folder, model.manifest.files)
        self.scale = float(model.constants["logit_scale"][0])

    def encode_texts(self, texts: Sequence[str] | NDArray[np.generic]) -> Encoding:
        """Return the vectors ``(B, L)`` of texts; InvalidInput where one is empty or longer than the context."""
        self.require(Verb.ENCODE)
        return self.encode_tokens(self.tokens(texts))

    def encode_tokens(self, tokens: NDArray[np.generic]) -> Encoding:
        """Return the vectors ``(B, L)`` of what `tokens` answered."""
        return Encoding(self.call("embed_text", {"tokens": tokens})["vector"].astype(np.float32))

    def tokens(self, texts: Sequence[str] | NDArray[np.generic]) -> NDArray[np.int64]:
        """Tokens ``(B, context)`` of texts."""
        return text_tokens(self._tokeniser, texts, self.context)

    def shortened(self, text: str) -> str:
        """The beginning of a text that fits into the context, as training saw it."""
        return self._tokeniser.shortened(text, self.context)

    def match(self, x: NDArray[np.generic], captions: Sequence[str]) -> Match:
        """Return how probable each caption is for each picture ``x`` (B, *row), among these captions."""
        if len(captions) < 2:
            raise InvalidInput(f"at least two captions are needed to choose from, got {len(captions)}")
        pictures = self.encode(x).vectors.astype(np.float64)
        texts = self.encode_texts(captions).vectors.astype(np.float64)
        return Match(log_softmax(self.scale * pictures @ texts.T), self.scale)
