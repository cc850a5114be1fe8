"""Checkpoints of a training job: one file each, never pickle, per attempt, the newest sound one wins.

``<folder>/attempt-<n>/<stage>-<step>.<digest>.safetensors`` holds the tensors and, as metadata, the rest as JSON;
``digest`` is the start of the sha256 of the file, so that a damaged file is seen and the one before it is taken.
A file appears by an atomic rename after fsync. Folders of earlier attempts are made read-only. Where several
machines share a job (the blobs are remote), files are mirrored to the blob store and found there.

The generators of training are keyed by (seed, stage, step), so the position is all there is to save of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

_NAME = re.compile(r"^(\d{2})-(\d{10})\.([0-9a-f]{16})\.safetensors$")
_ATTEMPT = re.compile(r"^attempt-(\d+)$")
KEPT = 2


class Mirror(Protocol):
    """The verbs of `store.blobs.Blobs` that checkpoints need."""

    def put(self, key: str, source: Path | bytes) -> None: ...
    def get(self, key: str) -> bytes: ...
    def list(self, prefix: str) -> list[str]: ...
    def delete(self, prefix: str) -> None: ...


@dataclass(frozen=True)
class Checkpoint:
    """A saved state: position, tensors by name, and everything else as JSON."""

    stage: int
    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with ``prefix.``, without it."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + ".")}


class Checkpoints:
    """The checkpoints of one attempt, which may read those of earlier attempts."""

    def __init__(
        self, folder: Path, attempt: int, *, every_seconds: float = 10.0, mirror: Mirror | None = None, key: str = ""
    ) -> None:
        """``folder``: the job's; ``every_seconds``: least time between `due` checkpoints; ``mirror`` and ``key``:
        where copies go so that another machine can resume."""
        self._folder, self._attempt, self._every = folder, attempt, every_seconds
        self._mirror, self._key = mirror, key
        self._own = folder / f"attempt-{attempt}"
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether ``every_seconds`` have passed since the last one."""
        return time.monotonic() - self._saved_at >= self._every

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write it durably and drop this attempt's files but the newest two; OSError where the disk is full."""
        self._own.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in checkpoint.tensors.items()}
        data = save_tensors(tensors, {"meta": json.dumps(checkpoint.meta)})
        name = f"{checkpoint.stage:02d}-{checkpoint.step:010d}.{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        partial = self._own / f".{name}.part"
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        target = self._own / name
        partial.replace(target)
        _sync_folder(self._own)
        if self._mirror is not None:
            self._mirror.put(f"{self._key}/{self._own.name}/{name}", data)
        for old in sorted(path for path in self._own.iterdir() if _NAME.match(path.name))[:-KEPT]:
            old.unlink()
            if self._mirror is not None:
                self._mirror.delete(f"{self._key}/{self._own.name}/{old.name}")
        self._saved_at = time.monotonic()
        return target

    def latest(self) -> Checkpoint | None:
        """Return the farthest sound checkpoint of any attempt, None if there is none; damaged ones are passed over."""
        for attempt, name in sorted(self._names(), key=lambda entry: (entry[1][:13], entry[0]), reverse=True):
            checkpoint = self._read(attempt, name)
            if checkpoint is not None:
                return checkpoint
        return None

    def seal_earlier(self) -> None:
        """Make the folders of earlier attempts read-only."""
        for folder in self._attempts():
            if folder != self._own:
                for path in [*folder.iterdir(), folder]:
                    path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))

    def _attempts(self) -> Iterator[Path]:
        if self._folder.is_dir():
            yield from (path for path in self._folder.iterdir() if _ATTEMPT.match(path.name) and path.is_dir())

    def _names(self) -> set[tuple[str, str]]:
        local = {(f.name, path.name) for f in self._attempts() for path in f.iterdir() if _NAME.match(path.name)}
        if self._mirror is not None:
            for key in self._mirror.list(self._key):
                attempt, _, name = key.rpartition("/")
                if _NAME.match(name):
                    local.add((attempt.rpartition("/")[2], name))
        return local

    def _read(self, attempt: str, name: str) -> Checkpoint | None:
        path = self._folder / attempt / name
        match = _NAME.match(name)
        assert match is not None
        with contextlib.suppress(OSError):
            checkpoint = _parse(path.read_bytes(), match)
            if checkpoint is not None:
                return checkpoint
        if self._mirror is None:
            return None
        try:
            return _parse(self._mirror.get(f"{self._key}/{attempt}/{name}"), match)
        except Exception:  # whatever a remote store raises, an older checkpoint is the better answer
            return None


def _parse(data: bytes, match: re.Match[str]) -> Checkpoint | None:
    if hashlib.sha256(data).hexdigest()[:16] != match[3]:
        return None
    try:
        size = int.from_bytes(data[:8], "little")
        meta = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["meta"])
        return Checkpoint(int(match[1]), int(match[2]), load_tensors(data), meta)
    except (SafetensorError, ValueError, KeyError):
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as flat tensors ``<parameter index>.<field>``."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{field}": torch.as_tensor(v) for index, fields in state.items() for field, v in fields.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave, for the same parameters in the same order."""
    saved = optimiser.state_dict()
    saved["state"] = {}
    for name, tensor in tensors.items():
        index, field = name.split(".", 1)
        saved["state"].setdefault(int(index), {})[field] = tensor
    optimiser.load_state_dict(saved)
