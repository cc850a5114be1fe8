"""Laws of the gan: who learns in whose turn, what bounds the critic, and rows that keep to their types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from contracts.artifact import Verb
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput, VerbUnsupported
from contracts.families import GANConfig
from engine.kinds import Program, program
from engine.model import Model
from engine.options import SessionOptions
from models import build
from models.family import Batch, Noise
from models.gan import GAN, Duel
from models.layers.relaxed_rows import RelaxedRows
from workers.export import export
from workers.publish import assemble

PLANE = DataSpec(modality="table", columns=tuple(Column(name=name, type=ColumnType.REAL) for name in "ab"))
MIXED = DataSpec(
    modality="table",
    columns=(
        Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
        Column(name="size", type=ColumnType.REAL),
        Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
        Column(name="flag", type=ColumnType.BOOLEAN),
        Column(name="kind", type=ColumnType.CATEGORICAL, categories=("a", "b"), role=Role.LABEL),
    ),
)


def profile(x: NDArray[Any]) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def mixed_rows(count: int = 400) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    columns = (rng.integers(0, 3, count), rng.normal(5, 2, count), rng.integers(0, 10, count), rng.random(count) < 0.3)
    return np.stack([column.astype(np.float64) for column in columns], 1)


def make(spec: DataSpec, x: NDArray[Any], **knobs: Any) -> tuple[GAN, Duel]:
    torch.manual_seed(0)
    family = build(GANConfig(family="gan", **{"width": 32, "depth": 2, **knobs}), spec, profile(x))
    assert isinstance(family, GAN)
    (stage,) = family.stages()
    assert isinstance(stage, Duel)
    return family, stage


def noise(step: int, rows: int) -> Noise:
    return Noise(0, 0, step, rows=slice(0, rows), total=rows)


def play(stage: Duel, x: NDArray[Any], rounds: int, rows: int = 64) -> None:
    rng, step = np.random.default_rng(1), 0
    players = stage.players()
    optimisers = {
        name: torch.optim.Adam(module.parameters(), 2e-3, stage.betas) for name, (module, _) in players.items()
    }
    for _ in range(rounds):
        for name, (module, times) in players.items():
            for _ in range(times):
                module.zero_grad()
                batch = Batch(torch.from_numpy(x[rng.integers(0, len(x), rows)]))
                stage.losses(name, batch, noise(step, rows), 0.0).objective.backward()
                optimisers[name].step()
                step += 1


@contextmanager
def served(family: GAN, folder: Path) -> Iterator[Program]:
    graphs = export(family.eval(), folder)
    assemble(family, folder, graphs=graphs, seed=0, steps=1, dataset="0" * 64)
    model = Model.load(folder, SessionOptions(threads=1))
    try:
        yield program(model)
    finally:
        model.close()


def test_each_turn_moves_one_player_alone() -> None:
    x = mixed_rows()
    family, stage = make(MIXED, x)
    batch = Batch(torch.from_numpy(x[:32]))
    for player, other in (("critic", family.generator), ("generator", family.critic)):
        family.zero_grad()
        stage.losses(player, batch, noise(0, 32), 0.0).objective.backward()
        own = stage.players()[player][0]
        # The gap says nothing of a constant, so the critic's last bias learns nothing.
        assert all(p.grad is not None and p.grad.any() for p in own.parameters() if p.ndim > 1)
        assert all(parameter.grad is None for parameter in other.parameters())
        assert all(parameter.requires_grad for parameter in family.parameters())


def test_the_penalty_of_a_linear_critic_is_that_of_its_slope() -> None:
    x = np.random.default_rng(0).normal(size=(50, 2))
    family, stage = make(PLANE, x)
    line = nn.Linear(2, 1)
    family.critic.net = nn.Sequential(line)  # type: ignore[assignment]
    terms = stage.losses("critic", Batch(torch.from_numpy(x)), noise(0, 50), 0.0)
    expected = (float(line.weight.detach().norm()) - 1) ** 2
    assert terms.named["slope_penalty"].item() == pytest.approx(expected, rel=1e-5)
    wanted = -terms.named["critic_gap"] + 0.1 * expected
    assert terms.objective.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_spectral_norms_bound_each_layer_of_the_critic() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    family, stage = make(PLANE, x, regularisation="spectral_norm")
    play(stage, x, 60)
    family.eval()
    layers = [layer for layer in family.critic.modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 3
    largest = [float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) for layer in layers]
    assert largest == pytest.approx([1.0] * 3, abs=0.2)  # the power iteration lags behind the steps
    assert "slope_penalty" not in stage.losses("critic", Batch(torch.from_numpy(x[:8])), noise(0, 8), 0.0).named


def test_samples_move_to_the_data() -> None:
    rng = np.random.default_rng(0)
    x = np.array([30.0, -2.0]) + np.array([4.0, 0.1]) * rng.normal(size=(2000, 2))
    x[:, 1] += 0.02 * (x[:, 0] - 30)  # correlated by 0.62
    family, stage = make(PLANE, x, latents=4)
    play(stage, x, 300)
    with torch.no_grad():
        z = torch.randn(4000, 4, generator=torch.Generator().manual_seed(3))
        drawn = family.surface.draw(family.generate(z), torch.empty(4000, 2)).numpy()
    unit = x.std(0)
    np.testing.assert_allclose(drawn.mean(0) / unit, x.mean(0) / unit, atol=0.35)
    np.testing.assert_allclose(drawn.std(0) / unit, 1, atol=0.35)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.62, abs=0.25)


def test_held_out_tells_the_gap_of_rows() -> None:
    x = np.random.default_rng(0).normal(size=(64, 2))
    _, stage = make(PLANE, x)
    batch = Batch(torch.from_numpy(x))
    with torch.no_grad():
        before = float(stage.held_out(batch, noise(0, 64)).mean())
    for player, (module, _) in stage.players().items():
        if player == "critic":
            optimiser = torch.optim.Adam(module.parameters(), 2e-3)
            for step in range(30):
                module.zero_grad()
                stage.losses(player, batch, noise(step, 64), 0.0).objective.backward()
                optimiser.step()
    with torch.no_grad():
        rows = stage.held_out(batch, noise(0, 64))
    assert rows.shape == (64,)
    assert rows.mean() > before + 0.05  # a critic alone finds what tells the two apart


def test_relaxed_and_drawn_categories_are_those_of_the_softmax() -> None:
    surface = RelaxedRows(MIXED, profile(mixed_rows()))
    assert (surface.numeric, surface.counts) == ([1, 2], {0: 3, 3: 2})
    logits = torch.tensor([0.3, -1.0, 0.5, 1.0, 2.0, -1.0, 0.4])
    h = logits.expand(20_000, 7)
    rng = torch.Generator().manual_seed(0)
    drawn = surface.draw(h, torch.rand(20_000, 4, generator=rng)).floor()
    v = surface.relaxed(h, torch.rand(20_000, 5, generator=rng))
    for cell, part in ((0, slice(2, 5)), (3, slice(5, 7))):
        p = torch.softmax(logits[part], 0)
        of_draws = torch.bincount(drawn[:, cell].long(), minlength=len(p)) / 20_000
        of_relaxed = torch.bincount(v[:, part].argmax(1), minlength=len(p)) / 20_000
        torch.testing.assert_close(of_draws.float(), p, atol=0.015, rtol=0)
        torch.testing.assert_close(of_relaxed.float(), p, atol=0.015, rtol=0)
        torch.testing.assert_close(v[:, part].sum(1), torch.ones(20_000))


def test_data_come_standardised_spread_and_one_hot() -> None:
    x = mixed_rows()
    surface = RelaxedRows(MIXED, profile(x))
    v = surface.data(torch.from_numpy(x), torch.rand(x.shape, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(v[:, :2].mean(0), torch.zeros(2), atol=0.05, rtol=0)
    torch.testing.assert_close(v[:, :2].std(0), torch.ones(2), atol=0.05, rtol=0)
    assert len(v[:, 1].unique()) == len(x)
    assert (v[:, 2:5].argmax(1).numpy() == x[:, 0]).all()
    assert (v[:, 5:7].argmax(1).numpy() == x[:, 3]).all()


def test_samples_keep_to_types_and_depend_on_seed_and_place_alone(tmp_path: Path) -> None:
    family, _ = make(MIXED, mixed_rows(), condition="label")
    with served(family, tmp_path) as answers:
        labels = np.array([0, 1, 1, 0, 1])
        rows = answers.sample(5, seed=3, given=labels)
        MIXED.check(rows)
        np.testing.assert_array_equal(rows[2:], answers.sample(3, seed=3, given=labels[2:], first=2))
        still = answers.sample(5, seed=3, given=labels, temperature=0.0)
        assert len(np.unique(still[labels == 1][:, 1])) == 1 < len(np.unique(rows[labels == 1][:, 1]))
        with pytest.raises(VerbUnsupported, match="gives up density: train a flow"):
            answers.log_prob(rows, given=labels)
        assert not answers.manifest.supports(Verb.ENCODE)


def test_pixels_are_the_nearest_levels(tmp_path: Path) -> None:
    spec = DataSpec(modality="image", image=ImageShape(height=4, width=3, levels=2))
    x = (np.random.default_rng(0).random((100, 4, 3, 1)) < 0.4).astype(np.uint8)
    family, _ = make(spec, x)
    with served(family, tmp_path) as answers:
        drawn = answers.sample(40, seed=0)
    assert drawn.dtype == np.uint8
    assert set(np.unique(drawn)) == {0, 1}


def test_what_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(InvalidInput, match="convolutional network needs images"):
        GANConfig(family="gan", network="convolutional").check_data(PLANE)
    with pytest.raises(InvalidInput, match="no label column"):
        GANConfig(family="gan", condition="label").check_data(PLANE)
