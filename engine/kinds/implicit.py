"""Implicit models: a law that can be drawn from, and has no density."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine import noise
from engine.kinds.program import Program
from engine.kinds.rows import Floats, Index


class ImplicitProgram(Program):
    """Graph ``generate``; ``temperature`` multiplies its normals."""

    def _sample(self, keys: noise.Keys, seed: int, temperature: float, y: Index | None) -> Floats:
        parts = []
        step = self.model.rows_per_run("generate")
        for start in range(0, len(keys), step):
            block = keys[start : start + step]
            feeds: dict[str, NDArray[np.generic]] = {"temperature": np.full(len(block), temperature)}
            if y is not None:
                feeds["y"] = y[start : start + step]
            parts.append(self.call("generate", feeds, keys=block, seed=seed)["draw"].astype(np.float64))
        return np.concatenate(parts)
