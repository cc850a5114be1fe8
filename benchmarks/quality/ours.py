"""Our side of a row: a dataset in a store, a family trained, exported and answered for by the code that jobs run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.data import Parts
from benchmarks.quality.recipe import Model
from contracts.data import Part
from contracts.families import FamilyConfig
from contracts.jobs import Budget
from engine.answers import LogProb
from engine.kinds import Program, program
from engine.model import Model as Artifact
from engine.options import SessionOptions, threads_from_cgroup
from engine.tokeniser import TOKENISER_FILE
from models.family import Family
from store import Store
from store.datasets import DatasetReader, UploadedFile
from store.settings import StoreSettings
from workers.export import export
from workers.parity import parity
from workers.publish import assemble
from workers.training.batches import Reader
from workers.training.captions import Captions, has_captions, prepare_captions
from workers.training.texts import TextWindows, prepare_texts
from workers.training.trainer import Plan, train
from workers.training.weights import build_seeded

PARITY_ROWS = 7


@dataclass(frozen=True)
class Run:
    """How a row is run. ``scale`` shrinks budgets and rows to try the way through; figures count at 1 only."""

    scale: float = 1.0
    seed: int = 0
    threads: int = field(default_factory=threads_from_cgroup)
    accelerator: str = "cpu"

    def seconds(self, full: float) -> float:
        return max(1.0, self.scale * full)

    def rows(self, full: int) -> int:
        return full if self.scale >= 1 else max(20, round(self.scale * full))

    def budget(self, full: Budget) -> Budget:
        if full.seconds is not None:
            return Budget(seconds=self.seconds(full.seconds))
        if full.epochs is not None:
            return Budget(epochs=self.scale * full.epochs)
        return full if full.steps is None else Budget(steps=max(1, round(self.scale * full.steps)))


@dataclass(frozen=True)
class Trained:
    """A published model of a recipe, loaded as a gateway would."""

    program: Program
    seconds: float
    steps: int
    parameters: int
    family: Family[Any]
    alphabet: bytes | None

    @property
    def note(self) -> str:
        return f"{self.steps:,} steps, {self.parameters:,} parameters"


@contextmanager
def stored(
    files: Parts | Path, overrides: dict[str, Any] | None = None, labels: Parts | None = None
) -> Iterator[DatasetReader]:
    """Ingest arrays by part, with their labels, or a file, into a store of its own and yield the reader that training
    gets."""
    with tempfile.TemporaryDirectory() as place:
        if isinstance(files, Path):
            upload = files
        else:
            upload = Path(place) / "data.npz"
            arrays = {f"x_{part.value}": rows for part, rows in files.items()}
            arrays |= {f"y_{part.value}": codes for part, codes in (labels or {}).items()}
            np.savez(upload, **arrays)  # type: ignore[arg-type]
        settings = StoreSettings(home=Path(place) / "home", database_url=None, blob_url=None)
        with Store.open(settings, migrate=True) as store:
            store.datasets.ingest("data", [UploadedFile(upload.name, upload)], overrides or {})
            yield store.datasets.open("data")


@contextmanager
def trained(
    model: Model, reader: DatasetReader, run: Run, parents: Mapping[str, Trained] | None = None
) -> Iterator[Trained]:
    """Train, export, compare and load one model as a job and a gateway would; ``parents`` by role."""
    with tempfile.TemporaryDirectory() as place:
        config: FamilyConfig = model.config
        rows: Reader = reader
        if reader.spec.modality == "text":
            config, rows = prepare_texts(reader, config, Path(place) / "texts")
        elif config.reads_captions and has_captions(reader.spec):
            config, rows = prepare_captions(reader, config)
        built_on = {role: parent.family for role, parent in (parents or {}).items()}
        family = build_seeded(config, rows.spec, rows.profile(), run.seed, built_on)
        budget = run.budget(model.budget)
        plan = Plan(budget=budget, seed=run.seed, accelerator=run.accelerator, threads=run.threads)
        result = train(family, rows, plan)
        folder = Path(place) / "artifact"
        graphs = export(family, folder)
        parity(family, folder, graphs, rows.read(Part.TRAIN, slice(0, PARITY_ROWS)))
        files = {
            f"{role}.{TOKENISER_FILE}": parent.alphabet for role, parent in (parents or {}).items() if parent.alphabet
        }
        alphabet = rows.tokeniser.content() if isinstance(rows, TextWindows | Captions) else None
        if alphabet is not None:
            files[TOKENISER_FILE] = alphabet
        assemble(
            family, folder, graphs=graphs, seed=run.seed, steps=result.steps, dataset=reader.dataset.digest,
            more_files=files,
        )  # fmt: skip
        artifact = Artifact.load(folder, SessionOptions(threads=run.threads))
        try:
            parameters = sum(parameter.numel() for parameter in family.parameters())
            yield Trained(program(artifact), result.seconds, result.steps, parameters, family, alphabet)
        finally:
            artifact.close()


@dataclass(frozen=True)
class Scored:
    """log p of rows ``(n,)``, nats, with what it is and how long it took."""

    values: NDArray[np.float64]
    kind: str
    seconds: float


def score(
    answerer: Program,
    x: NDArray[Any],
    *,
    samples: int | None = None,
    batch_rows: int = 200,
    given: NDArray[np.int64] | None = None,
) -> Scored:
    """Return log p(x) of each row, given its label where the model takes one, by the program that serves."""
    began = time.monotonic()
    parts: list[LogProb] = [
        answerer.log_prob(
            x[start : start + batch_rows],
            seed=0,
            samples=samples,
            given=None if given is None else given[start : start + batch_rows],
        )
        for start in range(0, len(x), batch_rows)
    ]
    return Scored(
        np.concatenate([part.values for part in parts]),
        describe(str(parts[0].kind), parts[0].samples),
        time.monotonic() - began,
    )


def describe(kind: str, samples: int | None) -> str:
    """Return the kind of a figure in words: ``exact``, or ``lower bound, K = 500``."""
    return kind.replace("_", " ") + (f", K = {samples}" if samples else "")
