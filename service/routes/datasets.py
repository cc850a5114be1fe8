"""/datasets: upload, list, show, preview and delete."""

from __future__ import annotations

import base64
import functools
import re
import uuid
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request, Response

from contracts.data import DataSpec, Part
from contracts.errors import InvalidInput
from contracts.jobs import NAME_PATTERN, IngestRequest, Job, JobKind
from service.documentation import BINARY, reference
from service.gateway import Gateway, of
from service.pictures import write_grid
from service.responses import accepted, page, write
from service.schemas.datasets import DatasetPage, DatasetResponse, RowsPreview, UploadForm
from service.uploads import Upload, receive
from store.datasets import DatasetReader, Rows
from store.rows import objects_from_rows

router = APIRouter(tags=["datasets"])

MOST_PREVIEWED = 1000
Limit = Annotated[int, Query(ge=1, le=1000, description="Most items of a page.")]
After = Annotated[str | None, Query(max_length=200, description="`next` of the page before.")]

UPLOAD = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": text}
        for name, text in (
            ("name", "Name of the dataset; only with a raw body."),
            ("filename", "Name of the file, whose ending tells the format; only with a raw body."),
            ("spec", "JSON object of overrides; only with a raw body."),
        )
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": reference(UploadForm)},
            "application/octet-stream": {"schema": BINARY},
        },
    },
}


@router.post(
    "/datasets",
    operation_id="uploadDataset",
    summary="Upload a dataset",
    status_code=201,
    openapi_extra=UPLOAD,
    responses={
        200: {"model": DatasetResponse, "description": "The same bytes and spec were there already."},
        201: {"model": DatasetResponse, "description": "Ingested."},
        202: {"model": Job, "description": "Large: a job ingests it; see Location."},
    },
)
async def upload_dataset(request: Request) -> Response:
    """Stream files to the store; what is over `inline_upload_bytes` is ingested by a job, with the same problems."""
    gateway = of(request.app)
    settings = gateway.settings
    async with receive(request, settings, limit=settings.max_upload_bytes) as upload:
        name, spec = upload.name, upload.spec
        if not re.fullmatch(NAME_PATTERN, name):
            raise InvalidInput(
                f"name {name[:100]!r} is no name: use up to 63 lower-case letters, digits, dots, dashes, underscores"
            )
        if not upload.files:
            raise InvalidInput("the upload has no file; send at least one as `files`")
        if sum(file.path.stat().st_size for file in upload.files) > settings.inline_upload_bytes:
            job = await anyio.to_thread.run_sync(_queue_ingest, gateway, upload, name, spec)
            gateway.doorbell.ring(job)
            return accepted(job)
        ingest = functools.partial(gateway.store.datasets.ingest, name, upload.files, spec)
        dataset, created = await anyio.to_thread.run_sync(ingest)
    headers = {"Location": f"/datasets/{dataset.name}"}
    return write(DatasetResponse.of(dataset), 201 if created else 200, headers)


def _queue_ingest(gateway: Gateway, upload: Upload, name: str, spec: dict[str, Any]) -> Job:
    """Move the files to the blob store, where every worker finds them, and queue their ingestion."""
    prefix = f"uploads/{uuid.uuid4().hex}"
    blobs = gateway.store.blobs
    try:
        # Moved, not copied, where scratch and store are one disk.
        blobs.adopt(prefix, upload.folder, last=upload.files[0].path.name)
        files = [(file.filename, f"{prefix}/{file.path.name}") for file in upload.files]
        request = IngestRequest(name=name, files=files, overrides=spec)
        job, _ = gateway.store.catalogue.insert_job(JobKind.INGEST, request.model_dump(mode="json"))
    except BaseException:
        blobs.delete(prefix)
        raise
    return job


@router.get("/datasets", operation_id="listDatasets", summary="List datasets", response_model=DatasetPage)
def list_datasets(request: Request, limit: Limit = 50, after: After = None) -> Response:
    """List datasets by name."""
    found = of(request.app).store.catalogue.list_datasets(limit=limit + 1, after=after)
    return page([DatasetResponse.of(each) for each in found], limit, lambda each: each.name)


@router.get("/datasets/{name}", operation_id="getDataset", summary="Show a dataset", response_model=DatasetResponse)
def get_dataset(request: Request, name: str) -> Response:
    """Show a dataset by its name or digest."""
    return write(DatasetResponse.of(of(request.app).store.catalogue.get_dataset(name)))


@router.get("/datasets/{name}/rows", operation_id="previewDataset", summary="Preview rows", response_model=RowsPreview)
def preview_dataset(
    request: Request,
    name: str,
    limit: Annotated[int, Query(ge=1, le=MOST_PREVIEWED)] = 20,
    after: Annotated[int, Query(ge=0, description="Rows to skip.")] = 0,
    part: Annotated[Part | None, Query(description="Rows of this part only.")] = None,
) -> Response:
    """Show rows as objects, as `inputs` of the verbs takes them."""
    reader = of(request.app).store.datasets.open(name)
    total = reader.count(part)
    rows = reader.read(part, slice(min(after, total), min(after + limit, total)))
    end = after + limit
    return write(RowsPreview(items=_objects(reader, rows), next=end if end < total else None))


@router.delete("/datasets/{name}", operation_id="deleteDataset", summary="Delete a dataset", status_code=204)
def delete_dataset(request: Request, name: str) -> Response:
    """Delete a dataset; refused while a queued or running job uses it."""
    of(request.app).store.datasets.delete(name)
    return Response(status_code=204)


def _objects(reader: DatasetReader, rows: Rows) -> list[dict[str, Any]]:
    spec = reader.spec
    found = _features(spec, rows)
    categories = (spec.label.categories or ()) if spec.label is not None else ()
    for index, row in enumerate(found):
        if rows.y is not None and spec.label is not None:
            code = int(rows.y[index])
            row[spec.label.name] = categories[code] if 0 <= code < len(categories) else None
        for name, values in (("caption", rows.captions), ("id", rows.ids)):
            if values is not None:
                row[name] = str(values[index])
    return found


def _features(spec: DataSpec, rows: Rows) -> list[dict[str, Any]]:
    if spec.modality == "text":
        return [{"text": text} for text in rows.x]
    x = np.asarray(rows.x)
    if spec.image is None:
        return objects_from_rows(spec, x)
    return [{"image": base64.b64encode(write_grid(picture[None], spec.image)).decode()} for picture in x]
