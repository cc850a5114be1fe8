"""One call of a verb: body → request → rows → program → answer, in one thread from the first byte to the last."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from anyio import to_thread
from fastapi import Request, Response
from numpy.typing import NDArray

from contracts.artifact import Verb
from engine.cache import CacheCounts
from engine.kinds import Program
from service.answers import JSON, Answer, negotiate, respond
from service.bodies import media_type, parse_verb, read_body
from service.execution import Outcome
from service.gateway import Gateway, of
from service.inputs import ParsedRows, parse_rows
from service.resolver import label_codes
from service.schemas.inputs import Given, SampleGiven
from service.schemas.verbs import VerbRequest
from service.streams import STREAM, EventResponse, stream
from service.tensors import wrong
from store.catalogue import ModelVersion

R = TypeVar("R", bound=VerbRequest)

# Parsing so much JSON takes about as long as a thread hop, so it may be done on the event loop.
SMALL_BODY_BYTES = 16 << 10


@dataclass
class Call(Generic[R]):
    """What a verb works on."""

    gateway: Gateway
    request: R
    version: ModelVersion
    counts: CacheCounts | None = None

    @contextmanager
    def program(self) -> Iterator[Program]:
        """The model's program, in memory for as long as it is used."""
        with self.gateway.pool.use(self.version.digest) as program:
            yield program

    def rows(
        self,
        inputs: object,
        *,
        mask: object = None,
        location: str = "inputs",
        hideable: bool = False,
        scored: bool = False,
    ) -> ParsedRows:
        """Read rows as the model's data spec says."""
        return parse_rows(
            inputs,
            self.version.manifest.data,
            self.gateway.limits,
            mask=mask,
            location=location,
            hideable=hideable,
            scored=scored,
        )

    def labels(self, given: Given | SampleGiven | None, rows: int) -> NDArray[np.int64] | None:
        """Label codes ``(rows,)`` of `given`, or None. Raises InvalidInput for a text that the model does not read."""
        if given is not None and given.text is not None:
            if "prior_start" not in self.version.manifest.graphs:
                raise wrong("given.text", f"{self.version.reference} draws after no text; leave it out")
            return None
        codes = label_codes(self.version, None if given is None else given.label, rows)
        return None if codes is None else np.array(codes, dtype=np.int64)

    def moved(self, vectors: NDArray[np.generic], strengths: Mapping[str, float] | None) -> NDArray[np.generic]:
        """Vectors ``(B, L)`` moved along directions of the model's space: each by strength · scale · unit vector.

        Raises NotFound, which says what directions the space has.
        """
        if not strengths:
            return vectors
        step = np.zeros(vectors.shape[1])
        for each in self.gateway.store.catalogue.get_directions(self.version.manifest.space, sorted(strengths)):
            step += strengths[each.name] * each.scale * each.vector
        return (vectors.astype(np.float64) + step).astype(vectors.dtype)

    def facts(self, **more: object) -> dict[str, object]:
        """The resolved model, then what the verb adds."""
        return {"model": self.version.reference, **more}

    def cached(
        self,
        verb: Verb,
        parameters: Mapping[str, object],
        rows: ParsedRows,
        labels: NDArray[np.int64] | None,
        compute: Callable[..., tuple[NDArray[np.generic], ...]],
    ) -> tuple[NDArray[np.generic], ...]:
        """Answers by row from the cache where it pays; ``compute(x[, labels])`` of the rest."""
        extra = () if labels is None else (labels,)
        # The digest is at least as fine as the space: parents and config stand in it too.
        arrays, counts = self.gateway.cache.through(self.version.digest, verb, parameters, rows.x, compute, extra=extra)
        self.counted(verb, counts)
        return arrays

    def counted(self, verb: Verb, counts: CacheCounts) -> None:
        """Count rows by how the cache met them, for the answer and for /metrics."""
        self.counts = counts if self.counts is None else self.counts + counts
        self.gateway.metrics.cache(verb, hit=counts.hit, miss=counts.miss, bypass=counts.bypass)

    def cache_facts(self) -> dict[str, int]:
        counts = self.counts or CacheCounts()
        return {"hit": counts.hit, "miss": counts.miss, "bypass": counts.bypass}


async def serve(
    request: Request,
    verb: Verb,
    schema: type[R],
    work: Callable[[Call[R]], Answer],
    *,
    pictures: bool = False,
    streams: Callable[[Call[R]], Iterator[bytes]] | None = None,
) -> Response:
    """Answer one request of ``verb``: ``work`` does it, in a thread or, where that is cheaper, at once.

    ``streams`` yields server-sent events, where the request has `stream` or accepts them.
    """
    gateway = of(request.app)
    wanted = request.headers.get("accept")
    as_events = streams is not None and STREAM in (wanted or "")
    accept = JSON if as_events else negotiate(wanted, pictures=pictures)
    media, content_type = media_type(request), request.headers.get("content-type", "")
    limit = gateway.settings.max_body_bytes
    announced = int(request.headers.get("content-length") or limit) if _numeric_length(request) else 0
    reserved = min(announced, limit)
    gateway.bodies.take(reserved)
    try:
        body = await read_body(request, limit)

        def parse() -> R:
            return parse_verb(schema, body, media, request.query_params, content_type)

        parsed: R | None = parse() if len(body) <= SMALL_BODY_BYTES else None

        def answer() -> Response:
            asked = parsed or parse()
            version = gateway.resolver.answering(asked.model, asked.needs(verb), space=asked.space)
            request.state.version = version
            return respond(
                work(Call(gateway, asked, version)), accept, max_picture_cells=gateway.settings.max_picture_cells
            )

        if streams is not None:
            eager = parsed if parsed is not None else await to_thread.run_sync(parse)
            if as_events or getattr(eager, "stream", False):
                return await _streamed(request, verb, eager, streams)
            parsed = eager
        kind = _kind(gateway, verb, parsed, len(body))
        outcome = await gateway.execution.run(answer, kind=kind)
    finally:
        gateway.bodies.give_back(reserved)
    request.state.queue_seconds, request.state.run_seconds = outcome.queue_seconds, outcome.run_seconds
    outcome.value.headers["Server-Timing"] = (
        f"queue;dur={1e3 * outcome.queue_seconds:.3f}, inference;dur={1e3 * outcome.run_seconds:.3f}"
    )
    return outcome.value


async def _streamed(
    request: Request, verb: Verb, asked: R, streams: Callable[[Call[R]], Iterator[bytes]]
) -> EventResponse:
    gateway = of(request.app)

    def produce() -> Iterator[bytes]:
        version = gateway.resolver.answering(asked.model, asked.needs(verb), space=asked.space)
        request.state.version = version
        yield from streams(Call(gateway, asked, version))

    def ended(outcome: Outcome[None]) -> None:
        request.state.queue_seconds, request.state.run_seconds = outcome.queue_seconds, outcome.run_seconds

    return await stream(gateway.execution, produce, ended)


def _numeric_length(request: Request) -> bool:
    text = request.headers.get("content-length")
    return text is None or (text.isascii() and text.isdigit())


def _kind(gateway: Gateway, verb: Verb, request: VerbRequest | None, size: int) -> Hashable | None:
    """What makes two calls cost about the same; None keeps a call off the event loop.

    Only a model that is in memory, reached by a reference that is still remembered, may run inline:
    anything else would make the loop wait for the catalogue or the disk.
    """
    if request is None or verb is Verb.SIMILARITY or request.waits:
        return None
    version = gateway.resolver.known(request.model)
    if version is None:
        return None
    amounts = tuple(getattr(request, name, None) for name in ("n", "samples", "draws", "steps", "max_tokens"))
    kind = (verb, version.digest, size.bit_length(), amounts)
    if gateway.execution.inlines(kind) and not any(model.digest == version.digest for model in gateway.pool.loaded()):
        return None
    return kind
