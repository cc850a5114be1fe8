"""scikit-learn's imputers with their defaults, fitted on complete rows (Buck 1960; Troyanskaya et al. 2001)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def impute(name: str, train: Floats, x: Floats, hidden: NDArray[np.bool_], *, seed: int) -> Floats:
    """Return ``x`` with the hidden cells filled by ``iterative`` or ``knn``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer

    imputer = IterativeImputer(random_state=seed) if name == "iterative" else KNNImputer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        imputer.fit(train)
        filled: Floats = imputer.transform(np.where(hidden, np.nan, x))
    return filled
