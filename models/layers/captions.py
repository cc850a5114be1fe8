"""Captions: tokens of a fixed number of places, and a transformer that makes vectors of them.

A caption is its tokens and then ⊥ until the places are full. Captions come with the rows, or are made of labels: then
each label has the tokens of its template.

Legend: ``B`` rows, ``C`` places (context), ``V`` symbols, ⊥ = V - 1 among them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contracts.data import DataSpec, Role
from contracts.errors import FieldProblem, InvalidInput
from models.layers.transformer import Transformer

BYTES = 256
DIGEST_BASE = 1_000_003


class CaptionTokens(nn.Module):
    """What a dataset's captions are to a family."""

    by_label: Tensor

    def __init__(self, spec: DataSpec, template: str, tokens: str, vocabulary: int, context: int | None) -> None:
        """``context``: places; None where labels make the captions: as many as the longest needs.

        Raises InvalidInput where a label's caption does not fit.
        """
        super().__init__()
        self.alphabet = (BYTES if tokens == "bytes" else vocabulary) + 1
        texts: list[bytes] = []
        if not any(column.role is Role.CAPTION for column in spec.columns):
            categories = spec.label.categories if spec.label is not None else None
            texts = [template.replace("{label}", name).encode() for name in categories or ()]
        longest = max((len(text) for text in texts), default=0) + 1
        self.context = context if context is not None else max(4, longest)
        if longest > self.context:
            raise InvalidInput(
                f"the longest caption of a label takes {longest} tokens, its end included, and context is {context}",
                errors=[FieldProblem(location="config.context", message=f"give at least {longest}, or leave it out")],
            )
        rows = [[*text, *[BYTES] * (self.context - len(text))] for text in texts]
        self.register_buffer("by_label", torch.tensor(rows, dtype=torch.int64).reshape(-1, self.context))

    @property
    def end(self) -> int:
        return self.alphabet - 1

    def of(self, tokens: Tensor | None, y: Tensor | None) -> Tensor:
        """The tokens ``(B, C)`` of rows: their own, or those of their labels."""
        if tokens is not None:
            return tokens
        assert y is not None, "rows need captions or labels"
        return self.by_label[y]

    def digest(self, tokens: Tensor) -> Tensor:
        """Numbers ``(B,)`` that are equal where captions are, and hardly ever where they are not."""
        powers = torch.tensor([pow(DIGEST_BASE, place, 1 << 30) for place in range(self.context)], device=tokens.device)
        return ((tokens + 1) * powers).sum(-1)

    def example(self, rows: int) -> Tensor:
        """Captions of several lengths."""
        place, row = torch.arange(self.context), torch.arange(rows)[:, None]
        written = (97 + (place + 3 * row) % 8).expand(rows, -1)
        return torch.where(place < 1 + row % (self.context - 1), written, self.end)


class TextEncoder(nn.Module):
    """Causal transformer, read at the first ⊥, and with ``bag`` the mean of a vector for each symbol."""

    def __init__(
        self,
        alphabet: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        heads: int,
        context: int,
        dropout: float,
        bag: bool = False,
    ) -> None:
        super().__init__()
        self.end = alphabet - 1
        self.symbols = nn.Embedding(alphabet, width)
        self.place = nn.Parameter(0.02 * torch.randn(context, width))
        self.dropout = nn.Dropout(dropout)
        self.body = Transformer(width, depth, heads, context, dropout)
        self.outputs = nn.Linear(width, outputs)
        self.bag = nn.Embedding(alphabet, outputs) if bag else None
        nn.init.normal_(self.symbols.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, C)`` → ``(B, outputs)``."""
        states = self.body(self.dropout(self.symbols(tokens) + self.place))
        # A caption that fills every place has no ⊥ and is read at its last token.
        written = tokens != self.end
        at = written.to(torch.int64).sum(-1).clamp(max=tokens.shape[1] - 1)
        last = torch.gather(states, 1, at[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
        out: Tensor = self.outputs(last)
        if self.bag is None:
            return out
        weight = written.to(out.dtype)[..., None]
        words: Tensor = (self.bag(tokens) * weight).sum(1) / weight.sum(1).clamp(min=1)
        return out + words
