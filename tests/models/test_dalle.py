"""Laws of dalle: probabilities of codes after a text, guidance, ranking, completion, and what its parents must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Manifest
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput
from contracts.families import CLIPConfig, DALLEConfig, VQVAEConfig
from engine.kinds import program
from engine.kinds.prompted import PromptedProgram
from engine.model import Model
from engine.options import SessionOptions
from models import build
from models.dalle import DALLE, Write
from models.family import Batch, Family, Noise
from models.layers.segments import Segment, SegmentTransformer
from workers.export import export
from workers.publish import assemble

NAMES = ("dark left", "bright left", "dark right", "bright right")
LABEL = Column(name="kind", type=ColumnType.CATEGORICAL, categories=NAMES, role=Role.LABEL)
SPEC = DataSpec(modality="image", columns=(LABEL,), image=ImageShape(height=8, width=8, levels=16))


def pictures(count: int = 400) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A block on the left or on the right, dark or bright."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, count)
    x = rng.integers(0, 2, (count, 8, 8, 1))
    for row, kind in enumerate(y):
        left = 0 if kind < 2 else 4
        x[row, 2:6, left : left + 4] = (7, 15)[kind % 2] - rng.integers(0, 2, (4, 4, 1))
    return x.astype(np.uint8), y.astype(np.int64)


X, Y = pictures()


def profile() -> DataProfile:
    flat = X.reshape(len(X), -1).astype(np.float64)
    return DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def fit(family: Family[Any], steps: int, rate: float = 4e-3) -> Family[Any]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    for stage in family.stages():
        family.train()
        stage.start([Batch(x, y)])
        optimiser = torch.optim.AdamW(stage.module.parameters(), lr=rate)
        for step in range(steps):
            index = torch.randint(0, len(x), (64,), generator=generator)
            optimiser.zero_grad()
            noise = Noise(0, 0, step, rows=slice(0, 64), total=64)
            stage.loss(Batch(x[index], y[index]), noise, step / steps).objective.backward()  # type: ignore[attr-defined]
            optimiser.step()
            stage.after_step()
        family.eval()
        stage.finish([Batch(x, y)])
    return family


@pytest.fixture(scope="module")
def parents() -> dict[str, Family[Any]]:
    torch.manual_seed(0)
    codes = VQVAEConfig.model_validate({"family": "vqvae", "network": "convolutional", "codes": 8, "dimensions": 4,
                                        "width": 12, "prior_width": 16, "prior_depth": 1})  # fmt: skip
    ranker = CLIPConfig.model_validate({"family": "clip", "width": 8, "dimensions": 16, "text_width": 16, "dropout": 0})
    return {
        "codes": fit(build(codes, SPEC, profile()), 150),
        "ranker": fit(build(ranker, SPEC, profile()), 120),
    }


def make(parents: dict[str, Family[Any]], **knobs: Any) -> DALLE:
    torch.manual_seed(0)
    asked = {"family": "dalle", "codes": "codes", "width": 32, "depth": 2, "heads": 2, **knobs}
    asked |= {"ranker": "ranker"} if "ranker" in parents else {}
    family = build(DALLEConfig.model_validate(asked), SPEC, profile(), parents)
    assert isinstance(family, DALLE)
    return family


@pytest.fixture(scope="module")
def family(parents: dict[str, Family[Any]]) -> DALLE:
    made = fit(make(parents), 200)
    assert isinstance(made, DALLE)
    return made


@pytest.fixture(scope="module")
def answers(family: DALLE, tmp_path_factory: pytest.TempPathFactory) -> PromptedProgram:
    folder = tmp_path_factory.mktemp("dalle")
    assemble(
        family, folder, graphs=export(family, folder), seed=0, steps=1, dataset="0" * 64, parents={"codes": "a" * 64}
    )
    found = program(Model.load(folder, SessionOptions(threads=1)))
    assert isinstance(found, PromptedProgram)
    return found


def kinds(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Which of the names each picture fits: where the block is and how bright."""
    flat = rows[..., 0].astype(np.float64)
    right = flat[:, 2:6, 4:].mean((1, 2)) > flat[:, 2:6, :4].mean((1, 2))
    block = np.where(right, flat[:, 2:6, 4:].mean((1, 2)), flat[:, 2:6, :4].mean((1, 2)))
    return 2 * right.astype(np.int64) + (block > 10.5)


def test_pictures_follow_their_text(answers: PromptedProgram) -> None:
    for kind, name in enumerate(NAMES):
        drawn = answers.asking([name]).sample(40, seed=1)
        assert (kinds(drawn) == kind).mean() > 0.8, name
    each = answers.asking(NAMES).sample(40, seed=2, given=np.arange(40) % 4)
    assert (kinds(each) == np.arange(40) % 4).mean() > 0.8
    np.testing.assert_array_equal(answers.asking(NAMES).sample(40, seed=2), each)  # in turn
    free = kinds(answers.sample(100, seed=3))
    assert len(np.unique(free)) >= 3  # of no text: any of them


def test_a_picture_is_likelier_given_its_own_text(answers: PromptedProgram) -> None:
    x, y = X[:40], Y[:40]
    own = answers.asking(NAMES).log_prob(x, given=y)
    other = answers.asking(NAMES).log_prob(x, given=(y + 2) % 4)
    none = answers.log_prob(x)
    assert own.kind is AnswerKind.LOWER_BOUND
    assert (own.values > other.values).mean() > 0.9
    assert own.values.mean() > none.values.mean() > other.values.mean()


def test_the_bound_is_codes_given_text_and_reconstruction(answers: PromptedProgram, family: DALLE) -> None:
    x, y = torch.from_numpy(X[:8]), torch.from_numpy(Y[:8])
    shown = torch.ones_like(x, dtype=torch.bool)
    with torch.no_grad():
        codes = torch.cat(family.codes.vectors(x, shown)[1], 1)
        tokens = family.captions.of(None, y)
        prior = family.prior(torch.cat([tokens, codes], 1))[:, tokens.shape[1] :].sum(1)
        likely = family.codes.likelihood.score(x.flatten(1), shown.flatten(1), family.codes.outputs(codes))
    found = answers.asking(NAMES).log_prob(X[:8], given=Y[:8])
    np.testing.assert_allclose(found.values, (prior + likely).numpy(), rtol=1e-4, atol=1e-2)


def test_a_cache_from_the_whole_text_is_that_of_its_tokens() -> None:
    torch.manual_seed(0)
    net = SegmentTransformer([Segment(5, 4), Segment(3, 3)], width=16, depth=2, heads=2, dropout=0.0).eval()
    text = torch.tensor([[0, 3, 1, 4], [2, 2, 4, 4]])
    step_cache = torch.zeros(2, *net.body.cache_shape)
    symbol = torch.zeros(2, dtype=torch.int64)
    for place in range(4):
        _, step_cache = net.step(symbol, torch.full((2,), place), step_cache)
        symbol = text[:, place]
    torch.testing.assert_close(net.prefill(text), step_cache, rtol=1e-4, atol=1e-5)


def test_guidance_goes_further_the_way_of_the_text(answers: PromptedProgram) -> None:
    name, kind = NAMES[3], 3
    shares = []
    for guidance in (0.0, 1.0, 3.0):
        drawn = answers.asking([name], guidance=guidance).sample(150, seed=4)
        shares.append((kinds(drawn) == kind).mean())
    assert shares[0] < 0.6  # the text has no say
    assert min(shares[1:]) > 0.85
    np.testing.assert_array_equal(
        answers.asking([name], guidance=1.0).sample(5, seed=4), answers.asking([name]).sample(5, seed=4)
    )
    few = answers.asking([name], top_k=1).sample(6, seed=5)
    codes = answers.encode(few).codes
    assert codes is not None


def test_the_best_of_many_come_first(answers: PromptedProgram) -> None:
    bound = answers.asking([NAMES[0]], guidance=0.0)  # pictures of any kind, of which the ranker knows the right ones
    found = bound.best(10, candidates=60, seed=6)
    assert found.scores is not None
    assert (np.diff(found.scores) <= 0).all()
    everyone = bound.sample(60, seed=6)
    assert (kinds(found.rows) == 0).mean() > (kinds(everyone) == 0).mean() + 0.3
    np.testing.assert_allclose(bound.rank(found.rows, NAMES[0]), found.scores, atol=1e-6)
    for wrong, words in (
        (lambda: bound.best(5, candidates=3, seed=0), "fewer than the 5"),
        (lambda: answers.asking(NAMES).best(1, candidates=3, seed=0), "one text at a time"),
        (lambda: answers.asking(["x" * 40]), r"texts\[0\] has 40 tokens"),
        (lambda: answers.asking([" "]), r"texts\[0\] is empty"),
        (lambda: answers.asking([NAMES[0]], guidance=-1), "guidance must be"),
        (lambda: answers.asking([NAMES[0]], top_p=2.0), "top_p must lie"),
    ):
        with pytest.raises(InvalidInput, match=words):
            wrong()


def test_the_lower_half_is_drawn_given_the_upper_and_the_text(answers: PromptedProgram) -> None:
    x, y = X[:20], Y[:20]
    hidden = np.zeros(x.shape, dtype=bool)
    hidden[:, 4:] = True
    found = answers.asking(NAMES).predict(x, hidden, given=y, draws=2)
    np.testing.assert_array_equal(found.draws[:, 0][~hidden], x[~hidden])
    error = np.abs(found.mean[hidden] - x[hidden]).mean()
    assert error < 0.6 * np.abs(x[hidden] - x[hidden].mean()).mean()
    alone = answers.asking([NAMES[y[3]]]).predict(x[3:4], hidden[3:4], draws=2)
    np.testing.assert_array_equal(alone.draws[0], found.draws[3])  # whatever the text's number


def test_a_model_without_a_ranker_draws_and_does_not_rank(parents: dict[str, Family[Any]], tmp_path: Path) -> None:
    made = make({"codes": parents["codes"]})
    assemble(made.eval(), tmp_path, graphs=export(made, tmp_path), seed=0, steps=1, dataset="0" * 64)
    answers = program(Model.load(tmp_path, SessionOptions(threads=1)))
    assert isinstance(answers, PromptedProgram)
    assert not answers.ranks
    with pytest.raises(InvalidInput, match="needs a model with a ranker"):
        answers.asking([NAMES[0]]).best(1, candidates=2, seed=0)


def test_texts_that_are_dropped_are_not_learned(parents: dict[str, Family[Any]]) -> None:
    made = make(parents, text_dropout=0.999)
    (stage,) = made.stages()
    assert isinstance(stage, Write)
    batch = Batch(torch.from_numpy(X[:64]), torch.from_numpy(Y[:64]))
    terms = stage.loss(batch, Noise(0, 0, 0, rows=slice(0, 64), total=64), 0.0)
    kept = make(parents, text_dropout=0.0).stages()[0]
    assert isinstance(kept, Write)
    assert float(terms.named["nats_of_text"]) < 0.1 * float(
        kept.loss(batch, Noise(0, 0, 0, rows=slice(0, 64), total=64), 0.0).named["nats_of_text"]
    )


def test_only_the_transformer_is_trained(parents: dict[str, Family[Any]], family: DALLE) -> None:
    (stage,) = family.stages()
    assert stage.module is family.prior
    for name, tensor in parents["codes"].state_dict().items():
        if name.startswith("codes."):
            assert torch.equal(tensor, family.state_dict()[name])


def manifest(**knobs: Any) -> Manifest:
    about = {
        "family": "vqvae", "kind": "latent", "config": {}, "data": SPEC, "graphs": {}, "verbs": {}, "seed": 0,
        "steps": 1, "measure": "probability", "dataset": "0" * 64, "space": "s", "files": {}, **knobs,
    }  # fmt: skip
    return Manifest.model_validate(about)


def test_parents_that_do_not_fit_are_refused() -> None:
    config = DALLEConfig(family="dalle", codes="codes@1", ranker="clip@2")
    assert config.parent_references() == {"codes": "codes@1", "ranker": "clip@2"}
    assert DALLEConfig(family="dalle", codes="codes@1").parent_references() == {"codes": "codes@1"}
    wide = SPEC.model_copy(update={"image": ImageShape(height=8, width=9, levels=16)})
    for role, parent, words in (
        ("codes", manifest(family="vae"), "config.codes: m@1 is a vae, and a vqvae is needed"),
        ("codes", manifest(data=wide), r"config.codes: m@1 reads image rows of shape \(8, 9, 1\)"),
        ("codes", manifest(), "config.codes: m@1 has no codes, since its assignment is soft"),
        ("ranker", manifest(), "config.ranker: m@1 is a vqvae, and a clip is needed"),
    ):
        with pytest.raises(InvalidInput, match=words):
            config.check_parent(role, "m@1", parent, SPEC)
    with pytest.raises(InvalidInput, match="dalle needs these parents: codes; got none"):
        build(DALLEConfig(family="dalle", codes="codes@1"), SPEC, profile())
    with pytest.raises(InvalidInput, match=r"config\.heads"):
        DALLEConfig(family="dalle", codes="c", width=30, heads=4).check_data(SPEC)
