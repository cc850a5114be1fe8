"""Transformer, causal where not said otherwise: a sequence of states in one pass, or one at a time over a cache.

    h ← h + attention(norm(h)),   h ← h + W₂ relu(W₁ norm(h))²

Vaswani et al. 2017, arXiv:1706.03762; norms before the branches as in GPT-2; squared ReLU: So et al. 2021,
arXiv:2109.08668; rotary positions: Su et al. 2021, arXiv:2104.09864. With rotary positions a key is turned by the
place of its own token and a query by the place asked for, so that in any order (Pannatier, Courdier & Fleuret 2024,
"σ-GPTs", arXiv:2404.09562) a head still sees how far a token lies from what is to be predicted.

Legend: ``B`` rows, ``T`` positions in the order of the sequence, ``C`` the most of them (context), ``W`` width,
``H`` heads of ``D = W / H`` each, ``places`` where a token stands in the row, whatever its position in the sequence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

Turn = tuple[Tensor, Tensor]
"""cos and sin, each ``(…, D / 2)``."""


class Rotary(nn.Module):
    """Turns pairs of a vector's entries by angles in proportion to a place."""

    cos: Tensor
    sin: Tensor

    def __init__(self, places: int, width: int, base: float = 10_000.0) -> None:
        """``width``: of a head, an even number."""
        super().__init__()
        half = width // 2
        angles = torch.arange(places)[:, None] * base ** (-torch.arange(half) / half)
        self.register_buffer("cos", torch.cos(angles), persistent=False)
        self.register_buffer("sin", torch.sin(angles), persistent=False)

    def forward(self, places: Tensor) -> Turn:
        """``places`` int64 of any shape."""
        return self.cos[places], self.sin[places]


def turned(v: Tensor, turn: Turn) -> Tensor:
    """``v`` ``(…, D)`` turned."""
    cos, sin = turn
    a, b = v.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Self-attention with several heads, to what came before unless it is not ``causal``."""

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.head_width, self.dropout, self.causal = heads, width // heads, dropout, causal
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.outputs = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, asked: Turn | None, own: Turn | None) -> Tensor:
        """``h`` ``(B, T, W)``; ``asked`` turns queries, ``own`` turns keys, ``(B or 1, 1, T, D / 2)``."""
        q, k, v = self.inputs(h).unflatten(-1, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        if asked is not None and own is not None:
            # Under autocast the angles are wider than what they turn.
            q, k = turned(q, asked).to(v.dtype), turned(k, own).to(v.dtype)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal, dropout_p=dropout)
        out: Tensor = self.outputs(mixed.transpose(1, 2).flatten(2))
        return out

    def keys_and_values(self, h: Tensor) -> Tensor:
        """``h`` ``(B, T, W)`` → what a cache holds of it, ``(B, 2, H, T, D)``; without rotary positions."""
        kept = self.inputs(h).unflatten(-1, (3, self.heads, self.head_width))[:, :, 1:]
        out: Tensor = kept.permute(0, 2, 3, 1, 4)
        return out

    def step(
        self, h: Tensor, position: Tensor, cache: Tensor, asked: Turn | None, own: Turn | None
    ) -> tuple[Tensor, Tensor]:
        """``h`` ``(B, W)`` at ``position`` ``(B,)``, ``cache`` ``(B, 2, H, C, D)`` → state and cache with it."""
        q, k, v = self.inputs(h).unflatten(-1, (3, self.heads, self.head_width)).unbind(1)  # (B, H, D)
        if asked is not None and own is not None:
            q, k = turned(q, asked), turned(k, own)
        places = torch.arange(cache.shape[3], device=h.device)
        here = (places == position[:, None])[:, None, None, :, None]
        cache = torch.where(here, torch.stack([k, v], 1)[:, :, :, None], cache)
        score = (cache[:, 0] @ q[..., None])[..., 0] / math.sqrt(self.head_width)  # (B, H, C)
        seen = (places <= position[:, None])[:, None]
        weight = torch.softmax(torch.where(seen, score, -torch.inf), -1)
        mixed = (weight[:, :, None] @ cache[:, 1])[:, :, 0]
        return self.outputs(mixed.flatten(1)), cache


class Block(nn.Module):
    """Attention, then a perceptron, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float, depth: int, *, causal: bool = True) -> None:
        """``depth``: blocks in all; the branches start smaller the more there are."""
        super().__init__()
        self.attention = Attention(width, heads, dropout, causal=causal)
        self.norm, self.second_norm = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.attention.inputs, self.widen):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(width))
        for layer in (self.attention.outputs, self.narrow):
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(2 * depth * layer.in_features))

    def forward(self, h: Tensor, asked: Turn | None, own: Turn | None) -> Tensor:
        h = h + self.dropout(self.attention(self.norm(h), asked, own))
        out: Tensor = h + self.dropout(self.perceptron(h))
        return out

    def step(
        self, h: Tensor, position: Tensor, cache: Tensor, asked: Turn | None, own: Turn | None
    ) -> tuple[Tensor, Tensor]:
        mixed, cache = self.attention.step(self.norm(h), position, cache, asked, own)
        h = h + mixed
        return h + self.perceptron(h), cache

    def perceptron(self, h: Tensor) -> Tensor:
        out: Tensor = self.narrow(torch.square(torch.relu(self.widen(self.second_norm(h)))))
        return out


class Transformer(nn.Module):
    """``depth`` blocks and a last norm."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        context: int,
        dropout: float = 0.0,
        *,
        rotary_places: int = 0,
        causal: bool = True,
    ) -> None:
        """``rotary_places``: how many places there are for rotary positions; 0: none, inputs say where they stand."""
        super().__init__()
        self.cache_shape = (depth, 2, heads, context, width // heads)
        self.rotary = Rotary(rotary_places, width // heads) if rotary_places else None
        self.blocks = nn.ModuleList(Block(width, heads, dropout, depth, causal=causal) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, h: Tensor, places: Tensor | None = None, next_places: Tensor | None = None) -> Tensor:
        """``h`` ``(B, T, W)`` → states ``(B, T, W)``, each of those up to it; places ``(B or 1, T)``."""
        own = self._turn(places)
        asked = own if next_places is None else self._turn(next_places)
        for block in self.blocks:
            h = block(h, asked, own)
        out: Tensor = self.norm(h)
        return out

    def prefill(self, h: Tensor) -> Tensor:
        """The cache ``(B, *cache_shape)`` after the first places ``h`` ``(B, T, W)``, in one pass; without rotary
        positions."""
        caches = []
        for block in self.blocks:
            assert isinstance(block, Block)
            kept = block.attention.keys_and_values(block.norm(h))
            caches.append(functional.pad(kept, (0, 0, 0, self.cache_shape[3] - h.shape[1])))
            h = block(h, None, None)
        return torch.stack(caches, 1)

    def step(
        self,
        h: Tensor,
        position: Tensor,
        cache: Tensor,
        places: Tensor | None = None,
        next_places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One position: ``h`` ``(B, W)`` at ``position`` ``(B,)`` → state ``(B, W)`` and the cache with it.

        ``cache`` ``(B, *cache_shape)`` may hold anything finite from ``position`` on; rows may stand at different
        positions.
        """
        own = self._turn(places)
        asked = own if next_places is None else self._turn(next_places)
        caches = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            h, kept = block.step(h, position, cache[:, index], asked, own)
            caches.append(kept)
        return self.norm(h), torch.stack(caches, 1)

    def _turn(self, places: Tensor | None) -> Turn | None:
        """Angles of places, with an axis for the heads."""
        if self.rotary is None or places is None:
            return None
        cos, sin = self.rotary(places)
        return cos.unsqueeze(1), sin.unsqueeze(1)
