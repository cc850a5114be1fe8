"""Laws of autoregressive models alone: what a conditional may see, exact probabilities, orders, caches, gaps, texts."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput, VerbUnsupported
from contracts.families import AutoregressiveConfig
from engine.kinds import program
from engine.model import Model
from engine.options import SessionOptions
from models import build
from models.autoregressive import Autoregressive, FitCells, FitTokens
from models.family import Batch, Noise
from models.layers.cell_graphs import CachedStep, Cells, CellScore, CellStep, Regime
from models.layers.cell_transformer import CellTransformer
from workers.export import export
from workers.publish import assemble

BINARY = DataSpec(modality="image", image=ImageShape(height=2, width=2, levels=2))
COLOUR = DataSpec(modality="image", image=ImageShape(height=3, width=3, channels=3, levels=5))
TEXT = DataSpec(modality="text")
MIXED = DataSpec(
    modality="table",
    columns=(
        Column(name="length", type=ColumnType.REAL, missing=True),
        Column(name="colour", type=ColumnType.CATEGORICAL, categories=("r", "g", "b"), missing=True),
        Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
        Column(name="flag", type=ColumnType.BOOLEAN),
        Column(name="class", type=ColumnType.CATEGORICAL, categories=("a", "b"), role=Role.LABEL),
    ),
)

BACKBONES = [
    ("made", False),
    ("made", True),
    ("transformer", False),
    ("transformer", True),
    ("gated_pixelcnn", False),
    ("gated_pixelcnn", True),
]


def rows_of(spec: DataSpec, count: int = 40) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if spec.image is not None:
        return rng.integers(0, spec.image.levels, (count, *spec.row_shape)).astype(np.uint8)
    columns = [rng.standard_normal(count), rng.integers(0, 3, count), rng.integers(0, 10, count)]
    return np.stack([*columns, rng.integers(0, 2, count)], 1).astype(np.float64)


def profile_of(x: NDArray[Any]) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(len(x), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def make(spec: DataSpec, **knobs: Any) -> Autoregressive:
    """An untrained model whose every layer has a say."""
    torch.manual_seed(0)
    profile = DataProfile(100, *[np.zeros(0)] * 4) if spec.modality == "text" else profile_of(rows_of(spec))
    small = {"width": 12, "depth": 2, "heads": 2, "components": 2}
    config = AutoregressiveConfig.model_validate({"family": "autoregressive", **small, **knobs})
    family = build(config, spec, profile)
    assert isinstance(family, Autoregressive)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return family.eval()


def cells_of(family: Autoregressive) -> Cells:
    assert family.cells is not None
    return family.cells


def noise(step: int, rows: int) -> Noise:
    return Noise(0, 0, step, rows=slice(0, rows), total=rows)


def chain(cells: Cells, x: torch.Tensor, order: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    """log p of each cell given those before it in ``order`` (D,), whatever the regime; ``(B, D)`` by cell."""
    score, count = CellScore(cells), order.numel()
    labels = () if y is None else (y,)
    if cells.regime is Regime.FIXED:
        return score(x, *labels)
    if cells.regime is Regime.ORDERED:
        return score(x, order.expand(len(x), -1), *labels)
    answer = torch.zeros(len(x), count, dtype=cells.likelihood.dtype)
    for position in range(count):
        shown = torch.zeros(count, dtype=torch.bool)
        shown[order[:position]] = True
        mask = shown.reshape(1, *x.shape[1:]).expand_as(x)
        answer[:, order[position]] = score(x, mask, *labels)[:, order[position]]
    return answer


@pytest.mark.parametrize(("backbone", "any_order"), BACKBONES)
@torch.no_grad()
def test_probabilities_of_all_pictures_add_up_to_one_in_every_order(backbone: str, any_order: bool) -> None:
    cells = cells_of(make(BINARY, backbone=backbone, any_order=any_order))
    every = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8).reshape(-1, 2, 2, 1)
    orders = list(itertools.permutations(range(4))) if any_order else [(0, 1, 2, 3)]
    totals = [chain(cells, every, torch.tensor(order)).sum(1).exp().sum().item() for order in orders]
    assert totals == pytest.approx([1.0] * len(orders), abs=1e-5)


@pytest.mark.parametrize("spec", [BINARY, COLOUR], ids=["binary", "colour"])
@pytest.mark.parametrize(("backbone", "any_order"), BACKBONES)
@torch.no_grad()
def test_a_conditional_sees_all_cells_before_it_and_none_after(spec: DataSpec, backbone: str, any_order: bool) -> None:
    cells = cells_of(make(spec, backbone=backbone, any_order=any_order))
    x = torch.from_numpy(rows_of(spec, 1))
    count = spec.cells
    order = torch.arange(count)
    if any_order:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    before = chain(cells, x, order)
    for position in range(count):
        changed = x.clone().flatten(1)
        changed[:, order[position]] = (changed[:, order[position]] + 1) % spec.image.levels  # type: ignore[union-attr]
        moved = (chain(cells, changed.reshape(x.shape), order) - before)[0, order].abs() > 1e-6
        assert not moved[:position].any()
        if backbone == "transformer" or (spec is BINARY and position < count - 1):
            assert moved[position + 1 :].all()
        elif position < count - 2:
            assert moved[position + 1 :].any()


@pytest.mark.parametrize("backbone", ["made", "transformer"])
@torch.no_grad()
def test_table_columns_see_those_to_their_left(backbone: str) -> None:
    cells = cells_of(make(MIXED, backbone=backbone, condition="label"))
    x, y = torch.from_numpy(rows_of(MIXED, 3)), torch.tensor([0, 1, 0])
    before = chain(cells, x, torch.arange(4), y)
    for cell in range(4):
        changed = x.clone()
        changed[:, cell] = torch.tensor([2.0, 1.0, 0.0]) if cell != 3 else 1 - changed[:, cell]
        changed[:, cell] = torch.where(changed[:, cell] == x[:, cell], 1.0, changed[:, cell])
        moved = ((chain(cells, changed, torch.arange(4), y) - before).abs() > 1e-9).any(0)
        assert moved.tolist() == [other >= cell for other in range(4)]
    assert ((chain(cells, x, torch.arange(4), 1 - y) - before).abs() > 1e-9).all()


def integrated(cells: Cells, x: torch.Tensor) -> float:
    """∫ p over the first, real column times the sum over the others."""
    grid = torch.linspace(-30, 30, 3001, dtype=torch.float64)
    total = 0.0
    for colour, flag in itertools.product(range(3), range(2)):
        rows = torch.stack([grid, *(torch.full_like(grid, v) for v in (colour, 0, flag))], 1)
        for count in range(10):
            rows[:, 2] = count
            total += float(chain(cells, rows, torch.arange(4)).sum(1).exp().sum() * (grid[1] - grid[0]))
    return total


@pytest.mark.parametrize(("backbone", "any_order"), [("made", False), ("transformer", True)])
@torch.no_grad()
def test_a_density_over_mixed_columns_integrates_to_one(backbone: str, any_order: bool) -> None:
    cells = cells_of(make(MIXED, backbone=backbone, any_order=any_order))
    assert integrated(cells, torch.from_numpy(rows_of(MIXED))) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("any_order", [False, True])
@pytest.mark.parametrize("spec", [MIXED, COLOUR], ids=["table", "colour"])
@torch.no_grad()
def test_steps_over_a_cache_give_the_score_of_one_pass(spec: DataSpec, any_order: bool) -> None:
    cells = cells_of(make(spec, backbone="transformer", any_order=any_order))
    assert isinstance(cells.net, CellTransformer)
    x = torch.from_numpy(rows_of(spec, 3))
    count = spec.cells
    order = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(r)) for r in range(3)])
    if not any_order:
        order = torch.arange(count).expand(3, -1)
    whole = CellScore(cells)(x, order) if any_order else CellScore(cells)(x)
    flat = x.flatten(1).to(cells.likelihood.dtype)
    cache = torch.zeros(3, *cells.net.body.cache_shape)
    row = torch.arange(3)
    for position in range(count):
        seen = order[:, position - 1] if position else torch.full((3,), count)
        value = flat[row, seen] if position else torch.zeros(3, dtype=flat.dtype)
        asked = order[:, position]
        h, cache = cells.net.step(value, seen, asked, torch.full((3,), position), cache)
        log_p = cells.likelihood.log_prob(flat, h)[row, asked]
        torch.testing.assert_close(log_p, whole[row, asked], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_step_answers_moments_and_draws_at_a_temperature() -> None:
    cells = cells_of(make(MIXED, backbone="made", any_order=True))
    x = torch.from_numpy(rows_of(MIXED, 1)).expand(4000, -1)
    shown = torch.zeros_like(x, dtype=torch.bool)
    shown[:, 1] = True
    u = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, std, draw = CellStep(cells)(x, shown, u, torch.ones(4000))
    for cell in (0, 2, 3):
        assert draw[:, cell].mean().item() == pytest.approx(mean[0, cell].item(), abs=0.1 * std[0, cell].item())
        assert draw[:, cell].std().item() == pytest.approx(std[0, cell].item(), rel=0.1)
    cold = CellStep(cells)(x, shown, u, torch.zeros(4000))[2]
    # A mean between two values leaves both.
    assert (cold[:, 2:].std(0) <= 0.5).all()


@torch.no_grad()
def test_a_cached_step_answers_for_the_cell_that_is_asked() -> None:
    cells = cells_of(make(MIXED, backbone="transformer", any_order=True))
    assert isinstance(cells.net, CellTransformer)
    x = torch.from_numpy(rows_of(MIXED, 2))
    cache = torch.zeros(2, *cells.net.body.cache_shape)
    inputs = (torch.zeros(2, dtype=torch.float64), torch.full((2,), 4), torch.tensor([1, 2]), torch.zeros(2).long())
    u = torch.full((2, 1), 0.5, dtype=torch.float64)
    mean, std, draw, _ = CachedStep(cells)(*inputs, cache, u, torch.ones(2))
    order = torch.tensor([[1, 0, 2, 3], [2, 0, 1, 3]])
    h = cells.outputs(x, order, None)
    row, asked = torch.arange(2), order[:, 0]
    torch.testing.assert_close(mean, cells.likelihood.mean(h)[row, asked])
    torch.testing.assert_close(std, cells.likelihood.std(h)[row, asked])
    torch.testing.assert_close(draw, cells.likelihood.draw(h, u.expand(-1, 4))[row, asked])


# --- rows that miss values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "any_order"), [("made", False), ("made", True), ("transformer", False)])
def test_missing_cells_are_never_scored_and_leave_finite_gradients(backbone: str, any_order: bool) -> None:
    family = make(MIXED, backbone=backbone, any_order=any_order)
    x = torch.from_numpy(rows_of(MIXED, 32))
    x[::2, 0] = torch.nan
    x[1::3, 1] = torch.nan
    x[5, :2] = torch.nan
    (stage,) = family.stages()
    assert isinstance(stage, FitCells)
    terms = stage.loss(Batch(x), noise(0, 32), 0.0)
    terms.objective.backward()
    assert torch.isfinite(terms.objective)
    for name, parameter in family.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert torch.isfinite(stage.held_out(Batch(x), noise(0, 32))).all()


@pytest.mark.parametrize("backbone", ["made", "transformer"])
@torch.no_grad()
def test_in_a_fixed_order_no_value_is_an_input_of_its_own(backbone: str) -> None:
    cells = cells_of(make(MIXED, backbone=backbone))
    x = torch.from_numpy(rows_of(MIXED, 4))
    gone = x.clone()
    gone[:, 0] = torch.nan
    at_mean = x.clone()
    at_mean[:, 0] = torch.from_numpy(rows_of(MIXED))[:, 0].mean()
    score = CellScore(cells)
    assert (score(gone)[:, 0] == 0).all()
    assert torch.isfinite(score(gone)).all()
    assert ((score(gone) - score(at_mean)).abs()[:, 1:] > 1e-6).any()


@torch.no_grad()
def test_a_row_without_a_value_weighs_its_cells_as_a_shorter_row() -> None:
    """With one cell present its loss is its own: n · mean over the hidden of one."""
    family = make(MIXED, backbone="made", any_order=True)
    x = torch.from_numpy(rows_of(MIXED, 1))
    x[:, :3] = torch.nan
    (stage,) = family.stages()
    assert isinstance(stage, FitCells)
    nats = stage.held_out(Batch(x), noise(0, 1))
    hidden = torch.zeros_like(x, dtype=torch.bool)
    expected = -CellScore(cells_of(family))(torch.nan_to_num(x), hidden)[:, 3]
    torch.testing.assert_close(nats, expected)


@torch.no_grad()
def test_the_any_order_loss_is_the_mean_over_orders() -> None:
    """Uria et al. 2014: the reweighted loss of one random mask estimates -log p averaged over orders."""
    family = make(BINARY, backbone="made", any_order=True)
    cells = cells_of(family)
    x = torch.from_numpy(rows_of(BINARY, 1))
    expected = torch.stack([chain(cells, x, torch.tensor(o)).sum() for o in itertools.permutations(range(4))]).mean()
    (stage,) = family.stages()
    assert isinstance(stage, FitCells)
    many = stage.loss(Batch(x.expand(60_000, -1, -1, -1)), noise(0, 60_000), 0.0)
    assert many.objective.item() == pytest.approx(-expected.item(), rel=0.01)


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("any_order", [False, True])
@torch.no_grad()
def test_tokens_step_by_step_give_the_score_of_one_pass(any_order: bool) -> None:
    family = make(TEXT, context=8, any_order=any_order)
    net = family.tokens
    assert net is not None
    tokens = torch.randint(0, 257, (2, 8), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    places = torch.tensor([[0, 3, 4, 1, 2, 5, 6, 7]]).expand(2, -1) if any_order else None
    asked = torch.tensor([[3, 4, 1, 2, 5, 6, 7, 8]]).expand(2, -1) if any_order else None
    whole = net.log_prob(tokens, targets, None, places, asked)
    cache = torch.zeros(2, *net.body.cache_shape)
    for position in range(8):
        own = None if places is None else places[:, position]
        following = None if asked is None else asked[:, position]
        at = torch.full((2,), position)
        logits, cache = net.step(tokens[:, position], at, cache, None, own, following)
        log_p = torch.log_softmax(logits, -1)[torch.arange(2), targets[:, position]]
        torch.testing.assert_close(log_p, whole[:, position], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("any_order", [False, True])
def test_padding_changes_nothing_and_rows_of_any_length_compare(any_order: bool) -> None:
    family = make(TEXT, context=8, any_order=any_order)
    (stage,) = family.stages()
    assert isinstance(stage, FitTokens)
    x = torch.randint(0, 257, (3, 6), generator=torch.Generator().manual_seed(1))
    padded = torch.cat([x, torch.full((3, 3), -1)], 1)
    with torch.no_grad():
        plain, behind = (stage.held_out(Batch(rows), noise(0, 3)) for rows in (x, padded))
    torch.testing.assert_close(plain, behind)
    terms = stage.loss(Batch(padded), noise(0, 3), 0.0)
    assert torch.isfinite(terms.objective)
    empty = torch.full((2, 9), -1)
    assert torch.isfinite(stage.loss(Batch(empty), noise(0, 2), 0.0).objective)


@torch.no_grad()
def test_a_label_changes_what_a_text_model_expects() -> None:
    label = Column(name="class", type=ColumnType.CATEGORICAL, categories=("a", "b"), role=Role.LABEL)
    net = make(DataSpec(modality="text", columns=(label,)), context=8, condition="label").tokens
    assert net is not None
    tokens = torch.randint(0, 257, (1, 8), generator=torch.Generator().manual_seed(0))
    one, other = (net.log_prob(tokens, tokens, torch.tensor([y])) for y in (0, 1))
    assert not torch.allclose(one, other)


# --- configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "knobs", "match"),
    [
        (MIXED, {"backbone": "gated_pixelcnn"}, "gated_pixelcnn"),
        (TEXT, {"backbone": "made"}, "made"),
        (TEXT, {"width": 10, "heads": 2}, "rotary"),
        (BINARY, {"width": 10, "heads": 4}, "multiple"),
        (DataSpec(modality="image", image=ImageShape(height=33, width=32)), {"backbone": "transformer"}, "1,?024"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(spec: DataSpec, knobs: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        make(spec, **{"heads": None, **knobs})


def test_defaults_choose_a_backbone_by_the_data() -> None:
    texts, tables = make(TEXT, width=None, depth=None), make(MIXED, width=None, depth=None, heads=None)
    assert texts.config.backbone == "transformer"
    assert tables.config.backbone == "made"
    assert tables.latent_dimensions == tables.config.width


# --- through the engine -----------------------------------------------------------------------------------------------


def test_rows_without_values_are_scored_by_the_exported_graph(tmp_path: Path) -> None:
    family = make(MIXED, backbone="made", width=8, depth=1)
    graphs = export(family, tmp_path)
    assemble(family, tmp_path, graphs=graphs, seed=0, steps=0, dataset="0" * 64)
    asked = program(Model.load(tmp_path, SessionOptions(threads=1)))
    x = rows_of(MIXED, 6)
    hidden = np.zeros(x.shape, dtype=bool)
    hidden[::2, 0] = hidden[1, 1] = True
    answer = asked.log_prob(np.where(hidden, np.nan, x), hidden=hidden)
    with torch.no_grad():
        expected = CellScore(cells_of(family))(torch.from_numpy(np.where(hidden, np.nan, x))).sum(1)
    np.testing.assert_allclose(answer.values, expected.numpy(), rtol=1e-5)
    hidden[0, 2] = True  # a column that never missed a value
    with pytest.raises(VerbUnsupported, match="any_order: true"):
        asked.log_prob(x, hidden=hidden)
