"""Blobs: files by key, in a local folder or any S3-compatible store, behind obstore.

Keys are relative paths of plain segments. A put is atomic: a reader sees the whole blob or none. Where
the store is local, blobs are files that may be mapped into memory (`Blobs.local`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from contracts.errors import InvalidInput, NotFound, NotReady, StoreFull

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# obstore hands over the text of an OS error only.
_FULL_TEXT = re.compile(
    rf"no space left|quota exceeded|file too large|os error ({'|'.join(map(str, _FULL_NUMBERS))})\b"
)


def disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, the quota or the allowed file size is used up."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL_NUMBERS
    return bool(_FULL_TEXT.search(str(error).lower()))


class Blobs:
    """A blob store.

    Args:
        url: None or ``file:///folder`` for a local folder, else ``s3://bucket/prefix`` (credentials from
            ``AWS_*``) or another URL that obstore reads.
        folder: the local folder, where ``url`` is None.
        retries: of a request that a remote store did not answer.
    """

    def __init__(self, url: str | None, folder: Path, *, retries: int = 5) -> None:
        self._root: Path | None = None
        if url is None or url.startswith("file://"):
            self._root = folder if url is None else Path(url.removeprefix("file://"))
            self._root.mkdir(parents=True, exist_ok=True)
            self._store: Any = LocalStore(self._root, mkdir=True)
            return
        try:
            # A plain-http endpoint has to be allowed by name; AWS_ENDPOINT_URL decides which is meant.
            plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
            if url.startswith("s3"):
                patience: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=20)}
                self._store = from_url(url, client_options={"allow_http": plain}, retry_config=patience)
            else:
                self._store = from_url(url)
        except (BaseError, ValueError) as error:
            raise InvalidInput(f"blob_url {url!r} cannot be opened: {error}; write s3://bucket/prefix") from error

    @property
    def is_local(self) -> bool:
        """Whether blobs are files of this machine."""
        return self._root is not None

    def local(self, key: str) -> Path | None:
        """The path under which a local store keeps a key (or a prefix of keys); None for a remote store."""
        return None if self._root is None else self._root / _checked(key)

    def put(self, key: str, source: Path | bytes) -> None:
        """Store a file's or a buffer's bytes under a key, replacing what was there.

        Raises StoreFull where there is no room (nothing is kept), NotReady where the store is away.
        """
        try:
            obstore.put(self._store, _checked(key), source)
        except (BaseError, OSError) as error:
            self._drop_staged(key)
            raise _translated(error, key) from error

    def adopt(self, prefix: str, folder: Path, *, last: str) -> None:
        """Move a finished folder under a prefix, whole or nothing; the file ``last`` is put last and marks it whole.

        A prefix that is there already is left as it is.
        """
        if self.exists(f"{prefix}/{last}"):
            shutil.rmtree(folder)
            return
        target = self.local(prefix)
        if target is not None:
            _move_folder(folder, target, last)
            return
        names = sorted(path.name for path in folder.iterdir() if path.name != last)
        try:
            for name in [*names, last]:
                self.put(f"{prefix}/{name}", folder / name)
        except BaseException:
            with contextlib.suppress(Exception):
                self.delete(prefix)
            raise
        shutil.rmtree(folder)

    def get(self, key: str) -> bytes:
        """The bytes of a key; NotFound."""
        return b"".join(self.stream(key))

    def stream(self, key: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The bytes of a key in pieces of about ``chunk_bytes``; NotFound."""
        try:
            for chunk in obstore.get(self._store, _checked(key)).stream(min_chunk_size=chunk_bytes):
                yield bytes(chunk)
        except (BaseError, OSError) as error:
            raise _translated(error, key) from error

    def fetch(self, key: str, target: Path) -> Path:
        """Bring a key to a local file (a hard link where that is possible) and answer its path; NotFound."""
        target.parent.mkdir(parents=True, exist_ok=True)
        local = self.local(key)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            if local is not None:
                try:
                    partial.hardlink_to(local)
                except FileNotFoundError:
                    raise NotFound(f"there is no blob {key!r}") from None
                except OSError:  # another filesystem
                    shutil.copyfile(local, partial)
            else:
                with partial.open("wb") as file:
                    for chunk in self.stream(key):
                        file.write(chunk)
            partial.replace(target)
        except OSError as error:
            raise _translated(error, key) from error
        finally:
            partial.unlink(missing_ok=True)
        return target

    def list(self, prefix: str) -> list[str]:
        """The keys under a prefix (whole path segments), sorted."""
        try:
            return sorted(
                entry["path"]
                for page in obstore.list(self._store, _checked(prefix) if prefix else None)
                for entry in page
            )
        except (BaseError, OSError) as error:
            raise _translated(error, prefix) from error

    def delete(self, prefix: str) -> None:
        """Delete a key, or every key under a prefix; what is not there is no error."""
        target = self.local(prefix)
        if target is not None:
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            return
        keys = [*self.list(prefix), *([prefix] if self.exists(prefix) else [])]
        try:
            if keys:
                obstore.delete(self._store, keys)
        except (BaseError, OSError) as error:
            raise _translated(error, prefix) from error

    def exists(self, key: str) -> bool:
        """Whether a blob has that very key."""
        try:
            obstore.head(self._store, _checked(key))
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise _translated(error, key) from error
        return True

    def _drop_staged(self, key: str) -> None:
        """Remove what a failed local put left beside its target (obstore stages under ``<name>#<number>``)."""
        local = self.local(key)
        if local is not None and local.parent.is_dir():
            for staged in local.parent.glob(f"{local.name}#*"):
                staged.unlink(missing_ok=True)


def _checked(key: str) -> str:
    segments = key.split("/")
    if not all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments):
        raise InvalidInput(f"{key!r} is no key: use segments of letters, digits, dots, dashes and underscores")
    return key


def _move_folder(folder: Path, target: Path, last: str) -> None:
    """Rename a folder into place; across filesystems copy it beside the target first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            if (target / last).exists():  # another process was first with the same content
                shutil.rmtree(folder)
                return
            shutil.rmtree(target)  # half a folder that a crash left
            folder.rename(target)
            return
        if error.errno != errno.EXDEV:
            raise _translated(error, target.name) from error
        staged = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            shutil.copytree(folder, staged)
            staged.rename(target)
        except OSError as copying:
            raise _translated(copying, target.name) from copying
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(folder)


def _translated(error: BaseException, key: str) -> Exception:
    if disk_full(error):
        return StoreFull("the store has no room left; nothing was kept. Delete datasets or models, or add space")
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return NotFound(f"there is no blob {key!r}")
    return NotReady(f"the blob store does not answer: {str(error).splitlines()[0] if str(error) else error!r}")
