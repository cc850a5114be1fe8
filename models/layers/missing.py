"""Gaussians on rows with missing cells: conditional moments and draws, and the fit by expectation-maximisation.

With the precision Λ = Σ⁻¹, the missing cells h of a row given its shown ones s are Gaussian with

    E[x_h | x_s] = mu_h - Λ_hh⁻¹ Λ_hs (x_s - mu_s),   Cov[x_h | x_s] = Λ_hh⁻¹

so a row costs a factorisation of its missing cells alone. The fit iterates

    mu ← mean E[x],   Σ ← mean (E[x] - mu)(E[x] - mu)ᵀ + Cov[x_h | x_s]

A. P. Dempster, N. M. Laird and D. B. Rubin, "Maximum likelihood from incomplete data via the EM algorithm", Journal of
the Royal Statistical Society B 39(1), 1977. A family of covariances (such as a low rank plus noise) is fitted by
projecting Σ onto it after each step, where that projection maximises the likelihood of complete rows.

Legend: ``B`` rows, ``D`` cells, NaN where a cell is missing; everything float64. Never exported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.layers.moments import Moments

RIDGE = 1e-8
"""Added to variances in units of the columns' own, so that columns that follow from others can be inverted."""
_BLOCK_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class PartlySeen:
    """N(mean, precision⁻¹) in units of ``scale`` around ``centre``, all ``(D,)``; ``precision`` ``(D, D)``."""

    centre: Tensor
    scale: Tensor
    mean: Tensor
    precision: Tensor

    @classmethod
    def of(cls, centre: Tensor, scale: Tensor, mean: Tensor, covariance: Tensor, ridge: float = RIDGE) -> PartlySeen:
        """Take ``mean`` and ``covariance`` in the data's own units; ``scale`` > 0."""
        standard = covariance / torch.outer(scale, scale)
        standard = 0.5 * (standard + standard.T)
        standard.diagonal().add_(ridge)
        precision = torch.cholesky_inverse(torch.linalg.cholesky(standard))
        return cls(centre, scale, (mean - centre) / scale, precision)

    def complete(self, x: Tensor, eps: Tensor | None = None) -> Tensor:
        """Fill the NaN of ``x`` ``(B, D)``: with conditional means, or draws made of ``eps`` ``(B, D)`` ~ N(0, 1)."""
        filled = x.clone()
        for rows, cells, padding, factor, mean in self._solve(x):
            values = mean
            if eps is not None:
                noise = torch.where(padding, 0.0, eps[rows].gather(1, cells))
                values = mean + torch.linalg.solve_triangular(factor.mT, noise[..., None], upper=True)[..., 0]
            values = values * self.scale[cells] + self.centre[cells]
            filled[rows] = filled[rows].scatter(1, cells, torch.where(padding, filled[rows].gather(1, cells), values))
        return filled

    def spread(self, x: Tensor) -> Tensor:
        """Sum over the rows of Cov[x_h | x_s], ``(D, D)`` in the data's own units."""
        cells_count = len(self.mean)
        total = torch.zeros(cells_count * cells_count, dtype=torch.float64, device=x.device)
        for _, cells, padding, factor, _ in self._solve(x):
            covariance = torch.cholesky_inverse(factor)
            covariance = torch.where(padding[:, :, None] | padding[:, None, :], 0.0, covariance)
            place = cells[:, :, None] * cells_count + cells[:, None, :]
            total.index_add_(0, place.reshape(-1), covariance.reshape(-1))
        return total.reshape(cells_count, cells_count) * torch.outer(self.scale, self.scale)

    def _solve(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """Blocks of rows with about as many missing cells: their numbers ``(b,)``, the missing ``cells`` ``(b, h)``,
        which of these only pad the block, the Cholesky factor of Λ_hh and the conditional mean, standardised."""
        hidden = torch.isnan(x)
        counts = hidden.sum(1)
        order = torch.argsort(counts, descending=True, stable=True)
        order = order[counts[order] > 0]
        start = 0
        while start < len(order):
            size = max(1, _BLOCK_ELEMENTS // int(counts[order[start]]) ** 2)
            rows = order[start : start + size]
            start += size
            yield (rows, *self._block(x[rows], hidden[rows], counts[rows]))

    def _block(self, x: Tensor, hidden: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        most = int(counts.max())
        cells = torch.argsort(hidden.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
        padding = torch.arange(most, device=x.device) >= counts[:, None]
        block = self.precision[cells[:, :, None], cells[:, None, :]]
        block = torch.where(padding[:, :, None] | padding[:, None, :], 0.0, block)
        block.diagonal(dim1=1, dim2=2).add_(padding.to(torch.float64))
        factor = torch.linalg.cholesky(block)
        deviation = torch.where(hidden, 0.0, (x - self.centre) / self.scale - self.mean)
        pull = torch.where(padding, 0.0, (deviation @ self.precision).gather(1, cells))
        mean = self.mean[cells] - torch.cholesky_solve(pull[..., None], factor)[..., 0]
        return cells, padding, factor, mean


def expected_moments(batches: Iterable[Tensor], model: PartlySeen) -> Moments:
    """Count, mean and scatter that rows with missing cells have in expectation under ``model``."""
    device = model.mean.device
    moments = Moments(len(model.mean))
    moments.mean, moments.scatter = moments.mean.to(device), moments.scatter.to(device)
    for x in batches:
        moments.add(model.complete(x))
        moments.scatter += model.spread(x)
    return moments


def fit_partly_seen(
    passes: Callable[[], Iterable[Tensor]],
    centre: Tensor,
    scale: Tensor,
    *,
    project: Callable[[Tensor], Tensor] = lambda covariance: covariance,
    start: Moments | None = None,
    ridge: float = RIDGE,
    tolerance: float = 1e-5,
    iterations: int = 200,
) -> tuple[Moments, PartlySeen]:
    """Fit a Gaussian to rows with missing cells; answers their expected moments and the last model.

    ``passes()`` iterates over batches ``(B, D)``; ``centre`` and ``scale`` ``(D,)`` are typical of the columns.
    ``project`` maps a covariance onto the family fitted. It ends once no standardised moment moves by ``tolerance``.
    """
    mean, covariance = centre, torch.diag(scale**2)
    if start is not None:
        mean, covariance = start.mean, start.scatter / start.rows
    for _ in range(iterations):
        model = PartlySeen.of(centre, scale, mean, project(covariance), ridge)
        moments = expected_moments(passes(), model)
        if moments.rows == 0:
            break
        now = moments.scatter / moments.rows
        moved = max(
            float(((moments.mean - mean) / scale).abs().max()),
            float(((now - covariance) / torch.outer(scale, scale)).abs().max()),
        )
        mean, covariance = moments.mean, now
        if moved < tolerance:
            break
    return moments, model
