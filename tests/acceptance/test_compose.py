"""The containers: a valid file with every agent in it, a server that loses nothing, and the team at work in them."""

from __future__ import annotations

import importlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from agents.workers import TEAM
from spine import Agent

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    """Check against the schema of the Compose specification, which the tool brings with it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE_FILE)["services"]
    return found


def test_it_follows_the_compose_specification() -> None:
    result = validate(COMPOSE_FILE)
    assert result.returncode == 0, result.stdout


def test_a_misspelt_word_would_be_noticed(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE_FILE.read_text().replace("healthcheck:", "heathcheck:"))
    assert validate(broken).returncode == 1


@pytest.mark.parametrize("agent", TEAM)
def test_every_agent_of_the_team_has_a_service_that_runs_it(services: dict[str, Any], agent: str) -> None:
    *command, target = services[agent]["command"]
    assert command == ["spine", "run"]
    module, _, name = target.partition(":")
    declared = getattr(importlib.import_module(module), name)
    assert issubclass(declared, Agent)
    assert declared.name == agent


def test_nothing_works_before_the_server_is_healthy(services: dict[str, Any]) -> None:
    assert services["valkey"]["healthcheck"]["test"]
    for name, service in services.items():
        if name != "valkey":
            assert service["depends_on"] == {"valkey": {"condition": "service_healthy"}}, name
            assert service["environment"]["SPINE_URL"] == "redis://valkey:6379/0"


def test_a_variable_of_the_host_is_not_one_of_the_services(services: dict[str, Any]) -> None:
    """podman-compose takes a service's own variables for what stands in ``${…}``: its mount would be elsewhere."""
    taken = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    assert taken == {"CONVERSATIONS"}
    for name, service in services.items():
        assert not taken & service.get("environment", {}).keys(), name


def test_the_conversations_are_where_the_image_looks_for_them(services: dict[str, Any]) -> None:
    (looked_for,) = re.findall(r"CONVERSATIONS=(\S+)", (ROOT / "Dockerfile").read_text())
    for name, service in services.items():
        if name != "valkey":
            assert [volume["target"] for volume in service["volumes"]] == [looked_for], name


def test_the_server_keeps_every_event(services: dict[str, Any]) -> None:
    command = " ".join(services["valkey"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert services["valkey"]["volumes"] == ["events:/data"]


def test_the_image_does_not_run_as_root() -> None:
    final_stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2].splitlines()
    [user] = [line.split()[1] for line in final_stage if line.startswith("USER ")]
    assert int(user) > 0  # a number: an orchestrator that wants non-root users cannot check a name


def container_engine() -> str:
    """The command of an engine that answers, or why there is none."""
    for engine in ("docker", "podman"):
        try:
            for check in (["compose", "version"], ["info"]):
                subprocess.run([engine, *check], capture_output=True, check=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            continue
        return engine
    pytest.skip("no container engine with compose answers")


@pytest.fixture
def compose() -> Iterator[list[str]]:
    """A command of a project of its own, which is removed afterwards with its data."""
    project = ["compose", "--project-name", f"spine-test-{secrets.token_hex(4)}", "--file", str(COMPOSE_FILE)]
    command = [container_engine(), *project]
    yield command
    subprocess.run([*command, "--profile", "team", "down", "--volumes", "--timeout", "30"], check=True, timeout=120)


@pytest.mark.containers
@pytest.mark.timeout(900)
def test_the_team_works_in_containers(compose: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CONVERSATIONS"}
    subprocess.run([*compose, "up", "--build", "--detach", "--wait"], check=True, timeout=600, env=environment)
    subprocess.run([*compose, "run", "--rm", "-T", "team"], check=True, timeout=120, env=environment)
