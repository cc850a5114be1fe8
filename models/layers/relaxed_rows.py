"""Rows as a critic sees them: standardised numbers and one-hot categories, of data and, differentiably, of a generator.

Numbers of a generator come out in standardised units, those of images through a sigmoid over the levels. Whole
numbers of tables are spread over their unit bins by ``u``, so that a critic does not tell the two apart by what is
behind the decimal point. Categories and truth values of a generator are softmaxes with Gumbel noise (Jang, Gu & Poole
2017, arXiv:1611.01144; Maddison, Mnih & Teh 2017, arXiv:1611.00712): their largest entry is a draw of the categories,
which is what `draw` answers.

Shapes: ``x`` ``(B, *row)``, ``v`` and ``h`` ``(B, width)`` (numbers first, then each category's entries), ``u``
``(B, cells)`` and ``g`` ``(B, categories)`` in [0, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contracts.data import ColumnType, DataProfile, DataSpec
from models.layers.preprocessing import Standardise

TEMPERATURE = 0.5
"""Of the relaxed categories: small enough to be nearly one-hot, large enough to have gradients."""
SMALLEST = 1e-7
"""Of a uniform that goes into logarithms."""


class RelaxedRows(nn.Module):
    """See the module's docstring."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    spread: Tensor
    order: Tensor

    def __init__(self, spec: DataSpec, profile: DataProfile) -> None:
        super().__init__()
        self.row, self.image = spec.row_shape, spec.image is not None
        self.dtype = torch.float32 if self.image else torch.float64
        self.counts = {
            cell: max(2, len(column.categories or ()))
            for cell, column in enumerate(() if self.image else spec.features)
            if column.type in (ColumnType.CATEGORICAL, ColumnType.BOOLEAN)
        }
        self.numeric = [cell for cell in range(spec.cells) if cell not in self.counts]
        self.categories = sum(self.counts.values())
        self.width = len(self.numeric) + self.categories
        unit = Standardise(spec, profile)
        low, high = (torch.from_numpy(bound) for bound in spec.bounds)
        discrete = torch.from_numpy(spec.discrete)
        # A pixel of an image is told apart by its level; a count of a table stands for its unit bin.
        spread = torch.zeros_like(discrete) if self.image else discrete
        for name, value in (
            ("mean", unit.mean.flatten() + 0.5 * spread),
            ("std", unit.std.flatten()),
            ("low", low),
            ("high", high + spread),
        ):
            self.register_buffer(name, value[self.numeric].to(self.dtype))
        self.register_buffer("spread", spread[self.numeric].to(self.dtype), persistent=False)
        order = torch.argsort(torch.tensor([*self.numeric, *self.counts]))
        self.register_buffer("order", order, persistent=False)

    def data(self, x: Tensor, u: Tensor) -> Tensor:
        """Rows of data → ``v``."""
        cells = x.flatten(1).to(self.dtype)
        value = cells[:, self.numeric] + u[:, self.numeric].to(self.dtype) * self.spread
        parts = [((value - self.mean) / self.std).to(torch.float32)]
        for cell, count in self.counts.items():
            codes = torch.arange(count, device=x.device, dtype=self.dtype)
            parts.append((cells[:, cell : cell + 1] == codes).to(torch.float32))
        return torch.cat(parts, 1)

    def relaxed(self, h: Tensor, g: Tensor) -> Tensor:
        """A generator's numbers → ``v``, differentiable in ``h``."""
        numbers = h[:, : len(self.numeric)]
        if self.image:
            numbers = (self._levels(numbers) - self.mean) / self.std
        parts, place = [numbers], len(self.numeric)
        gumbel = -torch.log(-torch.log(g.clamp(SMALLEST, 1 - SMALLEST)))
        for count in self.counts.values():
            logits = h[:, place : place + count]
            noise = gumbel[:, place - len(self.numeric) : place - len(self.numeric) + count]
            parts.append(torch.softmax((logits + noise) / TEMPERATURE, -1))
            place += count
        return torch.cat(parts, 1)

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        """A generator's numbers → rows ``(B, *row)`` on the dequantised scale, each category by its own ``u``."""
        numbers = h[:, : len(self.numeric)].to(self.dtype)
        if self.image:
            # The nearest level, in the middle of its bin.
            value = torch.floor(self._levels(numbers) + 0.5) + 0.5
        else:
            value = torch.minimum(torch.maximum(numbers * self.std + self.mean, self.low), self.high)
            value = torch.where(self.spread > 0, torch.minimum(value, self.high - 1e-6), value)
        parts, place = [value], len(self.numeric)
        for cell, count in self.counts.items():
            below = torch.cumsum(torch.softmax(h[:, place : place + count].to(self.dtype), -1), -1)
            code = (below[:, :-1] <= u[:, cell : cell + 1].to(self.dtype)).to(self.dtype).sum(-1, keepdim=True)
            parts.append(code + 0.5)
            place += count
        return torch.cat(parts, 1)[:, self.order].reshape(-1, *self.row)

    def _levels(self, numbers: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(numbers)
