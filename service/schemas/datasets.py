"""Datasets as the HTTP face shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from contracts.data import DataSpec, Part
from service.schemas.inputs import Row
from store.catalogue import Dataset


class DatasetResponse(BaseModel):
    """An immutable dataset; the same bytes and spec are the same dataset."""

    name: str
    digest: str = Field(description="sha256 of bytes and spec; names the dataset as well as its name does.")
    spec: DataSpec
    rows: int
    parts: dict[Part, int] = Field(description="Rows by part.")
    size: int = Field(description="Bytes in the store.")
    created_at: datetime

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        return cls(
            name=dataset.name,
            digest=dataset.digest,
            spec=dataset.spec,
            rows=dataset.rows,
            parts=dataset.parts,
            size=dataset.size,
            created_at=dataset.created_at,
        )


class DatasetPage(BaseModel):
    items: list[DatasetResponse]
    next: str | None = Field(default=None, description="`after` of the next page; null on the last one.")


class RowsPreview(BaseModel):
    """Rows as objects: features by column name, or `image` as a base64 PNG, or `text`; `label` and `caption` beside."""

    items: list[Row]
    next: int | None = Field(default=None, description="`after` of the next page; null on the last one.")


class UploadForm(BaseModel):
    """The multipart form of an upload."""

    name: str = Field(description="Lower-case letters, digits, dots, dashes and underscores.")
    spec: str | None = Field(
        default=None,
        description="JSON object of what overrides the inferred spec: columns (by name: type, role, missing, "
        "categories, minimum, maximum), image, split, modality. Features with empty cells are `missing: true` by "
        "themselves; `missing: false` refuses them.",
    )
    files: list[bytes] = Field(
        description="CSV, Parquet, NPY/NPZ, IDX(.gz) parts, ZIP/TAR of PNG/JPEG, TXT or JSONL.",
        json_schema_extra={"items": {"type": "string", "format": "binary"}},
    )
