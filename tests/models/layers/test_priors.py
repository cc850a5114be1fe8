"""Laws of the priors on z: they are densities, their draws come from them, and a frozen mixture is the live one."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from models.layers.gaussian import log_normal
from models.layers.priors import DiagonalMixture, FlowPrior, Prior, PseudoInputs, StandardNormal


def mixture() -> DiagonalMixture:
    means = torch.tensor([[-2.0, 0.5], [1.0, 1.0], [0.0, -1.5]])
    return DiagonalMixture(means, torch.tensor([[-1.0, 0.2], [-0.5, -0.5], [0.3, -1.2]]))


def flow() -> FlowPrior:
    torch.manual_seed(0)
    prior = FlowPrior(2)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return prior


PRIORS: dict[str, Callable[[], Prior]] = {"normal": StandardNormal, "mixture": mixture, "flow": flow}


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_a_prior_integrates_to_one(name: str) -> None:
    side = torch.linspace(-14, 14, 701)
    grid = torch.cartesian_prod(side, side)
    cell = float(side[1] - side[0]) ** 2
    assert float(PRIORS[name]().log_prob(grid).double().exp().sum() * cell) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_draws_have_the_moments_of_the_density(name: str) -> None:
    prior = PRIORS[name]()
    side = torch.linspace(-14, 14, 701)
    grid = torch.cartesian_prod(side, side).double()
    weight = prior.log_prob(grid.float()).double().softmax(0)
    mean = weight @ grid
    std = (weight @ (grid - mean) ** 2).sqrt()
    torch.manual_seed(1)
    n = 40_000
    z = prior.draw(torch.randn(n, 2), torch.rand(n, 1), torch.ones(n, 1)).double()
    assert ((z.mean(0) - mean).abs() < 5 * std / math.sqrt(n)).all()
    torch.testing.assert_close(z.std(0), std, rtol=0.05, atol=0)


@pytest.mark.parametrize("name", PRIORS)
def test_the_temperature_multiplies_the_deviation_of_the_normals(name: str) -> None:
    prior = PRIORS[name]()
    torch.manual_seed(2)
    eps, u = torch.randn(5, 2), torch.rand(5, 1)
    warm = prior.draw(eps, u, torch.full((5, 1), 0.5))
    assert torch.allclose(warm, prior.draw(0.5 * eps, u, torch.ones(5, 1)))
    still = prior.draw(eps, u, torch.zeros(5, 1))
    assert torch.equal(still, prior.draw(torch.zeros(5, 2), u, torch.ones(5, 1)))


def test_a_mixture_is_that_of_a_reference() -> None:
    ours = mixture()
    parts = Independent(Normal(ours.means.double(), ours.log_scales.double().exp()), 1)
    reference = MixtureSameFamily(Categorical(torch.ones(3, dtype=torch.float64)), parts)
    z = 4 * torch.randn(50, 2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours.log_prob(z), reference.log_prob(z.double()), rtol=1e-9, atol=1e-9)


def test_narrow_components_far_out_keep_their_precision() -> None:
    far = DiagonalMixture(torch.full((2, 3), 20.0), torch.full((2, 3), -7.0))
    z = torch.full((1, 3), 20.0) + math.exp(-7.0)
    expected = log_normal(z.double(), 20.0, torch.full((1, 3), -7.0, dtype=torch.float64)).sum(-1)
    torch.testing.assert_close(far.log_prob(z), expected, rtol=0, atol=1e-4)


def test_each_part_of_the_unit_interval_picks_its_component() -> None:
    ours = mixture()
    u = torch.tensor([[0.0], [0.33], [0.34], [0.66], [0.67], [1 - 2**-24]])
    z = ours.draw(torch.zeros(6, 2), u, torch.ones(6, 1))
    assert torch.equal(z, ours.means[[0, 0, 1, 1, 2, 2]])


def test_a_flow_starts_as_the_standard_normal() -> None:
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(FlowPrior(3).log_prob(z), StandardNormal().log_prob(z))


@torch.no_grad()
def test_frozen_pseudo_inputs_answer_as_before_and_ask_no_encoder() -> None:
    pseudo = PseudoInputs(4, 6, 2)
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))

    def posterior(rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = (rows @ weight).chunk(2, 1)
        return mean, log_scale

    def nobody(rows: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("a frozen mixture asks no encoder")

    rows = torch.from_numpy(np.arange(18, dtype=np.float32).reshape(3, 6) / 18)
    pseudo.start(rows)
    assert torch.equal(pseudo.rows, rows[[0, 1, 2, 0]])
    z = torch.randn(7, 2, generator=torch.Generator().manual_seed(6))
    live = pseudo.mixture(posterior).log_prob(z)
    pseudo.freeze(posterior)
    assert torch.equal(pseudo.mixture(nobody).log_prob(z), live)
    assert set(pseudo.state_dict()) == {"rows"}
