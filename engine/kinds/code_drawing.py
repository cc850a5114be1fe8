"""Drawing codes from an autoregressive prior, one site after the other, over its graph ``prior_step``.

Sequences that know some of their codes are drawn as particles. A known code is kept and weighs its particle by the
prior; a code that the encoder has a guess g of is drawn from p(c | before) g(c), normalised, and weighs by p / q; the
rest is drawn from the prior. Where the weights of a row's particles become uneven they are resampled, which keeps the
mean weight unbiased (sequential Monte Carlo; A. Doucet and A. Johansen, "A tutorial on particle filtering and
smoothing", 2009).

Legend: ``B`` rows, ``S`` particles of each, ``N`` sites, ``K`` codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from engine import noise
from engine.call import current_call
from engine.kinds.choice import Choice, log_softmax
from engine.kinds.rows import Floats, Index
from engine.kinds.weights import effective_sample_size, log_mean_exp, normalise
from engine.model import Model

Condition = Mapping[str, NDArray[np.generic]]
"""What codes are drawn given, by row: labels ``y`` (B,), or the ``tokens`` (B, T) of texts."""


@dataclass(frozen=True)
class Guide:
    """Logarithms of probabilities are moved from those under ``condition``, which says nothing, by ``strength`` times
    the way to those under the condition asked for."""

    condition: Condition
    strength: float


class Site(IntEnum):
    """What is known of the code at a site."""

    KNOWN = 0
    GUESSED = 1
    OPEN = 2


@dataclass(frozen=True)
class Particles:
    """``codes`` (B, S, N) and their log-weights ``log_w`` (B, S): p(known codes) in the mean, up to ``log_z`` (B,)."""

    codes: Index
    log_w: Floats
    log_z: Floats


class PriorLoop:
    """The state of sequences that are drawn together."""

    def __init__(self, model: Model, count: int, condition: Condition) -> None:
        (cache,) = (t for t in model.manifest.graphs["prior_step"].inputs if t.name == "cache")
        shape = tuple(size for size in cache.shape[1:] if isinstance(size, int))
        self._model, self._condition = model, dict(condition)
        self._cache: NDArray[np.generic]
        if model.has("prior_start"):
            self._cache = model.run("prior_start", condition)["cache"]
            self._condition = {}
        else:
            self._cache = np.zeros((count, *shape), dtype=cache.dtype)

    def step(self, code: Index, site: int) -> Floats:
        """log p(code at ``site`` | those before), ``(count, K)``; ``code`` (count,) stands just before it."""
        current_call().check()
        feeds: dict[str, NDArray[np.generic]] = {
            "code": code,
            "site": np.full(len(code), site, dtype=np.int64),
            "cache": self._cache,
            **self._condition,
        }
        answer = self._model.run("prior_step", feeds)
        self._cache = answer["new_cache"]
        return log_softmax(answer["logits"].astype(np.float64))

    def take(self, index: Index) -> None:
        """Go on with these sequences, in this order."""
        self._cache = self._cache[index]
        self._condition = {name: array[index] for name, array in self._condition.items()}


def draw(
    model: Model,
    keys: noise.Keys,
    seed: int,
    choices: Sequence[Choice],
    condition: Condition,
    guide: Guide | None = None,
) -> Index:
    """Draw codes ``(len(keys), N)``; ``choices`` one per site."""
    loop, sites = PriorLoop(model, len(keys), condition), len(choices)
    plain = None if guide is None else PriorLoop(model, len(keys), guide.condition)
    u = noise.uniform(seed, keys, "prior.code", (sites,))
    codes = np.zeros((len(keys), sites), dtype=np.int64)
    code = np.zeros(len(keys), dtype=np.int64)
    for site, choose in enumerate(choices):
        log_p = loop.step(code, site)
        if plain is not None and guide is not None:
            without = plain.step(code, site)
            log_p = log_softmax(without + guide.strength * (log_p - without))
        code = codes[:, site] = choose(log_p, u[:, site])
    return codes


def complete(
    model: Model,
    keys: noise.Keys,
    seed: int,
    samples: int,
    condition: Condition,
    known: Index,
    state: NDArray[np.int64],
    guide: Floats,
) -> Particles:
    """Draw ``samples`` particles for each row: ``known`` (B, N) codes, ``state`` (B, N) of `Site`, ``guide`` (B, N, K)
    log of the encoder's guesses, up to a constant."""
    rows, sites = known.shape
    open_at = np.flatnonzero((state != Site.KNOWN).any(axis=0))
    common = int(open_at[0]) if len(open_at) else sites
    loop = PriorLoop(model, rows, condition)
    log_w, code = np.zeros((rows, 1)), np.zeros(rows, dtype=np.int64)
    for site in range(common):  # what all particles of a row have in common is fed once
        log_p = loop.step(code, site)
        code = known[:, site]
        log_w[:, 0] += log_p[np.arange(rows), code]
    log_z = np.zeros(rows)
    codes = np.repeat(known[:, None], samples, axis=1)
    log_w = np.repeat(log_w, samples, axis=1)
    row, draw_index = np.divmod(np.arange(rows * samples), samples)
    loop.take(row)
    code = code[row]
    u = noise.uniform(seed, keys[row], "complete.code", (sites,), draw_index)
    again = noise.uniform(seed, keys, "complete.resample", (sites,))
    choose = Choice()
    for site in range(common, sites):
        log_p = loop.step(code, site)
        q = log_p.copy()
        guessed = state[row, site] == Site.GUESSED
        if guessed.any():
            q[guessed] = log_softmax(log_p[guessed] + guide[row[guessed], site])
        code = np.where(state[row, site] == Site.KNOWN, known[row, site], choose(q, u[:, site]))
        picked = np.arange(len(code)), code
        gain = np.where(state[row, site] == Site.KNOWN, log_p[picked], log_p[picked] - q[picked])
        log_w += gain.reshape(rows, samples)
        codes[:, :, site] = code.reshape(rows, samples)
        weights = normalise(log_w)
        uneven = np.flatnonzero(effective_sample_size(weights) < 0.5 * samples)
        if len(uneven) and site + 1 < sites:
            index = np.tile(np.arange(samples), (rows, 1))
            index[uneven] = _systematic(weights[uneven], again[uneven, site])
            log_z[uneven] += log_mean_exp(log_w[uneven]).values
            log_w[uneven] = 0.0
            codes = np.take_along_axis(codes, index[:, :, None], axis=1)
            code = np.take_along_axis(code.reshape(rows, samples), index, axis=1).reshape(-1)
            loop.take((np.arange(rows)[:, None] * samples + index).reshape(-1))
    return Particles(codes, log_w, log_z)


def _systematic(weights: Floats, u: Floats) -> Index:
    """Indices ``(B, S)`` of particles, each about S · weight times; ``u`` (B,) one uniform per row."""
    samples = weights.shape[1]
    at = (np.arange(samples) + u[:, None]) / samples
    cumulated = np.cumsum(weights, axis=1)
    cumulated /= cumulated[:, -1:]
    picked = np.stack([np.searchsorted(row, x, side="right") for row, x in zip(cumulated, at, strict=True)])
    return np.asarray(np.minimum(picked, samples - 1), dtype=np.int64)
