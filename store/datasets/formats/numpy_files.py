"""NPY and NPZ: arrays of numbers, booleans or strings, mapped into memory; never pickles.

NPZ members by name: ``x | X | data | features | images`` with ``y | label | labels | target``,
``caption(s)``, ``id(s)``, ``split``; or the same with ``_train``/``_test``/``_valid`` before or after, or
arrays called ``train``/``valid``/``test``: then the file gives the parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.data import Role
from contracts.errors import InvalidInput, UnsupportedMedia
from store.datasets import splits
from store.datasets.named_arrays import Group

FEATURE_NAMES = ("x", "images", "data", "features", "image", "inputs")
ROLE_NAMES = {
    "y": Role.LABEL, "label": Role.LABEL, "labels": Role.LABEL, "target": Role.LABEL, "targets": Role.LABEL,
    "caption": Role.CAPTION, "captions": Role.CAPTION, "id": Role.ID, "ids": Role.ID, "split": Role.SPLIT,
}  # fmt: skip


@dataclass(frozen=True)
class _Member:
    base: str
    part: int
    array: NDArray[Any]
    name: str


def open_npy(path: Path, name: str) -> NDArray[Any]:
    """Map one ``.npy`` file; InvalidInput where it is cut short, UnsupportedMedia for objects and records."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            offset = file.tell()
    except Exception as error:  # the header is a Python literal, and its parser raises whatever bytes lead it to
        raise InvalidInput(f"{name} is no whole NPY file: {str(error)[:200]}") from error
    if dtype.hasobject:
        raise UnsupportedMedia(f"{name} holds Python objects (a pickle), which are never loaded; save plain numbers")
    if dtype.kind not in "biufUS":
        raise UnsupportedMedia(f"{name} holds {dtype} values; numbers, booleans and strings are read")
    if any(size < 0 for size in shape):
        raise InvalidInput(f"{name} is no whole NPY file: its shape is {shape}")
    needed = math.prod(shape) * dtype.itemsize
    if path.stat().st_size - offset < needed:
        raise InvalidInput(f"{name} is cut short: {needed} bytes of data are announced; upload it again")
    if needed == 0 or not shape:
        raise InvalidInput(f"{name} holds no rows")
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")


def group_npy(path: Path, name: str) -> list[Group]:
    """One array as the features."""
    return [Group(features=open_npy(path, name), name="x")]


def group_npz(members: dict[str, Path], *, wanted: tuple[str, ...]) -> list[Group]:
    """The members of an NPZ archive, unpacked to files, as features with their companions, by part.

    Args:
        members: member name without ``.npy`` → file.
        wanted: names that the overrides mention; such an array becomes a column though its name says nothing.
    """
    arrays = [_member(name, open_npy(path, f"{name}.npy")) for name, path in members.items()]
    features = _features(arrays)
    groups = []
    for feature in features:
        group = Group(features=feature.array, name="x", part=feature.part)
        for member in arrays:
            role = ROLE_NAMES.get(member.base.lower())
            if member is feature or member.part != feature.part or (role is None and member.base not in wanted):
                continue
            if member.array.shape[:1] != feature.array.shape[:1] or math.prod(member.array.shape[1:]) != 1:
                raise InvalidInput(
                    f"array {member.name!r} has the shape {member.array.shape}; beside {feature.name!r} "
                    f"it needs one value for each of the {len(feature.array)} rows"
                )
            group.columns[member.base] = member.array.reshape(-1)
            if role is not None and role not in group.roles.values():
                group.roles[member.base] = role
        groups.append(group)
    return sorted(groups, key=lambda group: group.part)


def _features(arrays: list[_Member]) -> list[_Member]:
    for base in FEATURE_NAMES:
        found = [member for member in arrays if member.base.lower() == base]
        if found:
            if len({member.part for member in found}) != len(found):
                raise InvalidInput(f"the archive holds several arrays for {base!r}; keep one for each part")
            return found
    if len(arrays) == 1:
        return arrays
    names = ", ".join(member.name for member in arrays[:20])
    raise InvalidInput(f"none of the arrays {names} is named x, X, images or data; name the features so")


def _member(name: str, array: NDArray[Any]) -> _Member:
    """Split ``x_train`` and ``train_x`` into base and part; ``train`` alone holds the features of that part."""
    code = splits.part_code(name)
    if code is not None:
        return _Member("x", code, array, name)
    head, _, tail = name.rpartition("_")
    first, _, rest = name.partition("_")
    for base, part in ((head, tail), (rest, first)):
        code = splits.part_code(part)
        if base and code is not None and (base.lower() in FEATURE_NAMES or base.lower() in ROLE_NAMES):
            return _Member(base, code, array, name)
    return _Member(name, splits.OPEN, array, name)
