"""`latentserve datasets`: upload, list, show and delete."""

from __future__ import annotations

import json
import mimetypes
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from service.cli.client import Client, Json
from service.cli.files import FileError
from service.cli.jobs import follow
from service.cli.output import cell, console, print_fields, print_table, session, size

app = typer.Typer(no_args_is_help=True, help="Upload, list, show and delete datasets.")


@app.command("add")
def add(
    context: typer.Context,
    name: str,
    files: Annotated[
        list[Path],
        typer.Argument(help="CSV, Parquet, NPY/NPZ, IDX(.gz) parts, ZIP/TAR of pictures, TXT or JSONL."),
    ],
    spec: Annotated[
        str | None, typer.Option(help="JSON, or a .json file, with fields of the spec that override the inferred ones.")
    ] = None,
) -> None:
    """Upload files as a dataset; the spec is inferred where --spec does not say otherwise."""
    here = session(context)
    answer = upload(here.client, name, files, read_spec(spec))
    if "kind" in answer:
        job = follow(here, answer["id"])
        answer = here.client.get(f"/datasets/{(job.get('result') or {}).get('dataset', name)}")
    here.show(answer, lambda: _describe(answer))


@app.command("list")
def list_datasets(context: typer.Context) -> None:
    """List datasets."""
    here = session(context)
    found = list(here.client.pages("/datasets"))
    here.show(
        found,
        lambda: print_table(
            ("name", "modality", "rows", "parts", "size", "digest"),
            (
                (d["name"], d["spec"]["modality"], d["rows"], d["parts"], size(d["size"]), d["digest"][:12])
                for d in found
            ),
        ),
    )


@app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name or digest.")],
    rows: Annotated[int, typer.Option(min=0, help="Preview so many rows.")] = 0,
) -> None:
    """Show a dataset's spec, parts and, with --rows, its first rows."""
    here = session(context)
    answer = here.client.get(f"/datasets/{name}")
    if rows:
        answer["preview"] = here.client.get(f"/datasets/{name}/rows", limit=rows)["items"]
    here.show(answer, lambda: _describe(answer))


@app.command("delete")
def delete(context: typer.Context, name: Annotated[str, typer.Argument(help="Name or digest.")]) -> None:
    """Delete a dataset; refused while a job uses it."""
    here = session(context)
    here.client.send("DELETE", f"/datasets/{name}")
    here.show({"deleted": name}, lambda: console.print(f"deleted {name}"))


def upload(client: Client, name: str, files: list[Path], spec: Json | None = None) -> Json:
    """Stream files to the service; returns the dataset, or the job that ingests it where they are large."""
    with ExitStack() as stack:
        parts = []
        for path in files:
            try:
                opened = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise FileError(f"cannot read {path}: {error.strerror or error}") from error
            media = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            parts.append(("files", (path.name, opened, media)))
        data = {"name": name, **({"spec": json.dumps(spec)} if spec else {})}
        return client.json("POST", "/datasets", data=data, files=parts)


def read_spec(text: str | None) -> Json | None:
    """Read overrides given as JSON or as the name of a .json file."""
    if text is None:
        return None
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text()
        spec = json.loads(text)
    except OSError as error:
        raise FileError(f"cannot read {text}: {error.strerror or error}") from error
    except ValueError as error:
        raise FileError(f"--spec is not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise FileError('--spec must be a JSON object, say {"columns": [{"name": "y", "role": "label"}]}')
    return spec


def _describe(answer: Json) -> None:
    spec = answer["spec"]
    print_fields(
        {
            "name": answer["name"],
            "digest": answer["digest"],
            "modality": spec["modality"],
            "image": spec.get("image"),
            "rows": answer["rows"],
            "parts": answer["parts"],
            "size": size(answer["size"]),
        }
    )
    if spec.get("columns"):
        print_table(
            ("column", "type", "role", "empty cells", "range", "categories"),
            (
                (c["name"], c["type"], c["role"], _empty(c), _range(c), cell((c.get("categories") or [])[:8]))
                for c in spec["columns"]
            ),
        )
    for row in answer.get("preview", []):
        console.print(json.dumps(row), soft_wrap=True, markup=False)


def _empty(column: Json) -> str:
    return "allowed" if column.get("missing") else ""


def _range(column: Json) -> str:
    low, high = column.get("minimum"), column.get("maximum")
    return "" if low is None and high is None else f"{cell(low)} … {cell(high)}"
