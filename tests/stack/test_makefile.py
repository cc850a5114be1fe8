"""The Makefile's commands exist and say what is missing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_command() -> None:
    shown = re.findall(r"make (\w+)", make("help").stdout)
    assert set(shown) == TARGETS
    assert {"setup", "demo", "run", "test", "check", "bench", "openapi"} <= TARGETS


@pytest.mark.parametrize("document", ["README.md", "docs/quickstart.md", "docs/cli.md", ".ci/run"])
def test_documents_name_only_commands_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    named = re.findall(r"(?m)(?:^\s*|`)make ([a-z]+)", text)
    assert set(named) <= TARGETS
    assert named or document == "docs/cli.md"


def test_an_old_python_is_refused_with_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "needs Python 3.11 or later" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_setup_installs_under_the_constraints_and_is_not_repeated(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    plan = make("-n", "setup", f"VENV={venv}", "EXTRA=cpu").stdout
    assert "-c constraints.txt -e '.[cpu,dev]'" in plan
    assert "-e '.[gpu,dev]'" in make("-n", "setup", f"VENV={venv}", "EXTRA=gpu").stdout
    venv.mkdir()
    (venv / ".installed-cpu").touch()
    assert "pip install" not in make("-n", "setup", f"VENV={venv}", "EXTRA=cpu").stdout


def test_port_and_folder_reach_the_command(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".installed-cpu").touch()
    plan = make("-n", "run", f"VENV={venv}", "EXTRA=cpu", "PORT=9000", "DATA=/srv/here").stdout
    assert "latentserve up --port 9000 --home /srv/here" in plan


def test_constraints_pin_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    plain = {re.split(r"[\[<>=]", each)[0].lower().replace("_", "-") for each in wanted} - {"latentserve"}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert all("==" in line for line in lines)
    assert plain <= pinned
