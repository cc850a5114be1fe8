"""Texts as sequences of tokens: UTF-8 bytes, or a byte-level BPE vocabulary made of a text's own pairs.

Every token stands for some bytes, so any text can be written in either alphabet and read back exactly. The end ⊥ is
not one of these tokens: it is the number that follows the last of them, and means no bytes.

Rico Sennrich, Barry Haddow, Alexandra Birch (2016), "Neural machine translation of rare words with subword units",
arXiv:1508.07909; on bytes: Alec Radford et al. (2019), "Language models are unsupervised multitask learners".
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import ArtifactCorrupt, InvalidInput

TOKENISER_FILE = "tokenizer.json"
BYTES = 256

Tokens = NDArray[np.int64]


class Tokeniser:
    """UTF-8 bytes; `BPETokeniser` is the other alphabet. Thread-safe."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = [bytes([value]) for value in range(BYTES)]
        """What each token stands for."""

    @property
    def size(self) -> int:
        """How many tokens there are, S; the numbers 0…S-1, and ⊥ is S."""
        return len(self.pieces)

    def encode(self, text: str) -> Tokens:
        """Return the tokens of ``text``, int64 ``(T,)``. InvalidInput where it holds half a surrogate pair."""
        return np.frombuffer(_utf8(text), dtype=np.uint8).astype(np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of ``tokens``; bytes that are no UTF-8 become U+FFFD, and ⊥ becomes nothing."""
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", errors="replace")

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one token; none of ⊥ or of a number that the alphabet does not use."""
        return self.pieces[token] if 0 <= token < len(self.pieces) else b""

    def shortened(self, text: str, context: int) -> str:
        """The beginning of ``text`` that leaves room for ⊥ within ``context`` tokens; never half a character."""
        return self.decode(self.encode(text)[: context - 1].tolist()).rstrip("\ufffd")

    def content(self) -> bytes | None:
        """What `TOKENISER_FILE` holds; None where no file is needed."""
        return None


class BPETokeniser(Tokeniser):
    """A vocabulary of merged pairs of bytes."""

    def __init__(self, content: bytes) -> None:
        """``content``: of a tokenizer.json. Raises ArtifactCorrupt where it is not a byte-level BPE vocabulary."""
        import tokenizers

        super().__init__()
        self._content = content
        try:
            self._model: Any = tokenizers.Tokenizer.from_str(content.decode())
            numbers: dict[str, int] = self._model.get_vocab()
            back = {character: value for value, character in _byte_characters().items()}
            pieces = {number: bytes(back[each] for each in token) for token, number in numbers.items()}
        except Exception as error:  # the library's errors share no base class
            raise ArtifactCorrupt(f"{TOKENISER_FILE} holds no byte-level vocabulary: {error}") from error
        single = {piece for piece in pieces.values() if len(piece) == 1}
        if sorted(pieces) != list(range(len(pieces))) or len(single) < BYTES:
            raise ArtifactCorrupt(f"{TOKENISER_FILE} lacks bytes, or its tokens are not numbered from 0 on")
        self.pieces = [pieces[number] for number in range(len(pieces))]

    @classmethod
    def train(cls, texts: Iterator[str], size: int) -> BPETokeniser:
        """Make a vocabulary of at most ``size`` tokens (at least 256) from ``texts``, the same for the same texts."""
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        model = tokenizers.Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=sorted(_byte_characters().values()), show_progress=False
        )
        model.train_from_iterator(texts, trainer)
        return cls(model.to_str().encode())

    def encode(self, text: str) -> Tokens:
        _utf8(text)
        return np.array(self._model.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def content(self) -> bytes:
        return self._content


class Incremental:
    """Decodes a stream of tokens: a character comes out when its last byte is there, never a half."""

    def __init__(self, tokeniser: Tokeniser) -> None:
        self._tokeniser = tokeniser
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """Return the characters that ``token`` completes, often none."""
        return self._decoder.decode(self._tokeniser.bytes_of(token))

    def end(self) -> str:
        """Return what is left: U+FFFD where the stream broke off within a character."""
        return self._decoder.decode(b"", final=True)


def read_tokeniser(folder: Path, files: Iterable[str], name: str = TOKENISER_FILE) -> Tokeniser:
    """Return the alphabet of an artifact: of the file ``name`` if that is one of its ``files``, else bytes."""
    if name not in files:
        return Tokeniser()
    try:
        return BPETokeniser((folder / name).read_bytes())
    except OSError as error:
        raise ArtifactCorrupt(f"{name} cannot be read: {error}") from error


def pad_tokens(tokens: Sequence[Tokens], context: int, end: int) -> Tokens:
    """Return ``(B, context)``: the tokens of each text, at most ``context``, then ``end`` until the places are full."""
    padded = np.full((len(tokens), context), end, dtype=np.int64)
    for row, each in zip(padded, tokens, strict=True):
        row[: len(each)] = each
    return padded


def text_tokens(tokeniser: Tokeniser, texts: Sequence[str] | NDArray[np.generic], context: int) -> Tokens:
    """Return the tokens ``(B, context)`` of texts; InvalidInput where one is empty or leaves no room for ⊥."""
    encoded = []
    for index, text in enumerate(as_texts(texts)):
        tokens = tokeniser.encode(text)
        if not text.strip():
            raise InvalidInput(f"texts[{index}] is empty")
        if len(tokens) >= context:
            most = context - 1
            raise InvalidInput(f"texts[{index}] has {len(tokens)} tokens, and the model reads at most {most}")
        encoded.append(tokens)
    return pad_tokens(encoded, context, tokeniser.size)


def as_texts(values: NDArray[np.generic] | Sequence[str]) -> list[str]:
    """Return strings as a list; InvalidInput where there are none, or something else is among them."""
    texts: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if not texts:
        raise InvalidInput("at least one text is needed, got none")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"inputs[{index}] must be a string: this model reads texts")
    return texts


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"character {error.start} of a text is half a surrogate pair, which is no Unicode") from None


def _byte_characters() -> dict[int, str]:
    """The printable character by which byte-level vocabularies write each byte (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {value: chr(value) for value in printable}
    others = [value for value in range(BYTES) if value not in table]
    return table | {value: chr(BYTES + index) for index, value in enumerate(others)}
