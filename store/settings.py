"""Where the store keeps things and how much it takes: the base of each process's settings class."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30


class StoreSettings(BaseSettings):
    """Read from ``LATENTSERVE_*``; embedded defaults need nothing but a folder."""

    model_config = SettingsConfigDict(env_prefix="LATENTSERVE_", extra="ignore")

    home: Path = Field(
        default=Path("~/.latentserve"),
        validate_default=True,
        description="Folder of scratch/, cache/, logs/ and, embedded, catalogue.sqlite and blobs/.",
    )
    database_url: str | None = Field(
        default=None, description="None: SQLite under home; else postgresql://user:password@host/database."
    )
    blob_url: str | None = Field(default=None, description="None: files under home; else s3://bucket/prefix.")
    queue_url: str = Field(default="redis://127.0.0.1:6379/0", description="Broker of the jobs' doorbells.")
    cache_url: str | None = Field(default=None, description="Redis with LRU eviction; None: in-process tier only.")

    lease_seconds: float = Field(default=30, gt=0, description="A running job unrenewed for so long is taken back.")
    max_attempts: int = Field(default=3, ge=1, le=100, description="Claims of a job before it fails.")

    max_upload_bytes: int = Field(default=8 * GIBIBYTE, ge=1, description="Largest upload.")
    inline_upload_bytes: int = Field(
        default=64 * MEBIBYTE, ge=0, description="Larger uploads are ingested by a job instead of at once."
    )
    max_image_pixels: int = Field(default=16 * MEBIBYTE, ge=1, description="Most pixels of one uploaded image.")
    # Deflate reaches 1032:1 on constant input; real data sets (blank pictures included) stay far below 200:1.
    max_expansion_ratio: float = Field(default=200, gt=1, description="Most bytes out per compressed byte in.")
    max_expanded_bytes: int = Field(default=64 * GIBIBYTE, ge=1, description="Most bytes an upload may expand to.")
    max_archive_members: int = Field(default=2_000_000, ge=1, description="Most files in one archive.")
    min_rows: int = Field(default=10, ge=1, description="Fewest rows of a dataset.")
    max_artifact_bytes: int = Field(default=16 * GIBIBYTE, ge=1, description="Largest archive of a model to import.")

    @field_validator("home")
    @classmethod
    def _expand(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def scratch(self) -> Path:
        """Folder of half-done work; anything in it may be deleted when no process runs."""
        return self.home / "scratch"

    @property
    def cache(self) -> Path:
        """Folder of local copies of remote blobs."""
        return self.home / "cache"

    @property
    def logs(self) -> Path:
        return self.home / "logs"
