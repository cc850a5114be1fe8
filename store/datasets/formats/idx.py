"""IDX, the format of MNIST and its successors: big-endian sizes, then the values.

Magic number: two zero bytes, the type (8 = uint8), the number of axes. Files of one data set come
together: images and labels, for training and (named ``t10k`` or ``test``) for the official test part.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import Role
from contracts.errors import InvalidInput, UnsupportedMedia
from store.datasets import splits
from store.datasets.named_arrays import Group

_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_WORDS = re.compile(r"[a-z]+[0-9]*[a-z]*")


def part_by_name(name: str) -> int:
    """The part that a file's name says; `splits.OPEN` where it says none."""
    for word in _WORDS.findall(name.lower()):
        code = splits.part_code(word)
        if code is not None:
            return code
    return splits.OPEN


def open_idx(path: Path, name: str) -> NDArray[Any]:
    """Map one file; InvalidInput where its size is not what its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        axes = magic[3] if len(magic) == 4 else 0
        sizes = file.read(4 * axes)
    if len(magic) < 4 or len(sizes) < 4 * axes or magic[2] not in _TYPES:
        raise InvalidInput(f"{name} is no whole IDX file")
    shape = tuple(int(each) for each in np.frombuffer(sizes, dtype=">u4"))
    dtype = np.dtype(_TYPES[magic[2]])
    expected = 4 + 4 * axes + math.prod(shape) * dtype.itemsize
    if size < expected:
        raise InvalidInput(f"{name} is cut short: it has {size} bytes, its header says {expected}; upload it again")
    if size > expected:
        raise InvalidInput(f"{name} has {size} bytes, but its header says {expected}")
    if math.prod(shape) == 0:
        raise InvalidInput(f"{name} holds no rows")
    return np.memmap(path, dtype=dtype, mode="r", offset=4 + 4 * axes, shape=shape)


def group_idx(files: list[tuple[str, Path]]) -> list[Group]:
    """Images and labels by part; labels become the column ``label``."""
    images: dict[int, tuple[str, NDArray[Any]]] = {}
    labels: dict[int, tuple[str, NDArray[Any]]] = {}
    for name, path in files:
        array = open_idx(path, name)
        target = labels if array.ndim == 1 else images
        part = part_by_name(name)
        if part in target:
            kind = "labels" if array.ndim == 1 else "images"
            raise InvalidInput(
                f"{target[part][0]} and {name} are both {kind} of one part; name the test files t10k-… or test-…"
            )
        target[part] = (name, array)
    if not images:
        raise InvalidInput("the upload holds IDX labels only; upload the images with them")
    # A lone test-named pair, or files of which only one part is named, still form one data set.
    groups = [_group(part, images, labels) for part in sorted(images)]
    alone = set(labels) - set(images)
    if alone:
        raise InvalidInput(f"{labels[alone.pop()][0]} holds labels of a part without images")
    if len({bool(group.columns) for group in groups}) > 1:
        raise InvalidInput("labels are there for some parts only; upload them for every part or for none")
    if len(groups) == 1:
        groups[0].part = splits.OPEN
    else:
        for group in groups:
            group.part = splits.TRAIN if group.part == splits.OPEN else group.part
    return groups


def _group(
    part: int, images: dict[int, tuple[str, NDArray[Any]]], labels: dict[int, tuple[str, NDArray[Any]]]
) -> Group:
    name, array = images[part]
    group = Group(features=array, name="x", part=part)
    found = labels.get(part)
    if found is None and len(images) == len(labels) == 1:
        (found,) = labels.values()  # one pair whose names differ
        labels[part] = found
        for other in [key for key in labels if key != part]:
            del labels[other]
    if found is not None:
        label_name, values = found
        if len(values) != len(array):
            raise InvalidInput(f"{label_name} has {len(values)} labels for the {len(array)} images of {name}")
        if values.dtype.kind not in "iu":
            raise UnsupportedMedia(f"{label_name} holds {values.dtype} labels; whole numbers are read")
        group.columns["label"] = values
        group.roles["label"] = Role.LABEL
    return group
