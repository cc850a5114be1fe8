"""The composed likelihood: each cell by its column's type, in its place, hidden cells not at all."""

import numpy as np
import pytest
import torch

from contracts.data import Column, ColumnType, DataProfile, DataSpec, ImageShape
from models.layers.cell_mixtures import DiscretisedLogistic, LogisticMixture
from models.layers.distributions import Bernoulli, Categorical, Gaussian
from models.layers.likelihoods import Likelihood

COLUMNS = (
    Column(name="colour", type=ColumnType.CATEGORICAL, categories=("r", "g", "b")),
    Column(name="length", type=ColumnType.REAL),
    Column(name="flag", type=ColumnType.BOOLEAN),
    Column(name="count", type=ColumnType.INTEGER, minimum=0, maximum=9),
    Column(name="sex", type=ColumnType.CATEGORICAL, categories=("f", "m")),
    Column(name="day", type=ColumnType.DATE),
    Column(name="width", type=ColumnType.REAL),
    Column(name="year", type=ColumnType.INTEGER, minimum=1900, maximum=2100),
    Column(name="shade", type=ColumnType.CATEGORICAL, categories=("x", "y", "z")),
)
TABLE = DataSpec(modality="table", columns=COLUMNS)


def table_rows(n: int = 50) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack(
        [
            rng.integers(0, 3, n),
            5 + 2 * rng.standard_normal(n),
            rng.integers(0, 2, n),
            rng.integers(0, 10, n),
            rng.integers(0, 2, n),
            rng.integers(10_000, 20_000, n),
            1e-6 * rng.standard_normal(n),
            rng.integers(1900, 2101, n),
            rng.integers(0, 3, n),
        ],
        axis=1,
    ).astype(np.float64)


def profile(x: np.ndarray) -> DataProfile:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return DataProfile(rows=len(x), mean=flat.mean(0), std=flat.std(0), minimum=flat.min(0), maximum=flat.max(0))


def _likelihood() -> tuple[Likelihood, torch.Tensor, torch.Tensor]:
    rows = table_rows()
    torch.manual_seed(0)
    likelihood = Likelihood(TABLE, profile(rows))
    return likelihood, torch.from_numpy(rows), torch.randn(len(rows), likelihood.width)


def test_every_column_gets_the_distribution_of_its_type() -> None:
    likelihood, _, _ = _likelihood()
    kinds = {type(group) for group in likelihood.groups}
    assert kinds == {Bernoulli, Categorical, DiscretisedLogistic, Gaussian}
    # 2 nominal columns of 3, 2 of two levels, 3 of whole numbers, 2 real
    assert likelihood.width == 2 * 3 + 2 * 1 + 3 * 2 + 2 * 2
    assert likelihood.outputs_per_cell is None


def test_a_cell_depends_on_its_own_value_alone() -> None:
    likelihood, x, h = _likelihood()
    before = likelihood.log_prob(x, h)
    for cell in range(TABLE.cells):
        changed = x.clone()
        changed[:, cell] = x[torch.arange(len(x)) - 1, cell]
        differs = (likelihood.log_prob(changed, h) != before).any(0)
        assert differs.nonzero().flatten().tolist() == [cell]


def test_draws_and_means_obey_the_spec() -> None:
    likelihood, _, h = _likelihood()
    u = torch.rand(len(h), TABLE.cells, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = likelihood.draw(h, u).numpy()
    TABLE.check(drawn)
    mean = likelihood.mean(h).numpy()
    low, high = TABLE.bounds
    assert (mean >= low).all()
    assert (mean <= high).all()
    assert np.isin(mean[:, 0], [0, 1, 2]).all()


def test_score_is_the_sum_over_the_shown_cells_whatever_hidden_ones_hold() -> None:
    likelihood, x, h = _likelihood()
    shown = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.6
    expected = torch.where(shown, likelihood.log_prob(x, h), 0.0).sum(-1)
    spoilt = torch.where(shown, x, torch.nan)
    assert torch.equal(likelihood.score(spoilt, shown, h), expected)
    assert torch.equal(likelihood.score(x, torch.zeros_like(shown), h), torch.zeros(len(x), dtype=torch.float64))


def test_density_is_in_the_units_of_the_data() -> None:
    """Metres to millimetres: the log-density of a real column falls by log 1000, that of counts stays."""
    rows = table_rows()
    scaled = rows * np.where([c.name == "length" for c in COLUMNS], 1000.0, 1.0)
    h = torch.randn(len(rows), Likelihood(TABLE, profile(rows)).width)
    first = Likelihood(TABLE, profile(rows)).log_prob(torch.from_numpy(rows), h)
    second = Likelihood(TABLE, profile(scaled)).log_prob(torch.from_numpy(scaled), h)
    expected = torch.where(torch.tensor([c.name == "length" for c in COLUMNS]), -np.log(1000.0), 0.0)
    assert torch.allclose((second - first).mean(0), expected.double(), atol=1e-6)


@pytest.mark.parametrize(("levels", "kind", "outputs"), [(2, Bernoulli, 1), (17, DiscretisedLogistic, 2)])
def test_images_have_one_distribution_in_float32(levels: int, kind: type, outputs: int) -> None:
    spec = DataSpec(modality="image", image=ImageShape(height=4, width=3, levels=levels))
    x = np.random.default_rng(0).integers(0, levels, (30, 4, 3, 1)).astype(np.uint8)
    likelihood = Likelihood(spec, profile(x))
    assert [type(group) for group in likelihood.groups] == [kind]
    assert likelihood.outputs_per_cell == outputs
    h = torch.randn(30, likelihood.width)
    log_p = likelihood.log_prob(torch.from_numpy(x).flatten(1), h)
    assert log_p.dtype == torch.float32
    assert (log_p <= 0).all()


def test_the_gaussian_choice_leaves_categories_alone() -> None:
    likelihood = Likelihood(TABLE, profile(table_rows()), "gaussian")
    assert {type(group) for group in likelihood.groups} == {Bernoulli, Categorical, Gaussian}


def test_the_mixture_choice_gives_real_columns_a_mixture_and_leaves_the_others() -> None:
    likelihood = Likelihood(TABLE, profile(table_rows()), "mixture", components=4)
    kinds = {type(group) for group in likelihood.groups}
    assert kinds == {Bernoulli, Categorical, DiscretisedLogistic, LogisticMixture}
    assert likelihood.width == 2 * 3 + 2 * 1 + 3 * 12 + 2 * 12


def test_outputs_belong_to_the_cells_that_they_move() -> None:
    likelihood = Likelihood(TABLE, profile(table_rows()), "mixture", components=2)
    x = torch.from_numpy(table_rows())[:1]
    h = torch.randn(1, likelihood.width, generator=torch.Generator().manual_seed(0))
    before = likelihood.log_prob(x, h)
    for output, owner in enumerate(likelihood.owners.tolist()):
        moved = h.clone()
        moved[0, output] += 0.7
        differs = (likelihood.log_prob(x, moved) != before)[0].nonzero().flatten().tolist()
        assert set(differs) <= {owner}
    assert torch.bincount(likelihood.owners, minlength=TABLE.cells).tolist() == [3, 6, 1, 6, 1, 6, 6, 6, 3]


def test_std_and_temperature_stand_in_their_cells() -> None:
    likelihood, _, h = _likelihood()
    assert likelihood.std(h).shape == (len(h), TABLE.cells)
    temperature = torch.linspace(0.5, 2, len(h))
    tempered = likelihood.temper(h, temperature)
    ones = likelihood.temper(h, torch.ones(len(h)))
    assert torch.allclose(ones, h.double())
    length = TABLE.features.index(next(c for c in TABLE.features if c.name == "length"))
    ratio = likelihood.std(tempered)[:, length] / likelihood.std(h)[:, length]
    assert torch.allclose(ratio, temperature.double(), rtol=0.03)
    assert likelihood.start().shape == (likelihood.width,)
