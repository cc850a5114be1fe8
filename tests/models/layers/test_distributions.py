"""Each cell distribution: a proper distribution, a draw that follows it, a mean that is its mean."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from engine.model import open_session
from engine.options import SessionOptions
from models.layers.cell_mixtures import NARROWEST_BINS, DiscretisedLogistic, LogisticMixture
from models.layers.distributions import (
    Bernoulli,
    Categorical,
    CellDistribution,
    Gaussian,
    log_one_minus_exp,
)

DOUBLE = torch.float64


def _logistic(low: float, high: float, *, scale: float = 3.0, components: int = 1) -> DiscretisedLogistic:
    def one(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=DOUBLE)

    centre = low + 2.0 if math.isfinite(low) else 5.0
    return DiscretisedLogistic(one(centre), one(scale), one(low), one(high), components)


def _outputs(distribution: CellDistribution, rows: int, seed: int = 0, spread: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(rows, 1, distribution.outputs, generator=generator, dtype=DOUBLE)


def _masses(distribution: CellDistribution, h: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """``(rows, values)``."""
    x = support.repeat(len(h))[:, None]
    return distribution.log_prob(x, h.repeat_interleave(len(support), 0)).exp().reshape(len(h), -1)


DISCRETE = {
    "bernoulli": (Bernoulli(torch.tensor([3.0], dtype=DOUBLE)), torch.arange(3, 5)),
    "categorical": (Categorical(4, DOUBLE), torch.arange(4)),
    "logistic": (_logistic(-2, 14), torch.arange(-2, 15)),
    "one value": (_logistic(5, 5), torch.arange(5, 6)),
    "mixture": (_logistic(0, 16, components=3), torch.arange(17)),
    "bytes": (_logistic(0, 255, scale=70.0), torch.arange(256)),
    "open": (_logistic(-math.inf, math.inf), torch.arange(-4000, 4000)),
    "half open": (_logistic(0, math.inf), torch.arange(0, 4000)),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_masses_sum_to_one_over_the_grid(name: str) -> None:
    distribution, support = DISCRETE[name]
    masses = _masses(distribution, _outputs(distribution, 20), support.to(DOUBLE))
    assert torch.allclose(masses.sum(1), torch.ones(20, dtype=DOUBLE), atol=1e-6)


@pytest.mark.parametrize("name", DISCRETE)
def test_evenly_spaced_uniforms_draw_each_value_by_its_mass(name: str) -> None:
    distribution, support = DISCRETE[name]
    h = _outputs(distribution, 1, seed=2)
    n = 20_000
    u = (torch.arange(n, dtype=DOUBLE)[:, None] + 0.5) / n
    drawn = distribution.draw(h.expand(n, -1, -1), u)[:, 0]
    assert torch.equal(drawn, drawn.floor())
    frequencies = torch.bincount((drawn - support[0]).long(), minlength=len(support)).to(DOUBLE)[: len(support)] / n
    masses = _masses(distribution, h, support.to(DOUBLE))[0]
    # each value's share of an even grid is off by at most a step at each of its ends
    assert (frequencies - masses).abs().max() < 2 * distribution.outputs / n + 1e-6


@pytest.mark.parametrize(
    ("name", "tolerance"), [("bernoulli", 1e-6), ("logistic", 1e-6), ("one value", 1e-6), ("mixture", 1e-6)]
)
def test_mean_is_the_sum_over_the_grid(name: str, tolerance: float) -> None:
    distribution, support = DISCRETE[name]
    h = _outputs(distribution, 20)
    expected = (_masses(distribution, h, support.to(DOUBLE)) * support).sum(1)
    assert torch.allclose(distribution.mean(h)[:, 0], expected, atol=tolerance)


@pytest.mark.parametrize("name", ["bytes", "open", "half open"])
def test_mean_of_many_levels_is_near_the_sum_and_within_half_a_value_when_narrow(name: str) -> None:
    distribution, support = DISCRETE[name]
    h = _outputs(distribution, 20)
    expected = (_masses(distribution, h, support.to(DOUBLE)) * support).sum(1)
    assert (distribution.mean(h)[:, 0] - expected).abs().max() < 0.02
    h[..., 1] = -20
    expected = (_masses(distribution, h, support.to(DOUBLE)) * support).sum(1)
    assert (distribution.mean(h)[:, 0] - expected).abs().max() <= 0.5 + 1e-6


def test_the_mean_of_categories_is_the_most_probable_one() -> None:
    h = torch.tensor([[[0.1, 2.0, -1.0, 1.9]]], dtype=DOUBLE)
    assert Categorical(4, DOUBLE).mean(h).tolist() == [[1.0]]


def test_far_tails_keep_their_precision_in_float32() -> None:
    one = torch.tensor([1.0])
    distribution = DiscretisedLogistic(0 * one, one, torch.tensor([0.0]), torch.tensor([255.0]))
    h = torch.tensor([[[0.0, -2.0]]])
    smallest = math.log(NARROWEST_BINS)
    scale = math.exp(smallest + math.log1p(math.exp(-2.0 - smallest)))
    log_p = distribution.log_prob(torch.tensor([[100.0]]), h)
    expected = -99.5 / scale + math.log(1 - math.exp(-1 / scale))
    assert log_p.item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(distribution.log_prob(torch.tensor([[255.0]]), h)).all()


def test_log_one_minus_exp_over_sixteen_decades() -> None:
    x = torch.logspace(-14, 2, 200, dtype=DOUBLE)
    assert torch.allclose(log_one_minus_exp(x), torch.log(-torch.expm1(-x)), atol=2e-7)


def _gaussian(discrete: bool, scale: float = 2.0) -> Gaussian:
    def one(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=DOUBLE)

    low, high = (0.0, 30.0) if discrete else (-math.inf, math.inf)
    return Gaussian(one(10.0), one(scale), one(low), one(high), torch.tensor([discrete]))


def test_gaussian_density_draw_and_mean_agree_with_scipy() -> None:
    distribution = _gaussian(False)
    h = torch.tensor([[[0.5, -0.4]]], dtype=DOUBLE)
    reference = stats.norm(11.0, 2 * math.exp(-5 + math.log1p(math.exp(-0.4 + 5))))
    x = torch.linspace(4, 18, 15, dtype=DOUBLE)[:, None]
    assert torch.allclose(distribution.log_prob(x, h)[:, 0], torch.tensor(reference.logpdf(x[:, 0].numpy())))
    u = torch.tensor([[0.01], [0.5], [0.93]], dtype=DOUBLE)
    drawn = distribution.draw(h.expand(3, -1, -1), u)[:, 0]
    assert torch.allclose(drawn, torch.tensor(reference.ppf([0.01, 0.5, 0.93])))
    assert distribution.mean(h).item() == pytest.approx(11.0)


def test_gaussian_on_whole_numbers_bounds_the_mass_of_its_bins() -> None:
    distribution = _gaussian(True)
    h = torch.tensor([[[0.5, 0.3]]], dtype=DOUBLE)
    scale = 2 * math.exp(-5 + math.log1p(math.exp(0.3 + 5)))
    support = torch.arange(31, dtype=DOUBLE)
    masses = _masses(distribution, h, support)[0]
    exact = torch.tensor(stats.norm(11.0, scale).cdf(support + 1) - stats.norm(11.0, scale).cdf(support))
    assert (masses <= exact + 1e-12).all()
    assert masses.sum() > 0.95
    u = torch.linspace(0, 0.999, 50, dtype=DOUBLE)[:, None]
    drawn = distribution.draw(h.expand(50, -1, -1), u)
    assert torch.equal(drawn, drawn.floor())
    assert (drawn >= 0).all()
    assert (drawn <= 30).all()


@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_extreme_outputs_stay_finite(raw: float) -> None:
    for distribution, support in [*DISCRETE.values(), (_gaussian(False), torch.arange(5, 9))]:
        h = torch.full((1, 1, distribution.outputs), raw, dtype=DOUBLE)
        x = support[:1].to(DOUBLE)[None]
        assert torch.isfinite(distribution.log_prob(x, h)).all()
        assert torch.isfinite(distribution.mean(h)).all()
        assert torch.isfinite(distribution.draw(h, torch.tensor([[0.0]], dtype=DOUBLE))).all()


def _mixture(scale: float = 2.0, components: int = 3) -> LogisticMixture:
    return LogisticMixture(torch.tensor([10.0], dtype=DOUBLE), torch.tensor([scale], dtype=DOUBLE), components)


@pytest.mark.parametrize("components", [1, 3])
def test_a_mixture_of_logistics_agrees_with_scipy(components: int) -> None:
    distribution = _mixture(components=components)
    h = _outputs(distribution, 1, seed=3)
    k = components
    weights = torch.softmax(h[0, 0, 2 * k :], 0) if k > 1 else torch.ones(1, dtype=DOUBLE)
    scales = torch.exp(-5 + torch.log1p(torch.exp(h[0, 0, k : 2 * k] + 5)))
    parts = [stats.logistic(10 + 2 * float(m), 2 * float(s)) for m, s in zip(h[0, 0, :k], scales, strict=True)]
    x = torch.linspace(-20, 40, 31, dtype=DOUBLE)[:, None]
    density = sum(float(w) * part.pdf(x[:, 0].numpy()) for w, part in zip(weights, parts, strict=True))
    assert torch.allclose(distribution.log_prob(x, h)[:, 0], torch.log(torch.tensor(density)))
    mean = sum(float(w) * part.mean() for w, part in zip(weights, parts, strict=True))
    second = sum(float(w) * (part.var() + part.mean() ** 2) for w, part in zip(weights, parts, strict=True))
    assert distribution.mean(h).item() == pytest.approx(mean)
    assert distribution.std(h).item() == pytest.approx(math.sqrt(second - mean**2))


def test_draws_of_a_mixture_follow_its_distribution_function() -> None:
    distribution = _mixture()
    h = _outputs(distribution, 1, seed=4)
    n = 20_000
    u = (torch.arange(n, dtype=DOUBLE)[:, None] + 0.5) / n
    drawn = distribution.draw(h.expand(n, -1, -1), u)[:, 0]
    x = torch.linspace(float(drawn.min()), float(drawn.max()), 40_001, dtype=DOUBLE)
    below = torch.cumsum(distribution.log_prob(x[:, None], h)[:, 0].exp() * (x[1] - x[0]), 0)
    for place in (0.1, 0.3, 0.5, 0.8):
        share = (drawn <= x[(below < place).sum()]).to(DOUBLE).mean()
        assert share == pytest.approx(place, abs=2e-3)


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "logistic", "one value", "mixture"])
def test_std_is_that_of_the_masses_over_the_grid(name: str) -> None:
    distribution, support = DISCRETE[name]
    h = _outputs(distribution, 20)
    masses = _masses(distribution, h, support.to(DOUBLE))
    mean = (masses * support).sum(1)
    expected = torch.sqrt((masses * (support - mean[:, None]) ** 2).sum(1))
    assert torch.allclose(distribution.std(h)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["bernoulli", "logistic"])
def test_the_runtime_agrees_on_the_std_of_cells_that_are_all_but_certain(name: str, tmp_path: Path) -> None:
    low, high = torch.zeros(1), torch.full((1,), 7.0)
    unit = torch.ones(1)
    sure = Bernoulli(low) if name == "bernoulli" else DiscretisedLogistic(3 * unit, 2 * unit, low, high, components=2)
    h = torch.linspace(-40, 40, 81)[:, None, None].expand(-1, 1, sure.outputs).contiguous()

    class Std(torch.nn.Module):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return sure.std(h)

    graph = tmp_path / "std.onnx"
    program = torch.onnx.export(Std(), (h,), dynamo=True, verbose=False)
    assert program is not None
    program.save(graph)
    session = open_session(graph, SessionOptions(threads=1))
    (answer,) = session.run(None, {session.get_inputs()[0].name: h.numpy()})
    np.testing.assert_allclose(answer, sure.std(h).numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["bytes", "open"])
def test_std_of_many_levels_is_near_the_sum_also_where_a_tail_is_cut(name: str) -> None:
    distribution, support = DISCRETE[name]
    h = _outputs(distribution, 20, spread=0.2)
    h[..., 1] = -1.5
    masses = _masses(distribution, h, support.to(DOUBLE))
    mean = (masses * support).sum(1)
    expected = torch.sqrt((masses * (support - mean[:, None]) ** 2).sum(1))
    assert torch.allclose(distribution.std(h)[:, 0], expected, rtol=0.1)


def test_std_of_a_gaussian_is_its_scale() -> None:
    h = torch.tensor([[[0.5, -0.4]]], dtype=DOUBLE)
    assert _gaussian(False).std(h).item() == pytest.approx(2 * math.exp(-5 + math.log1p(math.exp(-0.4 + 5))))


TEMPERED = {**{name: d for name, (d, _) in DISCRETE.items()}, "gaussian": _gaussian(False), "real mixture": _mixture()}


@pytest.mark.parametrize("name", TEMPERED)
def test_temperature_one_changes_nothing_and_zero_leaves_one_value(name: str) -> None:
    distribution = TEMPERED[name]
    h = _outputs(distribution, 4, seed=1)
    one = torch.ones(4, 1, dtype=DOUBLE)
    assert torch.allclose(distribution.temper(h, one), h)
    warm, cold = distribution.std(distribution.temper(h, 2 * one)), distribution.std(distribution.temper(h, 0.1 * one))
    if name not in ("one value", "categorical"):
        assert (cold < warm).all()
    frozen = distribution.temper(h, 0 * one)
    u = torch.tensor([[0.1], [0.3], [0.6], [0.9]], dtype=DOUBLE)
    drawn = torch.stack([distribution.draw(frozen[row : row + 1].expand(4, -1, -1), u)[:, 0] for row in range(4)])
    width = 2 * 0.05 * 3 if name == "gaussian" or "real" in name else 1
    assert (drawn.max(1).values - drawn.min(1).values <= width).all()


def test_the_start_of_a_mixture_spreads_its_parts() -> None:
    start = _mixture(components=4).start()
    assert start.shape == (12,)
    assert (start[:4].diff() > 0).all()
