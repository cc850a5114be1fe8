"""Finished rows on the terminal, as JSON under ``results/``, and in their blocks of ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.quality.figures import Figure, Finished
from benchmarks.quality.recipe import Recipe

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "RESULTS.md"
HEADING = "## Quality of the families"
INTRODUCTION = f"""{HEADING}

`make bench-quality` (`ROW=name` for one). Each row trains on the train part, stops by the valid part where models stop
early, and is read once on the test part; models of a row ran one after the other in one run. Ours go the way of a
training job (trainer, ONNX export, parity) and are scored by the program that serves them; the seconds are of training
alone. Figures with ± are means with the standard error over the rows scored."""


def keep(recipe: Recipe, finished: Finished, results: Path = RESULTS, page: Path = PAGE) -> None:
    """Write the row's JSON and put its block in its place on the page."""
    results.mkdir(exist_ok=True)
    (results / f"{finished.name}.json").write_text(finished.model_dump_json(indent=1) + "\n")
    page.write_text(place(page.read_text() if page.is_file() else "", finished.name, block(recipe, finished)))


def kept(results: Path = RESULTS) -> list[Finished]:
    """Return the rows that were finished, by name."""
    return [Finished.model_validate_json(path.read_text()) for path in sorted(results.glob("*.json"))]


def place(page: str, name: str, text: str) -> str:
    """Return the page with the block of row ``name`` replaced, or added at the end of the section."""
    whole = f"{_begin(name)}\n{text}\n{_end(name)}"
    old = re.compile(f"{re.escape(_begin(name))}\n.*?\n{re.escape(_end(name))}", re.DOTALL)
    if old.search(page):
        return old.sub(lambda _: whole, page)
    if HEADING not in page:
        return f"{page.rstrip()}\n\n{INTRODUCTION}\n\n{whole}\n"
    start = page.index(HEADING) + len(HEADING)
    following = page.find("\n## ", start)
    head, tail = (page, "") if following < 0 else (page[:following], page[following:])
    return f"{head.rstrip()}\n\n{whole}\n{tail}"


def block(recipe: Recipe, finished: Finished) -> str:
    """Return a row in Markdown: what it is, its tables, its bars."""
    about = (
        f"`{recipe.command}`: data {', '.join(recipe.data)}; seed {finished.seed}; {finished.minutes:.1f} minutes on "
        f"{finished.machine} ({finished.threads} threads), torch {finished.libraries.get('torch', '?')}."
    )
    lines = [f"### {recipe.title}", "", " ".join([about, recipe.notes]).strip(), ""]
    for metric in _order(figure.metric for figure in finished.figures):
        chosen = [figure for figure in finished.figures if figure.metric == metric]
        rows = _by_model(chosen) if len({figure.data for figure in chosen}) == 1 else _by_data(chosen)
        lines += ["| " + " | ".join(cells) + " |" for cells in [rows[0], ["---"] * len(rows[0]), *rows[1:]]]
        lines.append("")
    for bar in finished.bars:
        lines.append(f"- Bar {'met' if bar.met else '**missed**'}: {bar.says}. Measured: {bar.measured}.")
    if recipe.attempts and not all(bar.met for bar in finished.bars):
        lines += ["", "What was tried:", "", *(f"{i}. {said}" for i, said in enumerate(recipe.attempts, 1))]
    return "\n".join(lines)


def show(recipe: Recipe, finished: Finished) -> None:
    """Print a row's tables and bars."""
    console = Console(width=max(150, Console().width))
    for metric in _order(figure.metric for figure in finished.figures):
        chosen = [figure for figure in finished.figures if figure.metric == metric]
        rows = _by_model(chosen) if len({figure.data for figure in chosen}) == 1 else _by_data(chosen)
        table = Table(*rows[0], title=f"{recipe.name}: {metric}")
        for cells in rows[1:]:
            table.add_row(*cells)
        console.print(table)
    for bar in finished.bars:
        print(f"bar {'met' if bar.met else 'missed'}: {bar.says}. Measured: {bar.measured}")


def _by_model(figures: list[Figure]) -> list[list[str]]:
    """One data set: a line per model."""
    rows = [["model", figures[0].metric, "what it is", "training, s", "scoring, s", "note"]]
    for figure in figures:
        seconds = [f"{figure.train_seconds:.0f}", f"{figure.score_seconds:.0f}"]
        rows.append([figure.model, _value(figure), figure.kind, *seconds, figure.note])
    return rows


def _by_data(figures: list[Figure]) -> list[list[str]]:
    """Several data sets: a line for each, a column per model, and their means."""
    models, sets = _order(figure.model for figure in figures), _order(figure.data for figure in figures)
    found = {(figure.data, figure.model): figure for figure in figures}
    rows = [[figures[0].metric, *models]]
    for data in sets:
        rows.append([data, *(_value(found[data, model]) if (data, model) in found else "" for model in models)])
    means = [[found[data, model].value for data in sets if (data, model) in found] for model in models]
    rows.append(
        [
            "mean",
            *(f"{sum(each) / len(each):.3f}".replace("-", "−") if len(each) == len(sets) else "" for each in means),
        ]
    )
    seconds = [[found[data, model].train_seconds for data in sets if (data, model) in found] for model in models]
    rows.append(["training, s", *(f"{sum(each):.0f}" for each in seconds)])
    kinds = [_order(figure.kind for figure in figures if figure.model == model) for model in models]
    rows.append(["what it is", *("; ".join(each) for each in kinds)])
    return rows


def _value(figure: Figure) -> str:
    digits = 3 if abs(figure.value) < 10 else 2
    error = "" if figure.standard_error is None else f" ± {figure.standard_error:.{digits}f}"
    return _number(figure.value, digits) + error


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _begin(name: str) -> str:
    return f"<!-- quality:{name} -->"


def _end(name: str) -> str:
    return f"<!-- /quality:{name} -->"
