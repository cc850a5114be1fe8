"""A transformer over sequences of a fixed length, whose places have alphabets of their own.

The sequence is made of segments, say coarse codes and fine codes, or a text and the codes of its picture:

    log p(s) = Σ_t log p(s_t | s_1 … s_{t-1}, label)

The state at place t has seen the symbols before t and knows which place is asked for. A symbol of another segment is
another vector, even where the numbers are equal.

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

    def __init__(
        self,
        segments: Sequence[Segment],
        *,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        classes: int = 0,
    ) -> None:
        """``classes``: labels of a conditional model, 0 without a condition."""
        super().__init__()
        self.segments = tuple(segments)
        self.length = sum(each.length for each in segments)
        self.alphabet = max(each.alphabet for each in segments)
        numbers = [index for index, each in enumerate(segments) for _ in range(each.length)]
        self.register_buffer("segment_of", torch.tensor(numbers), persistent=False)
        offsets = torch.tensor([0, *(each.alphabet for each in segments)]).cumsum(0)
        self.register_buffer("first_symbol", offsets[self.segment_of], persistent=False)
        self.symbols = nn.Embedding(int(offsets[-1]), width)
        self.place = nn.Parameter(0.02 * torch.randn(self.length, width))
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.label = nn.Embedding(classes, width) if classes else None
        self.dropout = nn.Dropout(dropout)
        self.body = Transformer(width, depth, heads, self.length, dropout)
        self.heads = nn.ModuleList(nn.Linear(width, each.alphabet) for each in segments)
        for embedding in (self.symbols, self.label):
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
        """The cache of the first places, given the symbols ``(B, T)`` of as many places."""
        seen = self.symbols(sequence[:, :-1] + self.first_symbol[: sequence.shape[1] - 1])
        start = self.start.expand(sequence.shape[0], 1, -1)
        return self.body.prefill(torch.cat([start, seen], 1) + self.place[: sequence.shape[1]])

    def states(self, sequence: Tensor, y: Tensor | None = None) -> Tensor:
        """``(B, N, W)``: each knows the symbols before it."""
        seen = self.symbols(sequence[:, :-1] + self.first_symbol[:-1])
        start = self.start.expand(sequence.shape[0], 1, -1)
        h = torch.cat([start, seen], 1) + self.place
        if self.label is not None:
            assert y is not None, "a conditional model needs labels"
            h = h + self.label(y)[:, None]
        out: Tensor = self.body(self.dropout(h))
        return out

    def step(self, symbol: Tensor, position: Tensor, cache: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``symbol`` ``(B,)`` stands at ``position - 1`` (at position 0: anything) → logits ``(B, A)`` of the next and
        the cache; where a segment has fewer symbols than A, the others are out of the question."""
        before = torch.clamp(position - 1, min=0)
        first = position == 0
        # A symbol of the longest alphabet may be none of the segment it stands in.
        seen = self.symbols(torch.where(first, 0, symbol + self.first_symbol[before]))
        h = torch.where(first[:, None], self.start, seen) + self.place[position]
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

    def forward(self, code: Tensor, site: Tensor, cache: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.net.step(code, site, cache, y)


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

    def forward(self, code: Tensor, site: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        text = self.net.segments[0]
        symbol = torch.where(site == 0, text.alphabet - 1, code)
        logits, cache = self.net.step(symbol, text.length + site, cache)
        return logits[:, : max(each.alphabet for each in self.net.segments[1:])], cache


def prior_graphs(
    net: SegmentTransformer, y: tuple[TensorSpec, ...] = (), *, prompted: bool = False
) -> dict[str, Graph]:
    """The graphs ``prior_score``, ``prior_step`` and, after a text, ``prior_start``."""
    coded = net.segments[1:] if prompted else net.segments
    sites, alphabet = sum(each.length for each in coded), max(each.alphabet for each in coded)
    codes = TensorSpec(name="codes", dtype="int64", shape=("B", sites))
    code, site = (TensorSpec(name=name, dtype="int64", shape=("B",)) for name in ("code", "site"))
    cache, new_cache = (
        TensorSpec(name=name, dtype="float32", shape=("B", *net.body.cache_shape)) for name in ("cache", "new_cache")
    )
    logits = TensorSpec(name="logits", dtype="float32", shape=("B", alphabet))
    log_prob = TensorSpec(name="log_prob", dtype="float32", shape=("B", sites))
    if not prompted:
        return {
            "prior_score": Graph(SegmentScore(net), (codes, *y), (log_prob,)),
            "prior_step": Graph(SegmentStep(net), (code, site, cache, *y), (logits, new_cache)),
        }
    tokens = TensorSpec(name="tokens", dtype="int64", shape=("B", net.segments[0].length))
    return {
        "prior_score": Graph(PromptedScore(net), (codes, tokens), (log_prob,)),
        "prior_start": Graph(PromptedStart(net), (tokens,), (cache,)),
        "prior_step": Graph(PromptedStep(net), (code, site, cache), (logits, new_cache)),
    }
