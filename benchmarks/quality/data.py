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


def _idx(name: str) -> NDArray[np.uint8]:
    with gzip.open(file(name), "rb") as stream:
        axes = stream.read(4)[3]
        shape = [int.from_bytes(stream.read(4), "big") for _ in range(axes)]
        return np.frombuffer(stream.read(), dtype=np.uint8).reshape(shape)
