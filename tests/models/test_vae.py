"""Laws of the VAE alone: bounds in order, agreement with probabilistic PCA, β, free bits, masks, conditions."""

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


def table(cells: int, *, classes: tuple[str, ...] = ()) -> DataSpec:
    columns = [Column(name=f"x{i}", type=ColumnType.REAL) for i in range(cells)]
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
    weights = []
    for _ in range(samples):
        eps = torch.randn(mean.shape, generator=generator)
        z = mean + torch.exp(log_scale) * eps
        log_p = family.likelihood.score(rows.flatten(1), shown.flatten(1), family.outputs(z, y)).double()
        prior = log_normal(z, 0.0, torch.zeros_like(z)) - log_normal(z, mean, log_scale)
        weights.append(log_p + prior.sum(-1).double())
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
