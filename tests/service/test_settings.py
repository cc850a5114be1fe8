"""Settings: read from the environment, refused with their name, all on one page of the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.main import main
from service.parts import StackSettings
from service.settings import GatewaySettings
from workers.settings import WorkerSettings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.mark.parametrize("settings", [GatewaySettings, StackSettings, WorkerSettings])
def test_the_page_names_every_setting_and_no_other(settings: type[GatewaySettings]) -> None:
    named = set(re.findall(r"^\| `LATENTSERVE_([A-Z_]+)` \|", PAGE.read_text(), re.MULTILINE))
    expected = {name.upper() for name in settings.model_fields}
    assert expected <= named, f"docs/settings.md lacks {sorted(expected - named)}"
    everything = {name.upper() for each in (StackSettings, WorkerSettings) for name in each.model_fields}
    assert named <= everything, f"docs/settings.md names {sorted(named - everything)}, which is no setting"


@pytest.mark.parametrize("settings", [GatewaySettings, StackSettings])
def test_every_setting_says_what_it_does(settings: type[GatewaySettings]) -> None:
    assert [name for name, each in settings.model_fields.items() if not each.description] == []


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSERVE_MAX_ROWS", "7")
    monkeypatch.setenv("LATENTSERVE_PORT", "1234")
    settings = GatewaySettings()
    assert (settings.max_rows, settings.port, settings.host) == (7, 1234, "127.0.0.1")


def test_a_wrong_setting_ends_the_process_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATENTSERVE_MAX_ROWS", "many")
    assert main() == 2
    assert "LATENTSERVE_MAX_ROWS" in capsys.readouterr().err
