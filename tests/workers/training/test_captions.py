"""Captions beside rows: encoded once, cut and filled to the context, and carried into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contracts.data import Part
from contracts.errors import InvalidInput
from contracts.families import CLIPConfig, config_adapter
from engine.tokeniser import BPETokeniser, Tokeniser
from models.family import Batch, first_rows
from store import Store
from store.datasets import DatasetReader, UploadedFile
from store.settings import StoreSettings
from workers.training.batches import to_batch
from workers.training.captions import has_captions, prepare_captions

WORDS = ("a red heart", "ein Bär 🐻", "smiling face with sunglasses", "x")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatasetReader]:
    home = tmp_path_factory.mktemp("captions")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    x[:, 0, 0, 0] = np.arange(40)
    captions = [f"{WORDS[index % 4]} {index}" for index in range(40)]
    split = ["test" if index % 5 == 0 else "valid" if index % 5 == 1 else "train" for index in range(40)]
    np.savez(home / "pairs.npz", images=x, captions=captions, split=split)
    with Store.open(StoreSettings(home=home / "home"), migrate=True) as store:
        store.datasets.ingest("pairs", [UploadedFile("pairs.npz", home / "pairs.npz")], {"modality": "image"})
        yield store.datasets.open("pairs")


def test_rows_come_with_the_tokens_of_their_captions(reader: DatasetReader) -> None:
    assert has_captions(reader.spec)
    config, rows = prepare_captions(reader, CLIPConfig(family="clip"))
    assert isinstance(config, CLIPConfig)
    longest = max(len(text.encode()) for text in reader.read(Part.TRAIN, slice(0, 99)).captions or [])
    assert config.context == longest + 1
    for part in Part:
        for index in ([0, 3, 1], slice(1, 4)):
            chosen = np.array(index) if isinstance(index, list) else index
            found, plain = rows.read(part, chosen), reader.read(part, chosen)
            np.testing.assert_array_equal(found.x, plain.x)
            for tokens, caption in zip(found.tokens, plain.captions or [], strict=True):
                assert Tokeniser().decode(tokens) == caption
                assert tokens[len(caption.encode()) :].tolist() == [256] * (config.context - len(caption.encode()))
    batch = to_batch(rows.read(Part.TRAIN, slice(0, 4)))
    assert batch.tokens is not None
    assert batch.tokens.dtype == torch.int64
    assert first_rows([batch, batch], 6).tokens.shape == (6, config.context)  # type: ignore[union-attr]
    assert first_rows([Batch(torch.zeros(3, 1))], 2).tokens is None
    assert rows.count(Part.TRAIN) == 24
    with pytest.raises(InvalidInput, match="by part"):
        rows.read(None, slice(0, 1))


def test_captions_are_cut_to_a_context_that_is_asked(reader: DatasetReader) -> None:
    config, rows = prepare_captions(reader, config_adapter.validate_python({"family": "clip", "context": 6}))
    assert getattr(config, "context", None) == 6
    found = rows.read(Part.TRAIN, slice(0, 9))
    assert found.tokens.shape == (9, 6)
    assert (found.tokens[:, -1] == 256).all()
    assert Tokeniser().decode(found.tokens[0]) == (reader.read(Part.TRAIN, slice(0, 1)).captions or [""])[0][:5]


def test_a_vocabulary_is_made_of_the_train_captions_or_kept(reader: DatasetReader) -> None:
    asked = config_adapter.validate_python({"family": "clip", "tokens": "bpe", "vocabulary": 280})
    config, rows = prepare_captions(reader, asked)
    assert isinstance(rows.tokeniser, BPETokeniser)
    assert 256 < getattr(config, "vocabulary", 0) == rows.tokeniser.size <= 280
    bytes_context = prepare_captions(reader, CLIPConfig(family="clip"))[0]
    assert getattr(config, "context", 0) < getattr(bytes_context, "context", 0)
    _, again = prepare_captions(reader, asked, rows.tokeniser)
    assert again.tokeniser is rows.tokeniser
    with pytest.raises(InvalidInput, match="another alphabet"):
        prepare_captions(reader, CLIPConfig(family="clip"), rows.tokeniser)


@dataclass
class _Short:
    """Captions of one byte, which have no pairs."""

    captions: list[str]


def test_captions_without_pairs_make_no_vocabulary() -> None:
    class Reader:
        spec = None

        def count(self, part: Part | None = None) -> int:
            return 3

        def read(self, part: Part | None, indices: Any) -> _Short:
            return _Short(["a", "b", "c"][indices])

    asked = config_adapter.validate_python({"family": "clip", "tokens": "bpe"})
    with pytest.raises(InvalidInput, match="no pairs of bytes"):
        prepare_captions(Reader(), asked)  # type: ignore[arg-type]


def test_the_file_of_a_vocabulary_reads_the_same(reader: DatasetReader, tmp_path: Path) -> None:
    asked = config_adapter.validate_python({"family": "clip", "tokens": "bpe", "vocabulary": 300})
    _, rows = prepare_captions(reader, asked)
    content = rows.tokeniser.content()
    assert content is not None
    assert BPETokeniser(content).encode("a red heart").tolist() == rows.tokeniser.encode("a red heart").tolist()
