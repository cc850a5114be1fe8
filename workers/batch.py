"""A verb over every row of a dataset, the answer as one Parquet file in the blob store.

The file has ``row`` (place within the dataset), ``id`` where the dataset has ids, and by verb

* encode: ``vector`` (fixed-size list), ``log_scale`` where the model has posteriors
* log_prob: ``log_prob`` (nats, -inf where the density is zero), ``standard_error`` (null unless Monte-Carlo), ``kind``;
  of texts also ``tokens`` and ``bytes``
* predict: a list of the cells' means ``mean`` and deviations ``std``, cells without a value being the hidden ones,
  ``log_prob`` of the mean, ``kind``

and the model, verb, space and (where there is one) measure as metadata of the schema. ``kind`` is by row since rows
with hidden cells may be answered otherwise than whole ones.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.artifact import Verb
from contracts.errors import FieldProblem, InvalidInput
from contracts.jobs import BatchRequest, Progress
from engine.kinds import Program, program
from engine.kinds.tokens import objects
from engine.model import Model
from store import Store
from store.catalogue import Claim
from store.datasets import Rows
from workers.messages import Sender
from workers.settings import WorkerSettings

_ELEMENTS = 1 << 20
_TEXTS = 128


class Parameters(BaseModel):
    """What a batch takes besides model, verb and dataset; fields as in the verbs' own requests."""

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    samples: int | None = Field(default=None, ge=1, le=10_000)
    given: Literal["label"] | None = Field(default=None, description="label: condition each row on its own label.")


def batch_job(store: Store, settings: WorkerSettings, claim: Claim, sender: Sender) -> dict[str, Any]:
    """Return ``{key, rows, model, verb}``; raises InvalidInput for verbs and parameters that make no batch."""
    request = BatchRequest.model_validate(claim.job.request)
    parameters = check_batch(request)
    version = store.catalogue.resolve(request.model)
    reader = store.datasets.open(request.dataset)
    model = Model.load(store.artifacts.fetch(version.digest))
    if not model.manifest.data.same_rows(reader.spec):
        raise InvalidInput(
            f"{version.reference} takes {model.manifest.data.row_name}, "
            f"and the dataset {reader.dataset.name} has {reader.spec.row_name}"
        )
    answerer = program(model)
    answerer.require(request.verb)
    total = reader.count()
    rows = _TEXTS if reader.spec.modality == "text" else max(16, min(4096, _ELEMENTS // reader.spec.cells))
    key = f"batches/{claim.job.id}.parquet"
    with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="batch-") as folder:
        path = Path(folder) / "answer.parquet"
        writer: pq.ParquetWriter | None = None
        done = 0
        for chunk in reader.batches(None, rows):
            table = _answer(answerer, request.verb, parameters, chunk, done)
            if writer is None:
                about = {"model": version.reference, "verb": request.verb, "space": model.manifest.space}
                table = table.replace_schema_metadata({**(table.schema.metadata or {}), **about})
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table.cast(writer.schema))
            done += len(chunk)
            sender.progress(Progress(stage=request.verb, step=done, steps=total, epoch=done / total))
        assert writer is not None, "datasets have rows"
        writer.close()
        store.blobs.put(key, path)
    return {"key": key, "rows": done, "model": version.reference, "verb": str(request.verb)}


def check_batch(request: BatchRequest) -> Parameters:
    """Return the parameters; InvalidInput where the verb is not one over rows or a parameter is wrong."""
    if request.verb not in (Verb.ENCODE, Verb.LOG_PROB, Verb.PREDICT):
        raise InvalidInput(
            f"{request.verb} is not asked of the rows of a dataset; use encode, log_prob or predict",
            errors=[FieldProblem(location="verb", message="must be encode, log_prob or predict")],
        )
    try:
        return Parameters.model_validate(request.parameters)
    except ValidationError as error:
        problems = [
            FieldProblem(location=".".join(["parameters", *map(str, e["loc"])]), message=e["msg"])
            for e in error.errors()
        ]
        first = problems[0]
        raise InvalidInput(f"{first.location}: {first.message}", errors=problems) from error


def _answer(answerer: Program, verb: Verb, parameters: Parameters, rows: Rows, first: int) -> pa.Table:
    columns: dict[str, Any] = {"row": pa.array(np.arange(first, first + len(rows)))}
    if rows.ids is not None:
        columns["id"] = pa.array(rows.ids)
    given = rows.y if parameters.given == "label" else None
    if parameters.given == "label" and given is None:
        raise InvalidInput("given is `label`, but the dataset has no label column")
    x: NDArray[Any] = objects(rows.x) if isinstance(rows.x, list) else rows.x
    # text aside, a cell without a value is a hidden one
    hidden = np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, dtype=bool)
    about: dict[str, str] = {}
    if verb is Verb.ENCODE:
        encoding = answerer.encode(x, hidden=hidden if hidden.any() else None, given=given)
        columns["vector"] = _lists(encoding.vectors)
        if encoding.log_scale is not None:
            columns["log_scale"] = _lists(encoding.log_scale)
    elif verb is Verb.LOG_PROB:
        scored = answerer.log_prob(
            x, hidden=hidden if hidden.any() else None, seed=parameters.seed, samples=parameters.samples, given=given
        )
        columns["log_prob"] = pa.array(scored.values)
        error = scored.standard_error
        columns["standard_error"] = pa.nulls(len(x), pa.float64()) if error is None else pa.array(error)
        columns["kind"] = pa.array([str(scored.kind)] * len(x))
        if scored.text is not None:
            columns |= {"tokens": pa.array(scored.text.tokens), "bytes": pa.array(scored.text.bytes)}
        about = {"measure": str(scored.measure)}
    else:
        predicted = answerer.predict(x, hidden, seed=parameters.seed, samples=parameters.samples, given=given)
        columns |= {
            "mean": _lists(predicted.mean, np.float64),
            "std": _lists(predicted.std, np.float64),
            "log_prob": pa.array(predicted.log_prob),
            "kind": pa.array([str(predicted.kind)] * len(x)),
        }
        about = {"measure": str(answerer.manifest.measure), "log_prob_at": predicted.log_prob_at}
    return pa.table(columns).replace_schema_metadata(about)


def _lists(values: NDArray[Any], dtype: type[np.floating[Any]] = np.float32) -> pa.Array:
    """Rows of numbers as fixed-size lists; vectors in float32, cells in the precision that their units may need."""
    flat = np.ascontiguousarray(values.reshape(len(values), -1), dtype=dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
