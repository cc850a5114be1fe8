"""p(x | z) with independent cells, each of the distribution that its column calls for.

    log p(x | z) = Σ over the shown cells of log p(x_i | h_i(z))

Two levels: Bernoulli. Other whole numbers: discretised logistic. Categories without order: softmax. Real
numbers: Gaussian with learned variance, or where asked for a mixture of logistics. Cells of one kind stand together,
so a table of any mixture of columns costs a handful of operators. Images work in float32, tables in float64 (their
units may need it).

Shapes: ``x`` ``(B, cells)`` flattened and in the data's own units, ``h`` ``(B, width)`` outputs of a network,
``u`` ``(B, cells)`` uniform noise.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from contracts.data import ColumnType, DataProfile, DataSpec
from models.layers.cell_mixtures import EXACT_LEVELS, DiscretisedLogistic, LogisticMixture
from models.layers.distributions import SMALLEST_LOG_SCALE, Bernoulli, Categorical, CellDistribution, Gaussian
from models.layers.preprocessing import Standardise

Choice = Literal["auto", "bernoulli", "discretised_logistic", "gaussian", "mixture"]


class Likelihood(nn.Module):
    """Composes the cells' distributions; ``width`` network outputs per row."""

    order: Tensor

    def __init__(self, spec: DataSpec, profile: DataProfile, choice: Choice = "auto", components: int = 1) -> None:
        """``choice`` overrides the kind of numeric cells, as the config allows it (mixture: auto, and a mixture of
        logistics for real ones); ``components``: logistics of a mixture per cell."""
        super().__init__()
        self.cells = spec.cells
        self.dtype = torch.float32 if spec.image is not None else torch.float64
        kinds = _kinds(spec, choice)
        self.groups = nn.ModuleList()
        self._members: list[list[int]] = []
        for kind in sorted(set(kinds)):
            members = [cell for cell, other in enumerate(kinds) if other == kind]
            self._members.append(members)
            self.groups.append(_distribution(kind, members, spec, profile, components, self.dtype))
        places = torch.tensor([cell for members in self._members for cell in members])
        self.register_buffer("order", torch.argsort(places), persistent=False)
        for index, members in enumerate(self._members):
            self.register_buffer(f"members_{index}", torch.tensor(members), persistent=False)
        sizes = [len(m) * g.outputs for m, g in zip(self._members, self._parts(), strict=True)]
        self.offsets = [0, *np.cumsum(sizes).tolist()]
        self.width: int = self.offsets[-1]

    @property
    def outputs_per_cell(self) -> int | None:
        """Outputs of each cell where all cells are alike (images), laid out as ``(cells, outputs)``; else None."""
        return self._parts()[0].outputs if len(self.groups) == 1 else None

    def log_prob(self, x: Tensor, h: Tensor) -> Tensor:
        """Nats per cell, ``(B, cells)``."""
        x = x.to(self.dtype)
        parts = []
        for index, (group, outputs) in enumerate(self._split(h)):
            parts.append(group.log_prob(self._pick(x, index), outputs))
        return self._assemble(parts)

    def score(self, x: Tensor, shown: Tensor, h: Tensor) -> Tensor:
        """Nats of the shown cells, ``(B,)``; hidden cells of ``x`` may hold anything. ``shown``: ``(B, cells)``."""
        log_p = self.log_prob(torch.where(shown, x.to(self.dtype), 0.0), h)
        return torch.where(shown, log_p, 0.0).sum(-1)

    def mean(self, h: Tensor) -> Tensor:
        """Expected values ``(B, cells)`` (categories: the most probable code)."""
        return self._assemble([group.mean(outputs) for group, outputs in self._split(h)])

    def std(self, h: Tensor) -> Tensor:
        """Standard deviations ``(B, cells)`` in the data's own units (categories: of the codes)."""
        return self._assemble([group.std(outputs) for group, outputs in self._split(h)])

    def temper(self, h: Tensor, temperature: Tensor) -> Tensor:
        """``h`` at ``temperature`` ``(B,)``: below 1 the distributions narrow, 0 leaves the most probable values."""
        t = temperature.to(self.dtype)[:, None]
        return torch.cat([group.temper(outputs, t).flatten(1) for group, outputs in self._split(h)], 1)

    def start(self) -> Tensor:
        """Outputs ``(width,)`` to begin training from."""
        return torch.cat([g.start().repeat(len(m)) for g, m in zip(self._parts(), self._members, strict=True)])

    @property
    def layout(self) -> list[tuple[list[int], int]]:
        """Outputs in their order: the cells of each group and the outputs of each of its cells."""
        return [(members, group.outputs) for members, group in zip(self._members, self._parts(), strict=True)]

    @property
    def owners(self) -> Tensor:
        """Which cell each output belongs to, int64 ``(width,)``."""
        return torch.cat([torch.tensor(members).repeat_interleave(outputs) for members, outputs in self.layout])

    def draw(self, h: Tensor, u: Tensor) -> Tensor:
        """Values ``(B, cells)``, whole where discrete."""
        u = u.to(self.dtype)
        parts = [group.draw(outputs, self._pick(u, i)) for i, (group, outputs) in enumerate(self._split(h))]
        return self._assemble(parts)

    def _parts(self) -> list[CellDistribution]:
        return [cast(CellDistribution, group) for group in self.groups]

    def _split(self, h: Tensor) -> list[tuple[CellDistribution, Tensor]]:
        h = h.to(self.dtype)
        answer = []
        for index, group in enumerate(self._parts()):
            outputs = h[:, self.offsets[index] : self.offsets[index + 1]]
            answer.append((group, outputs.reshape(-1, len(self._members[index]), group.outputs)))
        return answer

    def _pick(self, x: Tensor, index: int) -> Tensor:
        return x if len(self.groups) == 1 else x[:, getattr(self, f"members_{index}")]

    def _assemble(self, parts: list[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)[:, self.order]


def _kinds(spec: DataSpec, choice: Choice) -> list[str]:
    """One word per cell; cells of one word share a distribution object."""
    if spec.image is not None:
        return [_numeric(spec.image.levels, True, choice)] * spec.cells
    low, high = spec.bounds
    kinds = []
    for cell, column in enumerate(spec.features):
        levels = high[cell] - low[cell] + 1
        if column.type is ColumnType.CATEGORICAL and levels != 2:
            kinds.append(f"categorical {len(column.categories or ())}")
        elif column.type in (ColumnType.CATEGORICAL, ColumnType.BOOLEAN):
            kinds.append("bernoulli")
        else:
            kinds.append(_numeric(levels, column.discrete, choice))
    return kinds


def _numeric(levels: float, discrete: bool, choice: Choice) -> str:
    if choice == "auto" or (choice == "mixture" and discrete):
        choice = "gaussian" if not discrete else "bernoulli" if levels == 2 else "discretised_logistic"
    if choice == "discretised_logistic":
        return "discretised_logistic few" if levels <= EXACT_LEVELS else "discretised_logistic many"
    return choice


def _distribution(
    kind: str, members: list[int], spec: DataSpec, profile: DataProfile, components: int, dtype: torch.dtype
) -> nn.Module:
    unit = Standardise(spec, profile)
    bounds = (torch.from_numpy(bound) for bound in spec.bounds)
    discrete = torch.from_numpy(spec.discrete)[members]
    low, high, centre, scale = (t.reshape(-1)[members].to(dtype) for t in (*bounds, unit.mean, unit.std))
    match kind.split():
        case ["bernoulli"]:
            return Bernoulli(low)
        case ["gaussian"]:
            # A cell that never varied is not learned to be narrower than its nominal deviation: the first row to differ
            # is improbable enough at that, and other families stop there too.
            still = torch.from_numpy(profile.minimum == profile.maximum).reshape(-1)[members] & ~discrete
            scale = torch.where(still, scale * math.exp(-SMALLEST_LOG_SCALE), scale)
            return Gaussian(centre, scale, low, high, discrete)
        case ["mixture"]:
            return LogisticMixture(centre, scale, components)
        case ["discretised_logistic", _]:
            return DiscretisedLogistic(centre, scale, low, high, components)
        case ["categorical", count]:
            return Categorical(int(count), dtype)
    raise AssertionError(kind)
