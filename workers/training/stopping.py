"""Early stopping on the held-out score (Prechelt 1998): stop after ``patience`` evaluations without a better one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EarlyStopping:
    """The state of the decision; all of it goes into checkpoints."""

    patience: int
    best: float | None = None
    best_step: int = 0
    waited: int = 0

    def observe(self, step: int, score: float) -> bool:
        """Take in the score after ``step`` steps (lower is better); answers whether it is the best so far."""
        if self.best is None or score < self.best:
            self.best, self.best_step, self.waited = score, step, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        return self.waited >= self.patience
