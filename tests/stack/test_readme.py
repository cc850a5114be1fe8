"""The README's tour runs as it stands, against a stack of its own address."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TOUR = README[README.index("<!-- tour") : README.index("<!-- end of tour -->")]
BLOCKS = re.findall(r"```bash\n(.*?)```", TOUR, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is written for curl")
def test_the_tour_runs_as_written(stack: Any, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    # Every answer to curl is kept apart, so that each can be looked at.
    script = "set -euo pipefail\n" + "\n".join(f"{block}\necho; echo '=== end of block'" for block in BLOCKS)
    script = script.replace("http://127.0.0.1:8000", stack.url).replace("curl -s", "curl --fail-with-body -s")
    environment = os.environ | {"LATENTSERVE_URL": stack.url, "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    blocks = done.stdout.split("=== end of block\n")
    assert "succeeded" in blocks[2]
    scores = json.loads(blocks[3])["log_prob"]
    assert scores[0] > scores[1]
    assert len(json.loads(blocks[4])["rows"]) == 3
    assert len(json.loads(blocks[5])["mean"]) == 1
    assert len(json.loads(blocks[7])["indices"][0]) == 5
    rows = (tmp_path / "filled.csv").read_text().splitlines()
    assert rows[0].split(",")[:4] == ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    assert len(rows) == 151
    assert len((tmp_path / "new.csv").read_text().splitlines()) >= 1000
    assert (tmp_path / "iris-vae.tar").stat().st_size > 0
    assert json.loads((tmp_path / "neighbours.json").read_text())["indices"]


def test_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_folders_of_the_layout_exist() -> None:
    layout = README[README.index("## Where things are") :]
    folders = re.findall(r"\b([a-z]+)/(?=\s|$)", layout)
    assert {"contracts", "store", "models", "engine", "workers", "service", "tests"} <= set(folders)
    assert all((ROOT / folder).is_dir() for folder in folders)
