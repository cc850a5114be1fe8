"""Representations: a vector per row and nothing else."""

from __future__ import annotations

import numpy as np

from engine.answers import Encoding
from engine.kinds.program import Program
from engine.kinds.rows import Rows


class EmbeddingProgram(Program):
    """Graph ``embed``."""

    def _encode(self, rows: Rows) -> Encoding:
        self.require_complete(rows)
        return Encoding(self.call("embed", {"x": rows.x})["vector"].astype(np.float32))
