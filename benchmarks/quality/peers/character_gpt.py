"""The small GPT of nanoGPT's CPU recipe for tiny-shakespeare, written anew after its README and settings.

4 layers of 4 heads, 128 wide, 64 characters of context, batches of 12, 2,000 steps of AdamW (1e-3 falling to 1e-4 along
a cosine after 100 steps of warm-up, β 0.9 and 0.99, decay 0.1 of matrices, gradients clipped at 1), no dropout, no
biases, the output tied to the embedding. Its README names a loss of 1.88 on the last tenth of the text, estimated from
random windows.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, HEADS, WIDTH, CONTEXT = 4, 4, 128, 64
BATCH, STEPS, WARMUP = 12, 2000, 100
PEAK, FLOOR, DECAY = 1e-3, 1e-4, 0.1
EVALUATE_EVERY = 250


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.attend, self.leave = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.attend(self.before_attention(x)).view(B, T, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, WIDTH)
        x = x + self.leave(seen)
        narrowed: Tensor = self.narrow(F.gelu(self.widen(self.before_mlp(x))))
        return x + narrowed


class CharacterGPT(nn.Module):
    """Logits of the next character from up to 64 characters, over an alphabet of ``characters``."""

    def __init__(self, characters: int, *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.place = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(_Block() for _ in range(LAYERS)))
        self.last = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                into_stream = name.endswith(("leave.weight", "narrow.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * LAYERS) if into_stream else 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, T)`` → logits ``(B, T, characters)``."""
        x = self.embedding(tokens) + self.place.weight[: tokens.shape[1]]
        return F.linear(self.last(self.blocks(x)), self.embedding.weight)

    def nats(self, windows: Tensor) -> Tensor:
        """−log p of each character of windows ``(B, T + 1)`` but the first: ``(B, T)``."""
        logits = self(windows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none").view(len(windows), -1)


@dataclass(frozen=True)
class Trained:
    model: CharacterGPT
    steps: int
    seconds: float


def fit(train: Tensor, valid: Tensor, characters: int, *, steps: int = STEPS, seed: int, threads: int) -> Trained:
    """Train as the recipe says; the weights of the best estimate on ``valid`` are kept, as nanoGPT does."""
    torch.set_num_threads(threads)
    began, model = time.monotonic(), CharacterGPT(characters, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}], PEAK, betas=(0.9, 0.99)
    )
    best, kept = math.inf, model.state_dict()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, steps)
        loss = model.nats(random_windows(train, BATCH, generator)).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % EVALUATE_EVERY == 0 or step + 1 == steps:
            with torch.no_grad():
                score = float(model.nats(random_windows(valid, 20 * BATCH, generator)).mean())
            if score < best:
                best, kept = score, {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(kept)
    return Trained(model.eval(), steps, time.monotonic() - began)


def random_windows(text: Tensor, count: int, generator: torch.Generator, context: int = CONTEXT) -> Tensor:
    """Return ``count`` windows ``(count, context + 1)`` of a text of character numbers ``(n,)``."""
    starts = torch.randint(len(text) - context, (count, 1), generator=generator)
    return text[starts + torch.arange(context + 1)]


def sliding_nats(model: CharacterGPT, text: Tensor) -> Tensor:
    """−log p of each character of a text but the first, through windows that slide by half the context: (n − 1,)."""
    half, found = CONTEXT // 2, []
    whole = text.unfold(0, CONTEXT + 1, half)
    with torch.no_grad():
        for number, windows in enumerate(whole.split(256)):
            nats = model.nats(windows)
            found += [nats[0, :half]] if number == 0 else []
            found.append(nats[:, half:].flatten())
        done = half * (len(whole) - 1) + CONTEXT + 1
        if done < len(text):
            found.append(model.nats(text[None, -CONTEXT - 1 :])[0, done - len(text) :])
    return torch.cat(found)


def _rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    return FLOOR + 0.5 * (PEAK - FLOOR) * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))
