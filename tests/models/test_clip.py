"""Laws of clip: its loss, its temperature, captions of labels, and pictures recognised by words new to them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contracts.artifact import Verb
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput, VerbUnsupported
from contracts.families import CLIPConfig
from engine.kinds import program
from engine.kinds.pair import PairProgram
from engine.model import Model
from engine.options import SessionOptions
from models import build
from models.clip import CLIP, Match
from models.family import Batch, Noise
from models.layers.captions import BYTES, CaptionTokens
from workers.export import export
from workers.publish import assemble

SHAPE = ImageShape(height=12, width=12, channels=3)
CAPTIONED = DataSpec(
    modality="image", image=SHAPE, columns=(Column(name="caption", type=ColumnType.TEXT, role=Role.CAPTION),)
)
LABEL = Column(name="kind", type=ColumnType.CATEGORICAL, categories=("cat", "white dog"), role=Role.LABEL)
LABELLED = DataSpec(modality="image", image=SHAPE, columns=(LABEL,))
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220), "grey": (130, 130, 130),
           "yellow": (220, 210, 50), "pink": (240, 130, 200)}  # fmt: skip
PLACES = {"top": (0, 3), "bottom": (6, 3), "left": (3, 0), "right": (3, 6), "middle": (3, 3), "corner": (0, 0)}
CONTEXT = 16


def picture(colour: str, place: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    x = rng.integers(0, 40, (12, 12, 3))
    top, left = PLACES[place]
    x[top : top + 6, left : left + 6] = COLOURS[colour]
    return np.clip(x + rng.normal(0, 8, x.shape), 0, 255).astype(np.uint8)


def tokens(captions: list[str]) -> NDArray[np.int64]:
    rows = np.full((len(captions), CONTEXT), BYTES, dtype=np.int64)
    for row, text in zip(rows, captions, strict=True):
        row[: len(text)] = list(text.encode())
    return rows


def drawn(pairs: list[tuple[str, str]], count: int, seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    rng = np.random.default_rng(seed)
    chosen = [pairs[index] for index in rng.integers(0, len(pairs), count)]
    return np.stack([picture(*each, rng) for each in chosen]), [f"{colour} {place}" for colour, place in chosen]


def profile(x: NDArray[Any]) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def make(spec: DataSpec, x: NDArray[Any], **knobs: Any) -> CLIP:
    torch.manual_seed(0)
    family = build(CLIPConfig.model_validate({"family": "clip", **knobs}), spec, profile(x))
    assert isinstance(family, CLIP)
    return family


def noise(step: int, rows: int) -> Noise:
    return Noise(0, 0, step, rows=slice(0, rows), total=rows)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> PairProgram:
    """Trained on thirty of thirty-six combinations of colours and places."""
    train, _ = combinations()
    x, captions = drawn(train, 1500, 0)
    family = make(CAPTIONED, x, context=CONTEXT, width=12, dimensions=32, dropout=0.0)
    (stage,) = family.stages()
    assert isinstance(stage, Match)
    rows, held = torch.from_numpy(x), torch.from_numpy(tokens(captions))
    optimiser = torch.optim.AdamW(family.parameters(), lr=3e-3, weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    for step in range(250):
        index = torch.randint(0, len(x), (64,), generator=generator)
        optimiser.zero_grad()
        stage.loss(Batch(rows[index], None, held[index]), noise(step, 64), step / 250).objective.backward()
        optimiser.step()
        stage.after_step()
    folder = tmp_path_factory.mktemp("clip")
    family.eval()
    assemble(family, folder, graphs=export(family, folder), seed=0, steps=1, dataset="0" * 64)
    found = program(Model.load(folder, SessionOptions(threads=1)))
    assert isinstance(found, PairProgram)
    return found


def combinations() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Those to train on, and one of each colour and place that are left out."""
    held = list(zip(COLOURS, PLACES, strict=True))
    return [(c, p) for c in COLOURS for p in PLACES if (c, p) not in held], held


def test_held_out_combinations_are_recognised(answers: PairProgram) -> None:
    train, held = combinations()
    captions = [f"{colour} {place}" for colour, place in [*train, *held]]
    x, truth = drawn(held, 200, 1)
    found = answers.match(x, captions)
    np.testing.assert_allclose(np.exp(found.log_prob).sum(axis=1), 1)
    best = [captions[index] for index in found.log_prob.argmax(axis=1)]
    assert np.mean([a == b for a, b in zip(best, truth, strict=True)]) > 0.7
    assert 1 < found.scale <= 100.001


def test_texts_and_pictures_share_a_space(answers: PairProgram) -> None:
    x, captions = drawn(combinations()[0], 40, 2)
    pictures, texts = answers.encode(x).vectors, answers.encode_texts(captions).vectors
    assert pictures.shape == texts.shape == (40, 32)
    for vectors in (pictures, texts):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    own, others = (pictures * texts).sum(1).mean(), (pictures @ texts.T).mean()
    assert own > others + 0.3
    np.testing.assert_allclose(answers.encode_texts(captions[3:4]).vectors, texts[3:4], atol=1e-6)
    with pytest.raises(VerbUnsupported, match="send `captions`"):
        answers.predict(x, np.ones(x.shape, dtype=bool))


def test_texts_that_cannot_be_read_are_named(answers: PairProgram) -> None:
    for texts, words in ((["red", "x" * 16], r"texts\[1\] has 16 tokens, and the model reads at most 15"),
                         (["  "], r"texts\[0\] is empty"), ([], "at least one text")):  # fmt: skip
        with pytest.raises(InvalidInput, match=words):
            answers.encode_texts(texts)
    with pytest.raises(InvalidInput, match="at least two captions"):
        answers.match(drawn(combinations()[0], 1, 0)[0], ["red"])
    assert answers.shortened("red " * 10) == ("red " * 10)[:15]
    assert answers.shortened("x" * 14 + "é") == "x" * 14  # never half a character


def test_untrained_vectors_cost_about_the_logarithm_of_the_batch() -> None:
    x, captions = drawn(combinations()[0], 12, 0)
    distinct = [f"{caption} {index}" for index, caption in enumerate(captions)]
    family = make(CAPTIONED, x, context=CONTEXT, shift=0)
    with torch.no_grad():
        family.log_scale.fill_(0.0)
    (stage,) = family.stages()
    assert isinstance(stage, Match)
    batch = Batch(torch.from_numpy(x), None, torch.from_numpy(tokens(distinct)))
    assert float(stage.held_out(batch, noise(0, 12)).mean()) == pytest.approx(math.log(12), abs=0.5)


def test_the_temperature_is_clamped_and_can_come_back() -> None:
    x, captions = drawn(combinations()[0], 8, 0)
    family = make(CAPTIONED, x, context=CONTEXT)
    (stage,) = family.stages()
    assert isinstance(stage, Match)
    with torch.no_grad():
        family.log_scale.fill_(9.0)
    assert float(family.scale) == pytest.approx(100)
    stage.after_step()
    assert float(family.log_scale) == pytest.approx(math.log(100))
    batch = Batch(torch.from_numpy(x), None, torch.from_numpy(tokens(captions)))
    stage.loss(batch, noise(0, 8), 0.0).objective.backward()
    assert family.log_scale.grad is not None
    assert float(family.log_scale.grad) != 0


def test_labels_make_captions_by_a_template() -> None:
    made = CaptionTokens(LABELLED, "a {label}!", "bytes", 0, None)
    assert made.context == len("a white dog!") + 1
    first, second = made.of(None, torch.tensor([0, 1]))
    assert bytes(first[:6].tolist()).decode() == "a cat!"
    assert first[6:].tolist() == [BYTES] * (made.context - 6)
    assert bytes(second[:-1].tolist()).decode() == "a white dog!"
    own = torch.zeros(2, made.context, dtype=torch.int64)
    assert torch.equal(made.of(own, torch.tensor([0, 1])), own)  # captions of the rows come first
    digests = made.digest(torch.stack([first, second, first]))
    assert digests[0] == digests[2] != digests[1]
    with pytest.raises(InvalidInput, match="takes 13 tokens"):
        CaptionTokens(LABELLED, "a {label}!", "bytes", 0, 12)


def test_what_has_neither_captions_nor_labels_is_refused() -> None:
    plain = DataSpec(modality="image", image=SHAPE)
    for spec, knobs, words in (
        (plain, {}, "neither a caption nor a label column"),
        (LABELLED, {"template": "a thing"}, "config.template: must hold {label}"),
        (LABELLED, {"tokens": "bpe"}, "config.tokens: bpe is made of a caption column"),
        (CAPTIONED, {"text_width": 30}, "config.heads: must divide text_width, 30"),
        (CAPTIONED, {"image_network": "vit", "patch": 5}, "config.patch: must divide both sides"),
        (CAPTIONED, {"image_network": "vit", "width": 30}, "config.heads: must divide the width of the vit, 30"),
        (DataSpec(modality="table", columns=(Column(name="a", type=ColumnType.REAL),)), {}, "clip models images"),
    ):
        with pytest.raises(InvalidInput, match=words.replace("{", r"\{")):
            CLIPConfig.model_validate({"family": "clip", **knobs}).check_data(spec)


def test_families_say_what_it_predicts() -> None:
    refusal = CLIPConfig.answers[Verb.PREDICT].refusal
    assert refusal is not None
    assert "captions" in refusal


def test_an_artifact_holds_its_scale(answers: PairProgram, tmp_path: Path) -> None:
    assert set(answers.manifest.graphs) == {"embed", "embed_text"}
    assert answers.manifest.constants == ("logit_scale",)
    assert answers.manifest.config["context"] == CONTEXT
