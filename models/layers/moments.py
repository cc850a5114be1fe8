"""Mean and scatter of rows in one pass.

    S = S_a + S_b + (m_b - m_a)(m_b - m_a)ᵀ · n_a n_b / (n_a + n_b)

T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance: analysis and
recommendations", The American Statistician 37(3), 1983. Sums of squares would cancel where the mean is large.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Count, mean ``(D,)`` and scatter ``(D, D)`` of the rows added so far, float64."""

    def __init__(self, cells: int) -> None:
        self.rows = 0
        self.mean = torch.zeros(cells, dtype=torch.float64)
        self.scatter = torch.zeros(cells, cells, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Take in rows ``x`` ``(B, D)`` float64."""
        rows = len(x)
        if rows == 0:
            return
        mean = x.mean(0)
        centred, shift = x - mean, mean - self.mean
        total = self.rows + rows
        self.scatter += centred.T @ centred
        self.scatter += torch.outer(shift, shift) * (self.rows * rows / total)
        self.mean = self.mean + shift * (rows / total)
        self.rows = total
