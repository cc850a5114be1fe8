"""Bags of words and pixels in one space: regularised canonical correlation of tf-idf and principal components.

H. Hotelling, "Relations between two sets of variates", 1936, Biometrika 28:321-377; each side is whitened with a ridge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

Floats = NDArray[np.float64]
RIDGES, SIZES = (0.01, 0.1, 1.0, 10.0), (20, 50, 100, 200)


@dataclass
class Correlation:
    """Both sides' maps; ``note`` says which ridge and size the valid part chose."""

    words: Any
    topics: Any
    pixels: Any
    text_map: Floats
    picture_map: Floats
    note: str

    @classmethod
    def fit(cls, x: NDArray[Any], texts: list[str], valid_x: NDArray[Any], valid_texts: list[str]) -> Correlation:
        """Fit on pictures ``(n, H, W, C)`` and captions; ridge and size by recall@10 on the valid part."""
        words = TfidfVectorizer(sublinear_tf=True).fit(texts)
        best: tuple[float, Correlation] | None = None
        for size in SIZES:
            topics = TruncatedSVD(size, random_state=0).fit(words.transform(texts))
            pixels = PCA(size, random_state=0).fit(_flat(x))
            a, b = topics.transform(words.transform(texts)), pixels.transform(_flat(x))
            for ridge in RIDGES:
                maps = _canonical(a, b, ridge)
                made = cls(words, topics, pixels, *maps, f"{size} components, ridge {ridge:g}")
                order = np.argsort(-made.scores(valid_texts, valid_x), axis=1)[:, :10]
                value = float((order == np.arange(len(valid_x))[:, None]).any(axis=1).mean())
                if best is None or value > best[0]:
                    best = (value, made)
        assert best is not None
        return best[1]

    def scores(self, texts: list[str], x: NDArray[Any]) -> Floats:
        """Cosines ``(texts, pictures)``."""
        a = self.topics.transform(self.words.transform(texts)) @ self.text_map
        b = self.pixels.transform(_flat(x)) @ self.picture_map
        a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
        scores: Floats = a @ b.T
        return scores


def _canonical(a: Floats, b: Floats, ridge: float) -> tuple[Floats, Floats]:
    """Maps to the canonical variates, weighted by their correlations."""
    whiten = []
    for v in (a, b):
        covariance = v.T @ v / len(v)
        values, vectors = np.linalg.eigh(
            covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(v.shape[1])
        )
        whiten.append(vectors / np.sqrt(values) @ vectors.T)
    left, correlations, right = np.linalg.svd(whiten[0] @ (a.T @ b / len(a)) @ whiten[1])
    return whiten[0] @ left * correlations, whiten[1] @ right.T * correlations


def _flat(x: NDArray[Any]) -> Floats:
    return x.reshape(len(x), -1).astype(np.float64) / 255
