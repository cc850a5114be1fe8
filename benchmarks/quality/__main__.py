"""Run rows of the quality table.

    python -m benchmarks.quality [name…] [--scale 0.02] [--threads N]

Without names every row that fits this machine runs. ``--scale`` below 1 shrinks budgets and rows to try the way
through; such figures are printed and not kept. A row whose data are not here is left out and says so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from types import ModuleType

from benchmarks.quality import recipe as recipes
from benchmarks.quality import report
from benchmarks.quality.data import DataAbsent
from benchmarks.quality.figures import Figure, Finished, judge
from benchmarks.quality.ours import Run
from benchmarks.quality.recipe import Recipe

LIBRARIES = ("torch", "onnxruntime", "numpy", "scikit-learn", "pythae", "zuko", "pyod")


def row(name: str) -> ModuleType:
    """Return the module that measures a kind of row; it has ``measure(recipe, run, found)``."""
    return importlib.import_module(f"benchmarks.quality.rows.{name}")


def measure(recipe: Recipe, run: Run) -> Finished:
    """Measure one row, telling each figure as it comes. Raises DataAbsent where its data are not here."""
    began, figures = time.monotonic(), []

    def found(figure: Figure) -> None:
        figures.append(figure)
        error = "" if figure.standard_error is None else f" ± {figure.standard_error:.3f}"
        print(
            f"{figure.data}: {figure.model}: {figure.value:.4f}{error} {figure.metric} ({figure.kind}; trained "
            f"{figure.train_seconds:.0f} s, scored {figure.score_seconds:.0f} s; {figure.note})",
            flush=True,
        )

    row(recipe.row).measure(recipe, run, found)
    return Finished(
        name=recipe.name,
        figures=tuple(figures),
        bars=judge(recipe, figures),
        seed=run.seed,
        minutes=(time.monotonic() - began) / 60,
        machine=_machine(run),
        threads=run.threads,
        libraries=_libraries(),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the rows that are named; exit code 1 where one could not be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"rows: {', '.join(recipes.names())}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the budgets and rows; kept only at 1")
    parser.add_argument("--threads", type=int, default=None, help="threads of ours and of the peers")
    parser.add_argument("--page", action="store_true", help="only write RESULTS.md anew from the rows that are kept")
    given = parser.parse_args(arguments)
    if given.page:
        for finished in report.kept():
            report.keep(recipes.load(finished.name), finished)
        return 0
    failed = []
    for name in given.names or recipes.names():
        recipe = recipes.load(name)
        gpu = recipe.machine == "GPU"
        if gpu and not _has_gpu():
            print(f"== {name}: left out, it needs a GPU", flush=True)
            continue
        run = Run(scale=given.scale, accelerator="cuda" if gpu else "cpu")
        run = run if given.threads is None else Run(run.scale, run.seed, given.threads, run.accelerator)
        print(f"== {name} ({recipe.minutes:g} minutes on {recipe.machine})", flush=True)
        if not _attempt(recipe, run, measure):
            failed.append(name)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _attempt(recipe: Recipe, run: Run, measure: Callable[[Recipe, Run], Finished]) -> bool:
    """Measure, show and keep a row; False where it failed, so that the others still run."""
    try:
        finished = measure(recipe, run)
    except DataAbsent as absent:
        print(f"left out: {absent}", flush=True)
        return True
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in LIBRARIES:
            traceback.print_exc()
        else:
            print(f"{missing}; `make setup-bench` installs the peers", file=sys.stderr)
        return False
    except Exception:
        traceback.print_exc()
        return False
    report.show(recipe, finished)
    if run.scale >= 1:
        report.keep(recipe, finished)
    return True


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _machine(run: Run) -> str:
    import torch

    if run.accelerator == "cuda":
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()}), no GPU"


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
