"""How the next token is chosen from its distribution: temperature, top-k, top-p, and the inverse CDF of one uniform.

    p_T ∝ p^{1/T};  top-k keeps the k likeliest tokens;  top-p keeps the fewest likeliest that hold p of the mass

in this order. T = 0 takes the likeliest. What is kept is renormalised; the uniform then picks by the cumulated
probabilities in the order of the tokens' numbers, so a draw is a function of the distribution and the uniform.

Ari Holtzman et al. (2020), "The curious case of neural text degeneration", arXiv:1904.09751 (top-p).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import FieldProblem, InvalidInput

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """Settings of the choice; raises InvalidInput, naming the field, where one is out of range."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise _wrong("temperature", f"must be a number of at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise _wrong("top_k", f"must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise _wrong("top_p", f"must lie above 0 and not above 1, got {self.top_p}")

    def __call__(self, log_p: Floats, u: Floats) -> Index:
        """Return one token for each row of ``log_p`` (B, V), log-probabilities, by ``u`` (B,) in [0, 1)."""
        if self.temperature == 0 or self.top_k == 1:
            return np.asarray(log_p.argmax(axis=1), dtype=np.int64)
        p = self._kept(log_softmax(log_p / self.temperature))
        cumulated = np.cumsum(p, axis=1)
        # Rounding may leave the last sum below u; the last token that is kept then takes the rest.
        reach = u * cumulated[:, -1]
        chosen = (cumulated <= reach[:, None]).sum(axis=1)
        last = p.shape[1] - 1 - (p[:, ::-1] > 0).argmax(axis=1)
        return np.asarray(np.minimum(chosen, last), dtype=np.int64)

    def _kept(self, log_p: Floats) -> Floats:
        p = np.exp(log_p)
        alphabet = p.shape[1]
        if (self.top_k is None or self.top_k >= alphabet) and (self.top_p is None or self.top_p >= 1):
            return p
        # A stable order, so that of equally likely tokens those of smaller number stay.
        order = np.argsort(-p, axis=1, kind="stable")
        ranked = np.take_along_axis(p, order, axis=1)
        if self.top_k is not None:
            ranked[:, self.top_k :] = 0.0
        if self.top_p is not None and self.top_p < 1:
            total = ranked.sum(axis=1, keepdims=True)
            before = np.cumsum(ranked, axis=1) - ranked
            ranked = np.where(before < self.top_p * total, ranked, 0.0)
        kept = np.zeros_like(p)
        np.put_along_axis(kept, order, ranked, axis=1)
        return kept


def log_softmax(logits: NDArray[np.floating]) -> Floats:
    """Return log-probabilities ``(B, V)`` of logits, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    normalised: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def _wrong(location: str, message: str) -> InvalidInput:
    return InvalidInput(f"{location} {message}", errors=[FieldProblem(location=location, message=message)])
