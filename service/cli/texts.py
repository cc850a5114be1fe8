"""What the verbs print of texts: whole, or as they come."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from contracts.errors import Problem
from service.cli.client import Json, ServiceError
from service.cli.files import write_bytes, write_rows
from service.cli.output import Session, cell, console, errors, print_json, print_table

Prefix = Annotated[str | None, typer.Option(help="Texts: what each begins with.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Texts: most tokens that are drawn for each; default 256.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Texts: draw from the so many likeliest tokens only.")]
TopP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Texts: draw from the fewest tokens that hold so much of the mass.")
]
_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")

Stream = Annotated[bool, typer.Option("--stream", help="Texts: print one as it comes.")]


def stream_sample(here: Session, body: Json, output: str | None) -> None:
    """Print one text as it comes (with --json each event as a line), or write it to ``output``."""
    if body.get("n", 1) != 1:
        raise typer.BadParameter("--stream prints one text; leave -n out")
    text = ""
    done: Json = {}
    for event in here.client.post_events("/sample", body | {"n": 1, "stream": True}):
        data = event["data"]
        if event["type"] == "error":
            raise ServiceError(Problem.model_validate(data))
        if here.as_json:
            print_json({"event": event["type"], **data})
        elif event["type"] == "text" and output is None:
            _write(data["text"])
        text += data.get("text", "")
        done = data if event["type"] == "done" else done
    if output is not None:
        write_bytes(output, text.encode())
    elif not here.as_json:
        _write("\n")
        _say({name: done.get(name) for name in ("model", "seed", "finish_reasons", "tokens")})


def answer_texts(here: Session, path: str, body: Json, output: str | None) -> None:
    """Ask for texts and print or write them: a .txt holds them one after another, other files one row each."""
    answer = here.client.post(path, body)
    # /predict answers several draws of each input, /sample one text each.
    draws = [text if isinstance(text, list) else [text] for text in answer["texts"]]
    if output is not None and output.endswith(".txt"):
        write_bytes(output, "\n".join(text for texts in draws for text in texts).encode())
    elif output is not None:
        write_rows(output, [{"row": row, "text": text} for row, texts in enumerate(draws) for text in texts])
    else:
        here.show(answer, lambda: _print_texts(answer, draws))


def print_scores(answer: Json, order: list[int]) -> None:
    """The answer of /log_prob for texts as a table, in the order asked for."""
    names = ("log_prob", "log_perplexity", "bits_per_byte", "tokens")
    print_table(
        ("text", *(name.replace("_", " ") for name in names)),
        ((index, *(answer[name][index] for name in names)) for index in order),
    )
    window = answer["window"]
    seen = f", sliding windows of {window['context']} tokens" if answer["sliding"] else ""
    console.print(f"{answer['model']}: {answer['unit']}, {answer['measure']}, {answer['kind']}{seen}")


def _print_texts(answer: Json, draws: list[list[str]]) -> None:
    scores, reasons = answer["log_prob"], answer["finish_reasons"]
    for row, texts in enumerate(draws):
        for place, text in enumerate(texts):
            score, reason = scores[row], reasons[row]
            if isinstance(score, list):
                score, reason = score[place], reason[place]
            _write(text + "\n")
            _say({"row": row, "log_prob": score, "finish_reason": reason})
    _say({name: answer.get(name) for name in ("model", "seed", "kind")})


def _write(text: str) -> None:
    """Print what a model drew as it is; on a terminal without control characters, which would be obeyed there."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _say(facts: dict[str, Any]) -> None:
    """Facts beside a text go to standard error, so that standard output is the text alone."""
    errors.print(cell({name: value for name, value in facts.items() if value is not None}), style="dim", markup=False)
