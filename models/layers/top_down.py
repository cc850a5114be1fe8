"""Groups of latents from the top down, each given those above it (Child 2021; Vahdat & Kautz 2020).

    p(z) = ∏ p(z_i | z_<i),      p(z_i | z_<i) = N(μ_i, σ_i)           of the state h_i(z_<i)
    q(z | x) = ∏ q(z_i | z_<i, x),  q(z_i | …) = N(μ_i + Δμ_i, σ_i · e^Δi)   Δ of the state and of features of x

The posterior is told as a difference to the prior, so that one that knows nothing costs nothing, and both walk the
same path: what a group adds to the state is the same whoever drew it. Last layers start small, by the square root of
the number of blocks, those of priors at zero; posteriors start at random, since one that says nothing at first is
slow to learn to. No layer looks at another row.

R. Child, "Very deep VAEs generalize autoregressive models and can outperform them on images", 2021, arXiv:2011.10650;
A. Vahdat and J. Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020, arXiv:2007.03898.

Shapes: a state ``h`` is ``(B, C)`` on a level of vectors and ``(B, C, H, W)`` on one of planes; ``z`` of a group has
the state's shape with the group's channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.layers.networks import norm

SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE = -7.0, 7.0


@dataclass(frozen=True)
class Level:
    """Groups that share a resolution: ``groups`` of ``latents`` channels beside a state of ``channels``.

    ``side``: height and width of its planes; None: vectors. ``normalised``: states are, before a layer.
    """

    channels: int
    groups: int
    latents: int
    side: tuple[int, int] | None = None
    normalised: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a group's latents, without the batch."""
        return (self.latents, *(self.side or ()))

    @property
    def size(self) -> int:
        """Latent dimensions of a group."""
        return math.prod(self.shape)

    def near(self, inputs: int, outputs: int) -> nn.Linear | nn.Conv2d:
        """A layer that sees a site and its neighbours."""
        return nn.Linear(inputs, outputs) if self.side is None else nn.Conv2d(inputs, outputs, 3, padding=1)

    def point(self, inputs: int, outputs: int) -> nn.Linear | nn.Conv2d:
        """A layer that sees a site alone."""
        return nn.Linear(inputs, outputs) if self.side is None else nn.Conv2d(inputs, outputs, 1)

    def hidden(self, layer: nn.Module, inputs: int, dropout: float = 0.0) -> list[nn.Module]:
        """``layer``, of ``inputs`` channels, as a hidden one."""
        layers = [*self.open(inputs), layer, nn.SiLU()]
        return [*layers, nn.Dropout(dropout)] if dropout else layers

    def open(self, channels: int) -> list[nn.Module]:
        """What comes before a layer on a state."""
        return [norm(channels), nn.SiLU()] if self.normalised else [nn.SiLU()]


class Block(nn.Module):
    """h + net(h), the net small at the start."""

    def __init__(self, level: Level, gain: float, dropout: float = 0.0) -> None:
        super().__init__()
        channels = level.channels
        first, last = level.near(channels, channels), level.near(channels, channels)
        self.net = nn.Sequential(*level.hidden(first, channels, dropout), last)
        _scale(self.net[-1], gain)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.net(h)
        return out


class Group(nn.Module):
    """One group: prior and posterior of its latents, and what they add to the state.

    Both see a site alone in their hidden layer, the posterior its neighbours in the last, of few channels: on planes
    the block that follows is the one that costs.
    """

    def __init__(self, level: Level, gain: float, dropout: float = 0.0) -> None:
        """``gain``: scale of what is added to the state at the start."""
        super().__init__()
        self.level = level
        channels, latents = level.channels, level.latents
        mix, blend = level.point(channels, channels), level.point(2 * channels, channels)
        self.prior = nn.Sequential(*level.hidden(mix, channels), level.point(channels, 2 * latents + channels))
        self.posterior = nn.Sequential(*level.hidden(blend, 2 * channels), level.near(channels, 2 * latents))
        self.inject = level.point(latents, channels)
        self.block = Block(level, gain, dropout)
        _scale(self.prior[-1], 0.0)

    def expect(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and log-scale of p(z | above), and the state that goes on, from the state ``h``."""
        latents = self.level.latents
        mean, log_scale, more = torch.split(self.prior(h), [latents, latents, self.level.channels], 1)
        return mean, _clamp(log_scale), h + more

    def infer(self, h: Tensor, feature: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-scale of q(z | above, x): ``mean`` and ``log_scale`` of the prior, moved."""
        shift, stretch = self.posterior(torch.cat([h, feature], 1)).chunk(2, 1)
        return mean + shift, _clamp(log_scale + stretch)

    def merge(self, h: Tensor, z: Tensor) -> Tensor:
        """Add the latents to the state."""
        out: Tensor = self.block(h + self.inject(z))
        return out


@dataclass(frozen=True)
class Step:
    """What the walk met at a group: ``prior`` and ``posterior`` (mean, log-scale), ``(B, size)`` each."""

    prior: tuple[Tensor, Tensor]
    posterior: tuple[Tensor, Tensor] | None
    z: Tensor


class TopDown(nn.Module):
    """The walk through all levels, from a learned constant to the state of the last one."""

    start: nn.Parameter

    def __init__(self, levels: Sequence[Level], condition: int = 0, dropout: float = 0.0) -> None:
        """``levels``: the top first; the sides of planes double from one to the next. ``condition``: its width."""
        super().__init__()
        self.levels = tuple(levels)
        gain = 1 / math.sqrt(sum(level.groups for level in levels))
        self.start = nn.Parameter(0.1 * torch.randn(levels[0].channels))
        self.embed = nn.Linear(condition, levels[0].channels) if condition else None
        self.bridges = nn.ModuleList(
            nn.Identity() if above is None else _bridge(above, level, gain, dropout)
            for above, level in zip((None, *levels), levels, strict=False)
        )
        self.groups = nn.ModuleList(
            nn.ModuleList(Group(level, gain, dropout) for _ in range(level.groups)) for level in levels
        )
        self.sizes = tuple(level.size for level in levels for _ in range(level.groups))

    def forward(
        self,
        pick: Callable[[int, Tensor, Tensor], Tensor],
        rows: Tensor,
        features: Sequence[Tensor] | None = None,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, list[Step]]:
        """Walk down and return the last state and the steps.

        ``pick(i, mean, log_scale)`` answers the latents ``(B, size)`` of group i, given the posterior's mean and
        log-scale where there are ``features`` of x (one per level), else the prior's. ``rows`` is any tensor of B rows.
        """
        h = self.start + torch.zeros_like(rows[:, :1])
        if self.embed is not None:
            assert condition is not None, "a conditional model needs labels"
            h = h + self.embed(condition)
        if self.levels[0].side is not None:
            h = h[:, :, None, None].expand(-1, -1, *self.levels[0].side)
        steps: list[Step] = []
        for place, (level, bridge, groups) in enumerate(zip(self.levels, self.bridges, self.groups, strict=True)):
            h = bridge(h)
            for group in cast(Sequence[Group], groups):
                mean, log_scale, onward = group.expect(h)
                prior = (mean.flatten(1), log_scale.flatten(1))
                posterior = None
                if features is not None:
                    moved = group.infer(h, features[place], mean, log_scale)
                    posterior = (moved[0].flatten(1), moved[1].flatten(1))
                z = pick(len(steps), *(posterior or prior))
                h = group.merge(onward, z.reshape(-1, *level.shape))
                steps.append(Step(prior, posterior, z))
        return h, steps


class Unfold(nn.Module):
    """A vector to planes."""

    def __init__(self, inputs: int, level: Level) -> None:
        super().__init__()
        assert level.side is not None
        self.shape = (level.channels, *level.side)
        self.layer = nn.Linear(inputs, math.prod(self.shape))

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.layer(h)
        return out.reshape(-1, *self.shape)


def _bridge(above: Level, below: Level, gain: float, dropout: float) -> nn.Module:
    """The state of one level as that of the next, with a block of its own where no group brings one."""
    layers: list[nn.Module]
    if below.side is None:
        layers = [nn.Linear(above.channels, below.channels)]
    elif above.side is None:
        layers = [Unfold(above.channels, below)]
    else:
        layers = [nn.Conv2d(above.channels, 4 * below.channels, 1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers, *([] if below.groups else [Block(below, gain, dropout)]))


def _scale(layer: nn.Module, gain: float) -> None:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.mul_(gain)
        layer.bias.mul_(gain)


def _clamp(log_scale: Tensor) -> Tensor:
    return torch.clamp(log_scale, SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE)
