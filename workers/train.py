"""The child's side of a training job: train, export, compare, evaluate, store; the parent publishes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from contracts.artifact import Card
from contracts.data import Part
from contracts.errors import FieldProblem, InvalidInput
from contracts.families import FamilyConfig, config_adapter
from contracts.jobs import Progress, TrainRequest
from engine.kinds import program
from engine.kinds.tokens import TokenProgram
from engine.model import Model
from engine.options import SessionOptions, threads_from_cgroup
from engine.tokeniser import TOKENISER_FILE, read_tokeniser
from models.family import Family
from store import Store
from store.catalogue import Claim, ModelVersion
from store.datasets import DatasetReader
from workers import likeness
from workers.evaluate import evaluate
from workers.export import export
from workers.messages import Sender
from workers.parents import Parents, load_parents
from workers.parity import parity
from workers.publish import assemble
from workers.scratch import job_folder, mirror_key
from workers.settings import WorkerSettings
from workers.training.batches import Reader
from workers.training.captions import Captions, has_captions, prepare_captions
from workers.training.checkpoints import Checkpoint, Checkpoints
from workers.training.texts import TextWindows, prepare_texts
from workers.training.trainer import Plan, TrainResult, train
from workers.training.weights import build_seeded, load_weights

PARITY_ROWS = 7


def train_job(store: Store, settings: WorkerSettings, claim: Claim, sender: Sender) -> dict[str, Any] | None:
    """Return ``{digest, size, folder}`` of the stored artifact; None in processes that only helped to train."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    request = TrainRequest.model_validate(claim.job.request)
    dataset = store.datasets.open(request.dataset)
    folder = job_folder(store, claim.job.id)
    checkpoints = Checkpoints(
        folder,
        claim.attempt,
        every_seconds=settings.checkpoint_seconds,
        mirror=None if store.blobs.is_local else store.blobs,
        key=mirror_key(claim.job.id),
    )
    checkpoints.seal_earlier()
    resume = checkpoints.latest()
    if resume is not None:
        sender.event("resumed", {"attempt": claim.attempt, "stage": resume.stage, "step": resume.step})
    family, reader, parents = _family(store, request, dataset, resume, folder)
    plan = Plan(
        budget=request.budget,
        seed=request.seed,
        plan_steps=lambda steps: store.catalogue.plan_steps(claim, steps),
        continued=request.start_from is not None,
        accelerator=settings.accelerator,
        processes=settings.train_processes,
        threads=settings.train_threads or threads_from_cgroup(),
    )
    reporter = _Reporter(sender)
    result = train(family, reader, plan, reporter, checkpoints)
    if result.rank != 0:
        return None
    target = folder / f"attempt-{claim.attempt}" / "artifact"
    reporter.ending("export", result)
    _complete(family, reader, dataset, request, result, parents, target, reporter)
    digest, size = store.artifacts.publish(target)
    return {"digest": digest, "size": size, "folder": str(target)}


def _family(
    store: Store, request: TrainRequest, dataset: DatasetReader, resume: Checkpoint | None, folder: Path
) -> tuple[Family[Any], Reader, Parents]:
    """Return the family to train, with what it reads and is built on: new, with the weights of a version, or as a
    checkpoint's config describes it."""
    version = store.catalogue.resolve(request.start_from) if request.start_from is not None else None
    parent = store.artifacts.fetch(version.digest) if version is not None else None
    config: FamilyConfig = request.config
    if resume is not None:
        # sizes that data decided are resolved already; the weights follow in the trainer
        config = config_adapter.validate_python(resume.meta["config"])
    elif version is not None:
        config = _continued(request, version)
    reader: Reader = dataset
    if dataset.spec.modality == "text":
        known = read_tokeniser(parent, version.manifest.files) if parent is not None and version is not None else None
        config, reader = prepare_texts(dataset, config, folder, known)
    elif config.reads_captions and has_captions(dataset.spec):
        known = read_tokeniser(parent, version.manifest.files) if parent is not None and version is not None else None
        config, reader = prepare_captions(dataset, config, known)
    parents = load_parents(store, config, reader.spec, reader.profile())
    family = build_seeded(config, reader.spec, reader.profile(), request.seed, parents.families)
    if parent is not None and resume is None:
        load_weights(family, load_file(parent / "weights.safetensors"), refit_buffers=True)
    return family, reader, parents


def _continued(request: TrainRequest, version: ModelVersion) -> FamilyConfig:
    """Return the request's config with everything it leaves open as in the version it starts from."""
    if version.manifest.family != request.config.family:
        raise InvalidInput(
            f"{version.reference} is a {version.manifest.family} and cannot be continued as a {request.config.family}",
            errors=[
                FieldProblem(location="start_from", message=f"name a version of the family {request.config.family}")
            ],
        )
    said = request.config.model_dump(exclude_unset=True, exclude_none=True)
    return config_adapter.validate_python({**version.manifest.config, **said})


def _complete(
    family: Family[Any],
    reader: Reader,
    dataset: DatasetReader,
    request: TrainRequest,
    result: TrainResult,
    parents: Parents,
    folder: Path,
    reporter: _Reporter,
) -> None:
    """Fill ``folder`` with the artifact: graphs, weights, manifest, card, preview."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    graphs = export(family, folder)
    errors = parity(family, folder, graphs, reader.read(Part.TRAIN, slice(0, PARITY_ROWS)))
    exported = time.monotonic() - began
    about: dict[str, Any] = {
        "graphs": graphs,
        "seed": request.seed,
        "steps": result.steps,
        "dataset": dataset.dataset.digest,
        "parents": parents.digests,
        "more_files": dict(parents.files),
    }
    if isinstance(reader, TextWindows | Captions) and (alphabet := reader.tokeniser.content()) is not None:
        about["more_files"][TOKENISER_FILE] = alphabet
    assemble(family, folder, **about)
    reporter.ending("evaluate", result)
    model = Model.load(folder, SessionOptions())
    answerer = program(model)
    evaluation = evaluate(answerer, dataset)
    sets, figures, pairs = {}, {}, None
    if isinstance(answerer, TokenProgram):
        figures = likeness.texts(answerer)
    else:
        codes = {name: z.numpy() for name, z in family.preview_latents(likeness.ROWS).items()}
        sets = likeness.draw(likeness.asked(answerer, dataset), codes)
        figures = likeness.measure(sets, reader, reader.profile())
        pairs = likeness.reconstruct(answerer, reader)
    pictures = None
    if reader.spec.image is not None:
        pictures = likeness.neighbours(answerer, dataset) if not sets and pairs is None else None
        pictures = likeness.preview(sets, pairs) if pictures is None else pictures
    model.close()
    card = Card(
        metrics=evaluation.metrics | figures | family.figures() | {"training": _training(result)},
        parity=errors,
        timings={"train_seconds": result.seconds, "export_seconds": exported, **evaluation.timings},
        rows={str(part): dataset.count(part) for part in Part},
        history=result.history,
    )
    assemble(family, folder, card=card, preview=pictures, **about)


def _training(result: TrainResult) -> dict[str, Any]:
    return {
        "steps": result.steps,
        "planned": result.planned,
        "best_held_out": result.best,
        "threads": result.threads,
        "processes": result.processes,
        "resumed_at": result.resumed_at,
        **result.figures,
    }


class _Reporter:
    """Sends progress on; the stages after training keep its last figures, so that an ended job still shows them."""

    def __init__(self, sender: Sender) -> None:
        self._send = sender.progress
        self._last = Progress()

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        self._send(progress)

    def ending(self, stage: str, result: TrainResult) -> None:
        now = {"stage": stage, "step": result.steps, "steps": result.planned, "best": result.best}
        self._send(self._last.model_copy(update={**now, "examples_per_second": None, "eta_seconds": None}))
