"""The menu as the HTTP face shows it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from contracts.artifact import Kind, Verb, VerbSpec


class FamilyResponse(BaseModel):
    family: str
    summary: str
    kind: Kind
    verbs: dict[Verb, VerbSpec] = Field(description="What its versions answer at best, or why they do not.")
    config: dict[str, Any] = Field(description="JSON Schema of `config` in POST /train.")


class FamilyPage(BaseModel):
    items: list[FamilyResponse]
    next: str | None = None
