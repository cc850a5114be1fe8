"""The verbs on texts: strings in, strings out. Routes call these where the model's data are texts."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import AnswerKind, Verb
from contracts.errors import NotReady
from engine.answers import Generated
from engine.cache import CacheCounts
from engine.kinds import Program
from engine.kinds.choice import Choice
from engine.kinds.tokens import MAX_TOKENS, Blank, TokenProgram, objects
from service.answers import Answer, check_cells
from service.calls import Call
from service.inputs import check_rows_limit
from service.schemas.verbs import LARGEST_EXACT_SEED, DrawnRequest, LogProbRequest, PredictRequest, SampleRequest
from service.streams import event
from service.strings import listed, parse_string
from service.tensors import Array, wrong


def is_text(call: Call[Any]) -> bool:
    return call.version.manifest.data.modality == "text"


def refuse_text_fields(asked: DrawnRequest) -> None:
    """Raise InvalidInput where a request to a model of rows sets what only texts have."""
    for name in ("top_k", "top_p", "prefix", "max_tokens"):
        if getattr(asked, name, None) is not None:
            raise wrong(name, "is for models of texts, and this one reads rows of numbers; leave it out")
    if getattr(asked, "stream", False):
        raise wrong("stream", "is for models of texts; rows of numbers come as one answer")


def sample_texts(call: Call[SampleRequest]) -> Answer:
    """/sample: whole texts."""
    asked, manifest = call.request, call.version.manifest
    seed, limit, choice = _check_sample(call)
    labels = call.labels(asked.given, asked.n)
    with call.program() as program:
        found = _tokens(program).generate(
            asked.n, seed=seed, choice=choice, prefix=asked.prefix or "", max_tokens=limit, given=labels
        )
    arrays = _generated(found)
    arrays.pop("drawn")
    facts = call.facts(
        seed=seed, temperature=asked.temperature, unit="nats", kind=AnswerKind.EXACT, measure=manifest.measure
    )
    return Answer(facts=facts, arrays=arrays, main="texts")


def stream_texts(call: Call[SampleRequest]) -> Iterator[bytes]:
    """/sample with `stream`: an event for each piece of a text as it comes, and one at the end."""
    if not is_text(call):
        refuse_text_fields(call.request)
        raise wrong("stream", "is for models of texts; rows of numbers come as one answer")
    asked = call.request
    seed, limit, choice = _check_sample(call)
    labels = call.labels(asked.given, asked.n)
    reasons: list[str] = [""] * asked.n
    tokens = [0] * asked.n
    with call.program() as program:
        for piece in _tokens(program).stream(
            asked.n, seed=seed, choice=choice, prefix=asked.prefix or "", max_tokens=limit, given=labels
        ):
            if call.gateway.closing.is_set():
                raise NotReady("the server is going down")
            tokens[piece.index], reasons[piece.index] = piece.tokens, piece.finish_reason or ""
            if piece.text:
                yield event("text", {"index": piece.index, "text": piece.text})
    yield event("done", call.facts(seed=seed, finish_reasons=reasons, tokens=tokens))


def predict_texts(call: Call[PredictRequest]) -> Answer:
    """/predict: what follows prefixes, or fills gaps."""
    asked, settings = call.request, call.gateway.settings
    for name in ("mask", "samples"):
        if getattr(asked, name) is not None:
            raise wrong(name, "is for rows of numbers; texts are continued, or filled as {before, after, tokens}")
    if asked.score_inputs:
        raise wrong("score_inputs", "is for rows of numbers; ask /log_prob of whole texts and take the difference")
    if asked.format not in (None, "numbers"):
        raise wrong("format", "is for rows of numbers; leave it out")
    check_rows_limit(asked.draws, settings.max_draws, "draws")
    values, draws = listed(asked.inputs, call.gateway.limits.max_rows, "inputs"), max(1, asked.draws)
    choice, labels = _choice(asked), call.labels(asked.given, len(values))
    if isinstance(values[0], Mapping):
        if asked.max_tokens is not None:
            raise wrong("max_tokens", "is for prefixes; a gap says its own number of `tokens`")
        blanks = [_blank(value, f"inputs[{row}]") for row, value in enumerate(values)]
        _check_volume(call, draws * sum(blank.tokens for blank in blanks))
        with call.program() as program:
            found = _tokens(program).fill(blanks, seed=asked.seed, draws=draws, choice=choice, given=labels)
    else:
        prefixes = [parse_string(value, f"inputs[{row}]") for row, value in enumerate(values)]
        limit = _token_limit(call)
        _check_volume(call, draws * len(prefixes) * limit)
        with call.program() as program:
            found = _tokens(program).extend(
                prefixes, seed=asked.seed, draws=draws, choice=choice, max_tokens=limit, given=labels
            )
    arrays = {name: array.reshape(len(values), draws) for name, array in _generated(found).items()}
    facts = call.facts(unit="nats", measure=call.version.manifest.measure, kind=AnswerKind.EXACT, seed=asked.seed)
    return Answer(facts=facts, arrays=arrays, main="texts")


def score_texts(call: Call[LogProbRequest]) -> Answer:
    """/log_prob: nats of whole texts, and what that is per token and per byte."""
    asked = call.request
    if asked.mask is not None:
        raise wrong("mask", "is for rows of numbers; a text has no cells to hide")
    rows = call.rows(asked.inputs)
    labels = call.labels(asked.given, len(rows))
    with call.program() as program:
        score = program.log_prob(rows.x, given=labels)
    call.counted(Verb.LOG_PROB, CacheCounts(bypass=len(rows)))
    sizes = score.text
    assert sizes is not None, "programs of texts say how long each is"
    sliding = np.flatnonzero(sizes.windows > 1)
    facts = call.facts(
        unit="nats",
        measure=score.measure,
        kind=score.kind,
        conditioning="sliding_window" if len(sliding) else "full",
        window={"context": sizes.context, "stride": sizes.stride},
        sliding=sliding,
        zero_density=np.flatnonzero(np.isneginf(score.values)),
        seed=asked.seed,
        cache=call.cache_facts(),
    )
    arrays: dict[str, Array] = {
        "log_prob": score.values,
        "log_perplexity": _per(-score.values, sizes.tokens),
        "bits_per_byte": _per(-score.values / math.log(2), sizes.bytes),
        "tokens": sizes.tokens,
        "bytes": sizes.bytes,
    }
    return Answer(facts=facts, arrays=arrays, main="log_prob")


def _check_sample(call: Call[SampleRequest]) -> tuple[int, int, Choice]:
    """The seed, the limit of tokens and the choice that a request asks for."""
    asked, settings = call.request, call.gateway.settings
    check_rows_limit(asked.n, settings.max_samples, "n")
    if asked.format != "numbers":
        raise wrong("format", "is for rows of numbers; leave it out")
    if asked.given is not None and asked.given.row is not None:
        raise wrong("given.row", "is for tables; give a text its `prefix`")
    limit = _token_limit(call)
    _check_volume(call, asked.n * limit)
    seed = secrets.randbelow(LARGEST_EXACT_SEED) if asked.seed is None else asked.seed
    return seed, limit, _choice(asked)


def _choice(asked: SampleRequest | PredictRequest) -> Choice:
    if isinstance(asked.temperature, list):
        raise wrong("temperature", "must be one number: texts have no groups of latents")
    return Choice(1.0 if asked.temperature is None else asked.temperature, asked.top_k, asked.top_p)


def _token_limit(call: Call[Any]) -> int:
    limit = int(call.request.max_tokens or MAX_TOKENS)
    check_rows_limit(limit, call.gateway.settings.max_tokens, "max_tokens")
    return limit


def _check_volume(call: Call[Any], tokens: int) -> None:
    check_cells(tokens, call.gateway.settings.max_cells, "texts or tokens")


def _blank(value: object, location: str) -> Blank:
    if not isinstance(value, Mapping) or set(value) != {"before", "after", "tokens"}:
        raise wrong(location, 'must be a gap {"before": "…", "after": "…", "tokens": 8} like the first')
    before, after = (parse_string(value[name], f"{location}.{name}") for name in ("before", "after"))
    if type(value["tokens"]) is not int or value["tokens"] < 1:
        raise wrong(f"{location}.tokens", "must be a whole number of at least 1")
    return Blank(before, after, value["tokens"])


def _generated(found: Generated) -> dict[str, Array]:
    return {
        "texts": objects(found.texts),
        "drawn": objects(found.drawn),
        "finish_reasons": objects(found.finish_reasons),
        "tokens": found.tokens,
        "log_prob": found.log_prob,
    }


def _per(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.divide(values, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return shares


def _tokens(program: Program) -> TokenProgram:
    assert isinstance(program, TokenProgram), "models of texts are answered by it"
    return program
