"""What a format's reader hands over, and how it becomes the canonical folder.

A reader first looks the upload over (types, sizes, categories) and answers a `Content`: its spec, and
chunks that may be read again from the start. `build` writes the chunks, assigns the parts and
measures the train rows; nothing is held in memory but one chunk and 17 bytes per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.data import DataSpec, Part, Role
from contracts.errors import InvalidInput
from store.datasets import splits
from store.datasets.arrays import ArrayWriter, StringsWriter, profile_rows, save_profile

CHUNK_ROWS = 8192

OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Chunk:
    """Some rows: features ``x`` (or ``texts``), and what else the spec has columns for."""

    x: NDArray[Any] | None = None
    texts: list[str] | None = None
    y: NDArray[np.int64] | None = None
    captions: list[str] | None = None
    ids: list[str] | None = None
    parts: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.texts) if self.texts is not None else 0 if self.x is None else len(self.x)


class Content(Protocol):
    """An upload that has been understood."""

    @property
    def spec(self) -> DataSpec: ...

    def chunks(self) -> Iterator[Chunk]:
        """Every row in order."""
        ...


@dataclass(frozen=True)
class Built:
    spec: DataSpec
    rows: int
    parts: dict[Part, int]
    size: int


def build(content: Content, folder: Path, *, min_rows: int, on_progress: OnProgress | None = None) -> Built:
    """Write the canonical arrays of an upload into an empty folder.

    Raises InvalidInput where there are fewer than ``min_rows`` rows or no row is left to train on.
    """
    spec = content.spec
    hashes, given, sizes = _write(content, folder, on_progress)
    rows = len(hashes)
    if rows < min_rows:
        raise InvalidInput(f"the upload has {rows} rows; a dataset needs at least {min_rows}")
    codes = splits.assign(spec.split, hashes, given, sizes)
    with ArrayWriter(folder / "split.npy", (), np.uint8) as writer:
        writer.append(codes)
    if spec.modality != "text":
        save_profile(folder / "profile.npz", profile_rows(folder / "x.npy", codes == splits.TRAIN))
    (folder / "spec.json").write_text(spec.model_dump_json())
    counts = np.bincount(codes, minlength=len(splits.PARTS))
    return Built(
        spec=spec,
        rows=rows,
        parts={part: int(count) for part, count in zip(splits.PARTS, counts, strict=True)},
        size=sum(path.stat().st_size for path in folder.iterdir()),
    )


def _write(
    content: Content, folder: Path, on_progress: OnProgress | None
) -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.int64]]:
    """Write features, labels and strings; answer each row's hash, given part and length."""
    spec = content.spec
    roles = {column.role for column in spec.columns}
    text = spec.modality == "text"
    x = None if text else ArrayWriter(folder / "x.npy", spec.row_shape, spec.dtype)
    y = ArrayWriter(folder / "y.npy", (), np.int64) if Role.LABEL in roles else None
    texts = StringsWriter(folder, "text") if text else None
    captions = StringsWriter(folder, "captions") if Role.CAPTION in roles else None
    ids = StringsWriter(folder, "ids") if Role.ID in roles else None
    hashes, given, sizes = [], [], []
    rows = 0
    try:
        for chunk in content.chunks():
            for writer, values in ((x, chunk.x), (y, chunk.y), (texts, chunk.texts)):
                if writer is not None and values is not None:
                    writer.append(values)  # type: ignore[arg-type]
            for strings, lines in ((captions, chunk.captions), (ids, chunk.ids)):
                if strings is not None and lines is not None:
                    strings.append(lines)
            hashes.append(
                splits.hash_texts(chunk.texts) if chunk.texts is not None else splits.hash_rows(_array(chunk.x))
            )
            given.append(chunk.parts if chunk.parts is not None else np.full(len(chunk), splits.OPEN, dtype=np.uint8))
            sizes.append(np.array([len(each) for each in chunk.texts or [""] * len(chunk)], dtype=np.int64))
            rows += len(chunk)
            if on_progress is not None:
                on_progress(rows)
    finally:
        for opened in (x, y, texts, captions, ids):
            if opened is not None:
                opened.close()
    if not hashes:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint8), np.zeros(0, np.int64)
    return np.concatenate(hashes), np.concatenate(given), np.concatenate(sizes)


def _array(x: NDArray[Any] | None) -> NDArray[Any]:
    assert x is not None
    return x
