"""POST /train: queue the training of a model version."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Header, Request, Response

from contracts.data import DataSpec
from contracts.errors import FieldProblem, InvalidInput, NotFound
from contracts.families import FamilyConfig
from contracts.jobs import Job, JobKind, TrainRequest
from service.bodies import read_model
from service.documentation import json_body
from service.gateway import Gateway, of
from service.responses import accepted
from store.catalogue import Catalogue

router = APIRouter(tags=["jobs"])

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Asking twice with one key makes one job; another request under the same key is a 409.",
    ),
]
MOST_BODY_BYTES = 1 << 20


@router.post(
    "/train",
    operation_id="train",
    summary="Train a model",
    status_code=202,
    openapi_extra=json_body(TrainRequest),
    responses={202: {"model": Job, "description": "Queued; see Location."}},
)
async def train(request: Request, idempotency_key: Key = None) -> Response:
    """Check the config against the menu and the data, then queue the job."""
    gateway = of(request.app)
    asked = await read_model(request, TrainRequest, limit=MOST_BODY_BYTES)
    job = await anyio.to_thread.run_sync(_queue, gateway, asked, idempotency_key)
    gateway.doorbell.ring(job)
    return accepted(job)


def _queue(gateway: Gateway, asked: TrainRequest, key: str | None) -> Job:
    catalogue = gateway.store.catalogue
    spec = catalogue.get_dataset(asked.dataset).spec
    asked.config.check_data(spec)
    asked = asked.model_copy(update={"config": _pinned(catalogue, asked.config, spec)})
    if asked.start_from is not None:
        start = catalogue.resolve(asked.start_from)
        if start.manifest.family != asked.config.family:
            raise InvalidInput(
                f"start_from: {start.reference} is a {start.manifest.family}, and the config asks for "
                f"{asked.config.family}; continue with the same family",
                errors=[FieldProblem(location="start_from", message="must be a version of the same family")],
            )
        if not start.manifest.data.same_rows(spec):
            raise InvalidInput(
                f"start_from: {start.reference} reads {start.manifest.data.row_name}, and the dataset holds "
                f"{spec.row_name}",
                errors=[FieldProblem(location="start_from", message="must read rows like the dataset's")],
            )
        # The job trains on from this very version, wherever the alias points by then.
        asked = asked.model_copy(update={"start_from": start.reference})
    job, _ = catalogue.insert_job(JobKind.TRAIN, asked.model_dump(mode="json"), idempotency_key=key)
    return job


def _pinned(catalogue: Catalogue, config: FamilyConfig, spec: DataSpec) -> FamilyConfig:
    """The config with the very versions that its parents are now; InvalidInput where one is missing or does not fit."""
    pinned = {}
    for role, reference in config.parent_references().items():
        try:
            version = catalogue.resolve(reference)
        except NotFound as error:
            message = f"{error.detail}; train it first, or name another"
            raise InvalidInput(
                f"config.{role}: {message}", errors=[FieldProblem(location=f"config.{role}", message=message)]
            ) from None
        config.check_parent(role, version.reference, version.manifest, spec)
        pinned[role] = version.reference
    return config.model_copy(update=pinned)
