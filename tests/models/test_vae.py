"""Laws of the VAE alone: bounds in order, β, free bits, priors, masks, missing cells, conditions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor, nn

from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape, Role
from contracts.errors import InvalidInput
from contracts.families import VAEConfig
from models import build
from models.family import Batch, Noise
from models.layers.gaussian import log_normal, rate
from models.vae import VAE, Fit


def table(cells: int, *, classes: tuple[str, ...] = (), missing: bool = False) -> DataSpec:
    columns = [Column(name=f"x{i}", type=ColumnType.REAL, missing=missing) for i in range(cells)]
    if classes:
        columns.append(Column(name="class", type=ColumnType.CATEGORICAL, categories=classes, role=Role.LABEL))
    return DataSpec(modality="table", columns=tuple(columns))


def profile(x: NDArray[Any]) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(rows=len(x), mean=flat.mean(0), std=flat.std(0), minimum=flat.min(0), maximum=flat.max(0))


def make(spec: DataSpec, x: NDArray[Any], **knobs: Any) -> VAE:
    torch.manual_seed(0)
    family = build(VAEConfig(family="vae", **knobs), spec, profile(x))
    assert isinstance(family, VAE)
    return family


def noise(step: int, rows: int) -> Noise:
    return Noise(0, 0, step, rows=slice(0, rows), total=rows)


def fit(
    family: VAE, x: NDArray[Any], steps: int, *, y: NDArray[Any] | None = None, rows: int = 256, rate: float = 3e-3
) -> dict[str, float]:
    """Train and return the terms, averaged over the last tenth of the steps."""
    (stage,) = family.stages()
    assert isinstance(stage, Fit)
    optimiser = torch.optim.Adam(family.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = np.random.default_rng(0)
    last: list[dict[str, float]] = []
    for step in range(steps):
        index = generator.integers(0, len(x), min(rows, len(x)))
        batch = Batch(torch.from_numpy(x[index]), None if y is None else torch.from_numpy(y[index]))
        terms = stage.loss(batch, noise(step, len(index)), step / steps)
        optimiser.zero_grad()
        terms.objective.backward()
        optimiser.step()
        schedule.step()
        if step >= steps * 0.9:
            last.append({name: float(value.detach()) for name, value in terms.named.items()})
    family.eval()
    return {name: float(np.mean([terms[name] for terms in last])) for name in last[0]}


@torch.no_grad()
def bound(family: VAE, x: NDArray[Any], samples: int, *, seed: int = 0, y: Tensor | None = None) -> Tensor:
    """The importance-weighted bound of each row ``(B,)``, nats."""
    rows = torch.from_numpy(x)
    shown = torch.ones_like(rows, dtype=torch.bool)
    mean, log_scale = family.posterior(rows, shown, y)
    generator = torch.Generator().manual_seed(seed)
    prior = family.prior()
    weights = []
    for _ in range(samples):
        eps = torch.randn(mean.shape, generator=generator)
        z = mean + torch.exp(log_scale) * eps
        log_p = family.likelihood.score(rows.flatten(1), shown.flatten(1), family.outputs(z, y)).double()
        weights.append(log_p + (prior.log_prob(z) - log_normal(z, mean, log_scale).sum(-1)).double())
    return torch.logsumexp(torch.stack(weights), 0) - math.log(samples)


@pytest.fixture(scope="module")
def digits() -> tuple[VAE, NDArray[np.uint8]]:
    x = load_digits().images.astype(np.uint8)[..., None]
    spec = DataSpec(modality="image", image=ImageShape(height=8, width=8, levels=17))
    family = make(spec, x[:1400], width=64)
    fit(family, x[:1400], 300, rows=128)
    return family, x[1400:1600]


def test_more_importance_samples_tighten_the_bound(digits: tuple[VAE, NDArray[np.uint8]]) -> None:
    family, x = digits
    means = [float(bound(family, x, samples, seed=samples).mean()) for samples in (1, 8, 64)]
    assert means[0] < means[1] < means[2]


def test_held_out_score_is_the_negative_bound_with_an_analytic_rate(
    digits: tuple[VAE, NDArray[np.uint8]],
) -> None:
    family, x = digits
    (stage,) = family.stages()
    assert isinstance(stage, Fit)
    with torch.no_grad():
        held_out = stage.held_out(Batch(torch.from_numpy(x)), noise(0, len(x)))
    one_sample = -bound(family, x, 1).double()
    error = float((held_out - one_sample).std()) / math.sqrt(len(x))
    assert float(held_out.mean() - one_sample.mean()) == pytest.approx(0, abs=5 * error)


def test_a_linear_decoder_reaches_the_exact_likelihood_of_ppca() -> None:
    """On linear-Gaussian data the optimum of both is the same density, so the bounds must come close to it."""
    generator = np.random.default_rng(1)
    loadings = generator.standard_normal((2, 5))
    x = generator.standard_normal((4000, 2)) @ loadings + 0.7 * generator.standard_normal((4000, 5)) + 3.0
    family = make(table(5), x, latents=2, width=32, depth=1, kl_warmup=0.0)
    family.decoder.head = nn.Sequential(nn.Linear(2, family.likelihood.width))  # type: ignore[assignment]
    fit(family, x, 1200, rate=1e-2)
    exact = PCA(2).fit(x).score(x[:1000])
    assert exact - 0.25 < float(bound(family, x[:1000], 64).mean()) < exact + 0.05


def test_a_larger_beta_buys_a_smaller_rate() -> None:
    generator = np.random.default_rng(2)
    x = generator.standard_normal((1000, 2)) @ generator.standard_normal((2, 4))
    rates = [
        fit(make(table(4), x, latents=2, width=32, depth=1, beta=beta), x, 150)["rate"] for beta in (0.0, 1.0, 20.0)
    ]
    assert rates[0] > rates[1] > rates[2]


def test_free_bits_keep_a_rate_where_there_is_nothing_to_encode() -> None:
    x = np.random.default_rng(3).standard_normal((1000, 2))
    knobs = {"latents": 2, "width": 32, "depth": 1, "beta": 5.0, "kl_warmup": 0.0}
    assert fit(make(table(2), x, **knobs), x, 200)["rate"] < 0.2
    assert fit(make(table(2), x, free_bits=0.5, **knobs), x, 200)["rate"] > 0.5


def test_the_rate_is_not_charged_at_the_start_of_the_warm_up() -> None:
    x = np.random.default_rng(4).standard_normal((64, 3))
    family = make(table(3), x, latents=2, kl_warmup=0.5)
    (stage,) = family.stages()
    assert isinstance(stage, Fit)
    batch = Batch(torch.from_numpy(x))
    with torch.no_grad():
        start, half, middle = (stage.loss(batch, noise(0, 64), progress) for progress in (0.0, 0.25, 0.5))
    total, distortion = start.named["rate"], start.named["distortion"]
    assert torch.allclose(start.objective, distortion)
    assert torch.allclose(half.objective, distortion + 0.5 * total)
    assert torch.allclose(middle.objective, distortion + total)


@pytest.mark.parametrize("prior", ["mixture", "flow"])
def test_a_learned_prior_makes_clusters_that_a_normal_one_cannot(prior: str) -> None:
    """Through a linear decoder the normal prior gives a Gaussian, and these two clusters are far from one."""
    generator = np.random.default_rng(6)
    x = generator.standard_normal((2000, 2)) * 0.5 + np.where(generator.random(2000) < 0.5, 4.0, -4.0)[:, None]
    knobs = {"latents": 2, "depth": 0, "masking": 0, "kl_warmup": 0.1, "prior_components": 8}
    bounds = {}
    for choice in ("normal", prior):
        family = make(table(2), x, prior=choice, **knobs)
        (stage,) = family.stages()
        stage.start([Batch(torch.from_numpy(x))])
        fit(family, x, 500, rate=1e-2)
        bounds[choice] = float(bound(family, x[:500], 50).mean())
    assert bounds[prior] > bounds["normal"] + 0.2


def test_pseudo_inputs_start_as_rows_of_the_data() -> None:
    x = np.random.default_rng(7).standard_normal((5, 3))
    x[2, 1] = np.nan
    spec = table(3, classes=("a", "b"), missing=True)
    family = make(spec, np.nan_to_num(x), prior="mixture", prior_components=8, condition="label", latents=2)
    assert family.pseudo is not None
    (stage,) = family.stages()
    stage.start([Batch(torch.from_numpy(x), torch.tensor([0, 1, 1, 0, 1]))])
    standard = family.encoder.cells(torch.from_numpy(np.nan_to_num(x, nan=family.profile.mean[1])))
    assert torch.allclose(family.pseudo.rows[:5, :3], standard, atol=1e-6)
    assert family.pseudo.rows[2, 1] == 0
    assert torch.equal(family.pseudo.rows[:5, 3:].argmax(1), torch.tensor([0, 1, 1, 0, 1]))
    assert torch.equal(family.pseudo.rows[5:], family.pseudo.rows[:3])


def test_many_draws_are_decoded_in_parts_with_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(8).standard_normal((16, 3))
    gradients, objectives = [], []
    for at_once in (10_000, 40):
        monkeypatch.setattr("models.vae.DECODED_AT_ONCE", at_once)
        family = make(table(3), x, latents=2, width=8, objective="iwae", importance_samples=7, prior="mixture")
        (stage,) = family.stages()
        assert isinstance(stage, Fit)
        objective = stage.loss(Batch(torch.from_numpy(x)), noise(0, 16), 1.0).objective
        objective.backward()
        objectives.append(objective.detach())
        gradients.append([parameter.grad for parameter in family.parameters()])
    assert torch.allclose(*objectives)
    for once, parted in zip(*gradients, strict=True):
        torch.testing.assert_close(once, parted)


def test_an_importance_weighted_objective_reaches_a_higher_bound_than_its_terms() -> None:
    x = np.random.default_rng(9).standard_normal((500, 3))
    family = make(table(3), x, latents=2, objective="iwae", importance_samples=10)
    (stage,) = family.stages()
    assert isinstance(stage, Fit)
    with torch.no_grad():
        terms = stage.loss(Batch(torch.from_numpy(x)), noise(0, 500), 1.0)
    assert terms.objective < terms.named["distortion"] + terms.named["rate"]


def test_without_masking_every_cell_is_scored() -> None:
    x = np.random.default_rng(10).standard_normal((400, 4))
    batch = Batch(torch.from_numpy(x))
    distortions = []
    for masking in (0.0, 1.0):
        family = make(table(4), x, latents=2, masking=masking)
        assert family.encoder.sees_mask == (masking > 0)
        (stage,) = family.stages()
        assert isinstance(stage, Fit)
        with torch.no_grad():
            distortions.append(float(stage.loss(batch, noise(0, 400), 1.0).named["distortion"]))
    assert distortions[1] < 0.7 * distortions[0]  # half of the cells are hidden


@pytest.mark.parametrize("knobs", [{}, {"objective": "iwae", "prior": "mixture", "masking": 0}])
def test_missing_cells_are_as_hidden_ones(knobs: dict[str, Any]) -> None:
    """What stands in a missing cell reaches neither posterior nor score; loss and gradients are finite."""
    rng = np.random.default_rng(11)
    colours = Column(name="colour", type=ColumnType.CATEGORICAL, categories=("r", "g", "b"), missing=True)
    count = Column(name="n", type=ColumnType.INTEGER, minimum=0, maximum=50, missing=True)
    spec = DataSpec(modality="table", columns=(*table(2, missing=True).columns, colours, count))
    x = np.column_stack([1e6 + rng.standard_normal((64, 2)), rng.integers(0, 3, 64), rng.integers(0, 51, 64)])
    gone = rng.random(x.shape) < 0.3
    gone[0] = True
    family = make(spec, x, latents=2, width=16, prior_components=4, **knobs)
    (stage,) = family.stages()
    assert isinstance(stage, Fit)
    holes = torch.from_numpy(np.where(gone, np.nan, x))
    stage.start([Batch(holes)])
    stage.loss(Batch(holes), noise(0, 64), 1.0).objective.backward()
    gradients = [parameter.grad for parameter in family.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    shown = torch.from_numpy(~gone)
    filled = torch.from_numpy(np.where(gone, 7e5, x))
    with torch.no_grad():
        assert torch.isfinite(stage.held_out(Batch(holes), noise(0, 64))).all()
        for a, b in zip(family.posterior(holes, shown), family.posterior(filled, shown), strict=True):
            assert torch.equal(a, b)
        h = family.outputs(torch.zeros(64, 2))
        assert torch.equal(family.likelihood.score(holes, shown, h), family.likelihood.score(filled, shown, h))


def test_the_first_row_to_differ_in_a_constant_column_is_improbable_within_reason() -> None:
    x = np.column_stack([np.random.default_rng(12).standard_normal(100), np.full(100, 5.0)])
    likelihood = make(table(2), x, latents=2).likelihood
    narrowest = torch.tensor([[0.0, 0.0, 0.0, -100.0]])  # mean and log-scale of each cell
    other = torch.tensor([[0.0, 6.0]], dtype=torch.float64)
    log_p = likelihood.log_prob(other, narrowest)[0, 1]
    assert float(log_p) == pytest.approx(-0.5 * (1 / 5e-3) ** 2, rel=1e-2)  # a thousandth of the column's size


def test_what_hidden_cells_hold_changes_nothing(digits: tuple[VAE, NDArray[np.uint8]]) -> None:
    family, x = digits
    shown = torch.zeros(len(x), 8, 8, 1, dtype=torch.bool)
    shown[:, :4] = True
    other = torch.where(shown, torch.from_numpy(x), 7)
    with torch.no_grad():
        first, second = family.posterior(torch.from_numpy(x), shown), family.posterior(other, shown)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_the_posterior_is_less_sure_of_half_an_image(digits: tuple[VAE, NDArray[np.uint8]]) -> None:
    family, x = digits
    rows = torch.from_numpy(x)
    shown = torch.zeros_like(rows, dtype=torch.bool)
    with torch.no_grad():
        none = rate(*family.posterior(rows, shown)).sum(-1).mean()
        shown[:, :4] = True
        half = rate(*family.posterior(rows, shown)).sum(-1).mean()
        whole = rate(*family.posterior(rows, torch.ones_like(shown))).sum(-1).mean()
    assert none < half < whole


def test_a_conditional_model_knows_the_class() -> None:
    generator = np.random.default_rng(5)
    y = generator.integers(0, 2, 1000)
    x = generator.standard_normal((1000, 2)) + np.where(y == 1, 4.0, -4.0)[:, None]
    family = make(table(2, classes=("a", "b")), x, latents=1, width=32, depth=1, condition="label")
    fit(family, x, 300, y=y)
    right = bound(family, x, 16, y=torch.from_numpy(y)).mean()
    wrong = bound(family, x, 16, y=torch.from_numpy(1 - y)).mean()
    assert right > wrong + 2
    with torch.no_grad():
        z = torch.zeros(2, 1)
        mean = family.likelihood.mean(family.outputs(z, torch.tensor([0, 1])))
    assert (mean[0] < -2).all()
    assert (mean[1] > 2).all()


@pytest.mark.parametrize(
    ("spec", "knobs", "message"),
    [
        (table(2), {"likelihood": "bernoulli"}, "two values"),
        (table(2), {"likelihood": "discretised_logistic"}, "whole numbers"),
        (table(2), {"network": "convolutional"}, "needs images"),
        (table(2), {"condition": "label"}, "no label column"),
        (table(2), {"prior": "flow", "latents": 1}, "two latents"),
        (table(2), {"objective": "iwae", "free_bits": 0.1}, "free bits"),
    ],
)
def test_configs_that_do_not_fit_the_data_are_refused(spec: DataSpec, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        make(spec, np.zeros((4, 2)), **knobs)
    assert caught.value.errors[0].location.startswith("config.")


def test_a_preview_shows_means_beside_draws_of_pictures() -> None:
    grey = VAE.tiny()[2]
    cells = np.zeros(grey.spec.cells)
    model = build(grey.config, grey.spec, DataProfile(64, cells + 8, cells + 4, cells, cells + 16))
    codes = model.preview_latents(5)
    assert {name: z.shape for name, z in codes.items()} == {"means": (5, 3)}
    assert torch.equal(codes["means"], model.preview_latents(5)["means"])
    table = VAE.tiny()[0]
    flat = np.zeros(table.spec.cells)
    assert build(table.config, table.spec, DataProfile(64, flat, flat + 1, flat - 1, flat + 1)).preview_latents(5) == {}
