"""The command line against the running stack, and data small enough to train on in a moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris

from service.cli import main

IRIS_SPEC = '{"label": "species", "columns": [{"name": "plant", "role": "id"}]}'
COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


@pytest.fixture(scope="module")
def iris_csv(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The iris flowers with a header, their species and an id of each module's own, so that the bytes differ."""
    iris = load_iris()
    lines = [",".join((*COLUMNS, "species", "plant"))]
    lines += [
        ",".join([*(str(value) for value in row), iris.target_names[kind], f"{request.module.__name__}-{index}"])
        for index, (row, kind) in enumerate(zip(iris.data, iris.target, strict=True))
    ]
    file = tmp_path_factory.mktemp("iris") / "iris.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="session")
def digits_npy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 handwritten digits, ``(600, 8, 8)`` uint8 of levels 0..16."""
    file = tmp_path_factory.mktemp("digits") / "digits.npy"
    np.save(file, load_digits().images[:600].astype(np.uint8))
    return file


@pytest.fixture(scope="session")
def iris_spec() -> str:
    """What `iris_csv` has to be told."""
    return IRIS_SPEC


@pytest.fixture
def cli(stack: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run one command with ``--json`` against the stack and return what it printed; it must exit with ``code``."""

    def run(*line: str, code: int = 0, as_json: bool = True) -> Any:
        capsys.readouterr()
        address = [] if "--url" in line else ["--url", stack.url]
        ended = main([*line, *address, *(["--json"] if as_json else [])])
        shown = capsys.readouterr()
        assert ended == code, shown.out + shown.err
        if not as_json:
            return shown.out
        text = shown.err if code else shown.out
        documents = [json.loads(each) for each in text.splitlines() if each.strip()]
        return documents[0] if len(documents) == 1 else documents

    return run
