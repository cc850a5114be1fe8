"""docker-compose.yml and the Dockerfiles name only what exists."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import GatewaySettings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("migrate", "gateway", "worker", "batch-worker", "gpu-worker")
DOCKERFILES = {"gateway": ROOT / "docker/Dockerfile.gateway", "worker": ROOT / "docker/Dockerfile.worker"}


def instructions(file: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile as (word, rest), continuation lines joined, comments left out."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", file.read_text()))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def test_it_has_the_parts_of_the_stack() -> None:
    assert set(SERVICES) == {*OURS, "redis-queue", "redis-cache", "postgres"}
    assert SERVICES["gpu-worker"]["profiles"] == ["gpu"]
    assert not any("profiles" in SERVICES[name] for name in SERVICES if name != "gpu-worker")
    devices = SERVICES["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]


def test_the_queue_never_evicts_and_the_cache_does() -> None:
    queue, cache = SERVICES["redis-queue"]["command"], SERVICES["redis-cache"]["command"]
    assert queue[queue.index("--maxmemory-policy") + 1] == "noeviction"
    assert queue[queue.index("--appendonly") + 1] == "yes"
    assert "queue:/data" in SERVICES["redis-queue"]["volumes"]
    assert cache[cache.index("--maxmemory-policy") + 1] == "allkeys-lru"
    assert "--maxmemory" in cache


def test_servers_are_watched_and_waited_for() -> None:
    for name in ("redis-queue", "redis-cache", "postgres"):
        assert SERVICES[name]["healthcheck"]["test"]
    for name in OURS:
        for other, condition in SERVICES[name]["depends_on"].items():
            assert other in SERVICES
            wanted = "service_completed_successfully" if other == "migrate" else "service_healthy"
            assert condition["condition"] == wanted


def test_volumes_are_declared_and_shared_by_what_shares_files() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])
    assert all("data:/data" in SERVICES[name]["volumes"] for name in OURS)


def test_settings_exist_and_nothing_is_published_to_the_world() -> None:
    known = {f"LATENTSERVE_{name.upper()}" for name in GatewaySettings.model_fields}
    for name in OURS:
        environment = SERVICES[name]["environment"]
        assert set(environment) <= known
        GatewaySettings(**{key.removeprefix("LATENTSERVE_").lower(): value for key, value in environment.items()})
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8000:8000"]


def test_commands_name_modules_that_exist() -> None:
    commands = [SERVICES[name]["command"] for name in OURS if "command" in SERVICES[name]]
    commands += [
        re.findall(r'"([^"]+)"', rest)
        for file in DOCKERFILES.values()
        for word, rest in instructions(file)
        if word == "CMD"
    ]
    assert len(commands) == 6
    for command in commands:
        assert command[0] == "python"
        assert importlib.util.find_spec(command[command.index("-m") + 1]) is not None


def test_images_are_built_from_dockerfiles_that_exist() -> None:
    for name in OURS:
        assert (ROOT / SERVICES[name]["build"]["dockerfile"]).is_file()
        extra = SERVICES[name]["build"].get("args", {}).get("EXTRA")
        assert extra is None or extra in PROJECT["optional-dependencies"]
    assert SERVICES["gpu-worker"]["build"]["args"]["EXTRA"] == "gpu"


@pytest.mark.parametrize("image", DOCKERFILES)
def test_a_dockerfile_copies_what_exists_and_runs_as_a_user(image: str) -> None:
    steps = instructions(DOCKERFILES[image])
    for word, rest in steps:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1])
    install = next(rest for word, rest in steps if word == "RUN" and "pip install" in rest)
    assert "-c constraints.txt" in install
    for extra in re.findall(r"\[([^\]]+)\]", install)[0].replace("${EXTRA}", "cpu").split(","):
        assert extra in PROJECT["optional-dependencies"]
    words = [word for word, _ in steps]
    assert words.index("USER") < words.index("CMD")


def test_the_gateway_image_holds_no_torch() -> None:
    extras = PROJECT["optional-dependencies"]
    install = next(rest for word, rest in instructions(DOCKERFILES["gateway"]) if "pip install" in rest)
    wanted = [*PROJECT["dependencies"]]
    for extra in re.findall(r"\[([^\]]+)\]", install)[0].split(","):
        wanted += extras[extra]
    assert not [each for each in wanted if re.match(r"(torch|lightning|onnxscript|latentserve\[)", each)]
    copied = [rest.split()[0] for word, rest in instructions(DOCKERFILES["gateway"]) if word == "COPY"]
    assert not {"models", "workers"} & set(copied)
