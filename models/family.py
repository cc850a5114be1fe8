"""What a family is to the rest: a module with stages to train, graphs to export, and constants.

A family is built from its config, the data spec, the profile of the train rows and (where it has
parents) their modules; it resolves every ``None`` of its config then. It never reads data by
itself, never draws noise by itself, and knows nothing of jobs, files or HTTP.

Shapes: ``B`` rows; ``x`` as in `contracts.data` but as tensors; ``y`` int64 ``(B,)`` labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from contracts.artifact import AnswerKind, Kind, TensorSpec, Tolerance, Verb, VerbSpec
from contracts.data import DataProfile, DataSpec
from contracts.errors import InvalidInput
from contracts.families import FamilyConfig

ConfigT = TypeVar("ConfigT", bound=FamilyConfig)


@dataclass(frozen=True)
class Batch:
    """Rows of a dataset: features ``x``, where the spec has a label column labels ``y``, and where the config reads
    captions their ``tokens`` int64 ``(B, C)``, filled up with the end token."""

    x: Tensor
    y: Tensor | None = None
    tokens: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


def first_rows(batches: Iterable[Batch], rows: int) -> Batch:
    """Return at most ``rows`` leading rows as one batch. Raises InvalidInput if there are none."""
    taken: list[Batch] = []
    count = 0
    for batch in batches:
        taken.append(batch)
        count += len(batch)
        if count >= rows:
            break
    if not count:
        raise InvalidInput("there are no train rows")
    labels = [batch.y for batch in taken if batch.y is not None]
    tokens = [batch.tokens for batch in taken if batch.tokens is not None]
    return Batch(
        torch.cat([batch.x for batch in taken])[:rows],
        torch.cat(labels)[:rows] if labels else None,
        torch.cat(tokens)[:rows] if tokens else None,
    )


class Noise:
    """The only source of randomness in a loss.

    Draws are made for the whole batch over all processes and sliced, so the number of processes
    changes nothing; the generator is re-seeded by (seed, stage, step), so a resumed run repeats nothing and
    skips nothing.
    """

    def __init__(
        self, seed: int, stage: int, step: int, *, rows: slice, total: int, device: torch.device | str = "cpu"
    ) -> None:
        """``rows``: this process's rows within the global batch of ``total`` rows."""
        self._generator = torch.Generator().manual_seed(hash_words(seed, stage, step))
        self._rows, self._total, self._device = rows, total, device

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """N(0, 1) of shape ``(local rows, *shape)``."""
        drawn = torch.randn(self._total, *shape, generator=self._generator, dtype=dtype)
        return drawn[self._rows].to(self._device)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """U[0, 1) of shape ``(local rows, *shape)``."""
        drawn = torch.rand(self._total, *shape, generator=self._generator, dtype=dtype)
        return drawn[self._rows].to(self._device)


def hash_words(*words: int) -> int:
    """Mix integers into 63 bits (SplitMix64, Steele et al. 2014), the same on every machine."""
    state = 0
    for word in words:
        state = (state + (word & 0xFFFFFFFFFFFFFFFF) + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state = mixed ^ (mixed >> 31)
    return state >> 1


@dataclass(frozen=True)
class Terms:
    """What a loss answers: the ``objective`` to descend (mean over rows) and its named terms (means, nats)."""

    objective: Tensor
    named: dict[str, Tensor]


class Stage(ABC):
    """A part of training with its own module and share of the budget.

    Exactly one of three shapes: `LossStage`, `PlayersStage`, `FitStage`. The hooks have empty defaults.
    """

    name: str = "train"
    share: float = 1.0
    module: nn.Module

    learning_rate: float | None = None
    """Peak of the schedule; None: the config's."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decays of Adam's two averages."""
    chooses_weights: bool = True
    """Whether the lowest held-out score chooses the weights and ends training; else the last ones are kept."""
    score_name: str | None = None
    """What the last held-out score is called among the card's figures, where it is a figure of its own."""

    def start(self, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Initialise from data before the first step (ActNorm, k-means); deterministic. Not called on resume."""

    def after_step(self) -> None:  # noqa: B027
        """Update what gradients do not (codebook EMA)."""

    def finish(self, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Fit what stands on the trained module (mixture on z); deterministic; the best weights are in place."""


class LossStage(Stage):
    """Gradient descent on one loss."""

    @abstractmethod
    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        """Return the terms; ``progress`` in [0, 1] is the share of the stage's steps done (for warm-ups)."""

    @abstractmethod
    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        """Score each row ``(B,)``, lower is better (nats where there is a density). Noise is fixed by the caller."""


class PlayersStage(Stage):
    """Alternating players, each with its own parameters and loss (adversarial training)."""

    @abstractmethod
    def players(self) -> Mapping[str, tuple[nn.Module, int]]:
        """Player → (module, steps per round), in the order of play."""

    @abstractmethod
    def losses(self, player: str, batch: Batch, noise: Noise, progress: float) -> Terms: ...

    @abstractmethod
    def held_out(self, batch: Batch, noise: Noise) -> Tensor: ...


class FitStage(Stage):
    """Closed form: a pass or a few over the train rows."""

    @abstractmethod
    def fit(self, batches: Iterable[Batch], valid: Iterable[Batch]) -> dict[str, float]:
        """Fit and return named figures for the progress line. The iterables can be iterated repeatedly."""


@dataclass(frozen=True)
class Graph:
    """A module to export: ``module(*inputs)`` in the order of ``inputs`` answers ``outputs`` in order (a tuple,
    or a tensor where there is one)."""

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Family(nn.Module, ABC, Generic[ConfigT]):
    """A density model or representation; see the module's docstring."""

    kind: ClassVar[Kind]

    def __init__(
        self,
        config: ConfigT,
        spec: DataSpec,
        profile: DataProfile,
        parents: Mapping[str, Family[FamilyConfig]] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.spec, self.profile = config, spec, profile
        self.parents_by_role = dict(parents or {})

    config: ConfigT
    """The config with every None resolved; subclasses replace it in ``__init__``."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> list[Tiny]:
        """Small cases for the contract tests: each trains in a second or two."""

    @abstractmethod
    def stages(self) -> list[Stage]: ...

    @abstractmethod
    def graphs(self) -> dict[str, Graph]:
        """The graphs of `contracts.artifact` for this kind; called in eval mode after `freeze`."""

    @abstractmethod
    def verbs(self) -> dict[Verb, VerbSpec]:
        """One entry per verb; refusals say why and what to use instead."""

    @property
    def latent_dimensions(self) -> int | None:
        return None

    @property
    def latent_groups(self) -> tuple[int, ...] | None:
        """Sizes of the groups of a vector, top first, where it has several."""
        return None

    def constants(self) -> dict[str, Tensor]:
        """Arrays for the engine's programs, float64; names as in `contracts.artifact`."""
        return {}

    def freeze(self) -> None:
        """Precompute what graphs must not compute (inverses, log-determinants)."""

    def feed(self, name: str, rows: int) -> Tensor | None:
        """Values of a graph's input that only the model knows the range of (codes, places), to compare graphs on."""
        return None

    def figures(self) -> dict[str, float]:
        """Further figures for the card."""
        return {}

    def preview_latents(self, n: int) -> dict[str, Tensor]:
        """Name → codes ``(n, L)`` whose decoded means the card shows beside the samples; the same on each call."""
        return {}

    tolerance: Tolerance = Tolerance()
    """Of the class, or of an instance whose config makes it less precise."""


@dataclass(frozen=True)
class Tiny:
    """A contract-test case: config, spec, how many rows of what to train on."""

    config: FamilyConfig
    spec: DataSpec
    rows: int = 256
    steps: int = 30
    seed: int = 0
    parents: dict[str, Tiny] = field(default_factory=dict)


def supported(kind: AnswerKind | None = None) -> VerbSpec:
    return VerbSpec(supported=True, kind=kind)


def refused(why: str) -> VerbSpec:
    return VerbSpec(supported=False, refusal=why)
