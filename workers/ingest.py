"""The ingest of a large upload: files from the blob store become a dataset, or the job ends with the same problem
that a small upload is refused with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from contracts.errors import LatentserveError
from contracts.jobs import IngestRequest, Progress
from store import Store
from store.catalogue import Claim
from store.datasets import UploadedFile
from workers.messages import Sender
from workers.settings import WorkerSettings


def ingest_job(store: Store, settings: WorkerSettings, claim: Claim, sender: Sender) -> dict[str, Any]:
    """Return ``{dataset, digest, rows, created}``; the uploaded blobs go when it is settled either way."""
    request = IngestRequest.model_validate(claim.job.request)

    def report(rows: int) -> None:
        sender.progress(Progress(stage="ingest", step=rows))

    try:
        with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="ingest-") as folder:
            files = [
                UploadedFile(filename, store.blobs.fetch(key, Path(folder) / str(place)))
                for place, (filename, key) in enumerate(request.files)
            ]
            dataset, created = store.datasets.ingest(request.name, files, request.overrides, on_progress=report)
    except LatentserveError as error:
        if error.status < 500:
            _forget(store, request)
        raise
    _forget(store, request)
    return {"dataset": dataset.name, "digest": dataset.digest, "rows": dataset.rows, "created": created}


def _forget(store: Store, request: IngestRequest) -> None:
    for _, key in request.files:
        store.blobs.delete(key)
