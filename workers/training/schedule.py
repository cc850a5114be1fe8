"""Learning rate over a stage: linear warm-up, then half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983).

The rate is a pure function of the step, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup: float, floor: float = 0.01) -> float:
    """Return the multiplier of the peak rate at ``step``.

    ``step`` counts from 0; ``warmup`` in [0, 0.5] is the share of ``steps`` that rises; ``floor`` is the
    multiplier at the end. The result lies in (0, 1].
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    position = (step - rising) / max(1, steps - rising)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, position)))
