"""`latentserve probe`: what a simple classifier makes of a model's vectors."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.output import console, print_table, session
from service.cli.verbs import Label, Model, Space, given


def probe(
    context: typer.Context,
    model: Model,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A dataset with labels, by name or digest.")],
    method: Annotated[str, typer.Option(help="linear or knn.")] = "linear",
    labels: Annotated[list[int] | None, typer.Option("--labels", help="Labels per class (repeat for more).")] = None,
    max_rows: Annotated[int | None, typer.Option(min=2, help="Most train rows that are encoded.")] = None,
    max_test_rows: Annotated[int | None, typer.Option(min=1, help="Most held-out rows.")] = None,
    neighbours: Annotated[int | None, typer.Option(min=1, help="knn: rows that vote.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Chooses rows.")] = None,
    label: Label = None,
    space: Space = None,
) -> None:
    """Fit a classifier on frozen vectors of labelled rows, beside one on the raw cells; held-out accuracy."""
    here = session(context)
    asked = {
        "labels_per_class": labels,
        "max_rows": max_rows,
        "max_test_rows": max_test_rows,
        "neighbours": neighbours,
        "seed": seed,
    }
    body = {"model": model, "dataset": dataset, "method": method, "given": given(label), "space": space}
    answer = here.client.post("/probes", body | {name: value for name, value in asked.items() if value is not None})

    def people() -> None:
        print_table(
            ("labels per class", "rows", "accuracy", "standard error", "raw cells"),
            (
                (
                    each["labels_per_class"] or "all",
                    each["rows"],
                    each["accuracy"],
                    each["standard_error"],
                    each["raw_accuracy"],
                )
                for each in answer["results"]
            ),
        )
        facts = f"{answer['model']}: {answer['method']} on {answer['test_rows']} {answer['part']} rows"
        console.print(f"{facts}; the most frequent class is {answer['majority']:.1%}")

    here.show(answer, people)
