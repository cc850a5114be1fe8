"""Densities of a latent vector z, with draws as functions of noise.

    standard normal   p(z) = N(z; 0, I)
    mixture           p(z) = 1/K Σ_k N(z; m_k, diag s_k²)
    flow              p(z) = N(f(z); 0, I) |det df/dz|,   z = f^-1(e)

The mixture is the VampPrior where its components are the posteriors of learned pseudo-inputs: J. M. Tomczak and
M. Welling, "VAE with a VampPrior", 2018 (arXiv:1705.07120). The flow is a chain of affine couplings, the prior that
X. Chen et al., "Variational lossy autoencoder", 2017 (arXiv:1611.02731), learn with an autoregressive flow.

Shapes: ``z``, ``eps`` (normal) ``(B, L)``; ``u`` (uniform), ``temperature`` ``(B, 1)``, the latter a factor on the
deviation of the normals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models.layers.bijection import Bijection
from models.layers.conditioners import MLPConditioner
from models.layers.coupling import Coupling
from models.layers.elementwise import Affine
from models.layers.gaussian import LOG_TWO_PI
from models.layers.linear_maps import Permutation
from models.layers.multiscale import Chain

FLOW_LAYERS = 4
"""Couplings of a flow prior: each two move every latent."""


class Prior(Protocol):
    """p(z); see the module's docstring."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) ``(B,)``, nats."""

    def draw(self, eps: Tensor, u: Tensor | None, temperature: Tensor) -> Tensor:
        """Return z ``(B, L)``; ``u`` picks a component where there are several."""


class StandardNormal:
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return _log_standard(z)

    def draw(self, eps: Tensor, u: Tensor | None, temperature: Tensor) -> Tensor:
        return temperature * eps


@dataclass(frozen=True)
class DiagonalMixture:
    """K Gaussians of equal weight: ``means`` and ``log_scales`` ``(K, L)``."""

    means: Tensor
    log_scales: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        # The square is multiplied out, so that nothing of size (B, K, L) is held; float64 makes up for what cancels.
        means, log_scales, z = (t.to(torch.float64) for t in (self.means, self.log_scales, z))
        precision = torch.exp(-2 * log_scales)
        quadratic = (z**2) @ precision.T - 2 * z @ (means * precision).T + (means**2 * precision).sum(-1)  # (B, K)
        each = -0.5 * quadratic - (log_scales + 0.5 * LOG_TWO_PI).sum(-1)
        return torch.logsumexp(each, -1) - math.log(len(means))

    def draw(self, eps: Tensor, u: Tensor | None, temperature: Tensor) -> Tensor:
        assert u is not None, "a mixture draws its component from u"
        chosen = torch.clamp(torch.floor(u[:, 0] * len(self.means)), max=len(self.means) - 1).to(torch.int64)
        scale = torch.exp(self.log_scales.index_select(0, chosen))
        return self.means.index_select(0, chosen) + temperature * scale * eps


class PseudoInputs(nn.Module):
    """Rows ``(K, n)`` in the space that an encoder's network sees, whose posteriors are the mixture; both learn."""

    means: Tensor
    log_scales: Tensor

    def __init__(self, components: int, columns: int, latents: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(0.1 * torch.randn(components, columns))
        for name in ("means", "log_scales"):
            self.register_buffer(name, torch.zeros(0, latents), persistent=False)

    @torch.no_grad()
    def start(self, rows: Tensor) -> None:
        """Begin with rows of the data ``(B, n)``, used again where there are fewer than components."""
        self.rows.copy_(rows[torch.arange(len(self.rows), device=rows.device) % len(rows)])

    def mixture(self, posterior: Callable[[Tensor], tuple[Tensor, Tensor]]) -> DiagonalMixture:
        """``posterior`` answers mean and log-scale ``(K, L)``; once frozen it is not asked."""
        if len(self.means):
            return DiagonalMixture(self.means, self.log_scales)
        return DiagonalMixture(*posterior(self.rows))

    @torch.no_grad()
    def freeze(self, posterior: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        """Keep the components, for graphs that score many rows."""
        self.means, self.log_scales = posterior(self.rows)


class FlowPrior(nn.Module):
    """Couplings between z and e ~ N(0, I); starts as N(0, I) itself."""

    def __init__(self, latents: int) -> None:
        """``latents`` ≥ 2."""
        super().__init__()
        kept, width = latents // 2, max(32, 4 * latents)
        chain: list[Bijection] = []
        for index in range(FLOW_LAYERS):
            # Shuffles alternate with mirrors, so that each two layers move every latent.
            chain.append(Permutation(latents, seed=None if index % 2 else index))
            network = MLPConditioner(kept, 2 * (latents - kept), width=width, depth=2)
            chain.append(Coupling(network, kept, Affine()))
        self.net = Chain(chain)

    def log_prob(self, z: Tensor) -> Tensor:
        e, log_det = self.net(z)
        total: Tensor = _log_standard(e) + log_det
        return total

    def draw(self, eps: Tensor, u: Tensor | None, temperature: Tensor) -> Tensor:
        return self.net.inverse(temperature * eps)


def _log_standard(z: Tensor) -> Tensor:
    return -0.5 * (z**2 + LOG_TWO_PI).sum(-1)
