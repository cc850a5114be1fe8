"""The datasets of a store: ingest whole or nothing, open mapped, delete.

Under ``datasets/<digest>/`` in the blob store stand the canonical arrays (`store.datasets.arrays`); the
catalogue's row is written last and removed first, so a dataset that can be named is whole.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.errors import Internal, InvalidInput, LatentserveError, NotFound, StoreFull
from contracts.jobs import NAME_PATTERN
from store.blobs import Blobs, disk_full
from store.catalogue import Catalogue
from store.catalogue.datasets import name_taken
from store.catalogue.records import Dataset
from store.datasets.content import build
from store.datasets.overrides import Overrides
from store.datasets.reader import DatasetReader
from store.datasets.understand import understand_upload
from store.datasets.uploads import UploadedFile, digest, prepare
from store.settings import StoreSettings

LAST = "spec.json"  # the file whose presence says that a folder of arrays is whole


class Datasets:
    """The datasets of a store; thread-safe."""

    def __init__(self, settings: StoreSettings, catalogue: Catalogue, blobs: Blobs) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._blobs = blobs

    def ingest(
        self,
        name: str,
        files: Sequence[UploadedFile],
        overrides: dict[str, Any],
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[Dataset, bool]:
        """Read an upload into a dataset, whole or nothing; answers ``(dataset, created)``.

        Args:
            name: what the dataset is called.
            files: one file, or several that belong together (IDX parts, single images).
            overrides: fields of the spec as the user sent them (`store.datasets.overrides.Overrides`).
            on_progress: called with the rows written so far.

        The same bytes and overrides are the same dataset: another name for it shares its arrays. The files
        are left where they are. Raises a LatentserveError with a 4xx status for what is refused, NameTaken
        for a name that other content has, StoreFull where there is no room.
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise InvalidInput(
                f"{name!r} is no dataset name: use 1 to 63 lower-case letters, digits, dots, dashes and underscores, "
                "beginning with a letter or digit"
            )
        said = Overrides.parse(overrides)
        with self._scratch() as scratch:
            pieces = prepare(files, scratch, self._settings)
            originals = [file.path for file in files]
            identity = digest(list(zip(pieces, originals, strict=True)), said.canonical())
            earlier = self._earlier(name, identity)
            if earlier is not None:
                return earlier
            folder = scratch / "arrays"
            folder.mkdir()
            content = understand_upload(pieces, said, scratch, self._settings)
            built = build(content, folder, min_rows=self._settings.min_rows, on_progress=on_progress)
            prefix = _prefix(identity)
            self._blobs.adopt(prefix, folder, last=LAST)
            dataset = Dataset(
                name=name,
                digest=identity,
                spec=built.spec,
                rows=built.rows,
                parts=built.parts,
                size=built.size,
                created_at=datetime.now(UTC),
            )
            try:
                return self._catalogue.insert_dataset(dataset)
            except LatentserveError:
                self._drop_unnamed(identity)
                raise

    def open(self, name_or_digest: str) -> DatasetReader:
        """A reader over mapped arrays; remote ones are fetched to the cache once. NotFound."""
        dataset = self._catalogue.get_dataset(name_or_digest)
        local = self._blobs.local(_prefix(dataset.digest))
        if local is None:
            local = self._settings.cache / "datasets" / dataset.digest
            if not (local / LAST).exists():
                self._fetch(dataset, local)
        if not (local / LAST).exists():
            raise Internal(
                f"the arrays of dataset {dataset.name!r} are missing from the store; delete and upload it again"
            )
        return DatasetReader(dataset, local)

    def delete(self, name_or_digest: str) -> Dataset:
        """Delete a dataset, and its arrays with its last name; Conflict while a queued or running job uses it."""
        dataset = self._catalogue.delete_dataset(name_or_digest)
        self._drop_unnamed(dataset.digest)
        return dataset

    def _earlier(self, name: str, identity: str) -> tuple[Dataset, bool] | None:
        """The dataset of that digest, if there is one, under ``name`` too; NameTaken if the name is another's."""
        with contextlib.suppress(NotFound):
            if self._catalogue.get_dataset(name).digest != identity:
                raise name_taken(name)
        try:
            return self._catalogue.name_dataset(identity, name)
        except NotFound:
            return None

    def _drop_unnamed(self, identity: str) -> None:
        """Delete arrays unless a row names them (an equal upload may have been first)."""
        try:
            self._catalogue.get_dataset(identity)
        except NotFound:
            self._blobs.delete(_prefix(identity))
            shutil.rmtree(self._settings.cache / "datasets" / identity, ignore_errors=True)

    def _fetch(self, dataset: Dataset, target: Path) -> None:
        with self._scratch() as scratch:
            staged = scratch / "arrays"
            staged.mkdir()
            for key in self._blobs.list(_prefix(dataset.digest)):
                self._blobs.fetch(key, staged / key.rsplit("/", 1)[1])
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                staged.rename(target)
            except OSError:
                if not (target / LAST).exists():  # else another process was first
                    raise

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder that is gone afterwards; errors of the disk become ours."""
        try:
            self._settings.scratch.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._settings.scratch, prefix="ingest-") as folder:
                yield Path(folder)
        except OSError as error:
            if disk_full(error):
                raise StoreFull(
                    "the store has no room left; nothing was kept. Delete datasets or models, or add space"
                ) from error
            raise


def _prefix(identity: str) -> str:
    return f"datasets/{identity}"
