"""Mixtures of Gaussians with some cells hidden: marginals, conditionals and draws, in float64.

For a component N(μ, Σ) with Σ = L Lᵀ, put the shown cells first: the rows of L so ordered have a QR factorisation
whose Rᵀ is the Cholesky factor of the reordered Σ,

    Rᵀ = [ L_ss   0   ]        log p(x_s) = log N(x_s; μ_s, L_ss L_ssᵀ)
         [ L_hs  L_hh ]        x_h | x_s ~ N(μ_h + L_hs L_ss⁻¹ (x_s − μ_s), L_hh L_hhᵀ)

so nothing is inverted and Σ is never formed. A mixture's conditional is the mixture of these, weighted by each
component's responsibility for x_s. Rows are grouped by their pattern of hidden cells, one factorisation per pattern.

Letters: ``B`` rows, ``n`` cells, ``K`` components, ``s`` shown and ``h`` hidden cells of a pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import ArtifactCorrupt

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Conditional:
    """p(x_h | x_s) of rows with one pattern, and the marginal of what they show.

    ``log_marginal`` (B,) in nats, ``log_responsibilities`` (B, K), ``means`` (B, K, h), ``cholesky`` (K, h, h).
    """

    log_marginal: Floats
    log_responsibilities: Floats
    means: Floats
    cholesky: Floats

    def take(self, rows: NDArray[np.int64]) -> Conditional:
        """Return the conditional of ``rows``, repeated as they are named."""
        return Conditional(self.log_marginal[rows], self.log_responsibilities[rows], self.means[rows], self.cholesky)

    def mean(self) -> Floats:
        """Return E[x_h | x_s], ``(B, h)``."""
        mean: Floats = np.einsum("bk,bkh->bh", np.exp(self.log_responsibilities), self.means)
        return mean

    def variance(self) -> Floats:
        """Return the variance of each hidden cell, ``(B, h)``."""
        within = np.square(self.cholesky).sum(axis=-1)  # (K, h)
        spread = np.square(self.means - self.mean()[:, None])
        total: Floats = np.einsum("bk,bkh->bh", np.exp(self.log_responsibilities), spread + within)
        return total

    def draw(self, uniforms: Floats, normals: Floats) -> Floats:
        """Return one draw of x_h for each row, ``(B, h)``, from ``uniforms`` (B,) and ``normals`` (B, h)."""
        return _draw(np.exp(self.log_responsibilities), self.means, self.cholesky, uniforms, normals)

    def log_density(self, values: Floats) -> Floats:
        """Return log p(x_h | x_s) at ``values`` (B, h), ``(B,)`` nats."""
        if values.shape[1] == 0:
            return np.zeros(len(values))
        each = [
            _log_normal(values - self.means[:, k], self.cholesky[k]) for k in range(self.cholesky.shape[0])
        ]  # K of (B,)
        return log_sum_exp(np.stack(each, axis=1) + self.log_responsibilities)


class Pattern:
    """The factorisations of one pattern of hidden cells ``(n,)``."""

    def __init__(self, mixture: Mixture, hidden: Mask) -> None:
        self.hidden, self.shown = np.flatnonzero(hidden), np.flatnonzero(~hidden)
        order, s = np.concatenate((self.shown, self.hidden)), len(self.shown)
        lower = np.stack([_reorder(factor, order) for factor in mixture.cholesky])
        self._shown, self._gain, self._rest = lower[:, :s, :s], lower[:, s:, :s], lower[:, s:, s:]
        self._mixture = mixture

    def log_marginal(self, x: Floats) -> Floats:
        """Return log p(x_s) of rows ``x`` (B, n), ``(B,)`` nats."""
        return self.condition(x, means=False).log_marginal

    def condition(self, x: Floats, *, means: bool = True) -> Conditional:
        """Return the conditional of rows ``x`` (B, n), of which only the shown cells are read.

        Without ``means`` it holds none: for callers who want the marginal alone.
        """
        mixture = self._mixture
        components = len(mixture.log_weights)
        joint = np.empty((len(x), components))
        centres = np.zeros((len(x) if means else 0, components, len(self.hidden)))
        for k in range(components):
            white = _whiten(x[:, self.shown] - mixture.means[k, self.shown], self._shown[k])  # (s, B)
            joint[:, k] = mixture.log_weights[k] + _log_white(white, self._shown[k])
            if means:
                centres[:, k] = mixture.means[k, self.hidden] + (self._gain[k] @ white).T
        marginal = log_sum_exp(joint)
        with np.errstate(invalid="ignore"):
            responsibilities = joint - marginal[:, None]
        # Where every component's density underflows, none is preferred.
        responsibilities[~np.isfinite(marginal)] = mixture.log_weights
        return Conditional(marginal, responsibilities, centres, self._rest)


@dataclass(frozen=True)
class Mixture:
    """``log_weights`` (K,), ``means`` (K, n), ``cholesky`` (K, n, n) lower."""

    log_weights: Floats
    means: Floats
    cholesky: Floats

    @classmethod
    def from_constants(cls, constants: Mapping[str, Floats], name: str) -> Mixture | None:
        """Return the mixture that stands under ``name`` in an artifact's constants, None where there is none.

        Raises ArtifactCorrupt if a part is missing or the shapes do not agree.
        """
        fields = ("log_weights", "means", "cholesky")
        found = [constants.get(f"{name}.{field}") for field in fields]
        if all(part is None for part in found):
            return None
        weights, means, cholesky = found
        if weights is None or means is None or cholesky is None:
            raise ArtifactCorrupt(f"the constants of the mixture `{name}` are incomplete: need {', '.join(fields)}")
        k, n = means.shape if means.ndim == 2 else (-1, -1)
        if weights.shape != (k,) or cholesky.shape != (k, n, n):
            raise ArtifactCorrupt(
                f"the constants of the mixture `{name}` have shapes {weights.shape}, {means.shape}, {cholesky.shape}; "
                "need (K,), (K, n), (K, n, n)"
            )
        return cls(weights - log_sum_exp(weights[None])[0], means, cholesky)

    @property
    def dimensions(self) -> int:
        return int(self.means.shape[1])

    def log_density(self, x: Floats) -> Floats:
        """Return log p(x) of ``x`` (B, n), ``(B,)`` nats."""
        each = [_log_normal(x - mean, factor) for mean, factor in zip(self.means, self.cholesky, strict=True)]
        return log_sum_exp(np.stack(each, axis=1) + self.log_weights)

    def draw(self, uniforms: Floats, normals: Floats, temperature: float = 1.0) -> Floats:
        """Return draws ``(B, n)`` from ``uniforms`` (B,) and ``normals`` (B, n).

        ``temperature`` multiplies each component's deviation.
        """
        rows = len(uniforms)
        weights = np.broadcast_to(np.exp(self.log_weights), (rows, len(self.log_weights)))
        means = np.broadcast_to(self.means, (rows, *self.means.shape))
        return _draw(weights, means, self.cholesky, uniforms, temperature * normals)

    def pattern(self, hidden: Mask) -> Pattern:
        """Return the factorisations for one pattern of hidden cells ``(n,)``."""
        return Pattern(self, hidden)


def group_patterns(hidden: Mask) -> Iterator[tuple[NDArray[np.int64], Mask]]:
    """Yield (rows, pattern) for each distinct row of ``hidden`` (B, n)."""
    packed = np.ascontiguousarray(np.packbits(hidden, axis=1))
    names = packed.view(np.dtype((np.void, packed.shape[1]))).reshape(len(hidden))
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    for group, row in enumerate(first):
        yield np.flatnonzero(inverse == group), hidden[row]


def log_sum_exp(values: Floats) -> Floats:
    """Return log Σ exp over the last axis; -inf where every term is."""
    top = values.max(axis=-1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total: Floats = np.log(np.exp(values - safe[..., None]).sum(axis=-1)) + safe
    return total


def _reorder(factor: Floats, order: NDArray[np.int64]) -> Floats:
    """The lower Cholesky factor, with a positive diagonal, of the matrix whose rows and columns are reordered."""
    lower = np.asarray(np.linalg.qr(factor[order].T, mode="r"), dtype=np.float64).T
    signs = np.where(np.diagonal(lower) < 0, -1.0, 1.0)
    ordered: Floats = lower * signs
    return ordered


def _whiten(deviation: Floats, factor: Floats) -> Floats:
    """L⁻¹ d of deviations (B, s), transposed to (s, B)."""
    from scipy.linalg import solve_triangular

    if factor.shape[0] == 0:
        return np.zeros((0, len(deviation)))
    white: Floats = solve_triangular(factor, deviation.T, lower=True, check_finite=False)
    return white


def _log_white(white: Floats, factor: Floats) -> Floats:
    log_determinant = np.log(np.diagonal(factor)).sum()
    with np.errstate(over="ignore"):  # so far out that the density is zero
        distance = np.square(white).sum(axis=0)
    density: Floats = -0.5 * (distance + len(factor) * _LOG_2PI) - log_determinant
    return density


def _log_normal(deviation: Floats, factor: Floats) -> Floats:
    return _log_white(_whiten(deviation, factor), factor)


def _draw(weights: Floats, means: Floats, cholesky: Floats, uniforms: Floats, normals: Floats) -> Floats:
    """Pick a component by inverse CDF of ``weights`` (B, K), then draw from it."""
    cumulative = np.cumsum(weights, axis=1)
    picked = np.minimum((uniforms[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1), weights.shape[1] - 1)
    drawn: Floats = means[np.arange(len(means)), picked]
    for k in np.unique(picked):
        rows = picked == k
        drawn[rows] += normals[rows] @ cholesky[k].T
    return drawn
