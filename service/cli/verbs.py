"""The six verbs: `encode`, `decode`, `sample`, `log-prob`, `predict`, `similarity`.

Rows come from files or ``-``; answers go to a table, to `--output` (its suffix says the format) or, with
`--json`, to standard output as the service wrote them.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer

from service.cli.client import Json
from service.cli.files import (
    FileError,
    format_of,
    hide_columns,
    hide_unknown,
    read_array,
    read_inputs,
    tensor,
    write_bytes,
    write_rows,
)
from service.cli.output import Session, cell, console, print_table, session

Model = Annotated[str, typer.Argument(help="name, name@3 or name@alias.")]
Files = Annotated[
    list[str], typer.Argument(help="Rows: .csv, .json, .jsonl, .npy, .png, .jpg, or - for standard input.")
]
Output = Annotated[
    str | None, typer.Option("--output", "-o", help="Write the answer to this file; - is standard output.")
]
Label = Annotated[list[str] | None, typer.Option("--label", help="Condition on a label, where the model takes one.")]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Monte-Carlo samples per row, where the answer uses any.")]
Space = Annotated[str | None, typer.Option(help="Refuse an answer from another embedding space.")]
MEDIA = {"npy": "application/x-npy", "picture": "image/png"}


def encode(
    context: typer.Context, model: Model, files: Files, output: Output = None, label: Label = None, space: Space = None
) -> None:
    """Rows to vectors. Output: .npy, .csv, .json, .jsonl."""
    here = session(context)
    body = {"model": model, "inputs": read_inputs(files), "given": given(label), "space": space}
    answer_rows(here, "/encode", body, "vectors", output)


def decode(
    context: typer.Context,
    model: Model,
    vectors: Annotated[str, typer.Argument(help="Vectors of the model's space: .npy, .csv, .json, or -.")],
    output: Output = None,
    label: Label = None,
    space: Space = None,
) -> None:
    """Vectors to rows. Output: .png for pictures, .npy, .csv, .json, .jsonl."""
    here = session(context)
    body = {"model": model, "vectors": read_inputs([vectors]), "given": given(label), "space": space}
    answer_rows(here, "/decode", body | by_name(here, model, output), "rows", output)


def sample(
    context: typer.Context,
    model: Model,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows to draw.")] = 16,
    seed: Seed = None,
    temperature: Annotated[float, typer.Option(min=0, help="Scales the deviation of the prior.")] = 1.0,
    output: Output = None,
    label: Label = None,
) -> None:
    """New rows. Output: .png for pictures, .csv, .npy, .json, .jsonl."""
    here = session(context)
    body = {"model": model, "n": n, "seed": seed, "temperature": temperature, "given": given(label)}
    answer_rows(here, "/sample", body | by_name(here, model, output), "rows", output)


def log_prob(
    context: typer.Context,
    model: Model,
    files: Files,
    seed: Seed = None,
    samples: Samples = None,
    mask: Annotated[str | None, typer.Option(help="Hidden cells as a boolean .npy.")] = None,
    lowest: Annotated[
        int, typer.Option(min=0, help="Show so many of the least likely rows first; 0: all, in order.")
    ] = 0,
    output: Output = None,
    label: Label = None,
) -> None:
    """Log-density or log-probability of each row, in nats. Output: .csv, .json, .jsonl, .npy."""
    here = session(context)
    answer = here.client.post(
        "/log_prob",
        {
            "model": model,
            **hidden_inputs(read_inputs(files), mask, []),
            "seed": seed,
            "samples": samples,
            "given": given(label),
        },
    )
    values = answer["log_prob"]
    if output is not None:
        if format_of_output(output) == "npy":
            write_npy(output, [float("-inf") if value is None else value for value in values])
        else:
            write_rows(output, [{"row": index, "log_prob": value} for index, value in enumerate(values)])
        return

    def people() -> None:
        order = sorted(range(len(values)), key=lambda index: -np.inf if values[index] is None else values[index])
        errors, bits = answer.get("standard_error"), answer.get("bits_per_dim")
        print_table(
            ("row", "log_prob", "standard error", "bits per dim"),
            (
                (index, values[index], errors and errors[index], bits and bits[index])
                for index in (order[:lowest] if lowest else range(len(values)))
            ),
        )
        samples = f", {answer['samples']} samples" if answer.get("samples") else ""
        console.print(f"{answer['model']}: {answer['unit']}, {answer['measure']}, {answer['kind']}{samples}")

    here.show(answer, people)


def predict(
    context: typer.Context,
    model: Model,
    files: Files,
    hide: Annotated[
        list[str] | None,
        typer.Option("--hide", help="Hide this column (repeat for more); empty cells are hidden anyway."),
    ] = None,
    mask: Annotated[str | None, typer.Option(help="Hidden cells as a boolean .npy.")] = None,
    draws: Annotated[int, typer.Option(min=0, help="Completed rows drawn per row.")] = 1,
    seed: Seed = None,
    samples: Samples = None,
    output: Output = None,
    label: Label = None,
) -> None:
    """Hidden cells given the shown ones: mean, draws, and how probable. Output (the mean): .csv, .npy, .json, .png."""
    here = session(context)
    inputs = read_inputs(files)
    body = {
        "model": model,
        **hidden_inputs(inputs, mask, hide or []),
        # Rows come back as they went in; an array's bytes are of no use to a reader of tables and JSON.
        "format": "numbers" if isinstance(inputs, dict) else None,
        "draws": draws,
        "seed": seed,
        "samples": samples,
        "given": given(label),
    }
    answer_rows(here, "/predict", body, "mean", output)


def similarity(
    context: typer.Context,
    model: Model,
    query: Annotated[list[str], typer.Argument(help="Rows that are looked up.")],
    against: Annotated[
        list[str] | None, typer.Option("--against", help="Rows to compare with, from files (repeat for more).")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset to compare with, by name or digest.")] = None,
    metric: Annotated[str, typer.Option(help="cosine, dot, euclidean, symmetric_kl, wasserstein2.")] = "cosine",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Neighbours per row.")] = 5,
    space: Space = None,
) -> None:
    """Nearest neighbours by the model's vectors, among other rows or a whole dataset."""
    here = session(context)
    if (against is None) == (dataset is None):
        raise typer.BadParameter("give either --against FILE or --dataset NAME")
    other: Json = {"dataset": dataset} if dataset is not None else {"inputs": read_inputs(against or [])}
    answer = here.client.post(
        "/similarity",
        {
            "model": model,
            "query": read_inputs(query),
            "against": other,
            "metric": metric,
            "top_k": top_k,
            "space": space,
        },
    )

    def people() -> None:
        print_table(
            ("query", "rank", "row", answer["metric"]),
            (
                (row, rank, index, score)
                for row, (indices, scores) in enumerate(zip(answer["indices"], answer["scores"], strict=True))
                for rank, (index, score) in enumerate(zip(indices, scores, strict=True), start=1)
            ),
        )

    here.show(answer, people)


def answer_rows(here: Session, path: str, body: Json, key: str, output: str | None) -> None:
    """POST and put the rows under ``key`` of the answer where the user asked for them."""
    kind = None if output is None else format_of_output(output)
    if output is not None and kind in MEDIA:
        data, _ = here.client.post_for_bytes(path, body, MEDIA[kind])
        write_bytes(output, data)
        return
    answer = here.client.post(path, body)
    if output is not None:
        write_rows(output, answer[key])
    else:
        here.show(answer, lambda: _print_rows(answer, key))


def by_name(here: Session, model: str, output: str | None) -> Json:
    """Ask for rows by column name where the model's rows have columns; arrays and pictures stay as they are."""
    if output is not None and format_of_output(output) in MEDIA:
        return {}
    modality = here.client.get(f"/models/{model}")["manifest"]["data"]["modality"]
    return {"format": "rows"} if modality == "table" else {}


def hidden_inputs(inputs: list[Any] | dict[str, Any], mask: str | None, hide: list[str]) -> Json:
    """The request's ``inputs`` and ``mask``: a mask file, named columns, or NaN cells of a .npy."""
    if mask is not None:
        if not isinstance(inputs, dict) and inputs and isinstance(inputs[0], dict) and "image" not in inputs[0]:
            raise FileError("--mask is for arrays and pictures; for rows by column name use --hide or empty cells")
        return {"inputs": inputs, "mask": tensor(read_array(mask).astype(bool))}
    shown, hidden = hide_unknown(hide_columns(inputs, hide))
    return {"inputs": shown, "mask": hidden}


def given(label: list[str] | None) -> Json | None:
    """What a conditional model is conditioned on: one label for all rows, or one per row."""
    if not label:
        return None
    return {"label": label[0] if len(label) == 1 else label}


def format_of_output(output: str) -> str:
    return "jsonl" if output == "-" else format_of(output)


def write_npy(output: str, values: list[Any]) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype=np.float64), allow_pickle=False)
    write_bytes(output, buffer.getvalue())


def _print_rows(answer: Json, key: str) -> None:
    rows = answer[key]
    if rows and isinstance(rows[0], dict):
        print_table(("row", *rows[0]), ((index, *row.values()) for index, row in enumerate(rows)))
    else:
        for index, row in enumerate(rows):
            flat = np.ravel(np.asarray(row, dtype=object)).tolist()
            more = f" … ({len(flat)} numbers)" if len(flat) > 12 else ""
            console.print(f"{index}: {cell(flat[:12])}{more}", soft_wrap=True)
    facts = {
        name: answer[name] for name in ("model", "space", "seed", "kind", "log_prob") if answer.get(name) is not None
    }
    console.print(cell(facts), style="dim", soft_wrap=True)
