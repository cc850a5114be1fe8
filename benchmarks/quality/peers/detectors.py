"""PyOD's detectors with their defaults (Zhao, Nasrullah & Li 2019, JMLR 20(96); Chen et al. 2024, arXiv:2412.12154).

ECOD and COPOD rank a row among the train rows and all rows scored with it, as PyOD has them do."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NAMES = {"iforest": "IForest", "ecod": "ECOD", "copod": "COPOD", "kde": "KDE", "gmm": "GMM", "knn": "KNN"}
SEEDED = ("iforest", "gmm")


def fit(name: str, train: Floats, *, seed: int) -> Any:
    """Return the detector of that name (a key of NAMES) fitted on rows ``(n, D)``."""
    detector = getattr(import_module(f"pyod.models.{name}"), NAMES[name])
    return detector(**({"random_state": seed} if name in SEEDED else {})).fit(train)


def score(detector: Any, x: Floats) -> Floats:
    """How anomalous each row is ``(n,)``, higher is more."""
    return np.asarray(detector.decision_function(x), dtype=np.float64)
