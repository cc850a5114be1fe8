from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.artifact import FileEntry
from contracts.errors import ArtifactCorrupt, BadRequest, InvalidInput, LatentserveError, NotFound, StoreFull, TooLarge
from store import Store, StoreSettings
from store.artifacts import Artifacts, artifact_digest, load_card, load_manifest
from store.blobs import Blobs
from tests.store.catalogue.conftest import CARD, manifest

OTHER = manifest(9).model_dump_json()
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an artifact's folder."""

    def write(name: str, *, weights: bytes = b"weights", **parents: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        contents = {"weights.safetensors": weights, "card.json": CARD.model_dump_json().encode()}
        for file, content in contents.items():
            (folder / file).write_bytes(content)
        files = {
            file: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            for file, content in contents.items()
        }
        described = manifest(parents=parents).model_copy(update={"files": files})
        (folder / "manifest.json").write_text(described.model_dump_json(indent=2))
        return folder

    return write


@pytest.fixture(params=["local", "remote"])
def artifacts(request: pytest.FixtureRequest, settings: StoreSettings) -> Artifacts:
    return Artifacts(settings, Blobs(None if request.param == "local" else "memory:///", settings.home / "blobs"))


def test_publish_and_fetch(artifacts: Artifacts, make: Make) -> None:
    folder = make("one")
    digest, size = artifacts.publish(folder)
    assert digest == artifact_digest(load_manifest(folder))
    assert artifacts.publish(folder) == (digest, size)
    assert folder.is_dir()
    fetched = artifacts.fetch(digest)
    assert {path.name for path in fetched.iterdir()} == {"manifest.json", "card.json", "weights.safetensors"}
    assert sum(path.stat().st_size for path in fetched.iterdir()) == size
    assert load_card(fetched) == CARD
    assert load_manifest(fetched) == load_manifest(folder)
    assert artifacts.fetch(digest) == fetched


def test_the_digest_depends_on_every_byte(make: Make) -> None:
    digests = {artifact_digest(load_manifest(make(f"{n}", weights=bytes([n])))) for n in range(3)}
    assert len(digests) == 3


def test_unknown_digests_are_not_found(artifacts: Artifacts) -> None:
    for digest in ("0" * 64, "../../etc", ""):
        with pytest.raises(NotFound):
            artifacts.fetch(digest)


def test_a_folder_that_differs_from_its_manifest_is_not_published(artifacts: Artifacts, make: Make) -> None:
    folder = make("one")
    (folder / "weights.safetensors").write_bytes(b"weightz")
    with pytest.raises(ArtifactCorrupt, match=r"weights.safetensors .* sha256"):
        artifacts.publish(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"weights.safetensors .* missing"):
        artifacts.publish(folder)
    folder = make("two")
    (folder / "extra").write_bytes(b"")
    with pytest.raises(InvalidInput, match="extra"):
        artifacts.publish(folder)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"WEIGHTS"), "weights.safetensors .* sha256"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b""), "weights.safetensors .* 0 bytes"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors .* missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json .* missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json .* not valid"),
        (lambda folder: (folder / "manifest.json").write_text(OTHER), "manifest.json .* that digest"),
    ],
)  # fmt: skip
def test_damage_is_named(settings: StoreSettings, make: Make, spoil: Callable[[Path], object], told: str) -> None:
    artifacts = Artifacts(settings, Blobs(None, settings.home / "blobs"))
    good, _ = artifacts.publish(make("good"))
    bad, _ = artifacts.publish(make("bad", weights=b"weighty"))
    spoil(artifacts.fetch(bad))
    for _ in range(2):
        with pytest.raises(ArtifactCorrupt, match=told):
            artifacts.fetch(bad)
    artifacts.fetch(good)
    shutil.rmtree(settings.home.parent / "bad")
    assert artifacts.publish(make("bad", weights=b"weighty"))[0] == bad  # publishing again repairs
    artifacts.fetch(bad)


def test_a_damaged_local_copy_is_fetched_again(settings: StoreSettings, make: Make) -> None:
    artifacts = Artifacts(settings, Blobs("memory:///", settings.home))
    digest, _ = artifacts.publish(make("one"))
    cached = artifacts.fetch(digest)
    (cached / "weights.safetensors").write_bytes(b"WEIGHTS")
    assert (artifacts.fetch(digest) / "weights.safetensors").read_bytes() == b"weights"


def test_export_and_import_with_parents(artifacts: Artifacts, make: Make, tmp_path: Path) -> None:
    grandparent, _ = artifacts.publish(make("a", weights=b"a"))
    parent, _ = artifacts.publish(make("b", weights=b"b", codes=grandparent))
    child, _ = artifacts.publish(make("c", weights=b"c", codes=parent, pair=grandparent))
    archive = io.BytesIO()
    artifacts.export(child, archive)
    elsewhere = Store.open(StoreSettings(home=tmp_path / "elsewhere"), migrate=True)
    imported = elsewhere.artifacts.import_(io.BytesIO(archive.getvalue()))
    assert [digest for digest, *_ in imported] == [grandparent, parent, child]
    digest, described, card, size = imported[-1]
    assert (described, card) == (load_manifest(artifacts.fetch(child)), CARD)
    assert size == artifacts.publish(tmp_path / "c")[1]
    elsewhere.artifacts.fetch(digest)
    assert list(elsewhere.settings.scratch.iterdir()) == []
    elsewhere.close()


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                archive.addfile(entry, io.BytesIO(member[1]))
    return io.BytesIO(buffer.getvalue())


def link(kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo("0" * 64 + "/manifest.json")
    entry.type, entry.linkname = kind, "/etc/passwd"
    return entry


D = "0" * 64
HOSTILE = {
    "traversal": (tar((f"{D}/../../evil", b"x")), BadRequest),
    "absolute": (tar(("/tmp/evil", b"x")), BadRequest),
    "no digest": (tar(("model/manifest.json", b"x")), BadRequest),
    "deeper": (tar((f"{D}/a/b", b"x")), BadRequest),
    "hidden": (tar((f"{D}/.x", b"x")), BadRequest),
    "symbolic link": (tar(link(tarfile.SYMTYPE)), BadRequest),
    "hard link": (tar(link(tarfile.LNKTYPE)), BadRequest),
    "device": (tar(link(tarfile.CHRTYPE)), BadRequest),
    "folder": (tar(link(tarfile.DIRTYPE)), BadRequest),
    "twice": (tar((f"{D}/a", b"x"), (f"{D}/a", b"y")), BadRequest),
    "no manifest": (tar((f"{D}/a", b"x")), InvalidInput),
    "no json": (tar((f"{D}/manifest.json", b"x")), InvalidInput),
    "wrong digest": (tar((f"{D}/manifest.json", manifest().model_dump_json().encode())), InvalidInput),
    "empty": (tar(), BadRequest),
    "no tar": (io.BytesIO(b"x" * 5000), BadRequest),
    "nothing": (io.BytesIO(b""), BadRequest),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_leave_nothing(store: Store, name: str) -> None:
    archive, error = HOSTILE[name]
    archive.seek(0)
    with pytest.raises(error):
        store.artifacts.import_(archive)
    assert store.blobs.list("") == []
    assert list(store.settings.scratch.iterdir()) == []


def test_an_archive_cut_anywhere_is_refused(store: Store, make: Make) -> None:
    digest, _ = store.artifacts.publish(make("one"))
    archive = io.BytesIO()
    store.artifacts.export(digest, archive)
    whole = archive.getvalue()
    store.artifacts.delete(digest)
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        used = max(member.offset_data + member.size for member in opened)
    for length in range(0, used, 97):
        with pytest.raises(LatentserveError) as caught:
            store.artifacts.import_(io.BytesIO(whole[:length]))
        assert 400 <= caught.value.status < 500
    assert store.blobs.list("") == []


def test_changed_content_is_refused(store: Store, make: Make) -> None:
    digest, _ = store.artifacts.publish(make("one"))
    archive = io.BytesIO()
    store.artifacts.export(digest, archive)
    store.artifacts.delete(digest)
    changed = archive.getvalue().replace(b"weights\0", b"WEIGHTS\0")
    with pytest.raises(InvalidInput, match="sha256"):
        store.artifacts.import_(io.BytesIO(changed))
    assert store.blobs.list("") == []


def test_a_manifest_that_names_paths_is_refused(store: Store, tmp_path: Path) -> None:
    for name in ("../evil", "/etc/passwd", "manifest.json", ""):
        described = manifest().model_copy(update={"files": {name: FileEntry(sha256="0" * 64, size=1)}})
        digest = artifact_digest(described)
        archive = tar((f"{digest}/manifest.json", described.model_dump_json().encode()), (f"{digest}/card.json", b"{}"))
        with pytest.raises(InvalidInput, match="plain file name"):
            store.artifacts.import_(archive)


def test_too_large_an_archive_is_refused(settings: StoreSettings, make: Make) -> None:
    limited = settings.model_copy(update={"max_artifact_bytes": 1000})
    artifacts = Artifacts(limited, Blobs(None, settings.home / "blobs"))
    with pytest.raises(TooLarge, match="1000"):
        artifacts.import_(tar((f"{D}/a", b"x" * 1001)))


def test_an_archive_without_its_parents_is_refused(store: Store, make: Make) -> None:
    digest, _ = store.artifacts.publish(make("child", codes="5" * 64))
    folder = store.artifacts.fetch(digest)
    archive = tar(*((f"{digest}/{path.name}", path.read_bytes()) for path in folder.iterdir()))
    store.artifacts.delete(digest)
    with pytest.raises(InvalidInput, match="lacks the codes"):
        store.artifacts.import_(archive)
    with pytest.raises(NotFound):
        store.artifacts.fetch(digest)


def test_a_full_disk_keeps_nothing(store: Store, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("one")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("store.artifacts.shutil.copytree", full)
    with pytest.raises(StoreFull):
        store.artifacts.publish(folder)
    monkeypatch.setattr("store.artifacts.shutil.copyfileobj", full)
    with pytest.raises(StoreFull):
        store.artifacts.import_(tar((f"{D}/a", b"x")))
    assert store.blobs.list("") == []
    assert list(store.settings.scratch.iterdir()) == []


def test_a_deleted_version_takes_its_files_when_none_else_uses_them(store: Store, make: Make) -> None:
    digest, size = store.artifacts.publish(make("one"))
    for name in ("m", "n"):
        store.catalogue.import_version(name=name, digest=digest, manifest=manifest(), card=CARD, size=size)
    store.delete_version("m", 1)
    store.artifacts.fetch(digest)
    store.delete_version("n", 1)
    with pytest.raises(NotFound):
        store.artifacts.fetch(digest)


def test_a_card_that_is_no_card_is_told(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"metrics": 3}))
    with pytest.raises(ArtifactCorrupt, match=r"card.json .* metrics"):
        load_card(tmp_path)
