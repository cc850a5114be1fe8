"""How sessions run: threads from the cgroup quota, providers, and the limits of one batch and one queue."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from contracts.errors import InvalidInput

CGROUP = Path("/sys/fs/cgroup")

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"


def threads_from_cgroup(root: Path = CGROUP) -> int:
    """Return how many threads this process may keep busy, at least 1.

    The smallest of the CPU affinity and the cgroup quota (v2 ``cpu.max``, v1 ``cpu.cfs_quota_us``), rounded
    down: a thread beyond the quota only makes the others wait when the kernel throttles the group.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _quota(root)
    return max(1, affinity if quota is None else min(affinity, math.floor(quota)))


def _quota(root: Path) -> float | None:
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        limit = (root / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def providers() -> tuple[str, ...]:
    """Return the ONNX runtime's providers in order of preference: CUDA where the runtime has it, then CPU."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return tuple(name for name in (CUDA_PROVIDER, CPU_PROVIDER) if name in available)


@dataclass(frozen=True)
class SessionOptions:
    """Settings of every session of a process.

    ``threads``: intra-op threads of a session. ``providers``: None = `providers()` when the first session is made.
    ``element_budget``: the most input and output scalars of one run; larger requests are split by rows.
    ``queue_rows``: the most rows that may wait for one graph; beyond, callers are refused with `Overloaded`.
    """

    threads: int = field(default_factory=threads_from_cgroup)
    providers: tuple[str, ...] | None = None
    element_budget: int = 1 << 21
    queue_rows: int = 1 << 16

    def __post_init__(self) -> None:
        for name in ("threads", "element_budget", "queue_rows"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")
