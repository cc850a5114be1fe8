"""Laws of vqvae: its bound and conditionals against sums over all codes, its levels, and what soft assignment lacks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput, VerbUnsupported
from contracts.families import VQVAEConfig
from engine.kinds import program
from engine.kinds.codes import CodesProgram
from engine.kinds.latent import LatentProgram
from engine.model import Model
from engine.options import SessionOptions
from models import build
from models.family import Batch, Noise
from models.layers.quantisers import AttentionCodebook
from models.vqvae import VQVAE, FitCodes
from workers.export import export
from workers.publish import assemble

TABLE = DataSpec(modality="table", columns=tuple(Column(name=name, type=ColumnType.REAL) for name in "abc"))
LABELLED = DataSpec(
    modality="table",
    columns=(*TABLE.columns, Column(name="kind", type=ColumnType.CATEGORICAL, categories=("x", "y"), role=Role.LABEL)),
)
GREY = DataSpec(modality="image", image=ImageShape(height=16, width=16, levels=16))
SMALL = {"codes": 4, "dimensions": 3, "sites": 3, "width": 24, "depth": 1, "batch_size": 64, "prior_width": 16,
         "prior_depth": 1, "prior_heads": 2}  # fmt: skip


def profile(x: NDArray[Any]) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def table_rows(count: int = 512) -> NDArray[np.float64]:
    """Three clusters in space."""
    rng = np.random.default_rng(0)
    centre = np.array([[0, 0, 0], [3, 3, -3], [-3, 2, 3.0]])[rng.integers(0, 3, count)]
    return centre + 0.3 * rng.standard_normal((count, 3))


def pictures(count: int = 256) -> NDArray[np.uint8]:
    """A bright square on dark ground, somewhere."""
    rng = np.random.default_rng(0)
    x = np.zeros((count, 16, 16, 1), dtype=np.uint8)
    for picture, (top, left) in zip(x, rng.integers(0, 12, (count, 2)), strict=True):
        picture[top : top + 4, left : left + 4] = 15
    return x


def make(spec: DataSpec, x: NDArray[Any], **knobs: Any) -> VQVAE:
    torch.manual_seed(0)
    family = build(VQVAEConfig.model_validate({"family": "vqvae", **SMALL, **knobs}), spec, profile(x))
    assert isinstance(family, VQVAE)
    return family


def fit(family: VQVAE, x: NDArray[Any], y: NDArray[np.int64] | None = None, steps: int = 150) -> VQVAE:
    batch = Batch(torch.from_numpy(x), None if y is None else torch.from_numpy(y))
    for stage in family.stages():
        family.train()
        stage.start([batch])
        optimiser = torch.optim.Adam(stage.module.parameters(), lr=5e-3)
        for step in range(steps):
            noise = Noise(0, 0, step, rows=slice(0, len(x)), total=len(x))
            optimiser.zero_grad()
            stage.loss(batch, noise, step / steps).objective.backward()  # type: ignore[attr-defined]
            optimiser.step()
            stage.after_step()
        family.eval()
        stage.finish([batch])
    return family


@contextmanager
def served(family: VQVAE, folder: Path) -> Iterator[CodesProgram]:
    graphs = export(family, folder)
    assemble(family, folder, graphs=graphs, seed=0, steps=1, dataset="0" * 64)
    model = Model.load(folder, SessionOptions(threads=1))
    found = program(model)
    assert isinstance(found, CodesProgram)
    try:
        yield found
    finally:
        model.close()


@pytest.fixture(scope="module")
def table() -> VQVAE:
    return fit(make(TABLE, table_rows()), table_rows())


@pytest.fixture(scope="module")
def answers(table: VQVAE, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodesProgram]:
    with served(table, tmp_path_factory.mktemp("vqvae")) as found:
        yield found


def every_code() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(4), repeat=3)))


def joint(family: VQVAE, row: NDArray[np.float64], shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """log p(codes) + log p(shown cells | codes) of all 64 codes."""
    codes = every_code()
    assert family.prior is not None
    with torch.no_grad():
        x, mask = (torch.from_numpy(array).expand(len(codes), -1) for array in (row, shown))
        likely = family.codes.likelihood.score(x, mask, family.codes.outputs(codes))
        total: NDArray[np.float64] = (family.prior(codes).sum(1) + likely).double().numpy()
    return total


def test_the_bound_is_one_term_of_the_sum_over_codes(table: VQVAE, answers: CodesProgram) -> None:
    x = table_rows()[:20]
    scored = answers.log_prob(x)
    assert (scored.kind, scored.samples, scored.standard_error) == (AnswerKind.LOWER_BOUND, None, None)
    codes = answers.encode(x).codes
    assert codes is not None
    exact = np.array([np.logaddexp.reduce(joint(table, row, np.ones(3, bool))) for row in x])
    own = np.array([
        joint(table, row, np.ones(3, bool))[(every_code().numpy() == code).all(1)][0]
        for row, code in zip(x, codes, strict=True)
    ])  # fmt: skip
    np.testing.assert_allclose(scored.values, own, rtol=1e-4, atol=1e-3)
    assert (scored.values <= exact + 1e-3).all()
    assert (exact - scored.values).mean() < 1.0  # most of the mass is at the row's own codes


def test_hidden_cells_follow_the_sum_over_codes(table: VQVAE, answers: CodesProgram) -> None:
    """Marginal and conditional mean of b given a and c, against all codes, for rows of different clusters."""
    x, hidden = table_rows()[:6], np.zeros((6, 3), dtype=bool)
    hidden[:, 1] = True
    exact_log_p, exact_mean = [], []
    for row in x:
        log_joint = joint(table, row, ~hidden[0])
        weights = np.exp(log_joint - np.logaddexp.reduce(log_joint))
        with torch.no_grad():
            means = table.codes.likelihood.mean(table.codes.outputs(every_code()))[:, 1].double().numpy()
        exact_log_p.append(np.logaddexp.reduce(log_joint))
        exact_mean.append(float(weights @ means))
    scored = answers.log_prob(x, hidden=hidden, samples=2000)
    assert scored.kind is AnswerKind.LOWER_BOUND
    np.testing.assert_allclose(scored.values, exact_log_p, atol=0.1)
    found = answers.predict(x, hidden, samples=2000, draws=3)
    assert found.kind is AnswerKind.ESTIMATE
    np.testing.assert_allclose(found.mean[:, 1], exact_mean, atol=0.15)
    np.testing.assert_allclose(found.mean[~hidden], x[~hidden])
    assert np.abs(found.mean[:, 1] - x[:, 1]).mean() < 0.5  # the clusters tell b
    assert found.effective_sample_size is not None
    few = answers.log_prob(x, hidden=hidden)  # the default number of draws is noisier, and no better
    assert (few.values <= np.array(exact_log_p) + 1.0).all()


def test_a_row_is_answered_alike_in_any_company(answers: CodesProgram) -> None:
    x, hidden = table_rows()[:5], np.zeros((5, 3), dtype=bool)
    hidden[np.arange(5), np.arange(5) % 3] = True
    together = answers.predict(x, hidden, seed=3, draws=2)
    alone = answers.predict(x[2:3], hidden[2:3], seed=3, draws=2)
    np.testing.assert_allclose(together.draws[2], alone.draws[0], rtol=1e-5)
    np.testing.assert_allclose(together.mean[2], alone.mean[0], rtol=1e-5)


def test_vectors_are_those_of_the_codes(answers: CodesProgram) -> None:
    found = answers.encode(table_rows()[:9])
    assert found.codes is not None
    assert found.vectors.shape == (9, 9)
    np.testing.assert_allclose(answers.decode(found.vectors), answers.decode_codes(found.codes), rtol=1e-6, atol=1e-6)
    # A vector between codes is decoded by the nearest.
    np.testing.assert_allclose(answers.decode(found.vectors + 1e-3), answers.decode(found.vectors), atol=1e-6)
    for wrong, words in (
        (np.zeros((2, 2), dtype=np.int64), r"codes must have the shape \(rows, 3\)"),
        (np.array([[0, 1, 4]]), r"codes\[0\]\[2\] is 4 but must lie in 0..3"),
        (np.array([[0.5, 1, 1]]), "whole numbers"),
    ):
        with pytest.raises(InvalidInput, match=words):
            answers.decode_codes(wrong)


def test_samples_come_from_the_prior(table: VQVAE, answers: CodesProgram) -> None:
    drawn = answers.sample(600, seed=0)
    centres = np.array([[0, 0, 0], [3, 3, -3], [-3, 2, 3.0]])
    distance = np.linalg.norm(np.asarray(drawn, dtype=np.float64)[:, None] - centres, axis=2)
    assert (distance.min(1) < 2).mean() > 0.9
    assert np.bincount(distance.argmin(1), minlength=3).min() > 100
    np.testing.assert_array_equal(answers.sample(5, seed=0), drawn[:5])
    # At temperature 0 the codes are the likeliest, and only the likelihood is left to chance.
    cold = answers.sample(50, seed=0, temperature=0)
    assert np.asarray(cold, dtype=np.float64).std(0).max() < np.asarray(drawn, dtype=np.float64).std(0).min()


def test_expected_rows_have_no_noise_of_their_own(answers: CodesProgram) -> None:
    plain, clean = answers.sample(300, seed=0), answers.expecting(True).sample(300, seed=0)
    assert len(np.unique(clean, axis=0)) <= 64 < len(np.unique(plain, axis=0))
    assert np.abs(np.asarray(clean, dtype=np.float64) - np.asarray(plain, dtype=np.float64)).mean() < 1.0
    np.testing.assert_array_equal(answers.sample(300, seed=0), plain)


def test_labels_steer_the_prior(tmp_path: Path) -> None:
    x = table_rows()
    y = (x[:, 0] > 1.5).astype(np.int64)
    family = fit(make(LABELLED, x, condition="label"), x, y)
    with served(family, tmp_path) as answers:
        above = np.asarray(answers.sample(200, seed=0, given=np.array([1])), dtype=np.float64)
        below = np.asarray(answers.sample(200, seed=0, given=np.array([0])), dtype=np.float64)
        assert (above[:, 0] > 1.5).mean() > 0.9
        assert (below[:, 0] < 1.5).mean() > 0.9


@pytest.mark.parametrize("levels", [1, 2])
def test_masked_regions_of_pictures(levels: int, tmp_path: Path) -> None:
    x = pictures()
    grid = {"network": "convolutional", "width": 12, "codes": 16, "dimensions": 4, "levels": levels, "score": "dot"}
    family = fit(make(GREY, x, **grid), x, steps=60)
    with served(family, tmp_path) as answers:
        assert answers.grids == [[4, 4], [8, 8]][-levels:]
        hidden = np.zeros(x[:4].shape, dtype=bool)
        hidden[:, 8:] = True
        state = answers._state(hidden.reshape(4, -1))
        side = answers.grids[-1][0]
        bottom = state[0, -(side**2) :].reshape(side, side)
        assert (bottom[: side // 2] == 0).all()  # under shown cells alone
        assert (bottom[side // 2 :] == 2).all()  # nothing is known
        if levels == 2:
            top = answers.grids[0][0]
            assert set(state[0, : top**2].tolist()) <= {0, 1, 2}
        found = answers.predict(x[:4], hidden, draws=2, samples=4)
        assert found.draws.shape == (4, 2, 16, 16, 1)
        np.testing.assert_array_equal(found.draws[:, 0][~hidden], x[:4][~hidden])
        assert np.isfinite(found.log_prob).all()
        figures = family.figures()
        suffix = "" if levels == 1 else "_bottom"
        assert 1 <= figures[f"codebook_perplexity{suffix}"] <= 16
        assert 0 < figures[f"codebook_usage{suffix}"] <= 1
        previews = family.preview_latents(8)["codebook"]
        assert previews.shape == (8, family.latent_dimensions)
        assert answers.decode(previews.numpy()).shape == (8, 16, 16, 1)


def test_soft_assignment_has_no_codes_unless_it_is_annealed(tmp_path: Path) -> None:
    x = table_rows()
    soft = fit(make(TABLE, x, assignment="soft"), x, steps=60)
    assert soft.prior is None
    assert len(soft.stages()) == 1
    folder = tmp_path / "soft"
    assemble(soft, folder, graphs=export(soft, folder), seed=0, steps=1, dataset="0" * 64)
    answers = program(Model.load(folder, SessionOptions(threads=1)))
    assert isinstance(answers, LatentProgram)
    error = np.square(answers.decode(answers.encode(x).vectors) - x).mean()
    assert error < 0.5 * x.var()
    for ask in (lambda: answers.sample(2, seed=0), lambda: answers.log_prob(x[:2])):
        with pytest.raises(VerbUnsupported, match="annealed: true"):
            ask()
    annealed = fit(make(TABLE, x, assignment="soft", annealed=True), x)
    assert isinstance(annealed.codes.quantiser(0), AttentionCodebook)
    assert annealed.verbs()[Verb.SAMPLE].supported
    with served(annealed, tmp_path / "annealed") as coded:
        error = np.square(coded.decode(coded.encode(x).vectors) - x).mean()
        assert error < 0.5 * x.var()
        assert np.isfinite(coded.log_prob(x[:5]).values).all()


def test_an_annealed_assignment_is_hard_at_the_end() -> None:
    x = table_rows()
    family = make(TABLE, x, assignment="soft", annealed=True)
    stage = family.stages()[0]
    assert isinstance(stage, FitCodes)
    batch = Batch(torch.from_numpy(x))
    stage.start([batch])
    noise = Noise(0, 0, 0, rows=slice(0, len(x)), total=len(x))
    with torch.no_grad():
        distortions = [float(stage.loss(batch, noise, at).named["distortion"]) for at in (0.0, 0.4, 0.79, 1.0)]
        shown = torch.ones_like(batch.x, dtype=torch.bool)
        codes = torch.cat(family.codes.vectors(batch.x, shown)[1], 1)
    masked = family.config.masking
    assert masked == 0.5
    assert {"perplexity", "usage"} <= set(stage.loss(batch, noise, 1.0).named)
    assert "perplexity" not in stage.loss(batch, noise, 0.4).named
    assert np.isfinite(distortions).all()
    assert codes.shape == (len(x), 3)


@pytest.mark.parametrize(
    ("spec", "knobs", "words"),
    [
        (TABLE, {"levels": 2}, "config.levels: two levels are grids"),
        (TABLE, {"network": "convolutional"}, "needs images"),
        (TABLE, {"prior_width": 10, "prior_heads": 4}, "config.prior_heads: must divide prior_width, 10"),
        (TABLE, {"assignment": "soft", "quantiser": "fsq"}, "config.quantiser: fsq rounds"),
        (TABLE, {"annealed": True}, "config.annealed: is for soft assignment"),
        (LABELLED, {"assignment": "soft", "condition": "label"}, "config.condition: conditions the prior"),
        (
            DataSpec(modality="image", image=ImageShape(height=8, width=8)),
            {"levels": 2},
            "config.levels: images this small get an mlp",
        ),
    ],
)
def test_configs_that_cannot_be_are_refused(spec: DataSpec, knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        VQVAEConfig.model_validate({"family": "vqvae", **SMALL, **knobs}).check_data(spec)
