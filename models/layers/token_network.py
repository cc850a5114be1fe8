"""Next-token distributions of texts: a transformer over tokens, its embedding used again as the last layer.

In the text's own order a position says where its token stands. In any order (Pannatier, Courdier & Fleuret 2024,
"σ-GPTs", arXiv:2404.09562) a token comes with its own place and with the place of the token that follows it in the
sequence; the first token of a window stands at place 0 and always comes first.

Legend: ``B`` rows, ``T`` tokens of a sequence (at most the context), ``V`` size of the alphabet, ``W`` width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.orders import random_spans, shown_first
from models.layers.transformer import Transformer

PADDING = -1


class TokenNetwork(nn.Module):
    """p(next token | tokens so far, label)."""

    def __init__(
        self,
        alphabet: int,
        *,
        width: int,
        depth: int,
        heads: int,
        context: int,
        dropout: float,
        any_order: bool,
        classes: int = 0,
    ) -> None:
        """``classes``: labels of a conditional model, 0 without a condition."""
        super().__init__()
        self.alphabet, self.context, self.any_order = alphabet, context, any_order
        self.tokens = nn.Embedding(alphabet, width)
        self.place = nn.Embedding(context + 1, width) if any_order else None
        self.next_place = nn.Embedding(context + 1, width) if any_order else None
        self.label = nn.Embedding(classes, width) if classes else None
        self.dropout = nn.Dropout(dropout)
        self.body = Transformer(width, depth, heads, context, dropout, rotary_places=context + 1)
        for embedding in (self.tokens, self.place, self.next_place, self.label):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)

    def states(
        self,
        tokens: Tensor,
        y: Tensor | None = None,
        places: Tensor | None = None,
        next_places: Tensor | None = None,
    ) -> Tensor:
        """``tokens`` ``(B, T)`` → hidden states ``(B, T, W)``; the places only where any order goes."""
        own = torch.arange(tokens.shape[1], device=tokens.device)[None] if places is None else places
        asked = own + 1 if next_places is None else next_places
        h = self._embed(tokens, own, asked, None if y is None else y[:, None])
        out: Tensor = self.body(self.dropout(h), own, asked if self.any_order else None)
        return out

    def logits(self, h: Tensor) -> Tensor:
        """``(…, W)`` → ``(…, V)``."""
        return functional.linear(h, self.tokens.weight)

    def log_prob(
        self,
        tokens: Tensor,
        targets: Tensor,
        y: Tensor | None = None,
        places: Tensor | None = None,
        next_places: Tensor | None = None,
    ) -> Tensor:
        """log p(targets[t] | tokens[..t]), ``(B, T)`` nats."""
        log_p = torch.log_softmax(self.logits(self.states(tokens, y, places, next_places)), -1)
        return torch.gather(log_p, -1, targets[..., None])[..., 0]

    def step(
        self,
        token: Tensor,
        position: Tensor,
        cache: Tensor,
        y: Tensor | None = None,
        place: Tensor | None = None,
        next_place: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One token ``(B,)`` at ``position`` ``(B,)`` → logits ``(B, V)`` of the next one, and the cache."""
        own = position if place is None else place
        asked = own + 1 if next_place is None else next_place
        h = self._embed(token, own, asked, y)
        h, cache = self.body.step(h, position, cache, own, asked if self.any_order else None)
        return self.logits(h), cache

    def window_losses(
        self, x: Tensor, y: Tensor | None = None, noise: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods of training windows ``x`` ``(B, T + 1)``, ``PADDING`` behind their end.

        Returns nats and whether a target is there, ``(B, T)`` each. ``noise``: uniforms ``(B, T)`` and ``(B, 4)``
        that choose an order, where the model goes in any; without, the text's own.
        """
        places = next_places = None
        if self.any_order and noise is not None:
            order = shown_first(random_spans(*noise), x[:, 1:] == PADDING) + 1
            sequence = torch.cat([torch.zeros_like(order[:, :1]), order], 1)
            x = torch.gather(x, 1, sequence)
            places, next_places = sequence[:, :-1], sequence[:, 1:]
        targets = x[:, 1:]
        logits = self.logits(self.states(x[:, :-1].clamp(min=0), y, places, next_places))
        nats = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PADDING, reduction="none"
        ).view_as(targets)
        return nats, targets != PADDING

    def _embed(self, tokens: Tensor, own: Tensor, asked: Tensor, y: Tensor | None) -> Tensor:
        h: Tensor = self.tokens(tokens)
        if self.place is not None and self.next_place is not None:
            h = h + self.place(own) + self.next_place(asked)
        if self.label is not None:
            assert y is not None, "a conditional model needs labels"
            h = h + self.label(y)
        return h


class TokenScore(nn.Module):
    """Graph ``score`` over tokens; behind the tokens come places and next places where any order goes, and labels."""

    def __init__(self, net: TokenNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, tokens: Tensor, targets: Tensor, a: Tensor | None = None, b: Tensor | None = None, c: Tensor | None = None
    ) -> Tensor:
        places, next_places, y = (a, b, c) if self.net.any_order else (None, None, a)
        return self.net.log_prob(tokens, targets, y, places, next_places)


class TokenStep(nn.Module):
    """Graph ``step`` over tokens; the arguments end as those of `TokenScore`."""

    def __init__(self, net: TokenNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        token: Tensor,
        position: Tensor,
        cache: Tensor,
        a: Tensor | None = None,
        b: Tensor | None = None,
        c: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        place, next_place, y = (a, b, c) if self.net.any_order else (None, None, a)
        return self.net.step(token, position, cache, y, place, next_place)


class TokenEmbed(nn.Module):
    """Graph ``embed`` over tokens: states averaged by ``weight`` ``(B, T)``."""

    def __init__(self, net: TokenNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor, weight: Tensor, y: Tensor | None = None) -> Tensor:
        total = weight.sum(-1, keepdim=True).clamp(min=1e-6)
        return (self.net.states(tokens, y) * weight[..., None]).sum(1) / total
