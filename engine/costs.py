"""Whether a tier of a cache pays: moving averages of what a row costs with it and without."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

_WEIGHT = 0.2
# A cold cache misses at first; the share of hits is believed slowly and never below a tenth, so that a cache which
# costs little beside the computation stays open for the repeats to come.
_HIT_WEIGHT = 0.02
_FIRST_HITS = 0.5
_FEWEST_HITS = 0.1
_PROBE_EVERY = 32
_MAX_KEYS = 4096


class MovingAverage:
    """Exponentially weighted mean; None before the first value."""

    __slots__ = ("_weight", "value")

    def __init__(self, value: float | None = None, weight: float = _WEIGHT) -> None:
        self.value = value
        self._weight = weight

    def add(self, value: float) -> None:
        self.value = value if self.value is None else self.value + self._weight * (value - self.value)


@dataclass(slots=True)
class _Cost:
    compute: MovingAverage
    lookup: MovingAverage
    hits: MovingAverage
    skipped: int = 0


class CostGate:
    """Decides, per kind of request, whether looking up is expected to be cheaper than computing.

    With ``c`` seconds to compute a row, ``r`` to look it up and a share ``h`` of hits,
    looking up pays where r < h·c. What is unknown is tried; every 32nd request is tried anyway, so that
    a gate that closed sees when the costs or the hits change.
    """

    def __init__(self) -> None:
        self._costs: OrderedDict[Hashable, _Cost] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, key: Hashable) -> bool:
        """Whether to look up a request of this kind."""
        with self._lock:
            cost = self._cost(key)
            compute, lookup = cost.compute.value, cost.lookup.value
            hits = max(cost.hits.value or 0.0, _FEWEST_HITS)
            if compute is None or lookup is None or lookup < hits * compute:
                return True
            cost.skipped += 1
            return cost.skipped % _PROBE_EVERY == 0

    def computed(self, key: Hashable, seconds: float, rows: int) -> None:
        with self._lock:
            self._cost(key).compute.add(seconds / rows)

    def looked_up(self, key: Hashable, seconds: float, rows: int, hits: int) -> None:
        with self._lock:
            cost = self._cost(key)
            cost.lookup.add(seconds / rows)
            cost.hits.add(hits / rows)

    def seconds_per_row(self, key: Hashable) -> tuple[float | None, float | None]:
        """Return the averages (compute, lookup)."""
        with self._lock:
            cost = self._cost(key)
            return cost.compute.value, cost.lookup.value

    def _cost(self, key: Hashable) -> _Cost:
        cost = self._costs.get(key)
        if cost is None:
            cost = self._costs[key] = _Cost(MovingAverage(), MovingAverage(), MovingAverage(_FIRST_HITS, _HIT_WEIGHT))
            if len(self._costs) > _MAX_KEYS:
                self._costs.popitem(last=False)
        else:
            self._costs.move_to_end(key)
        return cost
