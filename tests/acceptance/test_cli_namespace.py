"""`spine namespace list` and `delete`, and what holds for every command."""

from __future__ import annotations

import subprocess
import sys

import redis
from spine_command import Cli


def test_namespaces_are_listed_and_deleted_whole(cli: Cli, url: str, namespace: str) -> None:
    other = f"{namespace}-other"
    cli("publish", "a.b", "-", stdin="{}\n" * 1500)
    cli("publish", "a.b", "{}", "--namespace", other)
    listed = {row["name"]: row for row in cli("namespace", "list").rows}
    assert listed[namespace]["seq"] == 1500
    assert listed[other]["partitions"] == 8

    asked = cli("namespace", "delete", namespace)
    assert (asked.code, asked.out) == (1, "")
    assert "--yes" in asked.err
    done = cli("namespace", "delete", namespace, "--yes")
    assert done.code == 0
    with redis.Redis.from_url(url) as client:
        assert list(client.scan_iter(f"spine:{{{namespace}}}:*", count=1000)) == []
    assert done.rows[0]["deleted_keys"] > 1500
    assert [event["seq"] for event in cli("history", "--namespace", other).rows] == [1]
    assert cli("namespace", "delete", other, "-y").code == 0

    missing = cli("namespace", "delete", namespace, "--yes")
    assert missing.code == 1
    assert "there is no namespace" in missing.err


LIGHT = """
import sys, types, importlib.util
package = types.ModuleType("spine")  # without what `import spine` itself brings
package.__path__ = importlib.util.find_spec("spine").submodule_search_locations
sys.modules["spine"] = package
import spine.cli.app
print(*sys.modules)
"""


def test_the_commands_import_what_they_need_only_when_they_run() -> None:
    shown = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"redis", "pydantic", "uvloop", "rich.table", "spine.client", "spine.agent"}
    imported = set(shown.stdout.split())
    assert "spine.cli.run" in imported
    assert heavy & imported == set()


def test_every_command_takes_url_and_namespace(cli: Cli) -> None:
    shown = cli("--help")
    assert shown.code == 0
    commands = [line.split()[1] for line in shown.out.splitlines() if line.startswith("│ ") and line[2].isalpha()]
    assert {"publish", "tail", "history", "replay", "trace", "doctor", "namespace"} <= set(commands)
    groups = {"namespace": [], "bench": [], "dlq": ["dlq list", "dlq show", "dlq redrive", "dlq discard"]}
    groups["snapshots"] = ["snapshots list", "snapshots keep", "snapshots remove"]
    for command in (one for name in commands for one in groups.get(name, [name])):
        told = cli(*command.split(), "--help")
        assert told.code == 0
        assert "--url" in told.out, command
        assert "--namespace" in told.out, command


def test_the_version_is_that_of_the_distribution(cli: Cli) -> None:
    assert cli("--version").out.startswith("spine 0.")


def test_an_unknown_command_is_a_usage_error(cli: Cli) -> None:
    assert cli("pubish").code == 2
    assert cli("history", "--no-such").code == 2
