"""What commands do beside the verbs: files of configs and specs, `up`, jobs that fail, what people read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.cli import main
from service.cli.datasets import read_spec
from service.cli.files import FileError
from service.cli.output import cell, size

Cli = Callable[..., Any]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A small table that no other test has."""
    file = tmp_path / "table.csv"
    mark = uuid.uuid4().int % 1000
    file.write_text("a,b,kind\n" + "".join(f"{i + mark / 1000},{(i * 7) % 5},k{i % 2}\n" for i in range(40)))
    return file


def test_up_starts_the_stack_and_ends_with_an_interrupt(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", "import sys; from service.cli import main; sys.exit(main())"]
    running = subprocess.Popen(
        [*command, "up", "--port", "0", "--home", str(tmp_path / "home")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert running.stdout is not None
        assert "data folder" in running.stdout.readline()
        ready = running.stdout.readline()
        assert ready.startswith("ready at http://127.0.0.1:")
        second = subprocess.run(
            [*command, "--json", "up", "--port", "0", "--home", str(tmp_path / "home")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 1
        assert f"supervisor pid {running.pid}" in json.loads(second.stderr)["detail"]
    finally:
        running.send_signal(signal.SIGINT)
        assert running.wait(40) == 0


def test_up_refuses_a_port_in_use_and_a_wrong_setting(
    stack: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = stack.url.rpartition(":")[2]
    assert main(["up", "--port", port, "--home", str(tmp_path)]) == 1
    assert port in capsys.readouterr().err
    monkeypatch.setenv("LATENTSERVE_MAX_ROWS", "many")
    assert main(["up", "--home", str(tmp_path)]) == 1
    assert "LATENTSERVE_MAX_ROWS" in capsys.readouterr().err


def test_a_dataset_comes_and_goes(cli: Cli, table: Path, tmp_path: Path) -> None:
    name, spec = f"table-{uuid.uuid4().hex[:8]}", tmp_path / "spec.json"
    spec.write_text('{"label": "kind", "drop": ["b"]}')
    shown = cli("datasets", "add", name, str(table), "--spec", str(spec), as_json=False)
    assert "categorical" in shown
    again = cli("datasets", "add", f"{name}-again", str(table), "--spec", str(spec))
    assert again["digest"] == cli("datasets", "show", name)["digest"]
    other = cli("datasets", "add", name, str(table), code=1)
    assert other["status"] == 409
    cli("datasets", "delete", name, as_json=False)
    assert cli("datasets", "show", name, code=1)["status"] == 404


def test_a_large_upload_is_ingested_by_a_job(cli: Cli, tmp_path: Path, start_stack: Callable[..., Any]) -> None:
    small = start_stack(tmp_path / "home", LATENTSERVE_INLINE_UPLOAD_BYTES="10").wait_ready()
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n" + "".join(f"{i},{i * i % 11}\n" for i in range(50)))
    assert cli("datasets", "add", "rows", str(file), "--url", small.url)[-1]["rows"] == 50
    file.write_text("a,b\n1,2\n3\n" * 5)
    failed = cli("datasets", "add", "ragged", str(file), "--url", small.url, code=1, as_json=False)
    assert "failed" in failed
    assert cli("datasets", "show", "ragged", "--url", small.url, code=1)["status"] == 404


def test_a_config_file_is_read_and_the_bar_is_drawn(cli: Cli, table: Path, tmp_path: Path) -> None:
    name, config = f"table-{uuid.uuid4().hex[:8]}", tmp_path / "config.json"
    config.write_text('{"components": 1}')
    cli("datasets", "add", name, str(table), "--spec", '{"label": "kind"}')
    shown = cli("train", name, "-d", name, "-f", "pca", "--config", str(config), as_json=False)
    assert f"succeeded {name}@1" in shown
    assert cli("models", "show", name)["manifest"]["latent_dimensions"] == 1
    job = next(job for job in cli("jobs", "list") if job["request"].get("name") == name)
    assert job["id"] in cli("jobs", "list", as_json=False)
    assert "succeeded" in cli("jobs", "show", job["id"], as_json=False)
    assert cli("models", "show", name, "--preview", str(tmp_path / "none.png"), code=1)["status"] == 404
    assert not list(tmp_path.glob("none.png*"))


@pytest.mark.parametrize(("text", "message"), [(None, "cannot read"), ("{", "not JSON"), ("[1]", "JSON object")])
def test_wrong_config_files_are_named(
    tmp_path: Path, text: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    if text is not None:
        config.write_text(text)
    line = ["train", "m", "-d", "d", "-f", "pca", "--config", str(config), "--url", "http://127.0.0.1:9", "--json"]
    assert main(line) == 1
    assert message in json.loads(capsys.readouterr().err)["detail"]


def test_wrong_specs_are_named(tmp_path: Path) -> None:
    assert read_spec(None) is None
    assert read_spec(' {"label": "y"}') == {"label": "y"}
    (tmp_path / "list.json").write_text("[]")
    for text, message in (("{", "not JSON"), ("absent.json", "cannot read"), (str(tmp_path / "list.json"), "object")):
        with pytest.raises(FileError, match=message):
            read_spec(text)


def test_values_are_shown_as_people_read_them() -> None:
    assert [cell(value) for value in (None, 0.123456789, [1, 2.5], {"a": None}, "x")] == [
        "–",
        "0.123457",
        "1, 2.5",
        "a=–",
        "x",
    ]
    assert [size(value) for value in (10, 2048, 5 << 20, 3 << 40)] == ["10 B", "2.0 KiB", "5.0 MiB", "3.0 TiB"]
