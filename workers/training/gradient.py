"""One stage trained by gradients: AdamW, warm-up and cosine, clipping, EMA, held-out score.

A step is a pure function of (weights, optimiser state, seed, stage, step): the rows come from the row order at that
position, the noise and the global generator (dropout) are seeded by the position. Over several processes each takes
its slice of the same rows, and gradients are averaged by rows, so the number of processes changes rounding only.

AdamW: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", arXiv 1711.05101.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from contracts.data import Part
from contracts.families import GradientConfig
from models.family import LossStage, Noise, PlayersStage, Terms, hash_words
from workers.training.batches import Pass, Reader, RowOrder, share, to_batch
from workers.training.budget import HELD_OUT_ROWS
from workers.training.checkpoints import optimiser_tensors, restore_optimiser
from workers.training.completion import Completion
from workers.training.divergence import FiniteGuard, TrainingDiverged
from workers.training.ema import AveragedWeights
from workers.training.schedule import warmup_cosine

_ORDER, _HELD_OUT = 0x6F72646572, 0x68656C64  # words that keep the streams of a seed apart
DEFAULT_BATCH_ROWS = 128


@dataclass(frozen=True)
class Turn:
    """One update within a step: a player's module and its optimiser."""

    player: str
    module: nn.Module
    optimiser: torch.optim.Optimizer


def global_batch_rows(config: GradientConfig, rows: int) -> int:
    """Return the rows of a step over all processes: the config's, 128 without one, never more than there are."""
    return min(rows, config.batch_size or DEFAULT_BATCH_ROWS)


class GradientRun:
    """A gradient stage in progress."""

    def __init__(
        self,
        stage: LossStage | PlayersStage,
        index: int,
        reader: Reader,
        config: GradientConfig,
        *,
        seed: int,
        steps: int,
        fabric: Fabric,
        completion: Completion | None = None,
    ) -> None:
        """``index``: place of the stage in the family; ``steps``: planned for this stage; ``completion`` fills the
        missing cells of rows for a family that takes none."""
        self._stage, self._index, self._reader, self._config = stage, index, reader, config
        self._seed, self._steps, self._fabric, self._completion = seed, steps, fabric, completion
        self._learning_rate = config.learning_rate if stage.learning_rate is None else stage.learning_rate
        rows = reader.count(Part.TRAIN)
        self.batch_rows = global_batch_rows(config, rows)
        self._order = RowOrder(rows, hash_words(seed, index, _ORDER))
        self._slice = share(self.batch_rows, fabric.global_rank, fabric.world_size)
        self._turns = self._make_turns()
        self.skipped = 0
        """Updates that were left out for their gradient's norm."""
        self._guard = FiniteGuard(stage.name, every=1 if fabric.device.type == "cpu" else 16)
        self.averaged = AveragedWeights(stage.module, config.ema_decay)
        self._parameters = list(stage.module.parameters())
        self._held_out = Pass(
            reader,
            Part.VALID,
            batch_rows=min(512, 4 * self.batch_rows),
            key=hash_words(_HELD_OUT),
            device=fabric.device,
            limit=HELD_OUT_ROWS,
        )

    @property
    def rows_per_step(self) -> int:
        return self.batch_rows * len(self._turns)

    @property
    def held_out_rows(self) -> int:
        return self._held_out.rows

    @property
    def terms(self) -> dict[str, float]:
        """The terms of the last step that was checked."""
        return self._guard.latest

    def advance(self, step: int) -> None:
        """Take step ``step`` (from 0); raises TrainingDiverged where a term is not finite."""
        torch.manual_seed(hash_words(self._seed, self._index, step, self._fabric.global_rank))
        multiplier = warmup_cosine(step, self._steps, self._config.warmup)
        watched: dict[str, Tensor] = {}
        for place, turn in enumerate(self._turns):
            watched.update(self._update(turn, step, place, multiplier))
        self._guard.watch(step, watched)
        self._stage.after_step()
        if self._fabric.world_size > 1 and type(self._stage).after_step is not _NO_AFTER_STEP:
            self._average([b for b in self._stage.module.buffers() if b.is_floating_point()])
        self.averaged.update(step + 1)

    def _update(self, turn: Turn, step: int, place: int, multiplier: float) -> dict[str, Tensor]:
        count = step * len(self._turns) + place
        first = count * self.batch_rows
        rows = self._order.take(first + self._slice.start, first + self._slice.stop)
        batch = to_batch(self._reader.read(Part.TRAIN, rows), self._fabric.device)
        if self._completion is not None:
            words = (self._seed, self._index, count)
            batch = self._completion.drawn(batch, *words, rows=self._slice, total=self.batch_rows)
        noise = Noise(
            self._seed, self._index, count, rows=self._slice, total=self.batch_rows, device=self._fabric.device
        )
        for parameter in self._parameters:
            parameter.grad = None
        with self._fabric.autocast():
            terms = self._terms(turn, batch, noise, step / self._steps)
        # objectives are means over local rows: weighted so that the average over processes is the mean over all
        weight = len(batch) * self._fabric.world_size / self.batch_rows
        self._fabric.backward(terms.objective * weight)
        updated = [p for group in turn.optimiser.param_groups for p in group["params"] if p.grad is not None]
        self._average([p.grad for p in updated if p.grad is not None])
        norm = nn.utils.clip_grad_norm_(updated, self._config.gradient_clip)
        if self._spikes(norm):
            self.skipped += 1
        else:
            for group in turn.optimiser.param_groups:
                group["lr"] = self._learning_rate * multiplier
            turn.optimiser.step()
        prefix = f"{turn.player}." if turn.player else ""
        named = {"objective": terms.objective, **terms.named, "gradient_norm": norm}
        if self._config.gradient_skip:
            named["skipped_updates"] = torch.tensor(float(self.skipped), device=norm.device)
        watched = {prefix + name: value.detach().to(torch.float64).reshape(()) for name, value in named.items()}
        self._average(list(watched.values()))
        return watched

    def _spikes(self, norm: Tensor) -> bool:
        """Whether an update is to be left out; every process answers the same, since the norm is that of all rows."""
        return bool(self._config.gradient_skip and norm > self._config.gradient_skip)

    def _terms(self, turn: Turn, batch: Any, noise: Noise, progress: float) -> Terms:
        if isinstance(self._stage, LossStage):
            return self._stage.loss(batch, noise, progress)
        return self._stage.losses(turn.player, batch, noise, progress)

    @torch.no_grad()
    def _average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over the processes, in one message per dtype."""
        if self._fabric.world_size == 1:
            return
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            same = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in same])
            dist.all_reduce(flat)
            flat /= self._fabric.world_size
            for tensor, part in zip(same, torch.split(flat, [t.numel() for t in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    @torch.no_grad()
    def score(self, step: int) -> float | None:
        """Return the mean held-out score under the averaged weights, None without `valid` rows.

        +inf is an answer (worse than any); raises TrainingDiverged on NaN and -inf.
        """
        self._guard.flush()
        if self._held_out.rows == 0:
            return None
        totals = torch.zeros(2, dtype=torch.float64, device=self._fabric.device)
        self._stage.module.eval()
        with self.averaged.applied():
            for place, batch in enumerate(self._held_out):
                if place % self._fabric.world_size != self._fabric.global_rank:
                    continue
                if self._completion is not None:
                    batch = self._completion.drawn(batch, _HELD_OUT, place)
                noise = Noise(
                    hash_words(self._seed, _HELD_OUT),
                    self._index,
                    place,
                    rows=slice(0, len(batch)),
                    total=len(batch),
                    device=self._fabric.device,
                )
                values = self._stage.held_out(batch, noise).to(torch.float64)
                totals += torch.stack([values.sum(), torch.full_like(values.sum(), len(batch))])
        self._stage.module.train()
        if self._fabric.world_size > 1:
            dist.all_reduce(totals)
        mean = float(totals[0] / totals[1])
        if math.isnan(mean) or mean == -math.inf:
            raise TrainingDiverged(
                f"the held-out score became {mean} after {step} steps of stage `{self._stage.name}`; "
                "lower config.learning_rate, or look for outliers in the data"
            )
        return mean

    def check(self) -> None:
        """Check the terms that still wait; raises TrainingDiverged."""
        self._guard.flush()

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the stage's module with the averaged weights in place."""
        with self.averaged.applied():
            return {name: t.detach().clone() for name, t in self._stage.module.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs besides the family's own weights."""
        kept = {f"ema.{name}": t for name, t in self.averaged.shadow.items()}
        for turn in self._distinct():
            kept |= {f"optimiser.{turn.player}.{n}": t for n, t in optimiser_tensors(turn.optimiser).items()}
        return kept

    def restore(self, ema: dict[str, Tensor], optimisers: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave (without the prefixes)."""
        self.averaged.load(ema)
        for turn in self._distinct():
            prefix = f"{turn.player}."
            own = {name[len(prefix) :]: t for name, t in optimisers.items() if name.startswith(prefix)}
            restore_optimiser(turn.optimiser, own)

    def _make_turns(self) -> list[Turn]:
        if isinstance(self._stage, LossStage):
            return [Turn("", self._stage.module, self._optimiser(self._stage.module))]
        turns = []
        for player, (module, times) in self._stage.players().items():
            turns += [Turn(player, module, self._optimiser(module))] * times
        return turns

    def _distinct(self) -> list[Turn]:
        return list({turn.player: turn for turn in self._turns}.values())

    def _optimiser(self, module: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            parameters,
            lr=self._learning_rate,
            betas=self._stage.betas,
            weight_decay=self._config.weight_decay,
            fused=True,
        )


_NO_AFTER_STEP = LossStage.after_step
