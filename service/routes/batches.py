"""/batches: a verb over every row of a dataset, the answer as Parquet."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from contracts.artifact import Verb
from contracts.errors import Conflict, FieldProblem, InvalidInput, NotFound
from contracts.jobs import BatchRequest, Job, JobKind, JobStatus
from service.bodies import read_model, validate
from service.documentation import file_response, json_body
from service.gateway import Gateway, of
from service.resolver import check_verb
from service.responses import accepted, page, write
from service.routes.datasets import After, Limit
from service.routes.train import MOST_BODY_BYTES, Key
from service.schemas.batches import PARAMETERS
from service.schemas.jobs import JobPage

router = APIRouter(tags=["batches"])

PARQUET = "application/vnd.apache.parquet"


@router.post(
    "/batches",
    operation_id="createBatch",
    summary="Ask a verb of a whole dataset",
    status_code=202,
    openapi_extra=json_body(BatchRequest),
    responses={202: {"model": Job, "description": "Queued; see Location."}},
)
async def create_batch(request: Request, idempotency_key: Key = None) -> Response:
    """Queue a job that answers encode, log_prob or predict for each row of a dataset."""
    gateway = of(request.app)
    asked = await read_model(request, BatchRequest, limit=MOST_BODY_BYTES)
    job = await anyio.to_thread.run_sync(_queue, gateway, asked, idempotency_key)
    gateway.doorbell.ring(job)
    return accepted(job)


def _queue(gateway: Gateway, asked: BatchRequest, key: str | None) -> Job:
    catalogue = gateway.store.catalogue
    schema = PARAMETERS.get(asked.verb)
    if schema is None:
        known = ", ".join(PARAMETERS)
        raise InvalidInput(
            f"verb: {asked.verb} is not asked row by row of a dataset; batches answer {known}",
            errors=[FieldProblem(location="verb", message=f"must be one of {known}")],
        )
    parameters = validate(schema, asked.parameters, strict=True)
    version = catalogue.resolve(asked.model)
    check_verb(version, Verb(asked.verb))
    spec = catalogue.get_dataset(asked.dataset).spec
    if spec.modality == "text" and asked.verb is Verb.PREDICT:
        raise InvalidInput(
            "texts of a dataset have no hidden cells to predict; ask /predict for continuations",
            errors=[FieldProblem(location="verb", message="must be encode or log_prob for texts")],
        )
    if not version.manifest.data.same_rows(spec):
        raise InvalidInput(
            f"the rows of dataset {asked.dataset} are not those that {version.reference} reads",
            errors=[FieldProblem(location="dataset", message="must have the columns or image shape of the model")],
        )
    # The job answers with this very version, wherever the alias points by then.
    fixed = {"model": version.reference, "parameters": parameters.model_dump(mode="json", exclude_none=True)}
    job, _ = catalogue.insert_job(
        JobKind.BATCH, asked.model_copy(update=fixed).model_dump(mode="json"), idempotency_key=key
    )
    return job


@router.get("/batches", operation_id="listBatches", summary="List batches", response_model=JobPage)
def list_batches(
    request: Request,
    status: Annotated[JobStatus | None, Query()] = None,
    limit: Limit = 50,
    after: After = None,
) -> Response:
    """List batch jobs, newest first."""
    jobs = of(request.app).store.catalogue.list_jobs(status=status, kind=JobKind.BATCH, limit=limit + 1, after=after)
    return page(jobs, limit, lambda job: job.id)


@router.get("/batches/{job_id}", operation_id="getBatch", summary="Show a batch", response_model=Job)
def get_batch(request: Request, job_id: str) -> Response:
    """Show a batch job."""
    return write(_batch(of(request.app), job_id))


@router.get(
    "/batches/{job_id}/result",
    operation_id="getBatchResult",
    summary="The answer of a batch",
    responses=file_response(PARQUET, "One row per row of the dataset, in its order."),
)
def get_batch_result(request: Request, job_id: str) -> Response:
    """Stream the Parquet file; 409 until the job has succeeded."""
    gateway = of(request.app)
    job = _batch(gateway, job_id)
    if job.status is not JobStatus.SUCCEEDED or job.result is None:
        raise Conflict(f"batch {job_id} is {job.status}; its result is there once it has succeeded")
    key = str(job.result["key"])
    if not gateway.store.blobs.exists(key):
        raise NotFound(f"the result of batch {job_id} was deleted")
    headers = {"Content-Disposition": f'attachment; filename="batch-{job_id}.parquet"'}
    return StreamingResponse(gateway.store.blobs.stream(key), media_type=PARQUET, headers=headers)


def _batch(gateway: Gateway, job_id: str) -> Job:
    job = gateway.store.catalogue.get_job(job_id)
    if job.kind is not JobKind.BATCH:
        raise NotFound(f"job {job_id} is a {job.kind} job, not a batch; see /jobs/{job_id}")
    return job
