"""What a command prints: tables for people, one JSON document for machines (`--json`), problems on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from typer import Context

from contracts.errors import Problem
from service.cli.client import Client

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


@dataclass
class Session:
    """What every command gets: the address of the service and whether machines read the output."""

    url: str
    as_json: bool
    opened: Client | None = None

    @property
    def client(self) -> Client:
        """The client, opened when first asked for: `up` and `--help` need none."""
        if self.opened is None:
            self.opened = Client(self.url)
        return self.opened

    def show(self, value: Any, people: Callable[[], None]) -> None:
        """Print ``value`` as JSON for machines, or let ``people`` print it."""
        if self.as_json:
            print_json(value)
        else:
            people()


def session(context: Context) -> Session:
    found = context.find_object(Session)
    assert found is not None  # set by the root callback
    return found


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table; numbers are aligned to the right."""
    rows = [list(row) for row in rows]
    if title is not None:
        console.print(title, markup=False, soft_wrap=True)
    table = Table(header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) or row[index] is None for row in rows)
        # The first column names the row: it is copied into the next command, so it stays in one piece.
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    console.print(table)


def print_fields(fields: dict[str, object]) -> None:
    """Print names and values in two columns, leaving out what is None."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value is not None:
            table.add_row(name, cell(value))
    console.print(table)


def print_problem(problem: Problem, *, as_json: bool) -> None:
    """Print a problem on standard error."""
    if as_json:
        sys.stderr.write(problem.model_dump_json(exclude_none=True) + "\n")
        return
    errors.print(f"[bold red]{problem.title}[/] ({problem.status})", problem.detail, sep="\n", markup=True)
    for each in problem.errors:
        errors.print(f"  {each.location}: {each.message}", markup=False)


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={cell(each)}" for name, each in value.items())
    return str(value)


def size(count: float) -> str:
    """Bytes in a unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
