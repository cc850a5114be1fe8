"""Models and their versions as the HTTP face shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from contracts.artifact import Card, Manifest
from service.schemas.inputs import Closed
from store.catalogue import ModelSummary, ModelVersion


class ModelResponse(BaseModel):
    """A model: its version numbers, ascending, and its aliases."""

    name: str
    versions: list[int]
    aliases: dict[str, int] = Field(description="Alias → version.")
    latest: int | None

    @classmethod
    def of(cls, model: ModelSummary) -> Self:
        return cls(name=model.name, versions=list(model.versions), aliases=model.aliases, latest=model.latest)


class ModelPage(BaseModel):
    items: list[ModelResponse]
    next: str | None = Field(default=None, description="`after` of the next page; null on the last one.")


class VersionResponse(BaseModel):
    """One immutable version."""

    name: str
    version: int
    reference: str = Field(description="`name@version`.")
    aliases: list[str]
    digest: str
    family: str
    kind: str
    space: str
    size: int = Field(description="Bytes.")
    created_at: datetime
    manifest: Manifest
    card: Card

    @classmethod
    def of(cls, version: ModelVersion) -> Self:
        return cls(
            name=version.name,
            version=version.version,
            reference=version.reference,
            aliases=list(version.aliases),
            digest=version.digest,
            family=version.manifest.family,
            kind=version.manifest.kind,
            space=version.manifest.space,
            size=version.size,
            created_at=version.created_at,
            manifest=version.manifest,
            card=version.card,
        )


class VersionPage(BaseModel):
    """Newest first."""

    items: list[VersionResponse]
    next: str | None = Field(default=None, description="`after` of the next page; null on the last one.")


class AliasRequest(Closed):
    """What an alias names from now on."""

    version: int = Field(ge=1)


class AliasResponse(BaseModel):
    name: str
    alias: str
    version: int


class AliasesResponse(BaseModel):
    items: dict[str, int] = Field(description="Alias → version.")
