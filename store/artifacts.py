"""Artifacts: folders under the digest of their manifest, verified by size and sha256 at every load.

An artifact's key is ``artifacts/<digest>/<file>``; ``manifest.json`` names every other file, and the
digest is the sha256 of the manifest's canonical JSON, so one digest fixes every byte.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

from pydantic import ValidationError

from contracts.artifact import Card, Manifest
from contracts.errors import (
    ArtifactCorrupt,
    BadRequest,
    Internal,
    InvalidInput,
    LatentserveError,
    NotFound,
    StoreFull,
    TooLarge,
)
from store.blobs import Blobs, disk_full
from store.settings import StoreSettings

MANIFEST = "manifest.json"
CARD = "card.json"
CHUNK_BYTES = 1 << 20
LARGEST_DOCUMENT_BYTES = 16 << 20  # manifest and card are read whole
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_MEMBER = re.compile(rf"({_DIGEST.pattern})/({_FILE.pattern})")


def artifact_digest(manifest: Manifest) -> str:
    """sha256 of the manifest's canonical JSON (sorted keys, no spaces), in hexadecimal."""
    return hashlib.sha256(_canonical(manifest)).hexdigest()


def load_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json``; ArtifactCorrupt where it is missing or no manifest."""
    return _document(Manifest, folder / MANIFEST)


def load_card(folder: Path) -> Card:
    """Read ``card.json``; ArtifactCorrupt where it is missing or no card."""
    return _document(Card, folder / CARD)


class Artifacts:
    """The artifacts of a blob store."""

    def __init__(self, settings: StoreSettings, blobs: Blobs) -> None:
        self._settings = settings
        self._blobs = blobs

    def publish(self, folder: Path) -> tuple[str, int]:
        """Store a folder that holds ``manifest.json`` and the files it names; answers ``(digest, bytes)``.

        Idempotent, and the folder is left as it is. Raises ArtifactCorrupt where a file differs from the
        manifest and InvalidInput where the folder holds a file that the manifest does not name.
        """
        manifest = load_manifest(folder)
        digest = artifact_digest(manifest)
        unnamed = {path.name for path in folder.iterdir()} - set(manifest.files) - {MANIFEST}
        if unnamed:
            raise InvalidInput(f"the manifest does not name {', '.join(sorted(unnamed))}; list every file")
        verify(folder, manifest, digest)
        prefix = _prefix(digest)
        if not (self._blobs.exists(f"{prefix}/{MANIFEST}") and self._intact(digest)):
            self._blobs.delete(prefix)
            with self._scratch() as scratch:
                staged = scratch / digest
                try:
                    shutil.copytree(folder, staged)
                    (staged / MANIFEST).write_bytes(_canonical(manifest))
                except OSError as error:
                    raise _translated(error) from error
                self._blobs.adopt(prefix, staged, last=MANIFEST)
        return digest, sum(entry.size for entry in manifest.files.values()) + len(_canonical(manifest))

    def fetch(self, digest: str) -> Path:
        """The local folder of an artifact, its sizes and sha256 verified.

        Raises NotFound for a digest that was never stored, ArtifactCorrupt naming the file that is
        missing or damaged. A damaged local copy of a remote artifact is fetched once more.
        """
        local = self._blobs.local(_prefix(digest))
        if local is not None:
            if not local.is_dir():
                raise NotFound(f"there is no artifact {digest}")
            verify(local, load_manifest(local), digest)
            return local
        cached = self._settings.cache / "artifacts" / digest
        if cached.is_dir():
            try:
                verify(cached, load_manifest(cached), digest)
                return cached
            except ArtifactCorrupt:
                shutil.rmtree(cached)
        keys = self._blobs.list(_prefix(digest))
        if not keys:
            raise NotFound(f"there is no artifact {digest}")
        with self._scratch() as scratch:
            for key in keys:
                self._blobs.fetch(key, scratch / digest / key.rsplit("/", 1)[1])
            verify(scratch / digest, load_manifest(scratch / digest), digest)
            cached.parent.mkdir(parents=True, exist_ok=True)
            try:
                (scratch / digest).rename(cached)
            except OSError:
                if not cached.is_dir():  # else another thread was first
                    raise
        return cached

    def delete(self, digest: str) -> None:
        """Delete an artifact and its local copy; the caller knows that no version uses it."""
        self._blobs.delete(_prefix(digest))
        shutil.rmtree(self._settings.cache / "artifacts" / digest, ignore_errors=True)

    def export(self, digest: str, target: BinaryIO) -> None:
        """Write one uncompressed tar: ``<digest>/<file>`` of the parents first, of the artifact itself last."""
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for each, folder in self._with_parents(digest):
                for name in [*sorted(load_manifest(folder).files), MANIFEST]:
                    entry = tarfile.TarInfo(f"{each}/{name}")
                    entry.size = (folder / name).stat().st_size
                    with (folder / name).open("rb") as file:
                        archive.addfile(entry, file)

    def import_(self, source: BinaryIO) -> list[tuple[str, Manifest, Card, int]]:
        """Store the artifacts of an exported archive, all or none; parents first, the exported one last.

        Each item is ``(digest, manifest, card, bytes)``. Raises BadRequest where this is no such archive,
        TooLarge over ``max_artifact_bytes``, ArtifactCorrupt's 422 counterpart InvalidInput where the
        content differs from its digests.
        """
        with self._scratch() as scratch:
            digests = self._unpack(source, scratch)
            manifests = {}
            for digest in digests:
                try:
                    manifests[digest] = load_manifest(scratch / digest)
                    verify(scratch / digest, manifests[digest], digest)
                    load_card(scratch / digest)
                except ArtifactCorrupt as error:
                    raise InvalidInput(f"the archive is damaged: {error.detail}") from error
            for digest, manifest in manifests.items():
                for role, parent in manifest.parents.items():
                    if parent not in manifests and not self._blobs.exists(f"{_prefix(parent)}/{MANIFEST}"):
                        raise InvalidInput(f"the archive lacks the {role} {parent} of {digest}; export it again")
            imported = []
            for digest in _parents_first(manifests):
                card = load_card(scratch / digest)
                _, size = self.publish(scratch / digest)
                imported.append((digest, manifests[digest], card, size))
            return imported

    def _unpack(self, source: BinaryIO, scratch: Path) -> list[str]:
        """Write the members under scratch; every name, type and size is checked before a byte is written."""
        digests: dict[str, None] = {}
        room = self._settings.max_artifact_bytes
        members = 0
        try:
            with tarfile.open(fileobj=source, mode="r|") as archive:
                for member in archive:
                    members += 1
                    named = _MEMBER.fullmatch(member.name)
                    if not member.isreg() or named is None:
                        raise BadRequest(
                            f"the archive holds {member.name[:200]!r}, and only files <digest>/<name> may be in it"
                        )
                    room -= member.size
                    if room < 0 or members > 10_000:
                        raise TooLarge(f"the archive is over the limit of {self._settings.max_artifact_bytes} bytes")
                    digest, name = named.groups()
                    path = scratch / digest / name
                    if path.exists():
                        raise BadRequest(f"the archive holds {member.name!r} twice")
                    path.parent.mkdir(exist_ok=True)
                    digests[digest] = None
                    content = archive.extractfile(member)
                    assert content is not None
                    with path.open("wb") as file:
                        shutil.copyfileobj(content, file, CHUNK_BYTES)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise BadRequest(f"this is no whole tar archive of a model: {error}") from error
        except OSError as error:
            raise _translated(error) from error
        if not digests:
            raise BadRequest("the archive holds no model")
        return list(digests)

    def _with_parents(self, digest: str) -> Iterator[tuple[str, Path]]:
        folders: dict[str, Path] = {}

        def visit(each: str) -> None:
            if each not in folders:
                folder = self.fetch(each)
                for parent in sorted(load_manifest(folder).parents.values()):
                    visit(parent)
                folders[each] = folder

        visit(digest)
        yield from folders.items()

    def _intact(self, digest: str) -> bool:
        try:
            self.fetch(digest)
        except ArtifactCorrupt:
            return False
        return True

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        self._settings.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._settings.scratch, prefix="artifact-") as folder:
            yield Path(folder)


def verify(folder: Path, manifest: Manifest, digest: str) -> None:
    """Raise ArtifactCorrupt, naming the file, unless the folder holds exactly what the digest stands for."""
    if artifact_digest(manifest) != digest:
        raise ArtifactCorrupt(f"{MANIFEST} of artifact {digest} does not have that digest")
    for name, entry in manifest.files.items():
        if not _FILE.fullmatch(name) or name == MANIFEST:
            raise ArtifactCorrupt(f"artifact {digest} names a file {name!r}, which is no plain file name")
        path = folder / name
        if not path.is_file():
            raise ArtifactCorrupt(f"{name} of artifact {digest} is missing")
        size = path.stat().st_size
        if size != entry.size:
            raise ArtifactCorrupt(f"{name} of artifact {digest} has {size} bytes instead of {entry.size}")
        with path.open("rb") as file:
            if _sha256(file) != entry.sha256:
                raise ArtifactCorrupt(f"{name} of artifact {digest} differs from its sha256")


def _parents_first(manifests: dict[str, Manifest]) -> list[str]:
    """Parents before children; digests name contents that name their parents' digests, so there is no cycle."""
    order: dict[str, None] = {}

    def visit(digest: str) -> None:
        if digest in manifests and digest not in order:
            for parent in sorted(manifests[digest].parents.values()):
                visit(parent)
            order[digest] = None

    children = {parent for manifest in manifests.values() for parent in manifest.parents.values()}
    for digest in [*(d for d in manifests if d in children), *(d for d in manifests if d not in children)]:
        visit(digest)
    return list(order)


def _canonical(manifest: Manifest) -> bytes:
    document = manifest.model_dump(mode="json")
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


_Document = TypeVar("_Document", Manifest, Card)


def _document(kind: type[_Document], path: Path) -> _Document:
    try:
        if path.stat().st_size > LARGEST_DOCUMENT_BYTES:
            raise ArtifactCorrupt(f"{path.name} of artifact {path.parent.name} is over {LARGEST_DOCUMENT_BYTES} bytes")
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactCorrupt(f"{path.name} of artifact {path.parent.name} is missing") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactCorrupt(
            f"{path.name} of artifact {path.parent.name} is not valid: {where}: {first['msg']}"
        ) from error


def _sha256(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _prefix(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise NotFound(f"{digest[:100]!r} is no digest of an artifact")
    return f"artifacts/{digest}"


def _translated(error: OSError) -> LatentserveError:
    if disk_full(error):
        return StoreFull("the store has no room left; nothing was kept. Delete datasets or models, or add space")
    return Internal(f"the store's scratch folder cannot be used: {error}")
