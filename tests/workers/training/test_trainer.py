"""The trainer's promises: the same weights again, the same weights after a break, the same over processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contracts.artifact import Kind, Verb, VerbSpec
from contracts.data import Part
from contracts.errors import InvalidInput
from contracts.families import FamilyConfig, GradientConfig, config_adapter
from contracts.jobs import Budget, Progress
from models.family import Batch, Family, FitStage, Graph, LossStage, Noise, PlayersStage, Stage, Terms, Tiny
from workers.training.checkpoints import Checkpoints
from workers.training.divergence import TrainingDiverged
from workers.training.trainer import Plan, TrainResult, train
from workers.training.weights import build_seeded

VAE = {"family": "vae", "width": 16, "latents": 4, "depth": 1, "dropout": 0.2, "patience": 1000, "batch_size": 32}


class Stopped(Exception):
    """Raised from the report to break a run where a kill would."""


def run(
    reader: Any,
    *,
    steps: int = 60,
    seed: int = 1,
    config: dict[str, Any] | None = None,
    checkpoints: Checkpoints | None = None,
    report: Any = lambda _: None,
) -> tuple[dict[str, Tensor], TrainResult]:
    family = build_seeded(
        config_adapter.validate_python({**VAE, **(config or {})}), reader.spec, reader.profile(), seed
    )
    plan = Plan(budget=Budget(steps=steps), seed=seed, accelerator="cpu", threads=1)
    result = train(family, reader, plan, report, checkpoints)
    return {name: t.clone() for name, t in family.state_dict().items()}, result


def different(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def test_same_seed_same_bits_other_seed_other_weights(reader: Any) -> None:
    first, result = run(reader)
    torch.manual_seed(99)  # what others did with the global generator must not matter
    assert different(first, run(reader)[0]) == []
    assert different(first, run(reader, seed=2)[0])
    assert result.steps == result.planned == 60
    assert result.history[-1]["held_out"] < result.history[0]["held_out"]


class BreakAfter(Checkpoints):
    """Ends the run right after its ``count``-th checkpoint, like a kill there."""

    def __init__(self, folder: Path, attempt: int, count: int) -> None:
        super().__init__(folder, attempt, every_seconds=0)
        self._left = count

    def save(self, checkpoint: Any) -> Path:
        path = super().save(checkpoint)
        self._left -= 1
        if self._left == 0:
            raise Stopped
        return path


@pytest.mark.parametrize("config", [{}, {"family": "autoencoder"}, {"family": "flow", "layers": 2, "width": 8}])
def test_a_broken_run_ends_bit_equal(reader: Any, tmp_path: Path, config: dict[str, Any]) -> None:
    if config:
        base = {name: value for name, value in VAE.items() if name not in ("family", "latents")}
        config = {**base, **config}
        if config["family"] == "flow":
            config["batch_size"] = 64
    expected, straight = _train(reader, config)
    for attempt, saves in enumerate((1, 20, 25), start=1):
        with pytest.raises(Stopped):
            _train(reader, config, BreakAfter(tmp_path, attempt, saves))
    resumed, result = _train(reader, config, Checkpoints(tmp_path, 4, every_seconds=0))
    assert different(expected, resumed) == []
    assert result.resumed_at is not None
    assert result.history == straight.history
    assert (result.steps, result.best) == (straight.steps, straight.best)


def _train(
    reader: Any, config: dict[str, Any], checkpoints: Checkpoints | None = None
) -> tuple[dict[str, Tensor], TrainResult]:
    validated = config_adapter.validate_python(config or VAE)
    family = build_seeded(validated, reader.spec, reader.profile(), 1)
    result = train(family, reader, Plan(Budget(steps=50), 1, accelerator="cpu", threads=1), checkpoints=checkpoints)
    return {name: t.clone() for name, t in family.state_dict().items()}, result


def test_a_finished_run_is_not_trained_again(reader: Any, tmp_path: Path) -> None:
    expected, _ = run(reader, checkpoints=Checkpoints(tmp_path, 1))
    reports: list[Progress] = []
    again, result = run(reader, checkpoints=Checkpoints(tmp_path, 2), report=reports.append)
    assert different(expected, again) == []
    assert reports == []
    assert result.steps == 60


def test_early_stopping_keeps_the_best_weights(reader: Any) -> None:
    weights, result = run(reader, steps=2000, config={"learning_rate": 0.05, "patience": 2, "kl_warmup": 0.0})
    assert result.steps < result.planned == 2000
    scores = [entry["held_out"] for entry in result.history]
    assert result.best == min(scores)
    assert min(scores) not in scores[-2:]  # patience was waited out
    assert all(torch.isfinite(t).all() for t in weights.values() if t.is_floating_point())


def test_progress_reaches_the_end(reader: Any) -> None:
    reports: list[Progress] = []
    run(reader, report=reports.append)
    last = reports[-1]
    assert (last.step, last.steps, last.stage) == (60, 60, "train")
    assert last.epoch == pytest.approx(60 * 32 / 300)
    assert {"objective", "gradient_norm"} < last.terms.keys()
    assert last.eta_seconds == 0
    assert last.best is not None


def test_seconds_become_steps_once(reader: Any, tmp_path: Path) -> None:
    stored: list[int] = []

    def plan_steps(steps: int) -> int:
        stored.append(steps)
        return 40  # an earlier attempt planned this

    plan = Plan(Budget(seconds=1), seed=1, plan_steps=plan_steps, accelerator="cpu", threads=1)
    family = build_seeded(config_adapter.validate_python(VAE), reader.spec, reader.profile(), 1)
    result = train(family, reader, plan)
    assert stored[0] > 10
    assert len(stored) == 1
    assert result.steps == result.planned == 40
    # the warm-up left no trace
    assert different(run(reader, steps=40)[0], family.state_dict()) == []


def test_no_valid_rows_means_the_last_average(reader: Any) -> None:
    reader.parts[Part.VALID] = reader.parts[Part.VALID][:0]
    _, result = run(reader)
    assert result.best is None
    assert result.history == []


def test_no_train_rows_is_refused(reader: Any) -> None:
    family = build_seeded(config_adapter.validate_python(VAE), reader.spec, reader.profile(), 1)
    reader.parts[Part.TRAIN] = reader.parts[Part.TRAIN][:0]
    with pytest.raises(InvalidInput, match="split"):
        train(family, reader, Plan(Budget(steps=1)))


class Cubic(Family[GradientConfig]):
    """A family of many stages for the trainer alone: a fit, a loss that can blow up, two players."""

    kind = Kind.IMPLICIT

    def __init__(self, config: GradientConfig, spec: Any, profile: Any, *, breaks_at: int | None = None) -> None:
        super().__init__(config, spec, profile)
        self.centre = nn.Module()
        self.centre.register_buffer("mean", torch.zeros(64))
        self.line = nn.Linear(64, 1)
        self.left, self.right = nn.Linear(64, 1), nn.Linear(64, 1)
        self.breaks_at = breaks_at
        self.finished: list[str] = []

    @classmethod
    def tiny(cls) -> list[Tiny]:
        return []

    def stages(self) -> list[Stage]:
        return [Centre(self), Line(self), Duel(self)]

    def graphs(self) -> dict[str, Graph]:
        return {}

    def verbs(self) -> dict[Verb, VerbSpec]:
        return {}


class Centre(FitStage):
    name, share = "centre", 0.01

    def __init__(self, family: Cubic) -> None:
        self.module, self.family = family.centre, family

    def fit(self, batches: Iterable[Batch], valid: Iterable[Batch]) -> dict[str, float]:
        rows = torch.cat([batch.x.flatten(1).float() for batch in batches])
        self.family.centre.get_buffer("mean").copy_(rows.mean(0))
        return {"rows": float(len(rows))}


class Line(LossStage):
    name, share = "line", 1.0

    def __init__(self, family: Cubic) -> None:
        self.module, self.family, self.calls = family.line, family, 0

    def loss(self, batch: Batch, noise: Noise, progress: float) -> Terms:
        error = (self.family.line(batch.x.flatten(1).float() - self.family.centre.get_buffer("mean")) - 1) ** 2
        self.calls += 1
        if self.family.breaks_at is not None and self.calls > self.family.breaks_at:
            error = error * float("nan")
        return Terms(error.mean(), {"error": error.mean()})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        return (self.family.line(batch.x.flatten(1).float()) - 1).squeeze(1) ** 2

    def finish(self, batches: Iterable[Batch]) -> None:
        self.family.finished.append(self.name)


class Duel(PlayersStage):
    name, share = "duel", 1.0

    def __init__(self, family: Cubic) -> None:
        self.family = family
        self.module = nn.ModuleDict({"left": family.left, "right": family.right})

    def players(self) -> Mapping[str, tuple[nn.Module, int]]:
        return {"critic": (self.family.left, 2), "generator": (self.family.right, 1)}

    def losses(self, player: str, batch: Batch, noise: Noise, progress: float) -> Terms:
        x = batch.x.flatten(1).float() + noise.normal(64)
        gap = (self.family.left(x) - self.family.right(x)).mean()
        objective = gap**2 if player == "critic" else -gap + 1e-3 * (self.family.right.weight**2).sum()
        return Terms(objective, {"gap": gap})

    def held_out(self, batch: Batch, noise: Noise) -> Tensor:
        x = batch.x.flatten(1).float()
        return (self.family.left(x) - self.family.right(x)).squeeze(1) ** 2


def cubic(reader: Any, **kwargs: Any) -> Cubic:
    torch.manual_seed(0)
    return Cubic(GradientConfig(family="vae", batch_size=32, patience=1000), reader.spec, reader.profile(), **kwargs)


def test_stages_of_all_shapes_run_and_resume(reader: Any, tmp_path: Path) -> None:
    plan = Plan(Budget(steps=60), seed=4, accelerator="cpu", threads=1)
    straight = cubic(reader)
    before = straight.right.weight.clone()
    result = train(straight, reader, plan)
    assert straight.finished == ["line"]
    assert not torch.equal(before, straight.right.weight)
    assert result.figures == {"rows": 300.0}
    assert {entry["stage"] for entry in result.history} == {"line", "duel"}
    for attempt, saves in enumerate((1, 15, 25, 20), start=1):
        with pytest.raises(Stopped):
            train(cubic(reader), reader, plan, checkpoints=BreakAfter(tmp_path, attempt, saves))
    resumed = cubic(reader)
    again = train(resumed, reader, plan, checkpoints=Checkpoints(tmp_path, 5))
    assert different(straight.state_dict(), resumed.state_dict()) == []
    assert again.steps == result.steps


def test_a_stage_may_keep_its_last_weights_and_name_its_score(reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GradientConfig(family="vae", batch_size=32, patience=1, ema_decay=0)
    plan = Plan(Budget(steps=200), seed=4, accelerator="cpu", threads=1)
    kept = []
    for chooses in (True, False):
        monkeypatch.setattr(Duel, "chooses_weights", chooses)
        monkeypatch.setattr(Duel, "score_name", None if chooses else "gap")
        torch.manual_seed(0)
        result = train(Cubic(config, reader.spec, reader.profile()), reader, plan)
        kept.append((result, [entry for entry in result.history if entry["stage"] == "duel"]))
    (choosing, short), (keeping, whole) = kept
    assert len(whole) > len(short)  # patience ends the one only
    assert choosing.best == min(entry["held_out"] for entry in short)
    assert keeping.best is None
    assert keeping.figures["gap"] == whole[-1]["held_out"]
    assert "gap" not in choosing.figures


def test_a_diverging_run_names_step_and_term(reader: Any) -> None:
    with pytest.raises(TrainingDiverged, match=r"at step 7 of stage `line`"):
        train(cubic(reader, breaks_at=7), reader, Plan(Budget(steps=60), accelerator="cpu"))


def test_a_stage_of_no_shape_is_a_type_error(reader: Any) -> None:
    class Odd(Cubic):
        def stages(self) -> list[Stage]:
            stage = Stage()
            stage.module = self.line
            return [stage]

    with pytest.raises(TypeError, match="none of LossStage"):
        train(Odd(GradientConfig(family="vae"), reader.spec, reader.profile()), reader, Plan(Budget(steps=2)))


def test_closed_form_families_take_a_step_per_stage(reader: Any) -> None:
    family = build_seeded(config_adapter.validate_python({"family": "pca"}), reader.spec, reader.profile(), 0)
    result = train(family, reader, Plan(accelerator="cpu"))
    assert result.steps == result.planned == 1
    assert result.figures


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import digits
from safetensors.torch import save_file
from contracts.families import config_adapter
from contracts.jobs import Budget
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded

processes, target = int(sys.argv[2]), sys.argv[3]
reader = digits()
family = build_seeded(config_adapter.validate_python(json.loads(sys.argv[4])), reader.spec, reader.profile(), 1)
plan = Plan(Budget(steps=25), seed=1, accelerator="cpu", threads=1, processes=processes)
result = train(family, reader, plan)
if result.rank == 0:
    assert result.processes == processes
    save_file({n: t.clone() for n, t in family.state_dict().items()}, target)
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    config = json.dumps({**VAE, "dropout": 0.0, "batch_size": 33})  # an odd batch: the shares differ
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    weights = []
    for processes in (1, 2):
        target = tmp_path / f"{processes}.safetensors"
        command = [sys.executable, str(script), str(Path(__file__).parent), str(processes), str(target), config]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=150,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        weights.append(load_file(target))
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert np.allclose(tensor.numpy(), weights[1][name].numpy(), rtol=1e-3, atol=1e-4), name


def test_config_without_gradient_fields_gets_the_defaults(reader: Any) -> None:
    family = cubic(reader)
    family.config = FamilyConfig(family="vae")  # type: ignore[assignment]
    assert train(family, reader, Plan(Budget(steps=6), accelerator="cpu")).steps >= 6
