"""Variational dequantisation: where in its unit bin a discrete value stands is drawn from a learned conditional.

    u = σ(v),   v = h(g(eps); x),   eps ~ N(0, I),   σ(g(eps)) uniform
    log P(x) ≥ E[log p(x + u) - log q(u | x)],   log q(u | x) = log N(eps; 0, I) - log |det dv/deps| - Σ log σ'(v)

g is fixed; h is an affine map of each cell by a network of x, then a few affine couplings that see x too. With uniform
u, a model has to be flat within every bin; here it need not be, and the bound is tighter.

J. Ho, X. Chen, A. Srinivas, Y. Duan and P. Abbeel, "Flow++: improving flow-based generative models with variational
dequantization and architecture design", 2019 (arXiv:1902.00275), section 3.1.

Shapes: ``x`` raw features ``(B, *row)``; ``eps`` ``(B, n)`` for the n discrete cells of a row; ``u`` ``(B, cells)``,
0 in real cells.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.data import DataProfile, DataSpec
from models.layers.conditioners import GatedConditioner, MLPConditioner
from models.layers.elementwise import Affine, log_sigmoid
from models.layers.networks import Cells
from models.layers.preprocessing import Standardise

LINEAR, CUBIC = 1.5976, 0.070565
"""σ(1.5976 eps + 0.070565 eps³) is Φ(eps) to four digits, so that u is uniform where training starts (E. Page,
"Approximations to the cumulative normal function and its inverse", 1977)."""
LARGEST = 1 - 2**-53


class VariationalDequantiser(nn.Module):
    """q(u | x) for the discrete cells of a row."""

    places: Tensor

    def __init__(
        self,
        spec: DataSpec,
        profile: DataProfile,
        *,
        convolutional: bool,
        width: int,
        depth: int,
        layers: int = 2,
        classes: int = 0,
    ) -> None:
        """``convolutional``: on images with even sides, whose positions are folded by two; ``layers``: couplings."""
        super().__init__()
        self.convolutional, self.shape = convolutional, spec.row_shape
        count = int(spec.discrete.sum())
        # Where each cell's noise stands among the discrete cells'; real cells point at a last column of zeros.
        places = torch.full((spec.cells,), count)
        places[torch.from_numpy(spec.discrete)] = torch.arange(count)
        self.register_buffer("places", places)
        self.count, self.transform = count, Affine()
        self.see: nn.Module
        if convolutional:
            self.see, seen = Standardise(spec, profile), 4 * spec.row_shape[-1]
        else:
            self.see = cells = Cells(spec, profile)
            seen = cells.width
        channels = seen if convolutional else count
        network = GatedConditioner if convolutional else MLPConditioner
        self.first = network(seen, 2 * channels, width=width, depth=depth, classes=classes)
        self.kept = channels // 2
        self.steps = nn.ModuleList(
            network(self.kept + seen, 2 * (channels - self.kept), width=width, depth=depth, classes=classes)
            for _ in range(layers if self.kept else 0)
        )

    def forward(self, x: Tensor, eps: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``u`` ``(B, cells)`` float64 in [0, 1) and log q(u | x) ``(B,)`` float64."""
        own = next(self.parameters()).dtype
        seen = self._fold(self.see(x)).to(own)
        e = self._fold(eps)
        log_det = torch.log(LINEAR + 3 * CUBIC * e * e).flatten(1).sum(1)
        v, log_slope = self.transform(e * (LINEAR + CUBIC * e * e), self.first(seen, y).to(e.dtype))
        log_det = log_det + log_slope.flatten(1).sum(1)
        for step in self.steps:
            a, b = v[:, : self.kept], v[:, self.kept :]
            b, log_slope = self.transform(b, step(torch.cat([a.to(own), seen], dim=1), y).to(v.dtype))
            # What was moved comes first, so that the next step is the others' turn.
            v = torch.cat([b, a], dim=1)
            log_det = log_det + log_slope.flatten(1).sum(1)
        return self._finish(eps, v, log_det)

    def _finish(self, eps: Tensor, v: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        v = self._unfold(v).to(torch.float64)
        log_base = -0.5 * (eps.to(torch.float64) ** 2 + math.log(2 * math.pi)).sum(1)
        log_q = log_base - log_det.to(torch.float64) - (log_sigmoid(v) + log_sigmoid(-v)).sum(1)
        u = torch.sigmoid(v).clamp(max=LARGEST)
        if self.count == len(self.places):
            return u, log_q
        return torch.cat([u, torch.zeros_like(u[:, :1])], dim=1).index_select(1, self.places), log_q

    def _fold(self, cells: Tensor) -> Tensor:
        if not self.convolutional:
            return cells
        height, wide, channels = self.shape
        return F.pixel_unshuffle(cells.reshape(-1, height, wide, channels).permute(0, 3, 1, 2), 2)

    def _unfold(self, v: Tensor) -> Tensor:
        if not self.convolutional:
            return v
        return F.pixel_shuffle(v, 2).permute(0, 2, 3, 1).flatten(1)
