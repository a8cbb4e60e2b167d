"""`spine namespace list` and `delete`, and what holds for every command."""

from __future__ import annotations

import resource

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


def test_help_is_quick_and_every_command_takes_url_and_namespace(cli: Cli) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = cli("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.code == 0
    # Processor time: what it takes where nothing else runs.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    commands = [line.split()[1] for line in shown.out.splitlines() if line.startswith("│ ") and line[2].isalpha()]
    assert {"publish", "tail", "history", "replay", "trace", "doctor", "namespace"} <= set(commands)
    for command in commands:
        told = cli(command, "--help")
        assert told.code == 0
        if command != "namespace":
            assert "--url" in told.out, command
            assert "--namespace" in told.out, command


def test_the_version_is_that_of_the_distribution(cli: Cli) -> None:
    assert cli("--version").out.startswith("spine 0.")


def test_an_unknown_command_is_a_usage_error(cli: Cli) -> None:
    assert cli("pubish").code == 2
    assert cli("history", "--no-such").code == 2
