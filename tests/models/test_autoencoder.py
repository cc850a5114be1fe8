"""Laws of the autoencoder alone: it reconstructs, and its mixture puts samples where the data are."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from contracts.artifact import Verb
from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from contracts.errors import InvalidInput
from contracts.families import AutoencoderConfig
from models import build
from models.autoencoder import Autoencoder, Fit
from models.family import Batch, Noise

COLUMNS = (
    Column(name="x0", type=ColumnType.REAL),
    Column(name="colour", type=ColumnType.CATEGORICAL, categories=("red", "green", "blue")),
    Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
)
DIGITS = DataSpec(modality="image", image=ImageShape(height=8, width=8, levels=17))


def profile(x: NDArray[Any]) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(rows=len(x), mean=flat.mean(0), std=flat.std(0), minimum=flat.min(0), maximum=flat.max(0))


def make(spec: DataSpec, x: NDArray[Any], **knobs: Any) -> tuple[Autoencoder, Fit]:
    torch.manual_seed(0)
    family = build(AutoencoderConfig(family="autoencoder", **knobs), spec, profile(x))
    assert isinstance(family, Autoencoder)
    (stage,) = family.stages()
    assert isinstance(stage, Fit)
    return family, stage


def fit(family: Autoencoder, stage: Fit, x: NDArray[Any], steps: int) -> None:
    optimiser = torch.optim.Adam(family.parameters(), lr=2e-3)
    generator = np.random.default_rng(0)
    for step in range(steps):
        batch = Batch(torch.from_numpy(x[generator.integers(0, len(x), 128)]))
        terms = stage.loss(batch, Noise(0, 0, step, rows=slice(0, 128), total=128), step / steps)
        optimiser.zero_grad()
        terms.objective.backward()
        optimiser.step()
    family.eval()
    stage.finish([Batch(torch.from_numpy(part)) for part in np.array_split(x, 3)])


@pytest.fixture(scope="module")
def digits() -> tuple[Autoencoder, Fit, NDArray[np.uint8]]:
    x = load_digits().images.astype(np.uint8)[..., None]
    family, stage = make(DIGITS, x[:1500], width=64, latents=8)
    fit(family, stage, x[:1500], 400)
    return family, stage, x[1500:]


def draw_codes(family: Autoencoder, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    constants = family.constants()
    chosen = torch.multinomial(constants["prior.log_weights"].exp(), n, True, generator=generator)
    eps = torch.randn(n, family.latent_dimensions, 1, generator=generator, dtype=torch.float64)
    return (constants["prior.means"][chosen] + (constants["prior.cholesky"][chosen] @ eps)[..., 0]).float()


@torch.no_grad()
def decoded(family: Autoencoder, z: torch.Tensor) -> NDArray[np.float64]:
    mean, _ = family.values(family.decoder(z))
    return mean.double().numpy()


def nearest(samples: NDArray[np.float64], real: NDArray[np.uint8]) -> float:
    """Mean distance of a sample to its nearest real row."""
    flat = real.reshape(len(real), -1).astype(np.float64)
    return float(np.mean([np.sqrt(((flat - row) ** 2).sum(1).min()) for row in samples]))


def test_held_out_score_is_the_error_in_standardised_units(digits: tuple[Autoencoder, Fit, NDArray[np.uint8]]) -> None:
    family, stage, x = digits
    with torch.no_grad():
        rows = torch.from_numpy(x)
        score = stage.held_out(Batch(rows), Noise(0, 0, 0, rows=slice(0, len(x)), total=len(x)))
        back, _ = family.values(family.decoder(family.encoder(rows)))
    spread = float(family.encoder.cells.standardise.std.flatten()[0])
    clipped = ((back - rows.flatten(1)) ** 2).mean(1) / spread**2
    assert score.shape == (len(x),)
    assert (clipped <= score + 1e-5).all()  # clipping to the bounds can only help
    assert float(score.mean()) < 0.5


def test_the_mixture_has_the_mean_and_covariance_of_the_codes() -> None:
    x = load_digits().images.astype(np.uint8)[..., None]
    family, stage = make(DIGITS, x, width=16, latents=4, mixture_components=3)
    stage.finish([Batch(torch.from_numpy(x))])
    with torch.no_grad():
        codes = family.encoder(torch.from_numpy(x)).double()
    constants = family.constants()
    weights, means = constants["prior.log_weights"].exp(), constants["prior.means"]
    cholesky = constants["prior.cholesky"]
    assert weights.sum().item() == pytest.approx(1)
    assert torch.allclose(weights @ means, codes.mean(0), atol=1e-4)
    mean = weights @ means
    second = cholesky @ cholesky.transpose(1, 2) + means[:, :, None] * means[:, None, :]
    covariance = (weights[:, None, None] * second).sum(0) - torch.outer(mean, mean)
    assert torch.allclose(covariance, torch.cov(codes.T, correction=0), rtol=1e-3, atol=1e-4)
    assert torch.equal(cholesky, cholesky.tril())


def test_decoded_mixture_draws_lie_nearer_to_the_data_than_decoded_standard_normals(
    digits: tuple[Autoencoder, Fit, NDArray[np.uint8]],
) -> None:
    family, _, x = digits
    standard = family.preview_latents(200)["standard_normal"]
    assert nearest(decoded(family, draw_codes(family, 200)), x) < 0.9 * nearest(decoded(family, standard), x)


def test_finish_is_deterministic(digits: tuple[Autoencoder, Fit, NDArray[np.uint8]]) -> None:
    family, stage, x = digits
    before = {name: value.clone() for name, value in family.constants().items()}
    try:
        answers = []
        for _ in range(2):
            stage.finish([Batch(torch.from_numpy(x))])
            answers.append({name: value.clone() for name, value in family.constants().items()})
        assert all(torch.equal(answers[0][name], answers[1][name]) for name in before)
    finally:
        family.load_state_dict({**family.state_dict(), **_buffers(before)})


def _buffers(constants: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("prior.", "mixture_"): value for name, value in constants.items()}


def test_few_rows_get_few_components_and_too_few_are_refused() -> None:
    x = np.random.default_rng(0).standard_normal((40, 2))
    spec = DataSpec(modality="table", columns=(COLUMNS[0], COLUMNS[0].model_copy(update={"name": "x1"})))
    family, stage = make(spec, x, latents=2)
    assert family.config.mixture_components == 40 // 6
    with pytest.raises(InvalidInput, match="at least as many rows"):
        stage.finish([Batch(torch.from_numpy(x[:3]))])


def test_values_come_back_on_the_grid_and_in_order() -> None:
    generator = np.random.default_rng(0)
    x = np.stack(
        [generator.standard_normal(600), generator.integers(0, 3, 600), generator.integers(0, 10, 600)], axis=1
    ).astype(np.float64)
    spec = DataSpec(modality="table", columns=COLUMNS)
    family, stage = make(spec, x, width=64, latents=6)
    fit(family, stage, x, 400)
    rows = torch.from_numpy(x)
    with torch.no_grad():
        exact, _ = family.values(family.encoder.cells(rows))
        mean, draw = family.values(family.decoder(family.encoder(rows)))
    assert torch.allclose(exact, rows, atol=1e-5)  # the inverse of the standardisation
    spec.check(draw.numpy())
    assert (draw[:, 1] == rows[:, 1]).double().mean() > 0.9
    assert float((mean[:, 2] - rows[:, 2]).abs().mean()) < 1


def test_figures_say_how_far_codes_are_from_a_standard_normal(
    digits: tuple[Autoencoder, Fit, NDArray[np.uint8]],
) -> None:
    family, _, _ = digits
    codes = draw_codes(family, 20_000).double()
    figures = family.figures()
    assert figures["code_std"] == pytest.approx(float(codes.std(0).mean()), rel=0.1)
    assert figures["mixture_components"] == len(family.constants()["prior.log_weights"])


def test_density_is_refused_with_what_to_use_instead() -> None:
    family, _ = make(DIGITS, np.zeros((50, 8, 8, 1), dtype=np.uint8))
    for verb in (Verb.LOG_PROB, Verb.PREDICT):
        assert "vae" in (family.verbs()[verb].refusal or "")
