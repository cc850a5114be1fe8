"""A transformer over sequences of a fixed length, whose places have alphabets of their own.

The sequence is made of segments, say coarse codes and fine codes, or a text and the codes of its picture:

    log p(s) = Σ_t log p(s_t | s_1 … s_{t-1}, label)

The state at place t has seen the symbols before t and knows which place is asked for. A symbol of another segment is
another vector, even where the numbers are equal. Some earlier places may be hints of t: their symbols come in beside
the one just before, so that attention need not first learn where in a picture the site above is, or the coarse one
over it.

Legend: ``B`` rows, ``N`` places, ``A_g`` symbols of segment g, ``A`` the most of them, ``W`` width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contracts.artifact import TensorSpec
from models.family import Graph
from models.layers.transformer import Transformer


@dataclass(frozen=True)
class Segment:
    """``length`` places with ``alphabet`` symbols each."""

    alphabet: int
    length: int


class SegmentTransformer(nn.Module):
    """See the module's docstring."""

    first_symbol: Tensor
    segment_of: Tensor
    hints: Tensor

    def __init__(
        self,
        segments: Sequence[Segment],
        hints: Sequence[Sequence[int]] = (),
        *,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        classes: int = 0,
    ) -> None:
        """``hints``: lists of an earlier place for each place, -1 for none; ``classes``: labels of a conditional model,
        0 without a condition."""
        super().__init__()
        self.segments = tuple(segments)
        self.length = sum(each.length for each in segments)
        self.alphabet = max(each.alphabet for each in segments)
        numbers = [index for index, each in enumerate(segments) for _ in range(each.length)]
        self.register_buffer("segment_of", torch.tensor(numbers), persistent=False)
        offsets = torch.tensor([0, *(each.alphabet for each in segments)]).cumsum(0)
        self.register_buffer("first_symbol", offsets[self.segment_of], persistent=False)
        self.symbols = nn.Embedding(int(offsets[-1]), width)
        places = torch.tensor([list(each) for each in hints], dtype=torch.int64).reshape(len(hints), self.length)
        self.register_buffer("hints", places, persistent=False)
        self.hinted = nn.ModuleList(nn.Embedding(int(offsets[-1]), width) for _ in hints)
        self.place = nn.Parameter(0.02 * torch.randn(self.length, width))
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.label = nn.Embedding(classes, width) if classes else None
        self.dropout = nn.Dropout(dropout)
        self.body = Transformer(width, depth, heads, self.length, dropout)
        self.heads = nn.ModuleList(nn.Linear(width, each.alphabet) for each in segments)
        for embedding in (self.symbols, self.label, *self.hinted):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)
        for head in self.heads:
            assert isinstance(head, nn.Linear)
            nn.init.normal_(head.weight, std=0.1 / math.sqrt(width))
            nn.init.zeros_(head.bias)

    def forward(self, sequence: Tensor, y: Tensor | None = None) -> Tensor:
        """log-probability of each symbol, int64 ``(B, N)`` → ``(B, N)`` nats."""
        states = self.states(sequence, y)
        parts, at = [], 0
        for head, segment in zip(self.heads, self.segments, strict=True):
            places = slice(at, at + segment.length)
            log_p = torch.log_softmax(head(states[:, places]), -1)
            parts.append(torch.gather(log_p, -1, sequence[:, places, None])[..., 0])
            at += segment.length
        return torch.cat(parts, 1)

    def prefill(self, sequence: Tensor) -> Tensor:
        """The cache of the first places, which have no hints, given the symbols ``(B, T)`` of as many."""
        seen = self.symbols(sequence[:, :-1] + self.first_symbol[: sequence.shape[1] - 1])
        start = self.start.expand(sequence.shape[0], 1, -1)
        return self.body.prefill(torch.cat([start, seen], 1) + self.place[: sequence.shape[1]])

    def states(self, sequence: Tensor, y: Tensor | None = None) -> Tensor:
        """``(B, N, W)``: each knows the symbols before it."""
        seen = self.symbols(sequence[:, :-1] + self.first_symbol[:-1])
        start = self.start.expand(sequence.shape[0], 1, -1)
        h = torch.cat([start, seen], 1) + self.place
        for places, embedding in zip(self.hints, self.hinted, strict=True):
            at = places.clamp(min=0)
            told = embedding(sequence[:, at] + self.first_symbol[at])
            h = h + torch.where((places >= 0)[:, None], told, 0.0)
        if self.label is not None:
            assert y is not None, "a conditional model needs labels"
            h = h + self.label(y)[:, None]
        out: Tensor = self.body(self.dropout(h))
        return out

    def step(self, sequence: Tensor, position: Tensor, cache: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Symbols ``(B, N)``, of which those before ``position`` ``(B,)`` count → logits ``(B, A)`` of the one there,
        and the cache; where a segment has fewer symbols than A, the others are out of the question."""
        first = position == 0
        h = torch.where(first[:, None], self.start, self._seen(self.symbols, sequence, position - 1))
        h = h + self.place[position]
        for places, embedding in zip(self.hints, self.hinted, strict=True):
            assert isinstance(embedding, nn.Embedding)
            at = places[position]
            h = h + torch.where((at >= 0)[:, None], self._seen(embedding, sequence, at), 0.0)
        if self.label is not None:
            assert y is not None, "a conditional model needs labels"
            h = h + self.label(y)
        h, cache = self.body.step(h, position, cache)
        logits = [
            nn.functional.pad(head(h), (0, self.alphabet - each.alphabet), value=IMPOSSIBLE)
            for head, each in zip(self.heads, self.segments, strict=True)
        ]
        if len(logits) == 1:
            return logits[0], cache
        asked = self.segment_of[position][:, None]
        answer = logits[0]
        for index, each in enumerate(logits[1:], 1):
            answer = torch.where(asked == index, each, answer)
        return answer, cache

    def _seen(self, embedding: nn.Embedding, sequence: Tensor, places: Tensor) -> Tensor:
        """Vectors ``(B, W)`` of the symbols at ``places`` ``(B,)``, anything where those are negative."""
        at = torch.clamp(places, min=0)
        symbol = torch.gather(sequence, 1, at[:, None])[:, 0]
        out: Tensor = embedding(symbol + self.first_symbol[at])
        return out


IMPOSSIBLE = -1e4
"""Logit of a symbol that a segment has not."""


class SegmentScore(nn.Module):
    """Graph ``prior_score``."""

    def __init__(self, net: SegmentTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        out: Tensor = self.net(codes, y)
        return out


class SegmentStep(nn.Module):
    """Graph ``prior_step``."""

    def __init__(self, net: SegmentTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, codes: Tensor, site: Tensor, cache: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.net.step(codes, site, cache, y)


class PromptedScore(nn.Module):
    """Graph ``prior_score`` of codes after a text, which is the first segment."""

    def __init__(self, net: SegmentTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, codes: Tensor, tokens: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([tokens, codes], 1))[:, self.net.segments[0].length :]
        return out


class PromptedStart(nn.Module):
    """Graph ``prior_start``: a text → the cache that steps go on from."""

    def __init__(self, net: SegmentTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net.prefill(tokens)


class PromptedStep(nn.Module):
    """Graph ``prior_step`` after a text. Before the first code stands the last symbol of the text, which is ⊥."""

    def __init__(self, net: SegmentTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, codes: Tensor, site: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        text = self.net.segments[0]
        ends = torch.full_like(codes[:, :1], text.alphabet - 1).expand(-1, text.length)
        logits, cache = self.net.step(torch.cat([ends, codes], 1), text.length + site, cache)
        return logits[:, : max(each.alphabet for each in self.net.segments[1:])], cache


def prior_graphs(
    net: SegmentTransformer, y: tuple[TensorSpec, ...] = (), *, prompted: bool = False
) -> dict[str, Graph]:
    """The graphs ``prior_score``, ``prior_step`` and, after a text, ``prior_start``."""
    coded = net.segments[1:] if prompted else net.segments
    sites, alphabet = sum(each.length for each in coded), max(each.alphabet for each in coded)
    codes = TensorSpec(name="codes", dtype="int64", shape=("B", sites))
    site = TensorSpec(name="site", dtype="int64", shape=("B",))
    cache, new_cache = (
        TensorSpec(name=name, dtype="float32", shape=("B", *net.body.cache_shape)) for name in ("cache", "new_cache")
    )
    logits = TensorSpec(name="logits", dtype="float32", shape=("B", alphabet))
    log_prob = TensorSpec(name="log_prob", dtype="float32", shape=("B", sites))
    if not prompted:
        return {
            "prior_score": Graph(SegmentScore(net), (codes, *y), (log_prob,)),
            "prior_step": Graph(SegmentStep(net), (codes, site, cache, *y), (logits, new_cache)),
        }
    tokens = TensorSpec(name="tokens", dtype="int64", shape=("B", net.segments[0].length))
    return {
        "prior_score": Graph(PromptedScore(net), (codes, tokens), (log_prob,)),
        "prior_start": Graph(PromptedStart(net), (tokens,), (cache,)),
        "prior_step": Graph(PromptedStep(net), (codes, site, cache), (logits, new_cache)),
    }


def site_hints(grids: Sequence[tuple[int, int]], first: int = 0) -> list[list[int]]:
    """Hints of places on ``grids`` (rows, columns), the coarse one first, behind ``first`` places without any: the site
    above, and where there are two grids the coarse site over a fine one."""
    above, over = [-1] * first, [-1] * first
    start = first
    for level, (rows, columns) in enumerate(grids):
        for row in range(rows):
            for column in range(columns):
                above.append(start + (row - 1) * columns + column if row else -1)
                coarse = grids[0]
                place = first + min(row // 2, coarse[0] - 1) * coarse[1] + min(column // 2, coarse[1] - 1)
                over.append(place if level else -1)
        start += rows * columns
    return [above, over][: len(grids)]
