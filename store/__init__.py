"""What lasts: the catalogue (SQL), blobs, datasets and artifacts, opened by one call."""

from __future__ import annotations

from types import TracebackType

from store.artifacts import Artifacts
from store.blobs import Blobs
from store.catalogue import Catalogue
from store.datasets import Datasets
from store.settings import StoreSettings

__all__ = ["Store", "StoreSettings"]


class Store:
    """The whole store; thread-safe."""

    def __init__(self, settings: StoreSettings, catalogue: Catalogue, blobs: Blobs) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.blobs = blobs
        self.datasets = Datasets(settings, catalogue, blobs)
        self.artifacts = Artifacts(settings, blobs)

    @classmethod
    def open(cls, settings: StoreSettings, *, migrate: bool = False) -> Store:
        """Open what the settings name.

        Args:
            settings: where things are.
            migrate: bring the catalogue's schema up to date first; without it a catalogue that is not
                raises NotReady.
        """
        for folder in (settings.home, settings.scratch, settings.cache, settings.logs):
            folder.mkdir(parents=True, exist_ok=True)
        blobs = Blobs(settings.blob_url, settings.home / "blobs")
        return cls(settings, Catalogue.open(settings, migrate=migrate), blobs)

    def delete_version(self, name: str, version: int) -> None:
        """Delete a model version, and its files once no version is or descends from that artifact."""
        digest = self.catalogue.resolve(f"{name}@{version}").digest
        self.catalogue.delete_version(name, version)
        if not self.catalogue.uses_artifact(digest):
            self.artifacts.delete(digest)

    def close(self) -> None:
        """Close the catalogue's connections."""
        self.catalogue.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
