"""Checkpoints survive being cut off anywhere: the newest sound one is found."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from store.blobs import Blobs
from workers.training.checkpoints import Checkpoint, Checkpoints, optimiser_tensors, restore_optimiser


def state(step: int, stage: int = 0) -> Checkpoint:
    return Checkpoint(stage, step, {"family.w": torch.full((3,), float(step)), "ema.n": torch.tensor(1)}, {"at": step})


def test_saves_and_finds_the_latest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    assert checkpoints.latest() is None
    for step in (0, 5, 120):
        checkpoints.save(state(step))
    found = checkpoints.latest()
    assert found is not None
    assert (found.step, found.meta) == (120, {"at": 120})
    assert torch.equal(found.under("family")["w"], torch.full((3,), 120.0))
    assert len(list((tmp_path / "attempt-1").iterdir())) == 2


def test_stage_counts_before_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(state(900))
    checkpoints.save(state(1, stage=1))
    found = checkpoints.latest()
    assert found is not None
    assert (found.stage, found.step) == (1, 1)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "gone"])
def test_a_damaged_file_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(state(1))
    path = checkpoints.save(state(2))
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes({"truncated": data[: len(data) // 2], "flipped": data, "empty": b""}[damage])
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1


def test_half_written_files_are_no_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    saved = checkpoints.save(state(1))
    (saved.parent / f".{saved.name}.part").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1


def test_a_later_attempt_reads_but_never_writes_earlier_ones(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path, 1).save(state(8))
    later = Checkpoints(tmp_path, 2)
    later.seal_earlier()
    assert not stat.S_IMODE(saved.stat().st_mode) & 0o222
    assert not stat.S_IMODE(saved.parent.stat().st_mode) & 0o222
    found = later.latest()
    assert found is not None
    assert found.step == 8
    own = later.save(state(9))
    assert own.parent.name == "attempt-2"
    assert os.access(own, os.W_OK)


def test_another_machine_finds_the_mirror(tmp_path: Path) -> None:
    blobs = Blobs(None, tmp_path / "blobs")
    here = Checkpoints(tmp_path / "here", 1, mirror=blobs, key="jobs/j")
    for step in (1, 2, 3):
        here.save(state(step))
    assert len(blobs.list("jobs/j")) == 2
    found = Checkpoints(tmp_path / "there", 2, mirror=blobs, key="jobs/j").latest()
    assert found is not None
    assert found.step == 3
    blobs.put(blobs.list("jobs/j")[-1], b"damaged")
    found = Checkpoints(tmp_path / "there", 2, mirror=blobs, key="jobs/j").latest()
    assert found is not None
    assert found.step == 2


def test_due_by_time(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, 1, every_seconds=0).due
    assert not Checkpoints(tmp_path, 1, every_seconds=3600).due


def test_optimiser_state_goes_round() -> None:
    def one_step(module: nn.Linear, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        module(torch.ones(1, 3)).sum().backward()
        optimiser.step()

    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1)
    one_step(module, optimiser)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(module.state_dict())
    other = torch.optim.AdamW(twin.parameters(), lr=0.1)
    restore_optimiser(other, {name: t.clone() for name, t in optimiser_tensors(optimiser).items()})
    one_step(module, optimiser)
    one_step(twin, other)
    assert torch.equal(module.weight, twin.weight)
