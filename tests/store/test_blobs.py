from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import InvalidInput, NotFound, NotReady, StoreFull
from store.blobs import Blobs, disk_full


@pytest.fixture(params=["local", "remote"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """A local folder, and obstore's in-memory store for the paths that S3 takes."""
    return Blobs(None if request.param == "local" else "memory:///", tmp_path / "blobs")


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow over 64 KiB: what a full disk does, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_put_get_and_replace(blobs: Blobs, tmp_path: Path) -> None:
    blobs.put("a/b.bin", b"one")
    assert blobs.get("a/b.bin") == b"one"
    (tmp_path / "file").write_bytes(b"two" * 100_000)
    blobs.put("a/b.bin", tmp_path / "file")
    assert blobs.get("a/b.bin") == b"two" * 100_000
    pieces = list(blobs.stream("a/b.bin", chunk_bytes=1000))
    assert b"".join(pieces) == b"two" * 100_000
    blobs.put("empty", b"")
    assert blobs.get("empty") == b""


def test_list_exists_delete(blobs: Blobs) -> None:
    for key in ("a/1", "a/2/3", "ab/4"):
        blobs.put(key, b"x")
    assert blobs.list("a") == ["a/1", "a/2/3"]
    assert blobs.list("") == ["a/1", "a/2/3", "ab/4"]
    assert blobs.exists("a/1")
    assert not blobs.exists("a")
    blobs.delete("a")
    assert blobs.list("") == ["ab/4"]
    blobs.delete("ab/4")
    blobs.delete("never/was")
    assert blobs.list("") == []


def test_what_is_not_there_is_not_found(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="'x/y'"):
        blobs.get("x/y")
    with pytest.raises(NotFound):
        blobs.fetch("x/y", tmp_path / "y")
    assert not (tmp_path / "y").exists()
    assert not blobs.exists("x/y")


def test_fetch(blobs: Blobs, tmp_path: Path) -> None:
    blobs.put("k", b"bytes")
    target = blobs.fetch("k", tmp_path / "deep" / "target")
    assert target.read_bytes() == b"bytes"
    blobs.put("k", b"other")
    assert blobs.fetch("k", target).read_bytes() == b"other"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a//b", "a/../../b", "", "a/", "ä", "a b", ".", "a\x00b"])
def test_keys_that_lead_elsewhere_are_refused(blobs: Blobs, key: str) -> None:
    for call in (lambda: blobs.put(key, b""), lambda: blobs.get(key), lambda: blobs.delete(key)):
        with pytest.raises(InvalidInput, match="no key"):
            call()


def test_adopt_moves_a_folder_whole(blobs: Blobs, tmp_path: Path) -> None:
    for content in (b"1", b"2"):
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "data").write_bytes(content)
        (folder / "last").write_bytes(b"done")
        blobs.adopt("p/q", folder, last="last")
        assert not folder.exists()
    assert blobs.list("p") == ["p/q/data", "p/q/last"]
    assert blobs.get("p/q/data") == b"1"  # what is there stays


def test_adopt_replaces_what_a_crash_left(tmp_path: Path) -> None:
    blobs = Blobs(None, tmp_path / "blobs")
    blobs.put("p/old", b"half")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "last").write_bytes(b"done")
    blobs.adopt("p", folder, last="last")
    assert blobs.list("p") == ["p/last"]


def test_adopt_across_filesystems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(None, tmp_path / "blobs")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "last").write_bytes(b"done")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == folder:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    blobs.adopt("p", folder, last="last")
    assert blobs.list("") == ["p/last"]
    assert not folder.exists()


def test_a_remote_adopt_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs("memory:///", tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b", "last"):
        (folder / name).write_bytes(b"x")
    real = Blobs.put

    def put(self: Blobs, key: str, source: Path | bytes) -> None:
        if key.endswith("/b"):
            raise NotReady("away")
        real(self, key, source)

    monkeypatch.setattr(Blobs, "put", put)
    with pytest.raises(NotReady):
        blobs.adopt("p", folder, last="last")
    assert blobs.list("") == []


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("size", [100_000, 12_000_000])
def test_a_full_disk_keeps_nothing(tmp_path: Path, size: int) -> None:
    blobs = Blobs(None, tmp_path / "blobs")
    blobs.put("a/kept", b"kept")
    for key in ("a/new", "a/kept"):
        with pytest.raises(StoreFull, match="no room"):
            blobs.put(key, b"x" * size)
    assert [path.name for path in (tmp_path / "blobs" / "a").iterdir()] == ["kept"]
    assert blobs.get("a/kept") == b"kept"


def test_what_says_that_a_disk_is_full() -> None:
    assert disk_full(OSError(errno.ENOSPC, "x"))
    assert disk_full(OSError(errno.EDQUOT, "x"))
    assert disk_full(Exception("Generic: No space left on device (os error 28)"))
    assert not disk_full(OSError(errno.EACCES, "x"))
    assert not disk_full(Exception("os error 2"))


def test_a_store_that_is_away_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    blobs = Blobs("s3://bucket/prefix", tmp_path, retries=0)
    assert not blobs.is_local
    assert blobs.local("a") is None
    for call in (
        lambda: blobs.put("a", b"x"), lambda: blobs.get("a"), lambda: blobs.exists("a"), lambda: blobs.list("a"),
        lambda: blobs.fetch("a", tmp_path / "t"),
    ):  # fmt: skip
        with pytest.raises(NotReady, match="does not answer"):
            call()


def test_an_unknown_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="s3://"):
        Blobs("nonsense://x", tmp_path)


def test_a_file_url_is_a_local_store(tmp_path: Path) -> None:
    blobs = Blobs(f"file://{tmp_path}/elsewhere", tmp_path / "unused")
    blobs.put("a", b"x")
    assert (tmp_path / "elsewhere" / "a").read_bytes() == b"x"
    assert blobs.local("a") == tmp_path / "elsewhere" / "a"
