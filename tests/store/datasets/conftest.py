"""Writing uploads and ingesting them."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from store import Store
from store.datasets import DatasetReader, UploadedFile

Ingest = Callable[..., DatasetReader]


@pytest.fixture
def ingest(store: Store, tmp_path: Path) -> Ingest:
    """Ingest ``{file name: bytes}`` (or one CSV text) under a fresh name and open it."""
    count = 0

    def run(files: Mapping[str, bytes] | str | bytes, filename: str = "rows.csv", **overrides: Any) -> DatasetReader:
        nonlocal count
        count += 1
        if isinstance(files, str):
            files = files.encode()
        if isinstance(files, bytes):
            files = {filename: files}
        uploads = []
        for index, (name, content) in enumerate(files.items()):
            path = tmp_path / f"upload-{count}-{index}"
            path.write_bytes(content)
            uploads.append(UploadedFile(name, path))
        dataset, _ = store.datasets.ingest(f"data-{count}", uploads, overrides)
        return store.datasets.open(dataset.digest)

    return run


@pytest.fixture
def clean(store: Store) -> Callable[[], None]:
    """Assert that nothing stands in the store: no row, no blob, no scratch."""

    def check() -> None:
        assert store.catalogue.list_datasets() == []
        assert store.blobs.list("") == []
        assert list(store.settings.scratch.iterdir()) == []

    return check


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return (
        b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype("u1").tobytes()
    )


def png(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def pictures(n: int, shape: tuple[int, ...] = (4, 5), seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def lines(n: int, write: Callable[[int], str], header: str = "") -> str:
    return (header + "\n" if header else "") + "".join(write(i) + "\n" for i in range(n))
