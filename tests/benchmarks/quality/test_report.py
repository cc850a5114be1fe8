"""A row's block replaces itself on the page and nothing else."""

from __future__ import annotations

from pathlib import Path

from benchmarks.quality import recipe as recipes
from benchmarks.quality import report
from benchmarks.quality.figures import Figure, Finished, judge

RECIPE = recipes.load("vae-binarised-mnist")


def finished(value: float) -> Finished:
    figure = Figure(data="d", metric="nats per image", model="vae", value=value, standard_error=0.5, better="lower",
                    kind="lower bound, K = 500")  # fmt: skip
    return Finished(name=RECIPE.name, figures=(figure,), bars=judge(RECIPE, [figure]), seed=3, minutes=9.5,
                    machine="2 CPU cores (x86_64), no GPU", threads=2, libraries={"torch": "2.13.0"})  # fmt: skip


def test_a_finished_row_is_kept_and_said_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text("# Measured\n\n## Speed\n\ntext\n")
    report.keep(RECIPE, finished(89.123), tmp_path / "results", page)
    text = page.read_text()
    assert text.startswith("# Measured\n\n## Speed\n\ntext\n")
    for said in ("89.12 ± 0.50", "lower bound, K = 500", "seed 3", "9.5 minutes", "2 CPU cores", RECIPE.command):
        assert said in text
    assert "Bar met: at most 90 nats" in text
    assert report.kept(tmp_path / "results") == [finished(89.123)]


def test_a_row_measured_again_replaces_its_own_block() -> None:
    page = "# Measured\n\n" + report.HEADING + "\n\n## Speed\n\ntext\n"
    for name, text in (("a", "first"), ("b", "second"), ("a", "third \\1")):
        page = report.place(page, name, text)
    assert "first" not in page
    assert page.index("third \\1") < page.index("second") < page.index("## Speed")
    assert report.place(page, "a", "third \\1") == page


def test_several_data_sets_have_a_line_each_and_a_mean() -> None:
    figures = [
        Figure(data=data, metric="AUROC", model=model, value=value, better="higher", kind="exact")
        for data, values in {"x": (0.5, 0.7), "y": (0.7, 0.8)}.items()
        for model, value in zip(("ours", "peer"), values, strict=True)
    ]
    text = report.block(RECIPE, finished(1.0).model_copy(update={"figures": tuple(figures)}))
    assert "| AUROC | ours | peer |" in text
    assert "| x | 0.500 | 0.700 |" in text
    assert "| mean | 0.600 | 0.750 |" in text
