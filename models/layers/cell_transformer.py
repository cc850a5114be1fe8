"""A transformer whose tokens are the cells of a row: what a cell holds, which it is, and which comes next.

Position t of the sequence holds the cell at t - 1 of the order (a start token at t = 0) and asks for the cell at t, as
in Pannatier, Courdier & Fleuret 2024, "σ-GPTs", arXiv:2404.09562; one order or any are the same network. The last
state is read by weights of the cell asked for (by common ones in images).

Legend: ``B`` rows, ``D`` cells, ``W`` width, ``order[t]`` the cell at position t.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.data import ColumnType, DataProfile, DataSpec
from models.layers.likelihoods import Likelihood
from models.layers.orders import inverse
from models.layers.preprocessing import Standardise
from models.layers.transformer import Transformer

FARTHEST = 20.0
"""Standardised values are cut at ± this."""


class CellValues(nn.Module):
    """Vectors of cells: a small network of the standardised value and the cell, and where values are categories,
    pixels or missing, a learned vector of each."""

    mean: Tensor
    std: Tensor
    first_code: Tensor
    categories: Tensor

    def __init__(self, spec: DataSpec, profile: DataProfile, width: int, *, gaps: bool) -> None:
        """``gaps``: whether cells may come without a value (NaN)."""
        super().__init__()
        unit = Standardise(spec, profile)
        if spec.image is not None:
            categories, first, total = [spec.image.levels] * spec.cells, [0] * spec.cells, spec.image.levels
        else:
            categories = [len(c.categories or ()) if c.type is ColumnType.CATEGORICAL else 0 for c in spec.features]
            counts = [n + (gaps and column.missing) for n, column in zip(categories, spec.features, strict=True)]
            first, total = np.cumsum([0, *counts[:-1]]).tolist(), sum(counts)
        self.register_buffer("mean", unit.mean.flatten(), persistent=False)
        self.register_buffer("std", unit.std.flatten(), persistent=False)
        self.register_buffer("first_code", torch.tensor(first), persistent=False)
        self.register_buffer("categories", torch.tensor(categories), persistent=False)
        self.total = total
        self.cell = nn.Embedding(spec.cells, width)
        self.slope = nn.Parameter(torch.randn(width) / 2)
        self.out = nn.Linear(width, width)
        self.code = nn.Embedding(total, width) if total else None
        nn.init.normal_(self.cell.weight, std=0.5)
        if self.code is not None:
            nn.init.normal_(self.code.weight, std=0.5)

    def forward(self, value: Tensor, cell: Tensor) -> Tensor:
        """``value`` floating and ``cell`` of one shape → that shape and ``W``."""
        missing = torch.isnan(value)
        plain = torch.where(missing, 0.0, value).to(torch.float64)
        v = torch.clamp((plain - self.mean[cell]) / self.std[cell], -FARTHEST, FARTHEST).to(torch.float32)
        v = torch.where(missing, 0.0, v)
        h: Tensor = self.out(functional.silu(v[..., None] * self.slope + self.cell(cell)))
        if self.code is None:
            return h
        # Behind the codes of a column's categories stands that of a missing value.
        categories = self.categories[cell]
        code = torch.where(missing, categories, torch.round(plain).to(torch.int64))
        coded = missing | ((code >= 0) & (code < categories))
        index = torch.clamp(torch.where(coded, self.first_code[cell] + code, 0), max=self.total - 1)
        return h + torch.where(coded[..., None], self.code(index), 0.0)


class CellTransformer(nn.Module):
    """Outputs of a likelihood for every cell given those before it in an order."""

    def __init__(
        self,
        spec: DataSpec,
        profile: DataProfile,
        likelihood: Likelihood,
        *,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        any_order: bool,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.cells = spec.cells
        self.values = CellValues(spec, profile, width, gaps=not any_order)
        self.start = nn.Parameter(torch.randn(width) / 2)
        self.asked = nn.Embedding(spec.cells, width)
        nn.init.normal_(self.asked.weight, std=0.5)
        self.label = nn.Embedding(classes, width) if classes else None
        self.dropout = nn.Dropout(dropout)
        self.body = Transformer(width, depth, heads, spec.cells, dropout)
        self.alike = likelihood.outputs_per_cell if spec.image is not None else None
        self.layout = likelihood.layout
        begin = likelihood.start()
        if self.alike is not None:
            self.weights = nn.ParameterList([torch.randn(1, self.alike, width)])
            self.bias = nn.Parameter(begin[: self.alike].clone())
        else:
            self.weights = nn.ParameterList([torch.randn(len(m), outputs, width) for m, outputs in self.layout])
            self.bias = nn.Parameter(begin.clone())
        with torch.no_grad():
            for weight in self.weights:
                weight.mul_(0.1 / math.sqrt(width))

    def forward(self, x: Tensor, order: Tensor, y: Tensor | None = None) -> Tensor:
        """``x`` ``(B, *row)``, ``order`` ``(B, D)`` → ``(B, likelihood.width)``, by cell."""
        states = self.sequence(x, order, y)
        by_cell = torch.gather(states, 1, inverse(order)[..., None].expand_as(states))
        if self.alike is not None:
            alike: Tensor = by_cell @ self.weights[0][0].T + self.bias
            return alike.flatten(1)
        parts = [
            torch.einsum("bmw,mkw->bmk", by_cell[:, members], weight).flatten(1)
            for (members, _), weight in zip(self.layout, self.weights, strict=True)
        ]
        return torch.cat(parts, 1) + self.bias

    def sequence(self, x: Tensor, order: Tensor, y: Tensor | None = None) -> Tensor:
        """States ``(B, D, W)`` by position."""
        values = torch.gather(x.flatten(1), 1, order)
        if not values.is_floating_point():
            values = values.to(torch.float32)
        given = self.values(values[:, :-1], order[:, :-1])
        start = self.start.expand(x.shape[0], 1, -1)
        h = torch.cat([start, given], 1) + self.asked(order)
        if self.label is not None:
            assert y is not None, "a conditional model needs labels"
            h = h + self.label(y)[:, None]
        out: Tensor = self.body(self.dropout(h))
        return out

    def step(
        self,
        value: Tensor,
        cell: Tensor,
        following: Tensor,
        position: Tensor,
        cache: Tensor,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One position: ``value`` of ``cell`` (D: none yet) is seen and ``following`` asked for, all ``(B,)``.

        Returns outputs ``(B, likelihood.width)``, of which those of ``following`` hold, and the cache.
        """
        none = cell >= self.cells
        seen = self.values(torch.where(none, 0.0, value), torch.where(none, 0, cell))
        h = torch.where(none[:, None], self.start, seen) + self.asked(following)
        if self.label is not None:
            assert y is not None, "a conditional model needs labels"
            h = h + self.label(y)
        h, cache = self.body.step(h, position, cache)
        if self.alike is not None:
            one = h @ self.weights[0][0].T + self.bias
            return one.repeat(1, self.cells), cache
        parts = [torch.einsum("bw,mkw->bmk", h, weight).flatten(1) for weight in self.weights]
        return torch.cat(parts, 1) + self.bias, cache
