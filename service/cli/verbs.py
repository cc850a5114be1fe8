"""The six verbs: `encode`, `decode`, `sample`, `log-prob`, `predict`, `similarity`.

Rows come from files or ``-``; answers go to a table, to `--output` (its suffix says the format) or, with
`--json`, to standard output as the service wrote them.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer

from service.cli.client import Json
from service.cli.files import format_of, read_inputs, write_bytes, write_rows
from service.cli.hiding import hidden_inputs, read_given
from service.cli.output import Session, cell, console, print_table, session
from service.cli.predictions import print_prediction
from service.cli.texts import MaxTokens, Prefix, Stream, TopK, TopP, answer_texts, print_scores, stream_sample

Model = Annotated[str, typer.Argument(help="name, name@3 or name@alias.")]
Files = Annotated[
    list[str], typer.Argument(help="Rows: .csv, .json, .jsonl, .npy, .png, .jpg, or - for standard input.")
]
SomeFiles = Annotated[
    list[str] | None, typer.Argument(help="Rows: .csv, .json, .jsonl, .npy, .png, .jpg, or - for standard input.")
]
Output = Annotated[
    str | None, typer.Option("--output", "-o", help="Write the answer to this file; - is standard output.")
]
Label = Annotated[list[str] | None, typer.Option("--label", help="Condition on a label, where the model takes one.")]
Text = Annotated[
    list[str] | None,
    typer.Option("--text", help="Given a text, of models of pictures after texts (one, or one per row)."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Monte-Carlo samples per row, where the answer uses any.")]
Space = Annotated[str | None, typer.Option(help="Refuse an answer from another embedding space.")]
Directions = Annotated[
    list[str] | None,
    typer.Option("--direction", help="Move the vectors along a direction, NAME=STRENGTH (repeat for more)."),
]
Mask = Annotated[
    str | None, typer.Option(help="Hidden cells: a boolean .npy, or of pictures a .png whose light pixels are hidden.")
]
MEDIA = {"npy": "application/x-npy", "picture": "image/png"}


def encode(
    context: typer.Context,
    model: Model,
    files: SomeFiles = None,
    direction: Directions = None,
    output: Output = None,
    label: Label = None,
    space: Space = None,
    codes: Annotated[bool, typer.Option("--codes", help="The numbers of codes, of models that have them.")] = False,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="Texts, of models of pictures and captions, in place of files.")
    ] = None,
) -> None:
    """Rows to vectors. Output: .npy, .csv, .json, .jsonl."""
    here = session(context)
    moved = {"directions": read_strengths(direction)}
    inputs = rows_or_texts(files, text)
    body = {"model": model, "inputs": inputs, **moved, "given": given(label), "space": space}
    if codes:
        answer_rows(here, "/encode", body | {"codes": True}, "codes", output)
        return
    answer_rows(here, "/encode", body, "vectors", output)


def decode(
    context: typer.Context,
    model: Model,
    vectors: Annotated[str, typer.Argument(help="Vectors of the model's space: .npy, .csv, .json, or -.")],
    direction: Directions = None,
    output: Output = None,
    label: Label = None,
    space: Space = None,
    codes: Annotated[bool, typer.Option("--codes", help="The file holds the numbers of codes.")] = False,
) -> None:
    """Vectors to rows. Output: .png for pictures, .npy, .csv, .json, .jsonl."""
    here = session(context)
    moved = {"directions": read_strengths(direction)}
    given_as = "codes" if codes else "vectors"
    body = {"model": model, given_as: read_inputs([vectors]), **moved, "given": given(label), "space": space}
    answer_rows(here, "/decode", body | by_name(here, model, output), "rows", output)


def sample(
    context: typer.Context,
    model: Model,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Rows to draw; default 16, of texts 1.")] = None,
    seed: Seed = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            help="Scales the deviation of the prior, of texts the logits; repeated: of each group of latents, the top "
            "first."
        ),
    ] = None,
    prefix: Prefix = None,
    max_tokens: MaxTokens = None,
    top_k: TopK = None,
    top_p: TopP = None,
    stream: Stream = False,
    output: Output = None,
    label: Label = None,
    known: Annotated[
        list[str] | None,
        typer.Option("--given", help="Draw the other columns given this one, COLUMN=VALUE (repeat for more)."),
    ] = None,
    text: Text = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="With --text: how far to go the way of the text; 1 is the model itself.")
    ] = None,
    expected: Annotated[
        bool | None, typer.Option(help="Models of codes: expected rows of drawn codes, or draws with their noise.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="With --text: draw so many pictures and keep the n that fit best.")
    ] = None,
) -> None:
    """New rows. Output: .png for pictures, .csv, .npy, .json, .jsonl, .txt for texts."""
    here = session(context)
    scale = 1.0 if not temperature else temperature[0] if len(temperature) == 1 else temperature
    condition = given(label, text)
    texts = {"prefix": prefix, "max_tokens": max_tokens, "top_k": top_k, "top_p": top_p}
    texts |= {"guidance": guidance, "candidates": candidates, "expected": expected}
    if known:
        condition = (condition or {}) | {"row": read_given(known, data_spec(here, model)["columns"])}
    body = {"model": model, "n": n or 1, "seed": seed, "temperature": scale, "given": condition, **texts}
    if stream:
        stream_sample(here, body, output)
    elif data_spec(here, model)["modality"] == "text":
        answer_texts(here, "/sample", body, output)
    else:
        body["n"] = n or 16
        answer_rows(here, "/sample", body | by_name(here, model, output), "rows", output)


def log_prob(
    context: typer.Context,
    model: Model,
    files: Files,
    seed: Seed = None,
    samples: Samples = None,
    mask: Mask = None,
    lowest: Annotated[
        int, typer.Option(min=0, help="Show so many of the least likely rows first; 0: all, in order.")
    ] = 0,
    output: Output = None,
    label: Label = None,
    text: Text = None,
) -> None:
    """Log-density or log-probability of each row, in nats. Output: .csv, .json, .jsonl, .npy."""
    here = session(context)
    answer = here.client.post(
        "/log_prob",
        {
            "model": model,
            **hidden_inputs(read_inputs(files), mask, [], lambda: None),
            "seed": seed,
            "samples": samples,
            "given": given(label, text),
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
        if "log_perplexity" in answer:
            print_scores(answer, order[:lowest] if lowest else list(range(len(values))))
            return
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
        typer.Option(
            "--hide",
            help="Hide this column (repeat for more), or a side of pictures: lower, upper, left, right. Empty cells "
            "and transparent pixels are hidden anyway.",
        ),
    ] = None,
    mask: Mask = None,
    draws: Annotated[int, typer.Option(min=0, help="Completed rows drawn per row.")] = 1,
    picture: Annotated[str, typer.Option(help="What a .png or .npy holds: mean, or draws, a line per row.")] = "mean",
    temperature: Annotated[float | None, typer.Option(min=0, help="Texts: divides the logits of each token.")] = None,
    max_tokens: MaxTokens = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    samples: Samples = None,
    output: Output = None,
    label: Label = None,
    text: Text = None,
    caption: Annotated[
        list[str] | None,
        typer.Option("--caption", help="Models of pictures and captions: what to choose from (repeat for more)."),
    ] = None,
) -> None:
    """Hidden cells given the shown ones: mean ± sd, draws, and how probable. With --caption: which fits each picture.

    Output (the mean): .csv, .npy, .json, .png; of captions .csv, .json, .jsonl.
    """
    here = session(context)
    inputs = read_inputs(files)
    if caption:
        print_match(here, {"model": model, "inputs": inputs, "captions": caption}, output)
        return
    body = {
        "model": model,
        **hidden_inputs(inputs, mask, hide or [], lambda: data_spec(here, model)["image"]),
        # Rows come back as they went in; an array's bytes are of no use to a reader of tables and JSON.
        "format": "numbers" if isinstance(inputs, dict) else None,
        "draws": draws,
        "seed": seed,
        "samples": samples,
        "given": given(label, text),
        "picture": picture,
        **{"temperature": temperature, "max_tokens": max_tokens, "top_k": top_k, "top_p": top_p},
    }
    data = data_spec(here, model)
    if data["modality"] == "text":
        answer_texts(here, "/predict", body, output)
        return
    if output is None and not here.as_json and data["modality"] == "table":
        answer = here.client.post("/predict", body | {"format": "rows"})
        print_prediction(answer, body, [column for column in data["columns"] if column["role"] == "feature"])
        return
    answer_rows(here, "/predict", body, "mean", output)


def similarity(
    context: typer.Context,
    model: Model,
    query: Annotated[list[str] | None, typer.Argument(help="Rows that are looked up.")] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="Look up texts, of models of pictures and captions.")
    ] = None,
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
            "query": rows_or_texts(query, text),
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


def rows_or_texts(files: list[str] | None, texts: list[str] | None) -> Any:
    """What a request takes of either."""
    if bool(files) == bool(texts):
        raise typer.BadParameter("give either files of rows or --text")
    return {"texts": texts} if texts else read_inputs(files or [])


def print_match(here: Session, body: Json, output: str | None) -> None:
    """How probable each caption is for each picture, the best one named."""
    answer = here.client.post("/predict", body)
    captions, table = answer["captions"], answer["probabilities"]
    if output is not None:
        write_rows(output, [{"best": best, **dict(zip(captions, line, strict=True))}
                            for best, line in zip(answer["best"], table, strict=True)])  # fmt: skip
        return

    def people() -> None:
        rows = (
            (index, best, *(f"{share:.1%}" for share in line))
            for index, (best, line) in enumerate(zip(answer["best"], table, strict=True))
        )
        print_table(("picture", "best", *captions), rows)

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
        here.show(answer, lambda: print_rows(answer, key))


def by_name(here: Session, model: str, output: str | None) -> Json:
    """Ask for rows by column name where the model's rows have columns; arrays and pictures stay as they are."""
    if output is not None and format_of_output(output) in MEDIA:
        return {}
    return {"format": "rows"} if data_spec(here, model)["modality"] == "table" else {}


def data_spec(here: Session, model: str) -> Json:
    """What the rows of a model look like."""
    data: Json = here.client.get(f"/models/{model}")["manifest"]["data"]
    return data


def read_strengths(pairs: list[str] | None) -> dict[str, float] | None:
    """Directions as ``NAME=STRENGTH`` each."""
    found = {}
    for pair in pairs or []:
        name, _, strength = pair.rpartition("=")
        try:
            found[name] = float(strength)
        except ValueError:
            name = ""
        if not name:
            raise typer.BadParameter(f"{pair!r} is not NAME=STRENGTH, say smile=1.5")
    return found or None


def given(label: list[str] | None, text: list[str] | None = None) -> Json | None:
    """What a conditional model is conditioned on: one label or text for all rows, or one per row."""
    said = {"label": label, "text": text}
    return {name: each[0] if len(each) == 1 else each for name, each in said.items() if each} or None


def format_of_output(output: str) -> str:
    return "jsonl" if output == "-" else format_of(output)


def write_npy(output: str, values: list[Any]) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype=np.float64), allow_pickle=False)
    write_bytes(output, buffer.getvalue())


def print_rows(answer: Json, key: str) -> None:
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
