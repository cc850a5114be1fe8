"""POST /probes: what a simple classifier makes of a model's vectors, by the number of labels."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from contracts.artifact import Verb
from contracts.data import Part
from contracts.errors import InvalidInput, VerbUnsupported
from metrics.probes import probes
from service.answers import Answer, check_cells
from service.calls import Call, serve
from service.documentation import json_body
from service.schemas.probes import ProbeRequest, ProbeResponse
from service.selection import check_fits
from service.tensors import wrong
from store.datasets import DatasetReader

router = APIRouter(tags=["probes"])

# Cells that are encoded at a time.
STREAM_CELLS = 1 << 21


@router.post(
    "/probes",
    operation_id="probe",
    summary="Accuracy of a classifier on vectors",
    openapi_extra=json_body(ProbeRequest),
    responses={200: {"model": ProbeResponse, "description": "How well classifiers do, by the number of labels."}},
)
async def probe(request: Request) -> Response:
    """Fit a classifier on the vectors of labelled train rows and score it on held-out ones, beside the raw cells."""
    return await serve(request, Verb.ENCODE, ProbeRequest, _probe)


def _probe(call: Call[ProbeRequest]) -> Answer:
    asked = call.request
    reader = call.gateway.store.datasets.open(asked.dataset)
    check_fits(reader, call.version)
    label = reader.spec.label
    if label is None or not label.categories:
        raise wrong("dataset", f"{asked.dataset} has no labels to probe; give a column that role on upload")
    if reader.spec.modality == "text":
        raise wrong("dataset", "holds texts; probes read tables and pictures")
    part = next((part for part in (Part.TEST, Part.VALID) if reader.count(part)), None)
    if part is None or not reader.count(Part.TRAIN):
        raise wrong("dataset", f"{asked.dataset} needs train and held-out rows; raise split.test")
    if call.version.manifest.condition is not None and asked.given is None:
        raise wrong("given", "is needed by a conditional model: one label for all rows, since theirs tell the answer")
    x, y = _rows(reader, Part.TRAIN, asked.max_rows, asked.seed)
    held_out, truth = _rows(reader, part, asked.max_test_rows, asked.seed)
    whole, held_whole = _complete(x), _complete(held_out)
    try:
        vectors, tested = _vectors(call, x), _vectors(call, held_out)
    except VerbUnsupported:
        # The model reads complete rows only: the others are left out.
        if whole.all() and held_whole.all():
            raise
        x, y, held_out, truth = x[whole], y[whole], held_out[held_whole], truth[held_whole]
        if not len(x) or not len(held_out):
            raise wrong("dataset", f"{asked.dataset} has no complete rows, which this model needs") from None
        vectors, tested = _vectors(call, x), _vectors(call, held_out)
    counts = [*sorted(set(asked.labels_per_class)), None]

    def score(a: NDArray[np.floating], b: NDArray[np.floating]) -> list[dict[str, object]]:
        try:
            found = probes(
                a, y, b, truth, method=asked.method, per_class=counts, neighbours=asked.neighbours, seed=asked.seed
            )
        except InvalidInput as error:
            raise wrong("dataset", error.detail) from None
        return [
            {
                "labels_per_class": each.per_class,
                "rows": each.rows,
                "accuracy": each.accuracy,
                "standard_error": each.standard_error,
            }
            for each in found
        ]

    results = score(vectors, tested)
    if asked.baseline:
        raw = score(*_raw(x, held_out))
        results = [each | {"raw_accuracy": other["accuracy"]} for each, other in zip(results, raw, strict=True)]
    return Answer(
        facts=call.facts(
            space=call.version.manifest.space,
            dataset=reader.dataset.digest,
            method=asked.method,
            part=str(part),
            classes=list(label.categories),
            test_rows=len(truth),
            rows_left_out=len(whole) + len(held_whole) - len(y) - len(truth),
            majority=float(np.bincount(truth).max() / len(truth)),
            results=results,
        ),
        arrays={"accuracy": np.array([each["accuracy"] for each in results], dtype=np.float64)},
        main="accuracy",
    )


def _rows(reader: DatasetReader, part: Part, most: int, seed: int) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """Rows ``(n, *row)`` of a part with their labels, at most ``most``; those without a label are left out."""
    known = reader.labels(part)
    assert known is not None
    places = np.flatnonzero(known >= 0)
    if len(places) > most:
        places = np.sort(np.random.default_rng(seed).permutation(places)[:most])
    if not len(places):
        raise wrong("dataset", f"{reader.dataset.name} has no labelled {part} rows")
    x = reader.read(part, places).x
    assert not isinstance(x, list)
    return x, known[places]


def _complete(x: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which rows have a value in every cell."""
    if x.dtype.kind != "f":
        return np.ones(len(x), dtype=bool)
    return np.asarray(~np.isnan(x).reshape(len(x), -1).any(axis=1))


def _vectors(call: Call[ProbeRequest], x: NDArray[np.generic]) -> NDArray[np.floating]:
    """Vectors of the rows, cells without a value hidden; not through the cache, which gains nothing by them."""
    length = call.version.manifest.latent_dimensions or 0
    check_cells(len(x) * length, call.gateway.settings.max_cells, "rows")
    labels = call.labels(call.request.given, len(x))
    step = max(1, STREAM_CELLS // max(1, int(np.prod(x.shape[1:]))))
    parts = []
    with call.program() as program:
        for start in range(0, len(x), step):
            rows = x[start : start + step]
            hidden = np.isnan(rows) if rows.dtype.kind == "f" else None
            some = hidden if hidden is not None and hidden.any() else None
            given = None if labels is None else labels[start : start + step]
            parts.append(program.encode(rows, hidden=some, given=given).vectors)
    return np.concatenate(parts)


def _raw(train: NDArray[np.generic], test: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The cells themselves, those without a value at their column's mean."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (train, test))
    missing = np.isnan(a)
    count = np.maximum((~missing).sum(axis=0), 1)
    mean = np.where(missing, 0.0, a).sum(axis=0) / count
    return np.where(missing, mean, a), np.where(np.isnan(b), mean, b)
