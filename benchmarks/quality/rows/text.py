"""Nats per character of tiny-shakespeare on nanoGPT's split: our byte transformer beside nanoGPT's CPU recipe.

The last tenth of the characters is scored, in two ways. *Whole*: every character given those before it, through windows
that slide by half the context. *Random windows*: nanoGPT's own estimate, the mean over all places of windows of the
model's context (ours: of the same context as ours is trained with), each character given those before it in the
window. ``windows`` is their number. Ours stops early by a part of the first nine tenths (option ``valid_percent``);
nanoGPT's recipe keeps its best weights by the scored part itself. Characters are ASCII, so bytes are characters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality import data
from benchmarks.quality.figures import Figure, mean_figure
from benchmarks.quality.ours import Run, stored, trained
from benchmarks.quality.recipe import Recipe
from engine.kinds.tokens import TokenProgram

WHOLE, WINDOWS = "nats per character", "nats per character, random windows"


def measure(recipe: Recipe, run: Run, found: Callable[[Figure], None]) -> None:
    """Tell both figures of each model, lower is better."""
    text = data.tiny_shakespeare()
    cut = int(0.9 * len(text))
    test, count = text[cut:][: run.rows(len(text) - cut)], run.rows(int(recipe.options["windows"]))
    split = {"by": "tail", "valid": recipe.options["valid_percent"] / 100, "test": 0.1}
    about: dict[str, Any] = {"data": "tiny-shakespeare", "better": "lower"}
    with stored(data.file("tiny-shakespeare/input.txt"), {"split": split}) as reader:
        for model in recipe.models:
            with trained(model, reader, run) as ours:
                assert isinstance(ours.program, TokenProgram)
                about |= {"model": model.name, "train_seconds": ours.seconds, "note": ours.note}
                began = time.monotonic()
                answer = ours.program.log_prob([test])
                value = -float(answer.values[0]) / len(test)
                seconds = time.monotonic() - began
                found(Figure(metric=WHOLE, value=value, kind=f"{answer.kind}, {len(test):,} characters",
                             score_seconds=seconds, **about))  # fmt: skip
                nats = window_nats(ours.program, test, count, ours.program.context, seed=run.seed)
                found(mean_figure(nats, metric=WINDOWS, kind=f"estimate, {count} windows", **about))
    for peer in recipe.peers:
        for figure in _character_gpt(text[:cut], test, count, run):
            found(figure.model_copy(update={"model": peer.name, "data": "tiny-shakespeare"}))


def window_nats(answerer: TokenProgram, text: str, count: int, context: int, *, seed: int) -> NDArray[np.float64]:
    """−log p per character of random windows: of each window's characters but the first, given those before."""
    starts = np.random.default_rng(seed).integers(len(text) - context, size=count)
    windows = [text[start : start + context + 1] for start in starts]
    whole = answerer.log_prob(windows).values - answerer.log_prob([window[0] for window in windows]).values
    return -whole / context


def _character_gpt(train: str, test: str, count: int, run: Run) -> list[Figure]:
    from benchmarks.quality.peers import character_gpt

    alphabet = {character: number for number, character in enumerate(sorted(set(train + test)))}
    rows, held_out = (torch.tensor([alphabet[each] for each in part]) for part in (train, test))
    steps = max(10, round(run.scale * character_gpt.STEPS))
    trained = character_gpt.fit(rows, held_out, len(alphabet), steps=steps, seed=run.seed, threads=run.threads)
    size = sum(each.numel() for each in trained.model.parameters())
    about: dict[str, Any] = {"data": "", "model": "", "better": "lower", "train_seconds": trained.seconds,
                             "note": f"{trained.steps:,} steps, {size:,} parameters"}  # fmt: skip
    began = time.monotonic()
    nats = character_gpt.sliding_nats(trained.model, held_out)
    whole = Figure(metric=WHOLE, value=float(nats.mean()), kind=f"exact, {len(nats):,} characters",
                   score_seconds=time.monotonic() - began, **about)  # fmt: skip
    generator = torch.Generator().manual_seed(run.seed)
    with torch.no_grad():
        windows = trained.model.nats(character_gpt.random_windows(held_out, count, generator)).mean(1)
    return [whole, mean_figure(windows.numpy(), metric=WINDOWS, kind=f"estimate, {count} windows", **about)]
