"""POST /similarity: how alike rows are by their vectors, and the nearest rows of many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from fastapi import APIRouter, Request, Response

from contracts.artifact import Verb
from engine.answers import Encoding
from engine.kinds.tokens import objects
from engine.similarity import Metric, similarity, top_k
from service.answers import Answer, check_cells
from service.calls import Call, serve
from service.documentation import verb_body, verb_responses
from service.inputs import ParsedRows
from service.pairs import given_texts, text_encodings
from service.routes.encode import encodings
from service.schemas.answers import SimilarityResponse
from service.schemas.verbs import SimilarityRequest
from service.selection import check_fits, keeps_labels

router = APIRouter(tags=["verbs"])

# Rows of a dataset that are encoded at a time, so that its size does not matter.
STREAM_CELLS = 1 << 21
STREAM_TEXTS = 128


@router.post(
    "/similarity",
    operation_id="similarity",
    summary="How alike rows are",
    openapi_extra=verb_body(SimilarityRequest),
    responses=verb_responses(SimilarityResponse),
)
async def similarities(request: Request) -> Response:
    """Compare `a` with `b`, or find the `top_k` of `against` for each `query`, exactly and in bounded memory."""
    return await serve(request, Verb.SIMILARITY, SimilarityRequest, _similarity)


def _similarity(call: Call[SimilarityRequest]) -> Answer:
    return _pairs(call) if call.request.a is not None else _nearest(call)


def _pairs(call: Call[SimilarityRequest]) -> Answer:
    a, b = _source(call, call.request.a, "a"), _source(call, call.request.b, "b")
    check_cells(len(a.vectors) * len(b.vectors), call.gateway.settings.max_cells, "rows")
    metric = Metric(call.request.metric)
    scores = similarity(a, b, metric)
    return _answer(call, metric, scores, {})


def _nearest(call: Call[SimilarityRequest]) -> Answer:
    asked, against = call.request, call.request.against
    assert against is not None
    query = _source(call, asked.query, "query")
    check_cells(len(query.vectors) * asked.top_k, call.gateway.settings.max_cells, "rows or neighbours")
    metric = Metric(asked.metric)
    more: dict[str, object] = {}
    if against.dataset is None:
        stream = iter([_source(call, against.inputs, "against.inputs")])
    else:
        more["dataset"], stream = _dataset(call, against.dataset)
    found = top_k(query, stream, metric, asked.top_k)
    return _answer(call, metric, found.scores, {**more, "indices": found.indices})


def _dataset(call: Call[SimilarityRequest], name: str) -> tuple[str, Iterator[Encoding]]:
    """The digest of a dataset and its rows' encodings, a batch at a time."""
    reader = call.gateway.store.datasets.open(name)
    check_fits(reader, call.version)
    spec, labelled = reader.spec, keeps_labels(reader, call.version, call.request.given)

    together = STREAM_TEXTS if spec.modality == "text" else max(1, STREAM_CELLS // spec.cells)

    def stream() -> Iterator[Encoding]:
        for batch in reader.batches(None, together):
            x = objects(batch.x) if isinstance(batch.x, list) else batch.x
            rows = ParsedRows(x, None, "numbers")
            yield encodings(call, rows, batch.y) if labelled else _encoded(call, rows)

    return reader.dataset.digest, stream()


def _source(call: Call[SimilarityRequest], source: object, location: str) -> Encoding:
    """Vectors of rows, or of texts where the model reads both."""
    if (texts := given_texts(source, location)) is not None:
        return text_encodings(call, texts, location)
    return _encoded(call, call.rows(source, location=location))


def _encoded(call: Call[SimilarityRequest], rows: ParsedRows) -> Encoding:
    return encodings(call, rows, call.labels(call.request.given, len(rows)))


def _answer(call: Call[SimilarityRequest], metric: Metric, scores: np.ndarray, more: dict[str, object]) -> Answer:
    return Answer(
        facts=call.facts(
            space=call.version.manifest.space,
            metric=metric.value,
            larger_is_nearer=metric.larger_is_nearer,
            cache=call.cache_facts(),
            **more,
        ),
        arrays={"scores": scores},
        main="scores",
        vectors=frozenset({"scores"}),
    )
