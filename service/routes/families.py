"""GET /families: what can be trained, with which knobs, and what it answers."""

from __future__ import annotations

import inspect

from fastapi import APIRouter, Response

from contracts.families import CONFIG_CLASSES
from service.responses import write
from service.schemas.families import FamilyPage, FamilyResponse

router = APIRouter(tags=["families"])


@router.get("/families", operation_id="listFamilies", summary="List families", response_model=FamilyPage)
async def list_families() -> Response:
    """List every family with the JSON Schema of its config and the verbs that it answers."""
    return write(
        FamilyPage(
            items=[
                FamilyResponse(
                    family=name,
                    summary=inspect.cleandoc(config.__doc__ or "").partition("\n")[0],
                    kind=config.kind,
                    verbs=dict(config.answers),
                    config=config.model_json_schema(),
                )
                for name, config in CONFIG_CLASSES.items()
            ]
        )
    )
