"""The guard against runs that diverge: the first term that is not finite ends the job and is named."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from contracts.errors import LatentserveError


class TrainingDiverged(LatentserveError):
    """A term of the loss stopped being finite; the same job would fail again."""

    code, title, status = "training-diverged", "Training diverged", 422


class FiniteGuard:
    """Collects the terms of some steps and checks them together (one device round-trip per ``every`` steps)."""

    def __init__(self, stage: str, every: int = 1) -> None:
        self._stage, self._every = stage, every
        self._waiting: list[tuple[int, list[str], Tensor]] = []
        self.latest: dict[str, float] = {}

    def watch(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Take in the terms of ``step``; raises TrainingDiverged naming the step and the term that broke."""
        values = torch.stack([value.detach().to(torch.float64).reshape(()) for value in terms.values()])
        self._waiting.append((step, list(terms), values))
        if len(self._waiting) >= self._every:
            self.flush()

    def flush(self) -> None:
        """Check what is waiting; afterwards ``latest`` holds the terms of the last step as floats."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        table = torch.stack([values for _, _, values in waiting]).tolist()
        for (step, names, _), row in zip(waiting, table, strict=True):
            for name, value in zip(names, row, strict=True):
                if not abs(value) < float("inf"):
                    raise TrainingDiverged(
                        f"the term `{name}` became {value} at step {step} of stage `{self._stage}`; "
                        "lower config.learning_rate or config.gradient_clip, or look for outliers in the data"
                    )
            self.latest = dict(zip(names, row, strict=True))
