"""The command line: `latentserve`. It speaks HTTP to a running service; only `up` starts one.

``--url`` and ``--json`` may stand anywhere on the line. Exit codes: 0 done, 1 the service or a file said no
(the problem is on standard error, as a problem document with ``--json``), 2 wrong usage.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from contracts.errors import Problem
from service.cli import datasets, directions, jobs, models, probes, reconstructions, verbs
from service.cli.client import ServiceError
from service.cli.files import FileError
from service.cli.output import Session, console, print_problem

DEFAULT_URL = "http://127.0.0.1:8000"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Unsupervised learning as a service: upload data, train models, ask them.",
)


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="LATENTSERVE_URL", help="Address of the service.")] = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")] = False,
) -> None:
    """Unsupervised learning as a service: upload data, train models, ask them."""
    context.obj = Session(url=url, as_json=as_json)


@app.command("up")
def up(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the gateway; 0 picks a free one.")] = None,
    home: Annotated[Path | None, typer.Option(help="Data folder; default ~/.latentserve.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default this machine only.")] = None,
) -> None:
    """Start everything on this machine and stay up until Ctrl-C; LATENTSERVE_* settings replace parts."""
    # The supervisor reads the store's settings, which no other command needs.
    from service.parts import Stack, StackError, StackSettings
    from service.supervisor import supervise

    def ready(stack: Stack) -> None:
        console.print(f"[green]ready[/] at {stack.url} (docs: {stack.url}/docs); Ctrl-C stops everything")

    given = {name: value for name, value in (("port", port), ("home", home), ("host", host)) if value is not None}
    try:
        settings = StackSettings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = "; ".join(f"LATENTSERVE_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise FileError(f"{wrong} (see docs/settings.md)") from error
    console.print(f"starting with data folder {settings.home} …")
    try:
        supervise(settings, on_ready=ready, say=lambda line: console.print(line, markup=False))
    except StackError as error:
        raise FileError(str(error)) from error


app.command("train")(jobs.train)
app.command("families")(models.families)
app.command("encode")(verbs.encode)
app.command("decode")(verbs.decode)
app.command("reconstruct")(reconstructions.reconstruct)
app.command("probe")(probes.probe)
app.command("sample")(verbs.sample)
app.command("log-prob")(verbs.log_prob)
app.command("predict")(verbs.predict)
app.command("similarity")(verbs.similarity)
app.command("interpolate")(directions.interpolate)
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(directions.app, name="directions")


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    line = hoist(list(sys.argv[1:] if arguments is None else arguments))
    as_json = "--json" in line
    try:
        app(line, prog_name="latentserve")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except ServiceError as error:
        print_problem(error.problem, as_json=as_json)
    except FileError as error:
        problem = Problem(type="urn:latentserve:problem:file", title="Cannot do that", status=400, detail=str(error))
        print_problem(problem, as_json=as_json)
    return 1


def hoist(line: list[str]) -> list[str]:
    """Move ``--json`` and ``--url X`` to the front, where the root command reads them."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(line)
    for word in words:
        if word == "--":
            return [*front, *rest, word, *words]
        if word == "--json" or word.startswith("--url="):
            front.append(word)
        elif word == "--url":
            front += [word, *(value for value in [next(words, None)] if value is not None)]
        else:
            rest.append(word)
    return [*front, *rest]
