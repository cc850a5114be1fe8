"""Pictures and captions: retrieval of emoji by their names, or recognition of combinations that were never trained on.

``noto-emoji``: recall@10 of pictures by captions among the test rows without skin tone, beside a canonical correlation
of bags of words and principal components of pixels (H. Hotelling 1936) and beside chance. ``composed``: pictures of
Fashion-MNIST in one of six colours, captioned by colour and class; a fifth of the combinations is held out of training
and told among all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import data
from benchmarks.quality.data import Array
from benchmarks.quality.figures import Figure
from benchmarks.quality.ours import Run, stored, trained
from benchmarks.quality.recipe import Recipe
from contracts.data import Part
from engine.kinds.pair import PairProgram
from metrics.retrieval import chance_at, recall_at
from store.datasets import DatasetReader

RECALL, TOLD = "recall@10 of pictures by captions", "share told right of held-out combinations"
AT_ONCE = 500


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell the figures of each model and peer."""
    (name,) = recipe.data
    (_emoji if name == "noto-emoji" else _composed)(name, recipe, run, found)


@contextmanager
def captioned(parts: dict[Part, tuple[Array, list[str]]]) -> Iterator[DatasetReader]:
    """A dataset of pictures with captions by part."""
    with TemporaryDirectory() as place:
        file = Path(place) / "pairs.npz"
        np.savez(
            file,
            images=np.concatenate([x for x, _ in parts.values()]),
            captions=[text for _, texts in parts.values() for text in texts],
            split=[part.value for part, (x, _) in parts.items() for _ in range(len(x))],
        )
        with stored(file, {"modality": "image"}) as reader:
            yield reader


def _emoji(name: str, recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    parts, plain = data.emoji(), data.emoji(skin_tones=False)
    pictures, texts = plain[Part.TEST]
    groups = np.unique(texts, return_inverse=True)[1].astype(np.int64)

    def tell(model: str, scores: NDArray[np.float64], seconds: float, score_seconds: float, note: str) -> None:
        figure = {"data": name, "metric": RECALL, "model": model, "value": recall_at(10, scores, groups, groups)}
        figure |= {"kind": "exact", "better": "higher", "train_seconds": seconds, "score_seconds": score_seconds}
        found(Figure.model_validate({**figure, "note": f"{note}, {len(texts)} test rows"}))

    with captioned(parts) as reader:
        for model in recipe.models:
            with trained(model, reader, run) as ours:
                began = time.monotonic()
                a, b = _vectors(ours.program, texts, pictures)
                tell(model.name, a @ b.T, ours.seconds, time.monotonic() - began, ours.note)
    for peer in recipe.peers:
        if peer.peer == "chance":
            value = chance_at(10, groups, groups)
            figure = {"data": name, "metric": RECALL, "model": peer.name, "value": value, "kind": "exact"}
            found(Figure.model_validate({**figure, "better": "higher", "note": f"{len(texts)} test rows"}))
            continue
        from benchmarks.quality.peers.correlation import Correlation

        began = time.monotonic()
        fitted = Correlation.fit(*plain[Part.TRAIN], *plain[Part.VALID])
        spent, began = time.monotonic() - began, time.monotonic()
        tell(peer.name, fitted.scores(texts, pictures), spent, time.monotonic() - began, fitted.note)


def _composed(name: str, recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    parts, held, every = data.composed(run.seed)
    x, texts = held
    count = run.rows(int(recipe.options["rows"]))
    with captioned(parts) as reader:
        for model in recipe.models:
            with trained(model, reader, run) as ours:
                began = time.monotonic()
                a, b = _vectors(ours.program, every, x[:count])
                best = (b @ a.T).argmax(axis=1)
                right = np.array([every[index] == text for index, text in zip(best, texts[:count], strict=True)])
                error = float(np.sqrt(right.mean() * (1 - right.mean()) / len(right)))
                figure = {"data": name, "metric": TOLD, "model": model.name, "value": float(right.mean())}
                figure |= {"standard_error": error, "kind": "exact", "better": "higher", "train_seconds": ours.seconds}
                note = f"{ours.note}, {len(right):,} pictures, {len(every)} captions to choose from"
                more = {"score_seconds": time.monotonic() - began, "note": note}
                found(Figure.model_validate({**figure, **more}))


def _vectors(answers: object, texts: list[str], x: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert isinstance(answers, PairProgram)
    short = [answers.shortened(text) for text in texts]
    pictures = [answers.encode(x[start : start + AT_ONCE]).vectors for start in range(0, len(x), AT_ONCE)]
    return answers.encode_texts(short).vectors.astype(np.float64), np.concatenate(pictures).astype(np.float64)
