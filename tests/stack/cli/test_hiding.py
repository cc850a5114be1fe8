"""What the command line hides and knows, and how it shows what was predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from service.cli.files import FileError, tensor
from service.cli.hiding import hidden_inputs, hidden_sides, read_given
from service.cli.predictions import completed, hidden_cells, print_prediction, with_deviation

IMAGE = {"height": 3, "width": 4, "channels": 1}


def no_image() -> None:
    return None


@pytest.mark.parametrize(
    ("sides", "hidden"),
    [
        (["lower"], ["....", "....", "####"]),
        (["upper"], ["####", "....", "...."]),
        (["left"], ["##..", "##..", "##.."]),
        (["right"], ["..##", "..##", "..##"]),
        (["upper", "left"], ["####", "##..", "##.."]),
    ],
)
def test_sides_of_pictures_are_halves(sides: list[str], hidden: list[str]) -> None:
    mask = hidden_sides(IMAGE, sides)
    assert mask.shape == (3, 4, 1)
    assert ["".join(".#"[int(cell)] for cell in row) for row in mask[..., 0]] == hidden


def test_a_side_is_hidden_in_every_row() -> None:
    picture = {"image": "…"}
    for inputs in ([picture, picture], tensor(np.zeros((2, 3, 4), np.uint8))):
        body = hidden_inputs(inputs, None, ["lower"], lambda: IMAGE)
        assert body["mask"]["shape"] == [2, 3, 4, 1]
    with pytest.raises(typer.BadParameter, match="lower, upper, left, right"):
        hidden_inputs([picture], None, ["middle"], lambda: IMAGE)


def test_columns_are_hidden_by_name_and_sides_are_not_columns() -> None:
    body = hidden_inputs([{"lower": 1, "b": 2}], None, ["lower"], no_image)
    assert body == {"inputs": [{"lower": None, "b": 2}], "mask": None}
    with pytest.raises(FileError, match="--hide names columns"):
        hidden_inputs([[1, 2]], None, ["a"], no_image)


def test_masks_are_arrays_or_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.array([[0, 1]]))
    Image.fromarray(np.eye(3, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    assert hidden_inputs([[1, 2]], str(tmp_path / "mask.npy"), [], no_image)["mask"]["dtype"] == "bool"
    assert set(hidden_inputs([{"image": "…"}], str(tmp_path / "mask.png"), [], no_image)["mask"]) == {"image"}
    with pytest.raises(FileError, match="for rows by column name use --hide"):
        hidden_inputs([{"a": 1}], str(tmp_path / "mask.npy"), [], no_image)
    with pytest.raises(FileError, match="give one of them"):
        hidden_inputs([{"image": "…"}], str(tmp_path / "mask.png"), ["lower"], lambda: IMAGE)


def test_known_cells_have_the_type_of_their_column() -> None:
    kinds = {"a": "real", "n": "integer", "open": "boolean", "size": "categorical", "day": "date"}
    columns = [{"name": name, "type": kind} for name, kind in kinds.items()]
    pairs = ["a=1.5", "n=3", "open=True", "size=3", "day=2024-12-31", "wings=2", "x=a=b"]
    expected = {"a": 1.5, "n": 3, "open": True, "size": "3", "day": "2024-12-31", "wings": "2", "x": "a=b"}
    assert read_given(pairs, columns) == expected
    assert read_given(["a=tall"], columns) == {"a": "tall"}
    for wrong in ("a", "=3"):
        with pytest.raises(typer.BadParameter, match="COLUMN=VALUE"):
            read_given([wrong], columns)


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (51234.4, 1234.0, "51234 ± 1234"),
        (1.23456, 0.0341, "1.235 ± 0.034"),
        (-0.5, 2.04, "-0.5 ± 2.0"),
        (3.0, 0.0, "3 ± 0"),
        (1e12, 1e11, "1e+12 ± 1e+11"),
    ],
)
def test_a_mean_has_the_digits_that_its_deviation_leaves(mean: float, std: float, text: str) -> None:
    assert with_deviation(mean, std) == text


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (("red", 0.4, 0.71, "categorical"), "red (0.71)"),
        (("red", 0.4, None, "categorical"), "red"),
        ((True, 0.2, 0.96, "boolean"), "True (0.96)"),
        (("2024-03-05", 12.3, None, "date"), "2024-03-05 ± 12 days"),
        ((3.25, 0.5, None, "integer"), "3.25 ± 0.50"),
        ((None, None, None, "real"), "–"),
    ],
)
def test_a_cell_says_how_sure_it_is(cell: Any, text: str) -> None:
    assert completed(*cell) == text


def test_hidden_cells_are_found_in_every_form() -> None:
    names = ["a", "b"]
    assert hidden_cells({"inputs": [{"b": None, "a": 1, "label": None}]}, names).tolist() == [[False, True]]
    assert hidden_cells({"inputs": [[None, 2], [1, 2]]}, names).tolist() == [[True, False], [False, False]]
    mask = tensor(np.array([[True, False]]))
    assert hidden_cells({"inputs": {"dtype": "float64"}, "mask": mask}, names).tolist() == [[True, False]]


def test_only_rows_with_hidden_cells_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [{"name": "a", "type": "real"}, {"name": "colour", "type": "categorical"}]
    answer = {
        "mean": [{"a": 1.0, "colour": "red"}, {"a": 2.5, "colour": "blue"}],
        "std": [{"a": 0.0, "colour": 0.0}, {"a": 0.25, "colour": 0.3}],
        "probability": [{"a": None, "colour": 1.0}, {"a": None, "colour": 0.9}],
        "log_prob": [0.0, -1.5],
        "effective_sample_size": [100.0, 12.5],
        "model": "m@1", "seed": 0, "kind": "estimate", "samples": 100,
    }  # fmt: skip
    body = {"inputs": [{"a": 1, "colour": "red"}, {"a": None, "colour": None}]}
    print_prediction(answer, body, columns)
    text = capsys.readouterr().out
    assert "2.50 ± 0.25" in text
    assert "blue (0.90)" in text
    assert "red" not in text
    assert "12.5" in text
