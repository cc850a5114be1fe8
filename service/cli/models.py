"""`latentserve models`: list, show, alias, export, import and delete; `latentserve families`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from service.cli.client import Json
from service.cli.files import FileError
from service.cli.output import console, print_fields, print_table, session, size

app = typer.Typer(no_args_is_help=True, help="List, show, name, export, import and delete models.")


@app.command("list")
def list_models(context: typer.Context) -> None:
    """List models with their versions and aliases."""
    here = session(context)
    found = list(here.client.pages("/models"))
    here.show(
        found,
        lambda: print_table(
            ("name", "latest", "versions", "aliases"),
            ((m["name"], m["latest"], len(m["versions"]), m["aliases"]) for m in found),
        ),
    )


@app.command("show")
def show(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="name, name@3 or name@alias.")],
    preview: Annotated[Path | None, typer.Option(help="Write the version's preview picture to this .png.")] = None,
) -> None:
    """Show a version: family, verbs, and what was measured on held-out rows."""
    here = session(context)
    answer = here.client.get(f"/models/{reference}")
    if preview is not None:
        _save(here.client.download(f"/models/{reference}/preview.png"), preview)
    here.show(answer, lambda: _describe(answer))


@app.command("alias")
def alias(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="name@3 or name@other-alias.")],
    name: Annotated[str, typer.Argument(help="The alias, say production.")],
    delete: Annotated[bool, typer.Option(help="Take the alias away.")] = False,
) -> None:
    """Let an alias name a version from now on."""
    here = session(context)
    model = reference.partition("@")[0]
    if delete:
        here.client.send("DELETE", f"/models/{model}/aliases/{name}")
        here.show({"deleted": f"{model}@{name}"}, lambda: console.print(f"deleted {model}@{name}"))
        return
    version = here.client.get(f"/models/{reference}")["version"]
    here.client.json("PUT", f"/models/{model}/aliases/{name}", json={"version": version})
    answer = {"alias": f"{model}@{name}", "version": version}
    here.show(answer, lambda: console.print(f"{model}@{name} is now {model}@{version}"))


@app.command("export")
def export(
    context: typer.Context,
    reference: str,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Archive to write; default: NAME-VERSION.tar.")
    ] = None,
) -> None:
    """Write a version, with its parents, as one archive."""
    here = session(context)
    found = here.client.get(f"/models/{reference}")
    target = output or Path(f"{found['name']}-{found['version']}.tar")
    written = _save(here.client.download(f"/models/{found['name']}@{found['version']}/download"), target)
    answer = {"file": str(target), "bytes": written}
    here.show(answer, lambda: console.print(f"wrote {target} ({size(written)})"))


@app.command("import")
def import_(
    context: typer.Context,
    archive: Path,
    name: Annotated[str | None, typer.Option(help="Model that gets the version.")] = None,
) -> None:
    """Import an exported archive as a new version."""
    here = session(context)
    try:
        with archive.open("rb") as file:
            answer = here.client.json(
                "POST",
                "/models/import",
                params={"name": name} if name else {},
                content=file,
                headers={"Content-Type": "application/x-tar"},
            )
    except OSError as error:
        raise FileError(f"cannot read {archive}: {error.strerror or error}") from error
    here.show(answer, lambda: print_fields(answer))


@app.command("delete")
def delete(context: typer.Context, reference: Annotated[str, typer.Argument(help="name@3")]) -> None:
    """Delete a version; refused while something still uses it."""
    here = session(context)
    model, _, version = reference.partition("@")
    if not version.isdigit():
        raise typer.BadParameter("name the version by its number, say digits-vae@3")
    here.client.send("DELETE", f"/models/{model}/versions/{version}")
    here.show({"deleted": reference}, lambda: console.print(f"deleted {reference}"))


def families(context: typer.Context) -> None:
    """List the families that can be trained, and the knobs of their configs."""
    here = session(context)
    answer = here.client.get("/families")
    here.show(answer, lambda: _menu(answer))


def _menu(answer: Json) -> None:
    for family in answer["items"]:
        console.print(f"[bold]{family['family']}[/]  {family['summary']}")
        knobs = family["config"].get("properties", {})
        print_table(
            ("  knob", "default", "what"),
            (
                (f"  {name}", _default(knob), knob.get("description", ""))
                for name, knob in knobs.items()
                if name != "family"
            ),
        )


def _default(knob: Json) -> str:
    return "by the data" if knob.get("default") is None else str(knob["default"])


def _describe(answer: Json) -> None:
    manifest, card = answer["manifest"], answer["card"]
    print_fields(
        {
            "model": answer["reference"],
            "aliases": answer.get("aliases"),
            "family": manifest["family"],
            "kind": manifest["kind"],
            "measure": manifest["measure"],
            "space": manifest["space"],
            "latent dimensions": manifest.get("latent_dimensions"),
            "steps": manifest["steps"],
            "seed": manifest["seed"],
            "dataset": manifest["dataset"],
            "digest": answer["digest"],
            "size": size(answer["size"]),
            "created": answer["created_at"],
        }
    )
    print_table(("held-out metric", "value"), card["metrics"].items())
    print_table(
        ("verb", "answer", "kind"),
        (
            (verb, "yes" if spec["supported"] else spec.get("refusal"), spec.get("kind"))
            for verb, spec in manifest["verbs"].items()
        ),
    )


def _save(chunks: Iterator[bytes], target: Path) -> int:
    """Write a download beside its target first: a refused or broken one leaves no half file under the name."""
    half = target.with_name(target.name + ".part")
    written = 0
    try:
        with half.open("wb") as file:
            for chunk in chunks:
                written += file.write(chunk)
        half.replace(target)
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        half.unlink(missing_ok=True)
    return written
