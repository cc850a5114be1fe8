"""Every layer of a flow inverts, and its log-determinant is that of the Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.layers.actnorm import ActNorm
from models.layers.bijection import Bijection
from models.layers.conditioners import ConvConditioner, GatedConditioner, MLPConditioner, ResidualConditioner
from models.layers.coupling import Coupling
from models.layers.elementwise import Affine, Composed, Elementwise, Marginal, Shift
from models.layers.linear_maps import LU, Diagonal, Permutation
from models.layers.logistic_mixture import MixtureCDF
from models.layers.multiscale import Chain, Multiscale, scales_of
from models.layers.splines import RationalQuadratic


def mlp(channels: int = 4, classes: int = 0, transform: Elementwise | None = None) -> Coupling:
    kept, transform = channels // 2, transform or Affine()
    outputs = (channels - kept) * transform.per_cell
    return Coupling(MLPConditioner(kept, outputs, width=8, depth=2, classes=classes), kept, transform)


def residual(channels: int, transform: Elementwise, classes: int = 0) -> Coupling:
    kept = channels // 2
    outputs = (channels - kept) * transform.per_cell
    return Coupling(ResidualConditioner(kept, outputs, width=8, depth=2, classes=classes), kept, transform)


def convolution(channels: int, classes: int = 0) -> Coupling:
    kept = channels // 2
    network = ConvConditioner(kept, 2 * (channels - kept), width=6, depth=1, classes=classes)
    return Coupling(network, kept, Affine())


def gated(channels: int, transform: Elementwise, classes: int = 0, attends: tuple[int, int] | None = None) -> Coupling:
    kept = channels // 2
    outputs = (channels - kept) * transform.per_cell
    network = GatedConditioner(kept, outputs, width=8, depth=1, classes=classes, attends=attends)
    return Coupling(network, kept, transform)


def scale(channels: int, index: int) -> list[Bijection]:
    return [ActNorm(channels), Permutation(channels, index), convolution(channels)]


LAYERS: dict[str, tuple[Callable[[], Bijection], tuple[int, ...]]] = {
    "actnorm": (lambda: ActNorm(4), (4,)),
    "actnorm of images": (lambda: ActNorm(2), (2, 3, 3)),
    "permutation": (lambda: Permutation(5, seed=1), (5,)),
    "reversal": (lambda: Permutation(5, seed=None), (5,)),
    "additive": (lambda: mlp(5, transform=Shift()), (5,)),
    "affine": (lambda: mlp(5), (5,)),
    "affine given a label": (lambda: mlp(4, classes=3), (4,)),
    "convolutional": (lambda: convolution(2), (2, 3, 3)),
    "convolutional given a label": (lambda: convolution(2, classes=3), (2, 3, 3)),
    "diagonal": (lambda: Diagonal(4), (4,)),
    "lu": (lambda: LU(5, seed=1), (5,)),
    "lu of images": (lambda: LU(3, seed=None), (3, 2, 2)),
    "marginal splines": (lambda: Marginal(4, RationalQuadratic(6, 2.0)), (4,)),
    "spline": (lambda: residual(5, RationalQuadratic(4, 1.5)), (5,)),
    "spline given a label": (lambda: residual(4, RationalQuadratic(8, 3.0), classes=3), (4,)),
    "spline of images": (lambda: gated(2, RationalQuadratic(4, 2.0)), (2, 3, 3)),
    "affine, then spline": (lambda: residual(5, Composed(Affine(4.0), RationalQuadratic(4, 2.0))), (5,)),
    "affine, then spline of images": (lambda: gated(2, Composed(Affine(), RationalQuadratic(4, 2.0))), (2, 3, 3)),
    "mixture cdf": (lambda: residual(5, MixtureCDF(3)), (5,)),
    "mixture cdf of images": (lambda: gated(2, MixtureCDF(2), classes=3), (2, 3, 3)),
    "mixture cdf with attention": (lambda: gated(3, MixtureCDF(4), attends=(2, 3)), (3, 2, 3)),
    "chain": (lambda: Chain([mlp(), Permutation(4, 0), mlp()]), (4,)),
    "multiscale": (lambda: Multiscale(1, 8, 8, 2, scale), (1, 8, 8)),
}


def perturbed(layer: Bijection) -> Bijection:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return layer.double().eval()


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_inverts_and_counts_its_volume(name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = perturbed(make())
    x = torch.randn(3, *shape, dtype=torch.float64)
    y = torch.tensor([0, 2, 1])
    z, log_det = layer(x, y)
    torch.testing.assert_close(layer.inverse(z, y), x, rtol=1e-9, atol=1e-9)
    assert log_det.shape == (3,)

    def one(flat: Tensor) -> Tensor:
        return layer(flat.reshape(1, *shape), y[1:2])[0].flatten()

    jacobian = torch.autograd.functional.jacobian(one, x[1].flatten())
    assert log_det[1].item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-9)


def test_actnorm_starts_from_data_once() -> None:
    layer = ActNorm(2)
    x = torch.randn(200, 2, 4, 4) * torch.tensor([3.0, 0.1])[:, None, None] + 7
    layer.initialise(x)
    z, _ = layer(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)
    before = layer.log_scale.clone()
    layer.initialise(100 * x)
    assert torch.equal(layer.log_scale, before)
    again = ActNorm(2)
    again.load_state_dict(layer.state_dict())
    again.initialise(100 * x)  # that it has started travels with the state
    assert torch.equal(again.log_scale, before)


def test_actnorm_survives_a_channel_that_never_varies() -> None:
    layer = ActNorm(1)
    layer.initialise(torch.full((10, 1), 3.0))
    z, log_det = layer(torch.full((10, 1), 3.0))
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_det).all()


def test_a_chain_of_norms_leaves_a_still_channel_in_scale() -> None:
    chain = Chain([ActNorm(2) for _ in range(9)])
    x = torch.randn(100, 2) * torch.tensor([1.0, 0.0])
    chain.initialise(x)
    z, _ = chain(x + torch.tensor([0.0, 1e-3]))
    assert z[:, 1].abs().max() < 1


def test_a_float64_stream_around_a_float32_network_inverts_exactly() -> None:
    torch.manual_seed(0)
    layers: list[Bijection] = [layer for index in range(8) for layer in (ActNorm(6), Permutation(6, index), mlp(6))]
    chain = perturbed(Chain(layers)).float()
    x = torch.randn(50, 6, dtype=torch.float64)
    z, _ = chain(x)
    assert z.dtype == torch.float64
    torch.testing.assert_close(chain.inverse(z), x, rtol=0, atol=1e-9)


def test_a_chain_starts_each_layer_from_what_arrives() -> None:
    chain = Chain([ActNorm(3), Diagonal(3), ActNorm(3)])
    with torch.no_grad():
        nn.init.constant_(chain.layers[1].log_scale, 2.0)  # type: ignore[arg-type]
    x = 5 + 4 * torch.randn(500, 3)
    chain.initialise(x)
    z, _ = chain(x)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_scales_stop_where_sides_are_odd_or_small() -> None:
    assert [scales_of(side, side) for side in (4, 7, 8, 16, 28, 32, 64, 17)] == [0, 0, 1, 2, 2, 3, 3, 0]
