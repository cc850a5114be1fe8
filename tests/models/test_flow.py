"""Laws of flows alone: volume, inversion, mass, conditioning, and the proposal."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch.utils.flop_counter import FlopCounterMode

from contracts.artifact import AnswerKind, Verb
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput
from contracts.families import FlowConfig
from engine.model import open_session
from engine.options import SessionOptions
from models import build
from models.family import Batch, Noise
from models.flow import PROPOSAL_CELLS, Flow
from models.layers.coupling import Coupling
from models.layers.linear_maps import Permutation
from workers.export import export

LABEL = Column(name="kind", type=ColumnType.CATEGORICAL, role=Role.LABEL, categories=("a", "b", "c"))
SMALL = {"layers": 4, "width": 16, "dropout": 0.0}


def real(count: int, *more: Column) -> DataSpec:
    columns = tuple(Column(name=f"x{index}", type=ColumnType.REAL) for index in range(count))
    return DataSpec(modality="table", columns=(*columns, *more))


def image(side: int, levels: int = 17) -> DataSpec:
    return DataSpec(modality="image", image=ImageShape(height=side, width=side, levels=levels))


def make(spec: DataSpec, x: np.ndarray, y: np.ndarray | None = None, **knobs: object) -> Flow:
    flat = x.reshape(len(x), -1).astype(np.float64)
    profile = DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))
    torch.manual_seed(0)
    model = build(FlowConfig.model_validate({"family": "flow", **SMALL, **knobs}), spec, profile)
    assert isinstance(model, Flow)
    batch = Batch(torch.from_numpy(x), None if y is None else torch.from_numpy(y))
    model.stages()[0].start([batch])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # Couplings start as the identity; a law must hold away from there.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def descend(model: Flow, batch: Batch, steps: int, rate: float = 5e-3) -> None:
    stage, optimiser = model.stages()[0], torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        optimiser.zero_grad()
        noise = Noise(0, 0, step, rows=slice(0, len(batch)), total=len(batch))
        stage.loss(batch, noise, step / steps).objective.backward()  # type: ignore[attr-defined]
        optimiser.step()
    model.eval()


@pytest.mark.parametrize("coupling", ["additive", "affine", "spline", "mixture_cdf"])
def test_the_log_determinant_is_autograds(coupling: str) -> None:
    x = 100 + 20 * np.random.default_rng(0).normal(size=(64, 5))
    model = make(real(5), x, coupling=coupling)
    forward = model.graphs()["forward"].module
    row = torch.from_numpy(x[:1])
    z, log_prob = forward(row)
    jacobian = torch.autograd.functional.jacobian(lambda value: forward(value)[0], row)[0, :, 0]
    expected = -0.5 * (z**2).sum() - 2.5 * math.log(2 * math.pi) + torch.linalg.slogdet(jacobian)[1]
    assert log_prob.item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"coupling": "mixture_cdf", "attention": True, "components": 2, "layers": 2},
        {"coupling": "spline", "layers": 2},
    ],
)
def test_the_multiscale_log_determinant_is_autograds(knobs: dict[str, object]) -> None:
    x = np.random.default_rng(1).integers(0, 256, size=(32, 8, 8, 1)).astype(np.uint8)
    model = make(image(8, 256), x, network="multiscale", width=8, depth=1, **knobs).double()
    model.working_dtype = torch.float64
    u = torch.full((1, 64), 0.5, dtype=torch.float64)
    row = torch.from_numpy(x[:1])
    z, log_prob = model.to_base(row, u, None)
    jacobian = torch.autograd.functional.jacobian(lambda value: model.to_base(row, value, None)[0], u)[0, :, 0]
    expected = -0.5 * (z**2).sum() - 32 * math.log(2 * math.pi) + torch.linalg.slogdet(jacobian)[1]
    assert log_prob.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("knobs", [{"coupling": "additive"}, {"coupling": "affine", "layers": 16}])
def test_tables_come_back_from_the_base(knobs: dict[str, object]) -> None:
    x = 1e5 + 1e3 * np.random.default_rng(2).standard_t(3, size=(200, 7))  # heavy tails, far from zero
    graphs = make(real(7), x, **knobs).graphs()
    z, _ = graphs["forward"].module(torch.from_numpy(x))
    back = graphs["inverse"].module(z)
    assert (back - torch.from_numpy(x)).abs().max().item() < 1e-4


@pytest.mark.parametrize("knobs", [{}, {"coupling": "mixture_cdf", "linear": "lu", "components": 3, "layers": 2}])
@pytest.mark.parametrize("side", [16, 18])
def test_images_come_back_from_the_base(side: int, knobs: dict[str, object]) -> None:
    x = np.random.default_rng(3).integers(0, 256, size=(16, side, side, 3)).astype(np.uint8)
    spec = DataSpec(modality="image", image=ImageShape(height=side, width=side, channels=3))
    model = make(spec, x, width=8, depth=1, **knobs)
    assert model.config.network == "multiscale"
    graphs = model.graphs()
    u = torch.rand(16, spec.cells, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, _ = graphs["forward"].module(torch.from_numpy(x), u)
    back = graphs["inverse"].module(z)
    assert (back.flatten(1) - torch.from_numpy(x).flatten(1) - u).abs().max().item() < 1e-4


@pytest.mark.parametrize(("side", "levels"), [(8, 17), (16, 256)])
def test_onnx_graphs_invert_each_other(side: int, levels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, levels, size=(9, side, side, 1)).astype(np.uint8)
    graphs = export(make(image(side, levels), x, layers=2, width=8, depth=1), tmp_path)
    forward, inverse = (open_session(tmp_path / graphs[name].file, SessionOptions()) for name in ("forward", "inverse"))
    u = rng.random((9, side * side))
    z, _ = forward.run(["z", "log_prob"], {"x": x, "u": u})
    (back,) = inverse.run(["x"], {"z": z})
    assert np.abs(back - x - u.reshape(x.shape)).max() < 1e-4


def test_probabilities_of_all_values_add_up_to_one() -> None:
    columns = tuple(Column(name=name, type=ColumnType.INTEGER, minimum=0, maximum=5) for name in "ab")
    x = np.random.default_rng(4).binomial(5, 0.5, size=(500, 2)).astype(np.float64)
    model = make(DataSpec(modality="table", columns=columns), x)
    descend(model, Batch(torch.from_numpy(x)), 100)
    side = np.arange(-10, 16.0)  # a flow's density reaches beyond the values that data take
    values = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    offsets = (np.arange(24) + 0.5) / 24
    u = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
    rows, noise = np.repeat(values, len(u), axis=0), np.tile(u, (len(values), 1))
    with torch.no_grad():
        _, log_prob = model.graphs()["forward"].module(torch.from_numpy(rows), torch.from_numpy(noise))
    assert float(log_prob.exp().mean() * len(values)) == pytest.approx(1.0, abs=0.01)


def test_learned_noise_covers_the_whole_bin() -> None:
    """The mean of p(x + u) / q(u | x) over q is the mass of the bin, whatever q is."""
    columns = (
        Column(name="a", type=ColumnType.INTEGER, minimum=0, maximum=5),
        Column(name="b", type=ColumnType.REAL),
        Column(name="c", type=ColumnType.BOOLEAN),
    )
    rng = np.random.default_rng(4)
    x = np.stack([rng.binomial(5, 0.5, 300), rng.normal(size=300), rng.integers(0, 2, 300)], axis=1).astype(float)
    model = make(DataSpec(modality="table", columns=columns), x, coupling="mixture_cdf", dequantisation="variational")
    graphs = model.graphs()
    assert [tensor.name for tensor in graphs["forward"].inputs] == ["x", "eps"]
    assert graphs["forward"].inputs[1].shape == ("B", 2)
    row = torch.from_numpy(x[:1])
    eps = torch.from_numpy(rng.normal(size=(40_000, 2)))
    side = (np.arange(100) + 0.5) / 100
    u = torch.from_numpy(np.stack(np.meshgrid(side, [0.0], side), axis=-1).reshape(-1, 3))
    with torch.no_grad():
        mass = graphs["density"].module(row.expand(len(u), 3), u).exp().mean()
        drawn = graphs["forward"].module(row.expand(len(eps), 3), eps)[1].exp()
    assert float(drawn.mean()) == pytest.approx(float(mass), abs=5 * float(drawn.std()) / 200)


def test_learned_noise_tightens_the_bound() -> None:
    """A boolean that a real column decides: uniform noise must fill both bins, a learned one need not."""
    rng = np.random.default_rng(5)
    code = rng.integers(0, 2, 1000).astype(np.float64)
    x = np.stack([code, 3 * code + rng.normal(size=1000)], axis=1)
    columns = (Column(name="a", type=ColumnType.BOOLEAN), Column(name="b", type=ColumnType.REAL))
    scores = {}
    for kind in ("uniform", "variational"):
        model = make(DataSpec(modality="table", columns=columns), x, dequantisation=kind)
        batch = Batch(torch.from_numpy(x))
        descend(model, batch, 300)
        with torch.no_grad():
            scores[kind] = float(model.log_prob(batch, Noise(1, 0, 0, rows=slice(0, 1000), total=1000)).mean())
    assert scores["variational"] > scores["uniform"] + 0.02


def test_training_brings_the_score_to_the_truth() -> None:
    rng = np.random.default_rng(5)
    covariance = np.array([[2.0, 1.5], [1.5, 3.0]])
    x = rng.multivariate_normal([5, -5], covariance, size=2000)
    model = make(real(2), x)
    descend(model, Batch(torch.from_numpy(x)), 300)
    fresh = rng.multivariate_normal([5, -5], covariance, size=2000)
    truth = multivariate_normal([5, -5], covariance).logpdf(fresh).mean()
    with torch.no_grad():
        score = float(model.graphs()["forward"].module(torch.from_numpy(fresh))[1].mean())
    assert truth - 0.05 < score < truth + 0.05


def test_labels_condition_the_density_and_its_samples() -> None:
    rng = np.random.default_rng(6)
    y = rng.integers(0, 3, 600)
    x = rng.normal(size=(600, 2)) + 10.0 * y[:, None]
    model = make(real(2, LABEL), x, y, condition="label")
    descend(model, Batch(torch.from_numpy(x), torch.from_numpy(y)), 200, 1e-2)
    graphs = model.graphs()
    assert [tensor.name for tensor in graphs["forward"].inputs] == ["x", "y"]
    with torch.no_grad():
        _, right = graphs["forward"].module(torch.from_numpy(x), torch.from_numpy(y))
        _, wrong = graphs["forward"].module(torch.from_numpy(x), torch.from_numpy((y + 1) % 3))
        z = torch.from_numpy(rng.normal(size=(200, 2)))
        drawn = graphs["inverse"].module(z, torch.full((200,), 2))
    assert float((right - wrong).mean()) > 5
    assert float(drawn.mean()) == pytest.approx(20.0, abs=1.0)


def test_a_single_column_is_a_scaled_gaussian() -> None:
    x = np.random.default_rng(7).normal(7, 3, size=(100, 1))
    flat = DataProfile(100, x.mean(0), x.std(0), x.min(0), x.max(0))
    model = build(FlowConfig(family="flow"), real(1), flat)
    model.stages()[0].start([Batch(torch.from_numpy(x))])
    _, log_prob = model.eval().graphs()["forward"].module(torch.from_numpy(x))
    expected = multivariate_normal(x.mean(), x.var()).logpdf(x)
    np.testing.assert_allclose(log_prob.detach().numpy(), expected, atol=1e-4)


def test_a_single_column_has_a_spline_of_its_own() -> None:
    rng = np.random.default_rng(7)
    x = np.where(rng.random((1000, 1)) < 0.5, -3.0, 3.0) + 0.3 * rng.normal(size=(1000, 1))
    model = make(real(1), x, coupling="spline")
    descend(model, Batch(torch.from_numpy(x)), 200, rate=2e-2)
    fresh = np.linspace(-5, 5, 2001)[:, None]
    density = 0.5 * (norm(-3, 0.3).pdf(fresh) + norm(3, 0.3).pdf(fresh))
    with torch.no_grad():
        _, log_prob = model.graphs()["forward"].module(torch.from_numpy(fresh))
    divergence = np.trapezoid((density[:, 0] * (np.log(density[:, 0] + 1e-300) - log_prob.numpy())), fresh[:, 0])
    assert -0.01 < divergence < 0.1


def test_a_constant_column_does_not_break_the_flow() -> None:
    x = np.concatenate([np.random.default_rng(8).normal(size=(100, 2)), np.full((100, 1), 3.0)], axis=1)
    model = make(real(3), x)
    descend(model, Batch(torch.from_numpy(x)), 20)
    with torch.no_grad():
        z, log_prob = model.graphs()["forward"].module(torch.from_numpy(x))
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_prob).all()


def test_a_constant_column_does_not_end_training() -> None:
    x = np.random.default_rng(8).normal(size=(200, 6))
    x[:, 4] = -0.06140064
    model = make(real(6), x, layers=8, dropout=0.1)
    descend(model, Batch(torch.from_numpy(x)), 20, rate=1e-3)
    forward, inverse = (model.graphs()[name].module for name in ("forward", "inverse"))
    with torch.no_grad():
        assert forward(torch.from_numpy(x))[1].mean() > -3
        x[0, 4] = 13.07462921  # the first row that differs there
        torch.testing.assert_close(inverse(forward(torch.from_numpy(x))[0]), torch.from_numpy(x), rtol=0, atol=1e-6)


def test_start_makes_the_first_base_variables_standard() -> None:
    x = 50 + 9 * np.random.default_rng(9).normal(size=(500, 6))
    flat = DataProfile(500, x.mean(0) - 3, 4 * x.std(0), x.min(0), x.max(0))  # a profile that is off
    model = build(FlowConfig(family="flow"), real(6), flat)
    model.stages()[0].start([Batch(torch.from_numpy(x[:250])), Batch(torch.from_numpy(x[250:]))])
    z, _ = model.eval().graphs()["forward"].module(torch.from_numpy(x))
    torch.testing.assert_close(z.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(6, dtype=torch.float64), atol=1e-4, rtol=0)
    with pytest.raises(InvalidInput, match="no train rows"):
        model.stages()[0].start([])


def test_the_proposal_covers_the_dequantised_rows() -> None:
    x = np.random.default_rng(10).integers(0, 17, size=(300, 4, 4, 1)).astype(np.uint8)
    model = make(image(4), x)
    assert model.constants() == {}
    model.stages()[0].finish([Batch(torch.from_numpy(x))])
    constants = model.constants()
    means, weights = constants["proposal.means"], constants["proposal.log_weights"].exp()
    assert float(weights.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(
        (weights[:, None] * means).sum(0), torch.from_numpy(x.reshape(300, -1).mean(0) + 0.5), atol=0.2, rtol=0
    )
    again = make(image(4), x)
    again.stages()[0].finish([Batch(torch.from_numpy(x))])
    assert torch.equal(again.constants()["proposal.cholesky"], constants["proposal.cholesky"])


def test_kinds_say_what_the_numbers_are() -> None:
    x = np.random.default_rng(11).normal(size=(40, 3))
    assert make(real(3), x).verbs()[Verb.LOG_PROB].kind is AnswerKind.EXACT
    small = make(image(4), np.zeros((40, 4, 4, 1), np.uint8))
    assert small.verbs()[Verb.LOG_PROB].kind is AnswerKind.LOWER_BOUND
    assert small.verbs()[Verb.PREDICT].kind is AnswerKind.ESTIMATE
    learned = make(image(4), np.zeros((40, 4, 4, 1), np.uint8), dequantisation="variational")
    assert learned.verbs()[Verb.LOG_PROB].kind is AnswerKind.LOWER_BOUND


def test_large_images_have_no_proposal_and_say_what_to_use() -> None:
    x = np.random.default_rng(12).integers(0, 256, size=(8, 36, 36, 1)).astype(np.uint8)
    assert PROPOSAL_CELLS < 36 * 36
    model = make(image(36, 256), x, layers=2, width=4, depth=1)
    model.stages()[0].finish([Batch(torch.from_numpy(x))])
    assert model.constants() == {}
    refusal = model.verbs()[Verb.PREDICT]
    assert not refusal.supported
    assert "vae" in (refusal.refusal or "")


@pytest.mark.parametrize(
    ("side", "network", "expected"),
    [
        (8, "auto", "mlp"),
        (14, "auto", "multiscale"),
        (16, "auto", "multiscale"),
        (28, "auto", "multiscale"),
        (17, "auto", "mlp"),
        (8, "multiscale", "multiscale"),
    ],
)
def test_the_network_suits_the_image(side: int, network: str, expected: str) -> None:
    x = np.zeros((4, side, side, 1), np.uint8)
    assert make(image(side), x, network=network, layers=2, width=4, depth=1).config.network == expected


@pytest.mark.parametrize("cells", [2, 3, 4, 5, 7])
def test_each_two_layers_move_every_cell(cells: int) -> None:
    model = make(real(cells), np.random.default_rng(0).normal(size=(64, cells)), layers=6)
    where, moved = torch.arange(cells), []
    for layer in model.net.layers:
        if isinstance(layer, Permutation):
            where = where[layer.order]
        elif isinstance(layer, Coupling):
            moved.append(set(where[layer.kept :].tolist()))
    assert len(moved) == 6
    assert all(moved[index] | moved[index + 1] == set(range(cells)) for index in (0, 2, 4))


def test_a_step_on_small_pictures_is_a_matter_of_a_moment() -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(8, 28, 28, 1)).astype(np.uint8)
    flat = images.reshape(8, -1).astype(np.float64)
    profile = DataProfile(60_000, flat.mean(0), flat.std(0), flat.min(0), flat.max(0))
    model = build(FlowConfig(family="flow"), image(28, 256), profile)
    assert isinstance(model, Flow)
    with FlopCounterMode(display=False) as counter:
        model.log_prob(Batch(torch.from_numpy(images)), Noise(0, 0, 0, rows=slice(0, 8), total=8))
    assert model.config.batch_size is not None
    # some tens of milliseconds of one core forwards, thrice that with the way back
    assert counter.get_total_flops() / 8 * model.config.batch_size < 4e9


def test_few_rows_are_held_back_and_many_are_not() -> None:
    def resolved(rows: int) -> FlowConfig:
        cells = np.ones(20)
        profile = DataProfile(rows, 0 * cells, cells, -cells, cells)
        return build(FlowConfig(family="flow"), real(20), profile).config

    few, many = resolved(1_000), resolved(1_000_000)
    assert few.dropout > many.dropout == 0
    assert few.batch_size < many.batch_size == 512
    assert few.width < many.width


def test_multiscale_refuses_what_cannot_be_halved() -> None:
    with pytest.raises(InvalidInput, match="use network `mlp`"):
        make(image(7), np.zeros((4, 7, 7, 1), np.uint8), network="multiscale")
    with pytest.raises(InvalidInput, match="use network `mlp`"):
        make(real(4), np.zeros((4, 4)), network="multiscale")


def test_what_is_left_open_suits_the_coupling() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    assert make(real(3), x).config.linear == "permutation"
    assert make(real(3), x, coupling="spline").config.linear == "lu"
    # Without discrete cells there is nothing to spread.
    assert make(real(3), x, dequantisation="variational").config.dequantisation == "uniform"
    assert set(make(real(3), x, dequantisation="variational").graphs()) == {"forward", "inverse"}


def test_pictures_of_emoji_size_have_three_scales() -> None:
    spec = DataSpec(modality="image", image=ImageShape(height=32, width=32, channels=3))
    x = np.random.default_rng(0).integers(0, 256, size=(4, 32, 32, 3)).astype(np.uint8)
    model = make(spec, x, width=4, depth=1, layers=2, coupling="mixture_cdf", components=2)
    assert model.net.shapes == [(12, 16, 16), (24, 8, 8), (48, 4, 4)]
    with torch.no_grad():
        scores = model.log_prob(Batch(torch.from_numpy(x)), Noise(0, 0, 0, rows=slice(0, 4), total=4))
    assert torch.isfinite(scores).all()


def test_smoothing_learns_the_density_of_rows_and_noise() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, (4096, 1))
    batch = Batch(torch.from_numpy(x))
    model = make(real(1), x, smoothing=0.5)
    descend(model, batch, 300, 2e-2)
    with torch.no_grad():
        answered = model.to_base(batch.x[:50], None, None)[1].numpy()
    smooth = norm.logpdf(x[:50, 0], x.mean(), x.std() * math.sqrt(1 + 0.5**2))
    np.testing.assert_allclose(answered, smooth, atol=0.05)


def test_smoothing_is_for_tables() -> None:
    with pytest.raises(InvalidInput, match="smoothing is for tables"):
        make(image(8), np.zeros((4, 8, 8, 1), dtype=np.uint8), smoothing=0.1)
