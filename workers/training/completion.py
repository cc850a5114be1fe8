"""Rows with missing cells, completed for families that train on complete rows.

A Gaussian is fitted to the train rows by expectation-maximisation (`models.layers.missing`), categories as one
indicator per value. A missing cell is then drawn from its conditional given the cells of its row that are there, put
on the data's grid and within the range seen; anew at every visit, so that what is not known is not learned as if it
were. Tables whose indicators would be too many take values of each column by itself.

Filling in single values, or means, would make columns look less spread and less related than they are (Little & Rubin,
"Statistical Analysis with Missing Data", 2002, chapter 4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contracts.data import ColumnType, DataProfile, DataSpec, Part
from models.family import Batch, hash_words
from models.layers.missing import PartlySeen, fit_partly_seen
from workers.training.batches import Pass, Reader

MOST_INDICATORS = 500
"""Columns, indicators of categories counted one by one, up to which they are completed together."""
FIT_ROWS = 10_000
_FIT = 0x66696C6C
_RIDGE = 1e-6


class Completion(ABC):
    """Fills the NaN of rows ``x`` ``(B, D)`` float64."""

    @property
    @abstractmethod
    def noise_width(self) -> int:
        """Normals per row that `fill` takes."""

    @abstractmethod
    def fill(self, x: Tensor, eps: Tensor) -> Tensor:
        """Return ``x`` with draws made of ``eps`` ``(B, noise_width)`` in the missing cells."""

    def drawn(self, batch: Batch, *words: int, rows: slice | None = None, total: int | None = None) -> Batch:
        """The batch with draws in its missing cells, a function of ``words``.

        ``rows`` are the batch's places among ``total`` rows over all processes, so that their number changes nothing.
        """
        if not torch.isnan(batch.x).any():
            return batch
        generator = torch.Generator().manual_seed(hash_words(_FIT, *words))
        eps = torch.randn(total or len(batch), self.noise_width, generator=generator, dtype=torch.float64)
        return Batch(self.fill(batch.x, eps[rows or slice(None)].to(batch.x.device)), batch.y, batch.tokens)


def fit_completion(reader: Reader, device: torch.device | str = "cpu") -> Completion | None:
    """Fit to the train rows, the same each time; None where no column may have missing cells."""
    spec = reader.spec
    if spec.modality != "table" or not any(column.missing for column in spec.features):
        return None
    passes = Pass(reader, Part.TRAIN, 1024, key=hash_words(_FIT), device=device, limit=FIT_ROWS)
    cells = _Indicators.of(spec, reader.profile(), device)
    if cells.width <= MOST_INDICATORS:
        return _Together.fit(cells, passes)
    return _ByColumn.fit(spec, passes)


@dataclass(frozen=True)
class _Indicators:
    """Cells as numbers that a Gaussian may hold: categories as one indicator per value, the rest as they are."""

    numbers: list[int]
    categories: dict[int, int]
    low: Tensor
    high: Tensor
    whole: Tensor

    @classmethod
    def of(cls, spec: DataSpec, profile: DataProfile, device: torch.device | str) -> _Indicators:
        chosen = {
            cell: len(column.categories or ())
            for cell, column in enumerate(spec.features)
            if column.type is ColumnType.CATEGORICAL
        }
        numbers = [cell for cell in range(spec.cells) if cell not in chosen]
        low, high = (np.clip(seen, *spec.bounds)[numbers] for seen in (profile.minimum, profile.maximum))
        whole = torch.from_numpy(spec.discrete[numbers])
        return cls(
            numbers,
            chosen,
            *(array.to(device) for array in (torch.from_numpy(low), torch.from_numpy(high), whole)),
        )

    @property
    def width(self) -> int:
        return len(self.numbers) + sum(self.categories.values())

    def spread(self, x: Tensor) -> Tensor:
        """``(B, D)`` → ``(B, width)``; NaN where the cell is missing."""
        parts = [x[:, self.numbers]]
        for cell, count in self.categories.items():
            code = x[:, cell, None]
            ones = (code == torch.arange(count, device=x.device)).to(torch.float64)
            parts.append(torch.where(torch.isnan(code), torch.nan, ones))
        return torch.cat(parts, 1)

    def gather(self, v: Tensor) -> Tensor:
        """``(B, width)`` → ``(B, D)`` on the data's grid; of indicators the largest counts."""
        count = len(self.numbers)
        numbers = torch.where(self.whole, torch.floor(v[:, :count] + 0.5), v[:, :count])
        x = v.new_empty(len(v), count + len(self.categories))
        x[:, self.numbers] = torch.minimum(torch.maximum(numbers, self.low), self.high)
        for cell, width in self.categories.items():
            x[:, cell] = v[:, count : count + width].argmax(1).to(torch.float64)
            count += width
        return x


@dataclass(frozen=True)
class _Together(Completion):
    """Missing cells from one Gaussian over all."""

    cells: _Indicators
    model: PartlySeen

    @classmethod
    def fit(cls, cells: _Indicators, passes: Pass) -> _Together:
        count = torch.zeros(cells.width, dtype=torch.float64)
        first, second = count.clone(), count.clone()
        # Around a value of each column, so that squares do not cancel.
        origin: Tensor | None = None
        for batch in passes:
            v = cells.spread(batch.x)
            if origin is None:
                origin = torch.nan_to_num(torch.nanmedian(v, 0).values)
                count, first, second = (each.to(v.device) for each in (count, first, second))
            seen, v = ~torch.isnan(v), torch.nan_to_num(v - origin)
            count, first, second = count + seen.sum(0), first + v.sum(0), second + (v**2).sum(0)
        assert origin is not None, "there are train rows"
        mean = first / count.clamp_min(1)
        std = (second / count.clamp_min(1) - mean**2).clamp_min(0).sqrt()
        scale = torch.where(std > 1e-9 * (origin + mean).abs().clamp_min(1e-30), std, 1.0)
        _, model = fit_partly_seen(
            lambda: (cells.spread(batch.x) for batch in passes),
            origin + mean,
            scale,
            ridge=_RIDGE,
            tolerance=1e-3,
            iterations=50,
        )
        return cls(cells, model)

    @property
    def noise_width(self) -> int:
        return self.cells.width

    def fill(self, x: Tensor, eps: Tensor) -> Tensor:
        missing = torch.isnan(x)
        rows = missing.any(1)
        completed = x.clone()
        partly = self.model.complete(self.cells.spread(x[rows]), eps[rows])
        completed[rows] = torch.where(missing[rows], self.cells.gather(partly), x[rows])
        return completed


@dataclass(frozen=True)
class _ByColumn(Completion):
    """Missing cells from the values of their column: ``values`` ``(n, D)`` sorted, of which ``count`` ``(D,)`` are."""

    values: Tensor
    count: Tensor

    @classmethod
    def fit(cls, spec: DataSpec, passes: Pass) -> _ByColumn:
        values, _ = torch.cat([batch.x for batch in passes]).sort(0)  # NaN come last
        count = (~torch.isnan(values)).sum(0)
        # A column without a value in these rows has one all the same, since a row must have some.
        values[0] = torch.where(count > 0, values[0], torch.from_numpy(np.clip(0.0, *spec.bounds)).to(values.device))
        return cls(values, count.clamp_min(1))

    @property
    def noise_width(self) -> int:
        return self.values.shape[1]

    def fill(self, x: Tensor, eps: Tensor) -> Tensor:
        place = torch.minimum((torch.special.ndtr(eps) * self.count).long(), self.count - 1)
        return torch.where(torch.isnan(x), self.values.gather(0, place), x)
