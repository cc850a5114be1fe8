"""`latentserve train` and `latentserve jobs`: ask for training, watch it live, cancel it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from service.cli.client import Client, Json
from service.cli.files import FileError
from service.cli.output import Session, cell, console, print_fields, print_json, print_problem, print_table, session

app = typer.Typer(no_args_is_help=True, help="List, show, watch and cancel jobs.")
ENDED = ("succeeded", "failed", "cancelled")


def train(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Model that gets the new version.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Name or digest of the dataset.")],
    family: Annotated[str, typer.Option("--family", "-f", help="See `latentserve families`.")],
    knobs: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="A field of the family's config.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with the config; --set goes over it.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Budget in epochs.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Budget in seconds.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    start_from: Annotated[str | None, typer.Option(help="Version whose weights training continues from.")] = None,
    key: Annotated[str | None, typer.Option("--idempotency-key", help="Asking twice with one key trains once.")] = None,
    detach: Annotated[bool, typer.Option(help="Return at once instead of watching.")] = False,
) -> None:
    """Train a model on a dataset and watch its progress; the new version becomes NAME@latest."""
    here = session(context)
    body = {
        "name": name,
        "dataset": dataset,
        "config": {**_read_config(config), **read_knobs(knobs or []), "family": family},
        "budget": {
            unit: value for unit, value in (("steps", steps), ("epochs", epochs), ("seconds", seconds)) if value
        },
        "seed": seed,
        "start_from": start_from,
    }
    job = here.client.post("/train", body, **({"Idempotency-Key": key} if key else {}))
    if detach:
        here.show(job, lambda: console.print(f"job {job['id']}; watch it by: latentserve jobs watch {job['id']}"))
    else:
        follow(here, job["id"])


@app.command("list")
def list_jobs(
    context: typer.Context,
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    kind: Annotated[str | None, typer.Option(help="train, ingest or batch.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Newest first, so many.")] = 20,
) -> None:
    """List jobs, newest first."""
    here = session(context)
    jobs = here.client.get("/jobs", status=status, kind=kind, limit=limit)["items"]
    here.show(
        jobs,
        lambda: print_table(
            ("id", "kind", "status", "what", "done", "at"),
            (
                (j["id"], j["kind"], j["status"], _what(j), _share(j), str(j["created_at"])[5:16].replace("T", " "))
                for j in jobs
            ),
        ),
    )


@app.command("show")
def show_job(context: typer.Context, job_id: Annotated[str, typer.Argument(metavar="JOB")]) -> None:
    """Show one job."""
    here = session(context)
    job = here.client.get(f"/jobs/{job_id}")
    here.show(job, lambda: print_fields(job))


@app.command("watch")
def watch_job(context: typer.Context, job_id: Annotated[str, typer.Argument(metavar="JOB")]) -> None:
    """Watch a job until it ends; exit code 1 unless it succeeds. With --json: one event per line."""
    follow(session(context), job_id)


@app.command("cancel")
def cancel_job(context: typer.Context, job_id: Annotated[str, typer.Argument(metavar="JOB")]) -> None:
    """Cancel a queued or running job."""
    here = session(context)
    job = here.client.post(f"/jobs/{job_id}/cancel", {})
    here.show(job, lambda: console.print(f"job {job['id']} {'is' if job['status'] in ENDED else 'will be'} cancelled"))


def follow(here: Session, job_id: str) -> Json:
    """Show a job's progress until it ends and return its row; leaves with exit code 1 unless it succeeded."""
    if here.as_json:
        for event in here.client.events(job_id):
            print_json(event)
        job = here.client.get(f"/jobs/{job_id}")
    else:
        job = watch(here.client, job_id)
    if job["status"] == "succeeded":
        if not here.as_json:
            result = job.get("result") or {}
            console.print(f"[green]succeeded[/] {result.get('reference') or cell(result)}")
        return job
    if not here.as_json:
        console.print(f"[red]{job['status']}[/]")
        if job.get("error"):
            from contracts.errors import Problem

            print_problem(Problem.model_validate(job["error"]), as_json=False)
    raise typer.Exit(1)


def watch(client: Client, job_id: str, *, label: str | None = None) -> Json:
    """Draw a live bar until the job ended, and return its row."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    ) as bars:
        bar = bars.add_task(label or f"job {job_id}", total=None, note="queued")
        for event in client.events(job_id):
            if event["type"] == "progress":
                total = event["data"].get("steps")
                bars.update(bar, total=total, completed=event["data"].get("step", 0), note=note(event["data"]))
            elif event["type"] in ENDED:
                if event["type"] == "succeeded":
                    bars.update(bar, total=1, completed=1)
                bars.update(bar, note=event["type"])
            else:
                bars.update(bar, note=event["type"])
    return client.get(f"/jobs/{job_id}")


def note(progress: dict[str, Any]) -> str:
    """The line beside a bar: stage, held-out score, speed and what is left."""
    parts = [str(progress.get("stage") or "")]
    if progress.get("held_out") is not None:
        parts.append(f"held-out {progress['held_out']:.2f}")
    if progress.get("examples_per_second"):
        parts.append(f"{progress['examples_per_second']:.0f} rows/s")
    if progress.get("eta_seconds"):
        parts.append(f"{progress['eta_seconds']:.0f} s left")
    return " · ".join(part for part in parts if part)


def read_knobs(knobs: list[str]) -> Json:
    """Read ``key=value`` pairs; values are JSON where they parse as such, else strings."""
    config: Json = {}
    for knob in knobs:
        key, sign, value = knob.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f"{knob!r} is not KEY=VALUE, say --set width=64")
        try:
            config[key] = json.loads(value)
        except ValueError:
            config[key] = value
    return config


def _read_config(path: Path | None) -> Json:
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FileError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise FileError(f"{path} must hold a JSON object with the fields of a config")
    return config


def _what(job: Json) -> str:
    request, result = job["request"], job.get("result") or {}
    return str(result.get("reference") or request.get("name") or request.get("model") or "")


def _share(job: Json) -> str:
    progress = job.get("progress") or {}
    if not progress.get("steps"):
        return ""
    return f"{min(1.0, progress['step'] / progress['steps']):.0%}"
