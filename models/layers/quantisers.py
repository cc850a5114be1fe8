"""Quantisers: vectors to the nearest of K, and back.

*codebook*   v_1 … v_K follow the vectors that choose them: exponential averages of their number and sum, begun by
             k-means; codes that few choose start again at vectors of the batch. The encoder's gradient passes
             straight through, and a commitment term keeps its vectors near the code they chose.
*attention*  z = Σ_k softmax_k(s(w, v_k) / τ) v_k: attention with the codebook for keys and values, learned by
             gradient. τ → 0 gives the hard choice.
*FSQ*        each entry of w is bounded and rounded to a few levels: no codebook to learn, none to collapse.

    s(w, v) = -‖w - v‖²  (euclidean),   s(w, v) = ⟨w, v⟩ with both of unit length  (dot)

A. van den Oord, O. Vinyals and K. Kavukcuoglu, "Neural discrete representation learning", 2017, arXiv:1711.00937
(averages: appendix A.1); A. Razavi et al., "Generating diverse high-fidelity images with VQ-VAE-2", 2019,
arXiv:1906.00446; F. Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023, arXiv:2309.15505.

Shapes: ``w`` ``(B, N, D)`` vectors at N sites, ``codes`` int64 ``(B, N)``, ``v`` ``(K, D)``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional

Score = Literal["euclidean", "dot"]

KMEANS_VECTORS = 20_000
SMALLEST_COUNT = 1e-5
"""Averages of codes that nothing chooses do not fall below."""


def scores(w: Tensor, v: Tensor) -> Tensor:
    """-‖w - v‖² of all pairs, ``(B, N, K)``; of unit vectors it orders codes as ⟨w, v⟩ does."""
    return 2 * (w @ v.T) - (w * w).sum(-1, keepdim=True) - (v * v).sum(-1)


def attend(w: Tensor, v: Tensor, temperature: float | Tensor) -> Tensor:
    """Attention of ``w`` to ``v`` for keys and values, ``(B, N, D)``."""
    return torch.softmax(scores(w, v) / temperature, -1) @ v


class Quantiser(nn.Module, ABC):
    """What vectors become codes by."""

    codes: int
    dimensions: int

    def unit(self, w: Tensor) -> Tensor:
        """The encoder's vectors as they are compared."""
        return w

    @abstractmethod
    def codebook(self) -> Tensor:
        """``(K, D)``."""

    def choose(self, w: Tensor) -> Tensor:
        """``w`` from `unit` → codes."""
        return torch.argmax(scores(w, self.codebook()), -1)

    def lookup(self, codes: Tensor) -> Tensor:
        return functional.embedding(codes, self.codebook())

    def straight_through(self, w: Tensor, codes: Tensor) -> Tensor:
        """The codes' vectors, whose gradient is ``w``'s."""
        return w + (self.lookup(codes) - w).detach()

    def start(self, w: Tensor) -> None:
        """Begin from vectors of the data."""

    def observe(self, w: Tensor, codes: Tensor, u: Tensor, *, restart: bool) -> None:
        """See what a batch chose; ``u`` ``(B, N)`` uniforms pick where unused codes start again, if they may."""

    def update(self) -> None:
        """Move the codebook to what was seen."""


class Codebook(Quantiser):
    """A codebook that follows its vectors by exponential averages."""

    count: Tensor
    total: Tensor

    def __init__(
        self, codes: int, dimensions: int, *, score: Score = "euclidean", decay: float = 0.99, least_use: float = 0.1
    ) -> None:
        """``least_use``: codes chosen less than this share of the mean start again."""
        super().__init__()
        self.codes, self.dimensions = codes, dimensions
        self.score, self.decay, self.least_use = score, decay, least_use
        self.register_buffer("count", torch.ones(codes))
        self.register_buffer("total", torch.randn(codes, dimensions) / math.sqrt(dimensions))
        self._seen: tuple[Tensor, Tensor, Tensor | None] | None = None

    def unit(self, w: Tensor) -> Tensor:
        return functional.normalize(w, dim=-1) if self.score == "dot" else w

    def codebook(self) -> Tensor:
        # Not stored: averages over processes of counts and sums are exact, of their quotients they are not.
        return self.unit(self.total / self.count[:, None])

    def start(self, w: Tensor) -> None:
        with torch.no_grad():
            self.total.copy_(centres(w, self.codes))
            self.count.fill_(1.0)

    def observe(self, w: Tensor, codes: Tensor, u: Tensor, *, restart: bool) -> None:
        with torch.no_grad():
            flat, chosen = w.detach().flatten(0, 1).to(self.total.dtype), codes.flatten()
            one_hot = functional.one_hot(chosen, self.codes).to(flat.dtype)
            fresh = None
            if restart:
                order = torch.argsort(u.flatten())
                fresh = flat[order[torch.arange(self.codes, device=order.device) % len(order)]]
            self._seen = one_hot.sum(0), one_hot.T @ flat, fresh

    def update(self) -> None:
        if self._seen is None:
            return
        number, summed, fresh = self._seen
        self._seen = None
        with torch.no_grad():
            # Judged before this batch is counted: so every process starts the same codes again.
            mean = self.count.mean()
            unused = self.count < self.least_use * mean
            # What nothing chooses for long keeps its vector: both averages would round to zero.
            seen = ((number > 0) | (self.count > SMALLEST_COUNT)).to(number.dtype)
            self.count.lerp_(number, (1 - self.decay) * seen)
            self.total.lerp_(summed, (1 - self.decay) * seen[:, None])
            if fresh is not None:
                self.total.copy_(torch.where(unused[:, None], fresh * mean, self.total))
                self.count.copy_(torch.where(unused, mean, self.count))


class AttentionCodebook(Quantiser):
    """A codebook learned by gradient, for soft choices."""

    def __init__(self, codes: int, dimensions: int, *, score: Score = "euclidean") -> None:
        super().__init__()
        self.codes, self.dimensions, self.score = codes, dimensions, score
        self.vectors = nn.Parameter(torch.randn(codes, dimensions) / math.sqrt(dimensions))

    def unit(self, w: Tensor) -> Tensor:
        return functional.normalize(w, dim=-1) if self.score == "dot" else w

    def codebook(self) -> Tensor:
        return self.unit(self.vectors)

    def straight_through(self, w: Tensor, codes: Tensor) -> Tensor:
        """As above, and the codes chosen learn too."""
        return self.lookup(codes) + w - w.detach()

    def start(self, w: Tensor) -> None:
        with torch.no_grad():
            self.vectors.copy_(centres(w, self.codes))


class FSQ(Quantiser):
    """Finite scalar quantisation: entry i of a code is one of ``levels[i]`` numbers between -1 and 1."""

    grid: Tensor
    steps: Tensor
    weights: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.codes, self.dimensions = math.prod(levels), len(levels)
        counts = np.array(levels)
        digits = np.stack(np.unravel_index(np.arange(self.codes), self.levels), axis=1)
        self.register_buffer("steps", torch.from_numpy((counts - 1) / 2).to(torch.float32))
        weights = np.append(np.cumprod(counts[::-1])[::-1][1:], 1)
        self.register_buffer("weights", torch.from_numpy(weights.copy()))
        self.register_buffer("grid", torch.from_numpy(2 * digits / (counts - 1) - 1).to(torch.float32))

    def unit(self, w: Tensor) -> Tensor:
        """Entries between -1 and 1, the ends in reach."""
        return torch.tanh(w) * (1 + 0.5 / self.steps) * (1 - 1e-3)

    def codebook(self) -> Tensor:
        return self.grid

    def choose(self, w: Tensor) -> Tensor:
        digits = torch.round((torch.clamp(w, -1, 1) + 1) * self.steps).to(torch.int64)
        return (digits * self.weights).sum(-1)


def centres(w: Tensor, codes: int) -> Tensor:
    """k-means of ``w`` ``(B, N, D)``, ``(K, D)``; where there are fewer vectors than codes, they repeat, a little
    apart."""
    flat = w.detach().flatten(0, 1).to("cpu", torch.float64).numpy()
    step = max(1, len(flat) // KMEANS_VECTORS)
    flat = np.unique(flat[::step], axis=0)
    clusters = min(codes, len(flat))
    found = KMeans(clusters, n_init=1, max_iter=20, random_state=0).fit(flat).cluster_centers_
    if clusters < codes:
        rng = np.random.default_rng(0)
        more = found[rng.integers(0, clusters, codes - clusters)]
        spread = flat.std() + 1e-3
        found = np.concatenate([found, more + 0.1 * spread * rng.standard_normal(more.shape)])
    return torch.from_numpy(found).to(w.device, torch.float32)


def usage(codes: Tensor, total: int) -> Tensor:
    """Share of all codes that are among ``codes``."""
    chosen = functional.one_hot(codes.flatten(), total).any(0)
    return chosen.to(torch.float32).mean()


def perplexity(codes: Tensor, total: int) -> Tensor:
    """exp of the entropy of the codes' frequencies: as many codes in equal use would have it."""
    share = functional.one_hot(codes.flatten(), total).to(torch.float32).mean(0)
    return torch.exp(-(share * torch.log(share.clamp(min=1e-12))).sum())
