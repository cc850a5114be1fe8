"""The progress line of a gradient stage: running means, rate and time left, a few times a second at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from contracts.jobs import Progress

_KEEP = 0.95
_EVERY_SECONDS = 0.25


class Meter:
    """Turns steps into `Progress` reports."""

    def __init__(
        self,
        report: Callable[[Progress], None],
        stage: str,
        before: int,
        planned: int,
        step: int,
        rows_per_step: int,
        rows: int,
    ) -> None:
        """``before``: steps of earlier stages; ``planned``: steps of all; ``step``: where this stage begins."""
        self._report, self._stage, self._before, self._planned = report, stage, before, planned
        self._first, self._step, self._rows_per_step, self._rows = step, step, rows_per_step, rows
        self._began = self._reported = time.monotonic()
        self._terms: dict[str, float] = {}
        self._held_out: float | None = None
        self._best: float | None = None

    def stepped(self, step: int, terms: Mapping[str, float]) -> None:
        """Take in the terms after ``step`` steps of this stage; reports if it is time."""
        self._step = step
        for name, value in terms.items():
            self._terms[name] = _KEEP * self._terms.get(name, value) + (1 - _KEEP) * value
        if time.monotonic() - self._reported >= _EVERY_SECONDS:
            self.flush()

    def scored(self, held_out: float, best: float | None) -> None:
        self._held_out = held_out if held_out < float("inf") else None
        self._best = best if best is not None and best < float("inf") else None

    def flush(self) -> None:
        """Report now."""
        self._reported = time.monotonic()
        rate = (self._step - self._first) / max(self._reported - self._began, 1e-9)  # steps per second
        done = self._before + self._step
        self._report(
            Progress(
                stage=self._stage,
                step=done,
                steps=self._planned,
                epoch=self._step * self._rows_per_step / self._rows,
                terms=dict(self._terms),
                held_out=self._held_out,
                best=self._best,
                examples_per_second=rate * self._rows_per_step,
                eta_seconds=max(0, self._planned - done) / rate if rate > 0 else None,
            )
        )
