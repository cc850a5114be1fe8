"""`latentserve directions`: make, list, show, delete, and decode one as a strip; `latentserve interpolate`."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import typer

from service.cli.client import Json
from service.cli.files import read_inputs, tensor, write_bytes, write_rows
from service.cli.output import Session, console, print_fields, print_table, session
from service.cli.verbs import (
    MEDIA,
    Files,
    Label,
    Model,
    Output,
    Space,
    answer_rows,
    by_name,
    format_of_output,
    given,
    print_rows,
)

app = typer.Typer(no_args_is_help=True, help="Make, list, show and delete directions of a model's space.")

Name = Annotated[str, typer.Argument(help="Name of the direction within the model's space.")]
CONDITION = re.compile(r"([^=<>]+)([=<>])(.*)", flags=re.DOTALL)
WORDS = {"=": "equals", ">": "above", "<": "below"}
SIDE = "a file of rows (repeat for more); with --dataset a label, COLUMN=VALUE, COLUMN>NUMBER or COLUMN<NUMBER."


@app.command("add")
def add(
    context: typer.Context,
    model: Model,
    name: Name,
    positive: Annotated[list[str], typer.Option("--positive", help=f"What has it: {SIDE}")],
    negative: Annotated[list[str], typer.Option("--negative", help=f"What lacks it: {SIDE}")],
    dataset: Annotated[str | None, typer.Option(help="Choose rows of this dataset, by name or digest.")] = None,
    part: Annotated[str | None, typer.Option(help="With --dataset: rows of train, valid or test only.")] = None,
    method: Annotated[str, typer.Option(help="mean_difference or linear_probe.")] = "mean_difference",
    max_rows: Annotated[int | None, typer.Option(min=2, help="Most rows of a side that are used.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Chooses rows, and those that the probe holds out.")] = None,
    replace: Annotated[bool, typer.Option(help="Put it in the place of another direction of that name.")] = False,
    label: Label = None,
    space: Space = None,
) -> None:
    """Make a direction from rows that have something and rows that lack it."""
    here = session(context)
    body = {
        "model": model,
        "name": name,
        "positive": _side(positive, dataset, part),
        "negative": _side(negative, dataset, part),
        "method": method,
        "max_rows": max_rows,
        "seed": seed,
        "replace": replace,
        "given": given(label),
        "space": space,
    }
    answer = here.client.post("/directions", body)
    here.show(answer, lambda: _describe(answer))


@app.command("list")
def list_directions(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="Those of this model's space; none: of all.")] = None,
) -> None:
    """List directions."""
    here = session(context)
    found = list(here.client.pages("/directions", model=model))
    here.show(
        found,
        lambda: print_table(
            ("name", "space", "model", "method", "rows", "accuracy", "distance / scale"),
            (
                (
                    d["name"],
                    d["space"][:12],
                    d["model"],
                    d["method"],
                    f"{d['positive']} + {d['negative']}",
                    d["accuracy"] and d["accuracy"]["value"],
                    d["distance"] / d["scale"],
                )
                for d in found
            ),
        ),
    )


@app.command("show")
def show(context: typer.Context, model: Model, name: Name) -> None:
    """Show a direction of a model's space."""
    here = session(context)
    answer = here.client.get(_where(here, model, name))
    here.show(answer, lambda: _describe(answer))


@app.command("delete")
def delete(context: typer.Context, model: Model, name: Name) -> None:
    """Forget a direction."""
    here = session(context)
    here.client.send("DELETE", _where(here, model, name))
    here.show({"deleted": name}, lambda: console.print(f"deleted {name}"))


@app.command("strip")
def strip(
    context: typer.Context,
    model: Model,
    name: Name,
    files: Files,
    strengths: Annotated[
        str, typer.Option(help="From left to right, in standard deviations; write --strengths=-3,0,3.")
    ] = "-3,-2,-1,0,1,2,3",
    output: Output = None,
    label: Label = None,
) -> None:
    """Decode rows moved along a direction: a line for each row, a strength in each column. Output: as `decode`."""
    here = session(context)
    steps = _numbers(strengths)
    direction = here.client.get(_where(here, model, name))
    # The space is pinned: an alias that moves in between must not answer from another one.
    asked = {"model": model, "space": direction["space"], "given": given(label)}
    encoded = here.client.post("/encode", {**asked, "inputs": read_inputs(files)})
    step = direction["scale"] * np.asarray(direction["vector"])
    rows = np.asarray(encoded["vectors"], dtype=np.float64)
    vectors = (rows[:, None] + np.asarray(steps)[:, None] * step).reshape(-1, len(step))
    body = {
        **asked,
        "given": given([each for each in label or [] for _ in steps] if label and len(label) > 1 else label),
        "vectors": tensor(vectors),
        "across": len(steps),
    }
    answer_rows(here, "/decode", body | by_name(here, model, output), "rows", output)


def interpolate(
    context: typer.Context,
    model: Model,
    a: Annotated[str, typer.Argument(help="Rows to start from: .csv, .json, .jsonl, .npy, .png, .jpg, or -.")],
    b: Annotated[str, typer.Argument(help="Rows to arrive at, as many.")],
    steps: Annotated[int, typer.Option(min=2, help="Rows of a path, both ends included.")] = 8,
    mode: Annotated[str, typer.Option(help="slerp or lerp.")] = "slerp",
    output: Output = None,
    label: Label = None,
    space: Space = None,
) -> None:
    """Rows on the way from one to another. Output: .png with a line for each pair, .npy, .csv, .json, .jsonl."""
    here = session(context)
    body = {
        "model": model,
        "a": read_inputs([a]),
        "b": read_inputs([b]),
        "steps": steps,
        "mode": mode,
        "given": given(label),
        "space": space,
        **by_name(here, model, output),
    }
    kind = None if output is None else format_of_output(output)
    if output is not None and kind in MEDIA:
        data, _ = here.client.post_for_bytes("/interpolate", body, MEDIA[kind])
        write_bytes(output, data)
        return
    answer = here.client.post("/interpolate", body)
    flat = [row for path in answer["rows"] for row in path]
    if output is not None:
        write_rows(output, flat)
    else:
        here.show(answer, lambda: print_rows(answer | {"rows": flat}, "rows"))


def _side(sources: list[str], dataset: str | None, part: str | None) -> Any:
    """Rows of files, or a choice of a dataset's rows; bounds on one column may come as two conditions."""
    if dataset is None:
        if part is not None:
            raise typer.BadParameter("--part is of a dataset: name it by --dataset")
        return read_inputs(sources)
    choice: Json = {"dataset": dataset} | ({"part": part} if part is not None else {})
    found = [CONDITION.fullmatch(source) for source in sources]
    if len(sources) == 1 and found[0] is None:
        return choice | {"label": sources[0]}
    columns = {each[1].strip() for each in found if each is not None}
    conditions = {WORDS[each[2]]: _value(each[3].strip()) for each in found if each is not None}
    if len(columns) != 1 or len(conditions) != len(sources):
        raise typer.BadParameter("give one label, or conditions on one column, say 'age>40' and 'age<60'")
    return choice | {"column": {"name": columns.pop(), **conditions}}


def _value(text: str) -> float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _numbers(text: str) -> list[float]:
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers; write say --strengths=-3,-1,0,1,3") from None
    if not np.isfinite(found).all():
        raise typer.BadParameter("strengths must be finite")
    return found


def _where(here: Session, model: str, name: str) -> str:
    """The address of a direction, which stands under the space of the model's vectors."""
    space = here.client.get(f"/models/{model}")["space"]
    return f"/directions/{space}/{quote(name, safe='')}"


def _describe(direction: Json) -> None:
    told, accuracy = None, direction["accuracy"]
    if accuracy:
        told = f"{accuracy['value']:.3f} of {accuracy['positive']} + {accuracy['negative']} held-out rows"
    print_fields(
        {
            "direction": direction["name"],
            "space": direction["space"],
            "model": direction["model"],
            "method": direction["method"],
            "rows": f"{direction['positive']} positive, {direction['negative']} negative",
            "accuracy": told,
            "dimensions": direction["dimensions"],
            "scale": direction["scale"],
            "distance": f"{direction['distance']:.6g} (strength {direction['distance'] / direction['scale']:.3g})",
            "bias": direction["bias"],
            "created": direction["created_at"],
        }
    )
