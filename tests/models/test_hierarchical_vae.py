"""Laws of the hierarchical VAE alone: bounds, what a group is, temperature, masks, missing cells, conditions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput
from contracts.families import HierarchicalVAEConfig
from models import build
from models.family import Batch, Noise
from models.hierarchical_vae import Fit, HierarchicalVAE
from models.layers.gaussian import log_normal
from models.layers.top_down import Step

DIGITS = DataSpec(modality="image", image=ImageShape(height=8, width=8, levels=17))


def table(cells: int, *, classes: tuple[str, ...] = ()) -> DataSpec:
    columns = [Column(name=f"x{i}", type=ColumnType.REAL, missing=True) for i in range(cells)]
    if classes:
        columns.append(Column(name="class", type=ColumnType.CATEGORICAL, categories=classes, role=Role.LABEL))
    return DataSpec(modality="table", columns=tuple(columns))


def profile(x: NDArray[Any]) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    moments = (np.nanmean(flat, 0), np.nanstd(flat, 0), np.nanmin(flat, 0), np.nanmax(flat, 0))
    return DataProfile(len(x), *moments)


def make(spec: DataSpec, x: NDArray[Any], **knobs: Any) -> HierarchicalVAE:
    torch.manual_seed(0)
    family = build(HierarchicalVAEConfig(family="hierarchical_vae", **knobs), spec, profile(x))
    assert isinstance(family, HierarchicalVAE)
    return family


def noise(step: int, rows: int) -> Noise:
    return Noise(0, 0, step, rows=slice(0, rows), total=rows)


def fit(
    family: HierarchicalVAE, x: NDArray[Any], steps: int, *, y: NDArray[Any] | None = None, rate: float = 3e-3
) -> dict[str, float]:
    """Train and return the terms of the last step."""
    (stage,) = family.stages()
    assert isinstance(stage, Fit)
    optimiser = torch.optim.Adam(family.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = np.random.default_rng(0)
    for step in range(steps):
        index = generator.integers(0, len(x), 128)
        batch = Batch(torch.from_numpy(x[index]), None if y is None else torch.from_numpy(y[index]))
        terms = stage.loss(batch, noise(step, len(index)), step / steps)
        optimiser.zero_grad()
        terms.objective.backward()
        optimiser.step()
        schedule.step()
    family.eval()
    return {name: float(value.detach()) for name, value in terms.named.items()}


@torch.no_grad()
def bound(family: HierarchicalVAE, x: NDArray[Any], samples: int, *, y: Tensor | None = None, seed: int = 0) -> Tensor:
    """The importance-weighted bound of each row ``(B,)`` by the exported modules, nats."""
    rows = torch.from_numpy(x)
    shown = torch.ones_like(rows, dtype=torch.bool)
    graphs = family.graphs()
    generator = torch.Generator().manual_seed(seed)
    labels = () if y is None else (y,)
    weights = []
    for _ in range(samples):
        eps = torch.randn(len(x), family.latent_dimensions, generator=generator)
        z, log_ratio = graphs["infer"].module(rows, shown, eps, *labels)
        weights.append(graphs["score"].module(rows, shown, z, *labels).double() + log_ratio.double())
    return torch.logsumexp(torch.stack(weights), 0) - math.log(samples)


@pytest.fixture(scope="module", params=["normal", "flow"])
def digits(request: pytest.FixtureRequest) -> tuple[HierarchicalVAE, NDArray[np.uint8]]:
    x = load_digits().images.astype(np.uint8)[..., None]
    family = make(DIGITS, x[:1400], width=64, groups=3, latents=6, prior=request.param)
    fit(family, x[:1400], 400)
    return family, x[1400:1600]


def test_more_importance_samples_tighten_the_bound(digits: tuple[HierarchicalVAE, NDArray[np.uint8]]) -> None:
    family, x = digits
    means = [float(bound(family, x, samples, seed=samples).mean()) for samples in (1, 8, 64)]
    assert means[0] < means[1] < means[2]


def test_the_held_out_score_is_the_negative_bound_with_analytic_rates(
    digits: tuple[HierarchicalVAE, NDArray[np.uint8]],
) -> None:
    family, x = digits
    (stage,) = family.stages()
    assert isinstance(stage, Fit)
    with torch.no_grad():
        held_out = stage.held_out(Batch(torch.from_numpy(x)), noise(0, len(x)))
    one_sample = -bound(family, x, 1)
    error = float((held_out - one_sample).std()) / math.sqrt(len(x))
    assert float(held_out.mean() - one_sample.mean()) == pytest.approx(0, abs=5 * error)


def test_a_flow_on_top_draws_from_the_density_that_it_scores() -> None:
    generator = np.random.default_rng(3)
    x = np.where(generator.random((2000, 1)) < 0.5, -3.0, 3.0) + 0.3 * generator.standard_normal((2000, 3))
    family = make(table(3), x, latents=2, groups=2, width=32, prior="flow")
    fit(family, x, 300, rate=1e-2)
    assert family.top is not None
    temperature = torch.ones(4000, 2)
    eps = torch.randn(4000, family.latent_dimensions, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = family.by_group(family.prior(eps, temperature))[0]
        step = family._walk(lambda i, mean, log_scale: mean, eps, None)[1][0]
        gain = family.gain(Step(step.prior, None, z)).double()
    # Of draws of p, the mean of q / p is 1 for any density q, here the normal prior.
    ratios = torch.exp(-gain)
    assert float(gain.std()) > 0.1
    assert float(ratios.mean()) == pytest.approx(1, abs=5 * float(ratios.std()) / math.sqrt(len(ratios)))


def test_linear_gaussian_data_come_close_to_their_exact_likelihood() -> None:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((4000, 2)) @ generator.standard_normal((2, 5))
    x += 0.7 * generator.standard_normal((4000, 5)) + 3.0
    family = make(table(5), x, latents=2, groups=2, width=32, masking=0.0)
    fit(family, x, 1000, rate=1e-2)
    exact = PCA(2).fit(x).score(x[:1000])
    assert exact - 0.3 < float(bound(family, x[:1000], 64).mean()) < exact + 0.05


def test_a_posterior_without_a_difference_is_the_prior_and_costs_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((16, 4))
    family = make(table(4), x, latents=3)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        for name, parameter in family.named_parameters():
            if "posterior" in name:
                parameter.zero_()
    rows, shown = torch.from_numpy(x), torch.ones(16, 4, dtype=torch.bool)
    eps = torch.randn(16, family.latent_dimensions, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z, log_ratio = family.graphs()["infer"].module(rows, shown, eps)
        drawn = family.prior(eps, torch.ones(16, 3))
    torch.testing.assert_close(z, drawn)
    torch.testing.assert_close(log_ratio, torch.zeros(16))
    assert float((z - eps).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("spec", "knobs", "sizes"),
    [
        (table(4), {"groups": 4, "latents": 3}, (3, 3, 3, 3)),
        (DIGITS, {"groups": 2, "latents": 5}, (5, 5)),
        (
            DataSpec(modality="image", image=ImageShape(height=28, width=28, levels=2)),
            {"groups": 5, "latents": 2},
            (16, 2 * 49, 2 * 49, 2 * 196, 2 * 196),
        ),
        (
            DataSpec(modality="image", image=ImageShape(height=64, width=64, channels=3)),
            {"groups": 4, "latents": 1},
            (8, 64, 256, 1024),
        ),
        (
            DataSpec(modality="image", image=ImageShape(height=17, width=21, levels=4)),
            {"groups": 2, "latents": 3},
            (24, 3 * 5 * 6),
        ),
    ],
)
def test_groups_have_their_sizes_the_top_first(spec: DataSpec, knobs: dict[str, int], sizes: tuple[int, ...]) -> None:
    cells = np.zeros((2, spec.cells))
    cells[1] = 1
    family = make(spec, cells, width=8, **knobs)
    assert family.latent_groups == sizes
    assert family.latent_dimensions == sum(sizes)
    with torch.no_grad():
        z = family.prior(torch.zeros(2, sum(sizes)), torch.ones(2, len(sizes)))
        assert family.outputs(z).shape == (2, family.likelihood.width)


def test_groups_below_follow_the_groups_above(digits: tuple[HierarchicalVAE, NDArray[np.uint8]]) -> None:
    """Temperature 0 answers each group's prior mean given those above it, group by group from the top."""
    family, _ = digits
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(64, family.latent_dimensions, generator=generator)
    sizes = family.latent_groups
    with torch.no_grad():
        cold = family.prior(eps, torch.zeros(64, 3))
        top_only = family.prior(eps, torch.tensor([[1.0, 0.0, 0.0]]).expand(64, -1))
        warm = family.prior(eps, torch.ones(64, 3))
        # a flow's draw without noise need not be the normal's mean, and what is below follows it
        none = torch.zeros(64, sizes[0])
        still = none if family.top is None else family.top.draw(none, None, none[:, :1])
        _, steps = family._walk(
            lambda i, mean, log_scale: mean + torch.exp(log_scale) * still if i == 0 else mean, eps, None
        )
    torch.testing.assert_close(cold[:, : sizes[0]], steps[0].z)
    torch.testing.assert_close(cold[:, sizes[0] :], torch.cat([step.prior[0] for step in steps[1:]], 1))
    assert float(cold.std(0).max()) < 1e-6
    top, middle, last = top_only.split(sizes, 1)
    torch.testing.assert_close(top, warm.split(sizes, 1)[0])
    # the means below move with what was drawn above, and scatter less than draws
    assert 1e-3 < float(middle.std()) < float(warm.split(sizes, 1)[1].std())
    assert float(last.std(0).max()) > 1e-3


def test_a_row_comes_back_from_its_code(digits: tuple[HierarchicalVAE, NDArray[np.uint8]]) -> None:
    family, x = digits
    rows = torch.from_numpy(x)
    with torch.no_grad():
        z, _ = family.graphs()["infer"].module(
            rows, torch.ones_like(rows, dtype=torch.bool), torch.zeros(len(x), family.latent_dimensions)
        )
        back, other = (family.likelihood.mean(family.outputs(code)) for code in (z, z.roll(1, 0)))
    own, foreign = (float((mean - rows.flatten(1)).square().mean()) for mean in (back, other))
    assert own < 0.7 * foreign


def test_what_hidden_cells_hold_changes_nothing(digits: tuple[HierarchicalVAE, NDArray[np.uint8]]) -> None:
    family, x = digits
    rows = torch.from_numpy(x)
    shown = torch.zeros_like(rows, dtype=torch.bool)
    shown[:, :4] = True
    eps = torch.zeros(len(x), family.latent_dimensions)
    with torch.no_grad():
        first = family.graphs()["infer"].module(rows, shown, eps)
        second = family.graphs()["infer"].module(torch.where(shown, rows, 7), shown, eps)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_missing_cells_are_neither_seen_nor_scored() -> None:
    generator = np.random.default_rng(6)
    x = generator.standard_normal((512, 1)) + 0.2 * generator.standard_normal((512, 4)) + 5.0
    holes = generator.random(x.shape) < 0.3
    family = make(table(4), np.where(holes, np.nan, x), latents=2, groups=2, width=32)
    (stage,) = family.stages()
    assert isinstance(stage, Fit)
    terms = fit(family, np.where(holes, np.nan, x), 200)
    assert all(math.isfinite(value) for value in terms.values())
    rows = torch.from_numpy(np.where(holes, np.nan, x)[:8])
    with torch.no_grad():
        missing = stage.held_out(Batch(rows), noise(0, 8))
        whole = stage.held_out(Batch(torch.from_numpy(x[:8])), noise(0, 8))
        rows[0], eps = float("nan"), noise(0, 8).normal(family.latent_dimensions)
        none, _ = stage._terms(Batch(rows), torch.ones(8, 4, dtype=torch.bool), eps)
    assert torch.isfinite(missing).all()
    assert not torch.equal(missing, whole)
    assert float(none[0]) == 0


def test_free_bits_keep_a_rate_where_there_is_nothing_to_encode() -> None:
    x = np.random.default_rng(3).standard_normal((1000, 2))
    knobs = {"latents": 2, "groups": 2, "width": 32, "kl_warmup": 0.0}
    assert fit(make(table(2), x, **knobs), x, 200)["rate"] < 0.2
    assert fit(make(table(2), x, free_bits=0.5, **knobs), x, 200)["rate"] > 0.5


def test_the_rate_is_charged_as_the_warm_up_says(
    digits: tuple[HierarchicalVAE, NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, x = digits
    stage = Fit(family)
    monkeypatch.setattr(family, "config", family.config.model_copy(update={"kl_warmup": 0.5}))
    batch = Batch(torch.from_numpy(x[:64]))
    with torch.no_grad():
        start, half, end = (stage.loss(batch, noise(0, 64), progress) for progress in (0.0, 0.25, 0.5))
    total, distortion = start.named["rate"], start.named["distortion"]
    torch.testing.assert_close(64 * start.objective, distortion)
    torch.testing.assert_close(64 * half.objective, distortion + 0.5 * total)
    torch.testing.assert_close(64 * end.objective, distortion + total)


def test_balancing_charges_groups_by_what_they_say_for_their_size(
    digits: tuple[HierarchicalVAE, NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, x = digits
    stage = Fit(family)
    weights = stage._balance(torch.tensor([6.0, 3.0, 0.0]))
    assert float(weights.mean()) == pytest.approx(1)
    assert weights[0] > weights[1] > weights[2] > 0
    charged = family.config.model_copy(update={"kl_warmup": 0.5, "kl_balancing": True})
    monkeypatch.setattr(family, "config", charged)
    batch = Batch(torch.from_numpy(x[:64]))
    with torch.no_grad():
        half, end = (stage.loss(batch, noise(0, 64), progress) for progress in (0.25, 0.5))
    plain = half.named["distortion"] + 0.5 * half.named["rate"]
    assert not torch.isclose(64 * half.objective, plain)
    torch.testing.assert_close(64 * end.objective, end.named["distortion"] + end.named["rate"])


def test_a_conditional_model_knows_the_class() -> None:
    generator = np.random.default_rng(5)
    y = generator.integers(0, 2, 1000)
    x = generator.standard_normal((1000, 2)) + np.where(y == 1, 4.0, -4.0)[:, None]
    family = make(table(2, classes=("a", "b")), x, latents=1, groups=2, width=32, condition="label")
    fit(family, x, 300, y=y)
    right = bound(family, x, 16, y=torch.from_numpy(y)).mean()
    wrong = bound(family, x, 16, y=torch.from_numpy(1 - y)).mean()
    assert right > wrong + 2
    with torch.no_grad():
        labels = torch.tensor([0, 1])
        z = family.prior(torch.zeros(2, 2), torch.ones(2, 2), labels)
        mean = family.likelihood.mean(family.outputs(z, labels))
    assert (mean[0] < -2).all()
    assert (mean[1] > 2).all()


@pytest.mark.parametrize(
    ("spec", "knobs", "message"),
    [
        (table(2), {"likelihood": "bernoulli"}, "two values"),
        (table(2), {"network": "convolutional"}, "needs images"),
        (table(2), {"condition": "label"}, "no label column"),
    ],
)
def test_configs_that_do_not_fit_the_data_are_refused(spec: DataSpec, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        make(spec, np.ones((4, 2)), **knobs)
    assert caught.value.errors[0].location.startswith("config.")


def test_a_preview_shows_ancestral_draws_of_pictures(digits: tuple[HierarchicalVAE, NDArray[np.uint8]]) -> None:
    family, _ = digits
    codes = family.preview_latents(200)["means"]
    assert codes.shape == (200, family.latent_dimensions)
    assert torch.equal(codes, family.preview_latents(200)["means"])
    _, steps = family._walk(lambda i, mean, log_scale: codes.split(family.latent_groups, 1)[i], codes, None)
    standard = [(step.z - step.prior[0]) * torch.exp(-step.prior[1]) for step in steps]
    if family.top is not None:
        standard[0], _ = family.top.net(standard[0])
    back = torch.cat(standard, 1).detach()
    assert float(log_normal(back, 0.0, torch.zeros(())).mean()) == pytest.approx(-1.419, abs=0.05)
    assert make(table(2), np.random.default_rng(0).standard_normal((8, 2))).preview_latents(5) == {}
