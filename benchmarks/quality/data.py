"""Where the data of the quality table are, and how they are read. Every split is fixed.

The folder is ``LATENTSERVE_BENCH_DATA``, or ``../shared/data`` beside the checkout. Some sets come with scikit-learn
and are always there.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import Part

Array = NDArray[Any]
Parts = dict[Part, Array]


class DataAbsent(Exception):
    """A data set is not on this machine; the message says where it was looked for."""


def folder() -> Path:
    """The folder of data sets."""
    said = os.environ.get("LATENTSERVE_BENCH_DATA")
    return Path(said) if said else Path(__file__).resolve().parents[3] / "shared" / "data"


def file(name: str) -> Path:
    """Return the path of a data file. Raises DataAbsent."""
    path = folder() / name
    if not path.is_file():
        raise DataAbsent(
            f"{name} is not under {folder()}; set LATENTSERVE_BENCH_DATA to the folder that holds the data sets"
        )
    return path


def binarised_mnist() -> Parts:
    """The fixed binarisation of MNIST with its 50,000 / 10,000 / 10,000 split: uint8 ``(n, 28, 28, 1)`` of 0 and 1."""
    with np.load(file("binarized-mnist/binarized_mnist.npz")) as packed:
        return {part: np.unpackbits(packed[part.value], axis=1).reshape(-1, 28, 28, 1) for part in Part}


def mnist_14() -> Parts:
    """MNIST averaged over 2 × 2 pixels and rounded, uint8 ``(n, 14, 14, 1)``: 55,000 / 5,000 / 10,000 rows."""
    large = {name: _idx(f"mnist/{name}-images-idx3-ubyte.gz") for name in ("train", "t10k")}
    small = {
        name: np.rint(x.reshape(-1, 14, 2, 14, 2).mean((2, 4))).astype(np.uint8)[..., None] for name, x in large.items()
    }
    return {Part.TRAIN: small["train"][:55_000], Part.VALID: small["train"][55_000:], Part.TEST: small["t10k"]}


def labelled_pictures(name: str) -> tuple[Parts, Parts]:
    """``fashion-mnist`` or ``mnist``: uint8 ``(n, 28, 28, 1)`` and their labels 0 … 9 ``(n,)``, 55,000 / 5,000 / 10,000
    rows."""
    x, y = ({part: _idx(f"{name}/{part}-{what}-ubyte.gz") for part in ("train", "t10k")}
            for what in ("images-idx3", "labels-idx1"))  # fmt: skip
    pictures = {part: rows[..., None] for part, rows in x.items()}
    labels = {part: codes.astype(np.int64) for part, codes in y.items()}
    parts, codes = (
        {Part.TRAIN: each["train"][:55_000], Part.VALID: each["train"][55_000:], Part.TEST: each["t10k"]}
        for each in (pictures, labels)
    )
    return parts, codes


def digits() -> Parts:
    """scikit-learn's 1,797 digits, uint8 ``(n, 8, 8, 1)`` of 17 levels: 1,437 train, 180 valid, 180 test.

    The same split as `benchmarks.digits`."""
    from sklearn.datasets import load_digits

    x = load_digits().images.astype(np.uint8)[..., None]
    x = x[np.random.default_rng(0).permutation(len(x))]
    return {Part.TRAIN: x[:1437], Part.VALID: x[1437:1617], Part.TEST: x[1617:]}


def tiny_shakespeare() -> str:
    """1,115,394 ASCII characters."""
    return file("tiny-shakespeare/input.txt").read_text()


def table(name: str) -> NDArray[np.float64]:
    """A table of numbers without missing values ``(n, D)``: a file of data/uci, or one that scikit-learn brings."""
    from sklearn import datasets

    bundled = {"breast_cancer": datasets.load_breast_cancer, "diabetes": datasets.load_diabetes,
               "wine": datasets.load_wine}  # fmt: skip
    if name in bundled:
        return np.asarray(bundled[name]().data, dtype=np.float64)
    if name.startswith("miniboone"):
        return np.asarray(np.load(file(f"uci/{name}.npy")), dtype=np.float64)
    with gzip.open(file(f"uci/{name}.csv.gz"), "rt") as lines:
        return np.loadtxt(lines, delimiter=",", dtype=np.float64)


def anomalies(name: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A table of data/adbench in its own dtype ``(n, D)``, and which rows are anomalies ``(n,)``."""
    with np.load(file(f"adbench/{name}.npz")) as npz:
        return npz["X"], npz["y"].astype(bool)


RING_DEVIATION = 0.02
_ANGLES = 2 * np.pi * np.arange(8) / 8
RING: NDArray[np.float64] = 2 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
"""Means of eight Gaussians on a ring of radius 2, as in Metz et al. 2017, arXiv:1611.02163."""


def eight_gaussians(rows: int = 40_000) -> Parts:
    """Points ``(n, 2)`` of eight equal Gaussians of deviation 0.02; nine tenths train, the rest valid."""
    generator = np.random.default_rng(0)
    x = RING[generator.integers(0, 8, rows)] + RING_DEVIATION * generator.standard_normal((rows, 2))
    return {Part.TRAIN: x[: rows * 9 // 10], Part.VALID: x[rows * 9 // 10 :]}


def emoji(*, skin_tones: bool = True) -> dict[Part, tuple[Array, list[str]]]:
    """Noto emoji by the official split: uint8 ``(n, 32, 32, 3)`` and captions; with or without their skin tones."""
    with np.load(file("noto-emoji/noto_emoji_32.npz")) as npz:
        kept = npz["has_skin_tone"] == 0 if not skin_tones else np.ones(len(npz["images"]), dtype=bool)
        found = {}
        for part in Part:
            rows = kept & (npz["split"] == part.value)
            found[part] = (npz["images"][rows], [str(text) for text in npz["caption"][rows]])
        return found


FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
COLOURS = {
    "red": (230, 40, 40), "green": (40, 200, 60), "blue": (60, 80, 240),
    "yellow": (230, 210, 40), "pink": (240, 120, 200), "white": (240, 240, 240),
}  # fmt: skip


def composed(seed: int) -> tuple[dict[Part, tuple[Array, list[str]]], tuple[Array, list[str]], list[str]]:
    """Fashion-MNIST in one of six colours, with captions `a <colour> <class>`: 20,000 train and 2,000 valid rows of 48
    of the 60 combinations; 3,000 test pictures of the other 12, two of each colour; and all captions."""
    parts, labels = labelled_pictures("fashion-mnist")
    colours = list(COLOURS)
    held = {(colour, (3 * number + step) % 10) for number, colour in enumerate(colours) for step in (0, 5)}
    generator = np.random.default_rng(seed)

    def make(part: Part, count: int, *, held_out: bool) -> tuple[Array, list[str]]:
        rows, texts = [], []
        order = iter(generator.permutation(len(parts[part])).tolist() * 20)
        while len(rows) < count:
            row = next(order)
            colour = colours[int(generator.integers(len(colours)))]
            label = int(labels[part][row])
            if ((colour, label) in held) == held_out:
                rows.append((parts[part][row] / 255 * np.array(COLOURS[colour])).astype(np.uint8))
                texts.append(f"a {colour} {FASHION[label]}")
        return np.stack(rows), texts

    every = [f"a {colour} {name}" for colour in colours for name in FASHION]
    known = {part: make(part, count, held_out=False) for part, count in ((Part.TRAIN, 20_000), (Part.VALID, 2_000))}
    return known, make(Part.TEST, 3_000, held_out=True), every


def _idx(name: str) -> NDArray[np.uint8]:
    with gzip.open(file(name), "rb") as stream:
        axes = stream.read(4)[3]
        shape = [int.from_bytes(stream.read(4), "big") for _ in range(axes)]
        return np.frombuffer(stream.read(), dtype=np.uint8).reshape(shape)
