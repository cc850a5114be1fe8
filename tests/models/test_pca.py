"""Laws of probabilistic PCA alone: closed forms against scikit-learn, scipy and direct integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn import decomposition
from sklearn.datasets import load_diabetes, load_digits, load_wine

from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from contracts.errors import InvalidInput
from contracts.families import PCAConfig
from models import build
from models.family import Batch
from models.layers.moments import Moments
from models.layers.spectrum import likelihood_by_components
from models.pca import PCA


def real(count: int) -> DataSpec:
    columns = tuple(Column(name=f"x{index}", type=ColumnType.REAL) for index in range(count))
    return DataSpec(modality="table", columns=columns)


def profile(x: np.ndarray) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(len(flat), flat.mean(0), flat.std(0), flat.min(0), flat.max(0))


def fitted(
    spec: DataSpec, x: np.ndarray, valid: np.ndarray, components: int | None = None, rows: int = 64
) -> tuple[PCA, dict[str, float]]:
    model = build(PCAConfig(family="pca", components=components), spec, profile(x))
    assert isinstance(model, PCA)
    batches = [Batch(torch.from_numpy(x[at : at + rows])) for at in range(0, len(x), rows)]
    figures = model.stages()[0].fit(batches, [Batch(torch.from_numpy(valid))] if len(valid) else [])  # type: ignore[attr-defined]
    return model, figures


def density(model: PCA, x: np.ndarray, u: np.ndarray | None = None) -> np.ndarray:
    feeds = [torch.from_numpy(x)] + ([] if u is None else [torch.from_numpy(u)])
    answer: torch.Tensor = model.graphs()["density"].module(*feeds)
    return answer.numpy()


@pytest.mark.parametrize("components", [1, 4, 9])
@pytest.mark.parametrize("load", [load_wine, load_diabetes])
def test_log_prob_equals_scikit_learns(load, components: int) -> None:
    x = load().data.astype(np.float64)
    train, held_out = x[::2], x[1::2]
    model, _ = fitted(real(x.shape[1]), train, held_out, components, rows=17)
    expected = decomposition.PCA(components).fit(train).score_samples(held_out)
    np.testing.assert_allclose(density(model, held_out), expected, rtol=0, atol=1e-4)


def test_every_component_kept_is_the_full_gaussian() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3)) @ np.array([[1, 0.5, 0], [0, 2, 1], [0, 0, 0.3]])
    model, _ = fitted(real(3), x, x[:0], 3)
    expected = multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(x)
    np.testing.assert_allclose(density(model, x), expected, atol=1e-6)


def test_a_single_column_is_a_gaussian() -> None:
    x = np.random.default_rng(1).normal(3, 2, size=(100, 1))
    model, _ = fitted(real(1), x, x)
    assert model.latent_dimensions == 1
    np.testing.assert_allclose(density(model, x), multivariate_normal(x.mean(), np.cov(x.T)).logpdf(x), atol=1e-6)


def test_components_are_those_with_the_best_valid_likelihood() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(600, 3)) @ rng.normal(size=(3, 12)) + 0.2 * rng.normal(size=(600, 12))
    train, valid = x[:300], x[300:]
    model, figures = fitted(real(12), train, valid)
    scores = {q: decomposition.PCA(q).fit(train).score(valid) for q in range(1, 12)}
    assert model.config.components == max(scores, key=scores.__getitem__)
    assert figures["log_prob"] == pytest.approx(max(scores.values()), abs=1e-6)
    alone, _ = fitted(real(12), train, valid[:0])  # no valid rows: an information criterion finds the rank too
    assert alone.config.components == 3


def test_likelihoods_of_all_component_counts_agree_with_fits() -> None:
    x = np.random.default_rng(3).normal(size=(80, 6)) * np.arange(1, 7)
    eigenvalues, basis = np.linalg.eigh(np.cov(x.T))
    eigenvalues, basis = eigenvalues[::-1].copy(), basis[:, ::-1].copy()
    spread = (((x - x.mean(0)) @ basis) ** 2).mean(0)
    found = likelihood_by_components(torch.from_numpy(eigenvalues), torch.from_numpy(spread))
    expected = [decomposition.PCA(q).fit(x).score(x) for q in range(1, 6)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_moments_do_not_depend_on_how_rows_are_cut() -> None:
    x = torch.from_numpy(1e6 + np.random.default_rng(4).normal(size=(101, 4)))
    whole, pieces = Moments(4), Moments(4)
    whole.add(x)
    for piece in (x[:1], x[1:50], x[50:50], x[50:]):
        pieces.add(piece)
    assert pieces.rows == 101
    torch.testing.assert_close(pieces.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(pieces.scatter / 100, torch.cov(x.T), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(whole.scatter, pieces.scatter, rtol=1e-8, atol=1e-8)


def test_posterior_and_likelihood_agree_with_the_joint_gaussian() -> None:
    x = load_wine().data.astype(np.float64)
    model, _ = fitted(real(13), x, x[:0], 3)
    graphs = model.graphs()
    mean, log_scale = graphs["posterior"].module(torch.from_numpy(x[:5]))
    w, noise = model.loadings(), model.noise_variance
    inner = w.T @ w + noise * torch.eye(3, dtype=torch.float64)
    expected = torch.linalg.solve(inner, w.T @ (torch.from_numpy(x[:5]) - model.mean).T).T
    torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-8)
    covariance = noise * torch.linalg.inv(inner)
    torch.testing.assert_close(torch.diag(log_scale[0].exp() ** 2), covariance, rtol=1e-6, atol=1e-12)
    u = np.random.default_rng(5).random((20_000, 13))
    z = torch.zeros(len(u), 3, dtype=torch.float64)
    centre, draw = graphs["likelihood"].module(z, torch.from_numpy(u))
    torch.testing.assert_close(centre[0], model.mean)
    assert float((draw - centre).std()) == pytest.approx(float(noise.sqrt()), rel=0.01)


def test_constants_hold_the_model_as_one_gaussian() -> None:
    x = load_wine().data.astype(np.float64)
    model, _ = fitted(real(13), x, x[:0], 4)
    constants = {name: value.numpy() for name, value in model.constants().items()}
    assert constants["gaussian.log_weights"].tolist() == [0.0]
    root = constants["gaussian.cholesky"][0]
    assert np.array_equal(root, np.tril(root))
    y = np.linalg.solve(root, (x - constants["gaussian.means"][0]).T)
    expected = -0.5 * (y**2).sum(0) - np.log(np.diag(root)).sum() - 6.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(density(model, x), expected, atol=1e-6)


def test_discrete_cells_are_scored_as_probabilities_of_unit_bins() -> None:
    spec = DataSpec(modality="table", columns=(Column(name="n", type=ColumnType.INTEGER, minimum=0, maximum=40),))
    x = np.random.default_rng(6).binomial(40, 0.4, size=(3000, 1)).astype(np.float64)
    model, _ = fitted(spec, x, x)
    assert model.mean.item() == pytest.approx(x.mean() + 0.5)
    assert model.eigenvalues.item() == pytest.approx(x.var(ddof=1) + 1 / 12)
    values = np.arange(41.0)
    u = (np.arange(200) + 0.5) / 200
    grid_x, grid_u = np.repeat(values, 200)[:, None], np.tile(u, 41)[:, None]
    total = np.exp(density(model, grid_x, grid_u)).reshape(41, 200).mean(1).sum()
    assert total == pytest.approx(1.0, abs=1e-6)


def test_digits_score_above_the_diagonal_gaussian() -> None:
    x = load_digits().images[..., None].astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(x))
    x = x[order]
    train, valid, test = x[:1437], x[1437:1617], x[1617:]
    model, _ = fitted(DataSpec(modality="image", image=ImageShape(height=8, width=8, levels=17)), train, valid)
    u = np.random.default_rng(1).random((len(test), 64))
    seen = train.reshape(-1, 64) + np.random.default_rng(2).random((len(train), 64))
    diagonal = multivariate_normal(seen.mean(0), np.diag(seen.var(0)))
    assert density(model, test, u).mean() > diagonal.logpdf(test.reshape(-1, 64) + u).mean() + 10


def test_a_constant_column_has_a_finite_density() -> None:
    x = np.concatenate([np.random.default_rng(7).normal(size=(50, 2)), np.full((50, 1), 3.0)], axis=1)
    model, _ = fitted(real(3), x, x)
    assert np.isfinite(density(model, x)).all()
    mean, log_scale = model.graphs()["posterior"].module(torch.from_numpy(x))
    assert torch.isfinite(mean).all()
    assert torch.isfinite(log_scale).all()


def test_the_same_data_give_the_same_signs() -> None:
    x = load_wine().data.astype(np.float64)
    first, _ = fitted(real(13), x, x[:0], 5)
    second, _ = fitted(real(13), x[::-1].copy(), x[:0], 5)
    torch.testing.assert_close(first.basis, second.basis, rtol=1e-6, atol=1e-8)


def test_data_that_cannot_be_solved_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 4096 cells") as caught:
        PCAConfig(family="pca").check_data(
            DataSpec(modality="image", image=ImageShape(height=65, width=64, levels=256))
        )
    assert caught.value.errors[0].location == "dataset"
    with pytest.raises(InvalidInput, match="has 2 cells only"):
        build(PCAConfig(family="pca", components=3), real(2), profile(np.zeros((4, 2))))
    with pytest.raises(InvalidInput, match="at least 2 train rows"):
        fitted(real(2), np.zeros((1, 2)), np.zeros((0, 2)))


def partly(count: int) -> DataSpec:
    columns = tuple(Column(name=f"x{index}", type=ColumnType.REAL, missing=True) for index in range(count))
    return DataSpec(modality="table", columns=columns)


def nan_profile(x: np.ndarray) -> DataProfile:
    return DataProfile(len(x), np.nanmean(x, 0), np.nanstd(x, 0), np.nanmin(x, 0), np.nanmax(x, 0))


def fitted_with_holes(spec: DataSpec, x: np.ndarray, valid: np.ndarray, components: int | None) -> PCA:
    model = build(PCAConfig(family="pca", components=components), spec, nan_profile(x))
    assert isinstance(model, PCA)
    batches = [Batch(torch.from_numpy(x[at : at + 300])) for at in range(0, len(x), 300)]
    model.stages()[0].fit(batches, [Batch(torch.from_numpy(valid))] if len(valid) else [])  # type: ignore[attr-defined]
    return model


def covariance_of(model: PCA) -> np.ndarray:
    factor = model.constants()["gaussian.cholesky"][0].numpy()
    return factor @ factor.T


def correlated(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a Gaussian of three axes plus noise in eight cells of unlike units, and its covariance."""
    rng = np.random.default_rng(5)
    loadings = rng.normal(size=(8, 3)) * np.geomspace(0.5, 5, 8)[:, None]
    noise = 0.3
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, 3)) @ loadings.T + noise * draw.normal(size=(rows, 8)) + 10
    return x, loadings @ loadings.T + noise**2 * np.eye(8)


@pytest.mark.parametrize("components", [2, 3, 7, None])
def test_columns_that_may_be_empty_but_are_not_change_nothing(components: int | None) -> None:
    x, _ = correlated(500)
    plain, _ = fitted(real(8), x[100:], x[:100], components)
    declared, _ = fitted(partly(8), x[100:], x[:100], components)
    assert declared.config == plain.config
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(declared.state_dict()[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("components", [3, 7, None])
def test_a_fifth_of_the_cells_missing_leaves_the_covariance_nearly_as_it_is(components: int | None) -> None:
    x, truth = correlated(4000)
    complete = covariance_of(fitted_with_holes(partly(8), x[500:], x[:500], components))
    holes = np.random.default_rng(1).random(x.shape) < 0.2
    found = covariance_of(fitted_with_holes(partly(8), *np.split(np.where(holes, np.nan, x), [500])[::-1], components))
    filled = np.where(holes, np.nanmean(np.where(holes, np.nan, x), axis=0), x)[500:]
    units = np.sqrt(np.outer(truth.diagonal(), truth.diagonal()))
    sampling = np.abs((complete - truth) / units).max()
    assert np.abs((found - truth) / units).max() < 1.5 * sampling
    assert np.abs((found - complete) / units).max() < 0.1 * np.abs((np.cov(filled.T) - complete) / units).max()


def test_the_likelihood_of_partly_seen_rows_is_greatest_where_the_fit_ends() -> None:
    x, _ = correlated(300)
    x = np.where(np.random.default_rng(2).random(x.shape) < 0.3, np.nan, x)
    model = fitted_with_holes(partly(8), x, x[:0], 3)
    mean, covariance = model.mean.numpy(), covariance_of(model) * (len(x) - 1) / len(x)

    def likelihood(mean: np.ndarray, covariance: np.ndarray) -> float:
        total = 0.0
        for row in x:
            seen = np.flatnonzero(~np.isnan(row))
            if len(seen):
                total += multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen])
        return total

    best = likelihood(mean, covariance)
    rng = np.random.default_rng(3)
    values, vectors = np.linalg.eigh(covariance)
    for _ in range(10):
        # Another covariance of three axes plus noise, and another mean, a little off.
        turned, _ = np.linalg.qr(vectors + 0.01 * rng.normal(size=vectors.shape))
        others = values * np.exp(0.03 * rng.normal(size=8))
        others[:5] = others[:5].mean()
        assert likelihood(mean, (turned * others) @ turned.T) < best
        assert likelihood(mean + 0.03 * rng.normal(size=8), covariance) < best


def test_whole_numbers_and_still_columns_may_have_holes() -> None:
    rng = np.random.default_rng(4)
    count = rng.integers(0, 10, 400).astype(float)
    x = np.stack([count + rng.normal(size=400), count, np.full(400, 3.0)], axis=1)
    columns = (
        Column(name="a", type=ColumnType.REAL),
        Column(name="n", type=ColumnType.INTEGER, minimum=0, maximum=9, missing=True),
        Column(name="still", type=ColumnType.REAL, missing=True),
    )
    spec = DataSpec(modality="table", columns=columns)
    complete = covariance_of(fitted_with_holes(spec, x, x[:0], None))
    x[:80, 1], x[60:90, 2] = np.nan, np.nan
    found = covariance_of(fitted_with_holes(spec, x, x[:0], None))
    np.testing.assert_allclose(found[:2, :2], complete[:2, :2], rtol=0.1)
    assert found[2, 2] < 1e-4
