"""The trainer: runs a family's stages, whatever the family, and can go on where an earlier attempt stopped.

On CPU the same dataset, config, seed and number of steps give the same weights bit for bit, for equal torch build,
CPU type, threads and number of processes; a resumed run ends with the weights of the undisturbed one. What a stage
knows must stand in its module's parameters and buffers, since those are what a checkpoint keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.utils.deterministic
from lightning_fabric import Fabric

from contracts.data import Part
from contracts.errors import InvalidInput
from contracts.families import FamilyConfig, GradientConfig
from contracts.jobs import Budget, Progress
from models.family import Family, FitStage, LossStage, PlayersStage, hash_words
from workers.training.batches import Pass, Reader
from workers.training.budget import counted_steps, evaluation_interval, stage_steps
from workers.training.checkpoints import Checkpoint, Checkpoints
from workers.training.completion import fit_completion
from workers.training.gradient import GradientRun, global_batch_rows
from workers.training.meter import Meter
from workers.training.stopping import EarlyStopping
from workers.training.timing import time_budget
from workers.training.weights import load_weights

_PASS = 0x70617373
_PASS_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Plan:
    """How a family is to be trained.

    ``plan_steps`` stores the planned number of steps and answers the one that holds (the first ever stored).
    ``continued``: the weights come from a trained version, so stages are not initialised from data again.
    ``processes`` on one machine share each batch; ``threads`` per process, None leaves torch's own.
    """

    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    plan_steps: Callable[[int], int] = int
    continued: bool = False
    accelerator: str = "auto"
    processes: int = 1
    threads: int | None = None


@dataclass
class TrainResult:
    """What training came to. ``steps`` were taken in all; ``rank`` 0 is the process that goes on to export."""

    steps: int = 0
    planned: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    resumed_at: int | None = None
    threads: int = 1
    processes: int = 1
    rank: int = 0

    def kept(self) -> dict[str, Any]:
        """The part that a checkpoint carries on."""
        return {"steps": self.steps, "history": self.history, "figures": self.figures, "best": self.best}


def train(
    family: Family[Any],
    reader: Reader,
    plan: Plan,
    report: Callable[[Progress], None] = lambda _: None,
    checkpoints: Checkpoints | None = None,
) -> TrainResult:
    """Train ``family`` in place; it comes back on the CPU, in eval mode, with its best weights.

    ``report`` is called a few times a second at most. Raises InvalidInput where the data has no train rows and
    TrainingDiverged where a term stops being finite.
    """
    if reader.count(Part.TRAIN) == 0:
        raise InvalidInput("the dataset has no rows to train on; lower `split.valid` and `split.test`")
    fabric = _launch(plan, family.config)
    with _deterministic(plan.threads):
        resume = checkpoints.latest() if checkpoints is not None else None
        fabric.barrier()  # no process may see what another saves from here on
        trainer = _Trainer(family, reader, plan, report, checkpoints if fabric.is_global_zero else None, fabric)
        result = trainer.run(resume)
    family.to("cpu").eval()
    return result


class _Trainer:
    def __init__(
        self,
        family: Family[Any],
        reader: Reader,
        plan: Plan,
        report: Callable[[Progress], None],
        checkpoints: Checkpoints | None,
        fabric: Fabric,
    ) -> None:
        self.family, self.reader, self.plan, self.report = family, reader, plan, report
        self.checkpoints, self.fabric = checkpoints, fabric
        self.rows = reader.count(Part.TRAIN)
        self.stages = family.stages()
        self.config = _gradient_config(family.config)
        self.batch_rows = global_batch_rows(self.config, self.rows)
        self.completion = None if family.config.takes_missing else fit_completion(reader, fabric.device)
        self.result = TrainResult(threads=torch.get_num_threads(), processes=fabric.world_size, rank=fabric.global_rank)
        self.began = time.monotonic()

    def run(self, resume: Checkpoint | None) -> TrainResult:
        self.fabric.to_device(self.family)
        first, planned = 0, None
        if resume is not None:
            load_weights(self.family, resume.under("family"), refit_buffers=True)
            first, planned = resume.stage + (1 if resume.meta["ended"] else 0), int(resume.meta["planned"])
            for name, value in resume.meta["result"].items():
                setattr(self.result, name, value)
            self.result.resumed_at = self.result.steps + (0 if resume.meta["ended"] else resume.step)
            self.began -= float(resume.meta["seconds"])
        total = planned if planned is not None else self._plan()
        self.result.planned = total
        steps = stage_steps(total, [stage.share for stage in self.stages])
        for index, stage in enumerate(self.stages):
            if index < first:
                continue
            at = resume if resume is not None and index == resume.stage and not resume.meta["ended"] else None
            if isinstance(stage, FitStage):
                self._fit(stage, index)
                taken = 1
            elif isinstance(stage, LossStage | PlayersStage):
                taken = self._descend(stage, index, steps[index], sum(steps), at)
            else:
                raise TypeError(f"stage `{stage.name}` is none of LossStage, PlayersStage, FitStage")
            stage.module.eval()
            stage.finish(self._pass(Part.TRAIN))
            self.result.steps += taken
            self._save(index, steps[index] + 1, {}, {}, ended=True)
        self.result.seconds = time.monotonic() - self.began
        return self.result

    def _plan(self) -> int:
        if all(isinstance(stage, FitStage) for stage in self.stages):
            steps = len(self.stages)
        else:
            counted = counted_steps(self.plan.budget, self.rows, self.batch_rows)
            steps = counted if counted is not None else self._timed()
        if self.fabric.is_global_zero:
            steps = self.plan.plan_steps(steps)
        return int(self.fabric.broadcast(steps))

    def _timed(self) -> int:
        seconds = self.plan.budget.seconds
        assert seconds is not None
        self.report(Progress(stage="timing"))
        return time_budget(
            seconds,
            self.family,
            self.stages,
            lambda stage, index: self._gradient_run(stage, index, 1000),
            start=None if self.plan.continued else lambda stage: stage.start(self._pass(Part.TRAIN)),
            rows=self.rows,
        )

    def _fit(self, stage: FitStage, index: int) -> None:
        self.report(Progress(stage=stage.name, step=self.result.steps, steps=self.result.planned))
        if not self.plan.continued:
            stage.start(self._pass(Part.TRAIN))
        figures = stage.fit(self._pass(Part.TRAIN), self._pass(Part.VALID))
        self.result.figures |= {name: float(value) for name, value in figures.items()}
        self.report(
            Progress(stage=stage.name, step=self.result.steps + 1, steps=self.result.planned, epoch=1.0, terms=figures)
        )

    def _descend(
        self, stage: LossStage | PlayersStage, index: int, steps: int, planned: int, resume: Checkpoint | None
    ) -> int:
        stage.module.train()
        if resume is None and not self.plan.continued:
            stage.start(self._pass(Part.TRAIN))
        run = self._gradient_run(stage, index, steps)
        stopping, best, step = EarlyStopping(self.config.patience), dict[str, torch.Tensor](), 0
        if resume is not None:
            run.restore(resume.under("ema"), resume.under("optimiser"))
            stopping, best, step = EarlyStopping(**resume.meta["stopping"]), resume.under("best"), resume.step
        else:
            self._save(index, 0, run.tensors(), {"stopping": vars(stopping)})
        interval = evaluation_interval(steps, self.rows, self.batch_rows, run.held_out_rows)
        meter = Meter(self.report, stage.name, self.result.steps, planned, step, run.rows_per_step, self.rows)
        while step < steps and not (stage.chooses_weights and stopping.exhausted):
            run.advance(step)
            step += 1
            if step % interval == 0 or step == steps:
                score = run.score(step)
                if score is not None:
                    self.result.history.append(
                        {"stage": stage.name, "step": step, "held_out": score if score < float("inf") else None}
                    )
                    if stopping.observe(step, score) and stage.chooses_weights:
                        best = run.snapshot()
                    if stage.score_name is not None:
                        self.result.figures[stage.score_name] = score
                    meter.scored(score, stopping.best)
            meter.stepped(step, run.terms)
            if self.checkpoints is not None and self.checkpoints.due and step < steps:
                run.check()
                kept = run.tensors() | {f"best.{name}": t for name, t in best.items()}
                self._save(index, step, kept, {"stopping": vars(stopping)})
        run.check()
        meter.flush()
        stage.module.load_state_dict(best or run.snapshot())
        self.result.best = stopping.best if stage.chooses_weights else None
        return step

    def _save(
        self, index: int, step: int, tensors: dict[str, torch.Tensor], meta: dict[str, Any], *, ended: bool = False
    ) -> None:
        if self.checkpoints is None:
            return
        state = {f"family.{name}": t for name, t in self.family.state_dict().items()}
        common = {
            "ended": ended,
            "planned": self.result.planned,
            "result": self.result.kept(),
            "seconds": time.monotonic() - self.began,
            "config": self.family.config.model_dump(mode="json"),
            "threads": self.result.threads,
            "processes": self.result.processes,
            "torch": torch.__version__,
        }
        self.checkpoints.save(Checkpoint(index, step, state | tensors, common | meta))

    def _gradient_run(self, stage: LossStage | PlayersStage, index: int, steps: int) -> GradientRun:
        return GradientRun(
            stage,
            index,
            self.reader,
            self.config,
            seed=self.plan.seed,
            steps=steps,
            fabric=self.fabric,
            completion=self.completion,
        )

    def _pass(self, part: Part) -> Pass:
        cells = 1 if self.reader.spec.modality == "text" else self.reader.spec.cells
        rows = max(64, min(8192, _PASS_ELEMENTS // cells))
        key, completion = hash_words(self.plan.seed, _PASS), self.completion
        complete = None if completion is None else lambda batch, place: completion.drawn(batch, key, place)
        return Pass(self.reader, part, rows, key=key, device=self.fabric.device, complete=complete)


def _gradient_config(config: FamilyConfig) -> GradientConfig:
    return config if isinstance(config, GradientConfig) else GradientConfig(family=config.family)


def _launch(plan: Plan, config: FamilyConfig) -> Fabric:
    precision: Literal["bf16-mixed", "32-true"] = (
        "bf16-mixed" if getattr(config, "precision", "float32") == "bfloat16" else "32-true"
    )
    strategy = "ddp" if plan.processes > 1 else "auto"
    fabric = Fabric(accelerator=plan.accelerator, devices=plan.processes, strategy=strategy, precision=precision)
    if plan.processes > 1:
        fabric.launch()  # starts the other processes by running the same command again
    return fabric


@contextmanager
def _deterministic(threads: int | None) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - absent from the stubs
    torch.set_float32_matmul_precision("highest")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])
