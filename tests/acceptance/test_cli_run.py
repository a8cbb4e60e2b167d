"""`spine run` and `spine dev`: agents at work, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from spine_command import Cli, Running

AGENTS = """
import asyncio, os, pathlib, time

from spine.agent import Agent, on


class Greeter(Agent):
    name = "greeter"

    @on("hello")
    async def hello(self, event, ctx):
        await ctx.publish("greeted", {"pid": os.getpid(), "n": event.payload.get("n")})

    @on("wait")
    async def wait(self, event, ctx):
        pathlib.Path("started").touch()
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.01)
        await ctx.publish("waited", {})

    @on("block")
    async def block(self, event, ctx):
        pathlib.Path("started").touch()
        time.sleep(300)

    @on("hang.once")
    async def hang_once(self, event, ctx):
        if not pathlib.Path("started").exists():
            pathlib.Path("started").write_text(str(os.getpid()))
            await asyncio.sleep(300)
        await ctx.publish("hung", {"pid": os.getpid()})


class Nameless(Agent):
    pass


number = 7
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path) -> None:
    (tmp_path / "greet.py").write_text(AGENTS)
    (tmp_path / "raising.py").write_text("def wrong():\n    return 1 / 0\n\nwrong()\n")
    (tmp_path / "importing.py").write_text("import no_such_library\n")


def until(condition: Callable[[], Any], what: str) -> Any:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} never came")


def pids(running: Running) -> list[int]:
    """The workers that said they run, in the order in which they did."""
    found = (re.search(r"\(pid (\d+)\) runs", line) for line in list(running.err))
    return [int(match[1]) for match in found if match]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def started(running: Running, count: int) -> list[int]:
    running.until(lambda: len(pids(running)) >= count, f"{count} workers")
    return pids(running)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("greet", "not of the form module:Agent"),
        ("nowhere:Greeter", "there is no module 'nowhere'"),
        ("no.where:Greeter", "there is no module 'no'"),
        ("greet:Nobody", "module 'greet' has no 'Nobody'; agents there: Greeter, Nameless"),
        ("greet:number", "'number' is no subclass of Agent"),
        ("greet:Nameless", "has no name"),
        ("importing:Agent", "module 'importing' imports 'no_such_library', which is not installed"),
        ("raising:Agent", "line 2, in wrong"),
    ],
)
def test_a_target_that_cannot_be_had_ends_with_3_and_says_which_part_failed(cli: Cli, target: str, says: str) -> None:
    done = cli("run", "greet:Greeter", target)
    assert (done.code, done.out) == (3, "")
    assert says in done.err
    assert "importlib" not in done.err


def test_several_workers_that_cannot_start_say_so_once(cli: Cli) -> None:
    done = cli("run", "nowhere:Greeter", "-w", "3")
    assert done.code == 3
    assert done.err.count("there is no module") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_redis_ends_with_4(cli: Cli, workers: str) -> None:
    done = cli("run", "greet:Greeter", "-w", workers, "--url", "redis://127.0.0.1:1/0")
    assert done.code == 4
    assert "no Redis at" in done.err


@pytest.mark.parametrize("command", [("run", "greet:Greeter"), ("dev", "greet:Greeter")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_for_a_server_ends_at_once_when_asked_to(
    cli: Cli, command: tuple[str, ...], number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        waiting = cli.start(*command, "--url", f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
        mute.settimeout(60)
        with mute.accept()[0]:
            waiting.signal(number)
            began = time.monotonic()
            assert waiting.wait() == 0
            assert time.monotonic() - began < 4  # an answer is waited for for longer


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_ends_in_order_with_the_process_that_started_it(cli: Cli, tmp_path: Path, workers: str) -> None:
    source = f"""
import os, subprocess, sys
command = {[sys.executable, "-m", "spine", "run", "greet:Greeter", "-w", workers]!r}
child = subprocess.Popen([*command, "--parent", str(os.getpid())])
child.wait()
"""
    starter = subprocess.Popen(
        [sys.executable, "-c", source],
        env=cli.env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with starter:
        assert starter.stderr is not None
        said = ""
        while "runs greeter" not in said:
            said = starter.stderr.readline()
        starter.kill()
        rest = starter.stderr.read()  # until the last process that could write to it is gone
    assert "finishes what is in hand" in rest


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_it_tells_can_be_lines_of_json(cli: Cli, workers: str) -> None:
    running = cli.start("run", "greet:Greeter", "-w", workers, "--log-format", "json")
    line = json.loads(running.until_said("runs greeter"))
    assert (line["level"], line["logger"]) == ("info", "spine")
    assert datetime.fromisoformat(line["time"]).tzinfo == UTC
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert all(json.loads(told) for told in running.err)


def test_modules_are_found_in_another_directory(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "greet.py").rename(tmp_path / "app" / "elsewhere.py")
    assert cli("run", "elsewhere:Greeter", "--check").code == 3
    done = cli("run", "elsewhere:Greeter", "--check", "--app-dir", "app")
    assert done.code == 0
    assert done.rows[0]["agent"] == "greeter"
    assert done.rows[0]["handles"] == ["hello", "wait", "block", "hang.once"]


def test_the_first_signal_lets_what_runs_finish(cli: Cli, tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        running = cli.start("run", "greet:Greeter")
        started(running, 1)
        cli("publish", "wait", "{}")
        until((tmp_path / "started").exists, "the handler")
        running.signal(number)
        running.until_said("finishes what is in hand")
        (tmp_path / "go").touch()
        assert running.wait() == 0
        assert len(cli("history", "-t", "waited").rows) == 1
        cli("namespace", "delete", cli.namespace, "--yes")
        (tmp_path / "go").unlink()
        (tmp_path / "started").unlink()


@pytest.mark.parametrize("event_type", ["wait", "block"])
def test_a_second_signal_ends_at_once_even_a_handler_that_blocks(cli: Cli, tmp_path: Path, event_type: str) -> None:
    running = cli.start("run", "greet:Greeter")
    started(running, 1)
    cli("publish", event_type, "{}")
    until((tmp_path / "started").exists, "the handler")
    running.signal(signal.SIGINT)
    if event_type == "wait":
        running.until_said("finishes what is in hand")
    else:
        time.sleep(0.2)  # two signals that arrive together are one; nothing can be observed while the loop is blocked
    running.signal(signal.SIGINT)
    assert running.wait() == 130
    running.until(lambda: "ended at once" in running.err)


def test_what_does_not_finish_in_time_is_given_up(cli: Cli, tmp_path: Path) -> None:
    running = cli.start("run", "greet:Greeter", "--shutdown-timeout", "0.2")
    started(running, 1)
    cli("publish", "wait", "{}")
    until((tmp_path / "started").exists, "the handler")
    running.signal(signal.SIGTERM)
    assert running.wait() == 1
    assert "not all of what ran was finished within 0.2 s" in running.err[-1]
    assert cli("history", "-t", "waited").rows == []


def test_a_new_agent_begins_at_the_present_or_where_it_is_told(cli: Cli) -> None:
    cli("publish", "hello", '{"n": 1}')
    for arguments, expected in ((("--start", "beginning"), [2, 1]), ((), [2])):
        running = cli.start("run", "greet:Greeter", *arguments)
        started(running, 1)
        cli("publish", "hello", '{"n": 2}')
        until(lambda: len(cli("history", "-t", "greeted").rows) >= len(expected), "the greetings")  # noqa: B023
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert sorted((row["payload"]["n"] for row in cli("history", "-t", "greeted").rows), reverse=True) == expected
        cli("namespace", "delete", cli.namespace, "--yes")
        cli("publish", "hello", '{"n": 1}')


def test_a_killed_worker_is_replaced_and_what_it_had_in_hand_is_handled_at_once(cli: Cli, tmp_path: Path) -> None:
    running = cli.start("run", "greet:Greeter", "-w", "2")
    before = started(running, 2)
    cli("publish", "hang.once", "{}")
    until((tmp_path / "started").exists, "the handler")
    victim = until(lambda: (tmp_path / "started").read_text(), "its pid")
    killed = datetime.now(UTC)
    os.kill(int(victim), signal.SIGKILL)
    (event,) = until(lambda: cli("history", "-t", "hung").rows, "the other worker")
    assert (datetime.fromisoformat(event["ts"]) - killed).total_seconds() < 4.0  # a lease takes 5 s to end by itself
    assert event["payload"]["pid"] != int(victim)
    running.until_said("died (SIGKILL)")
    everybody = started(running, 3)
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert not any(alive(pid) for pid in {*before, *everybody})


def test_the_workers_die_with_their_supervisor(cli: Cli) -> None:
    running = cli.start("run", "greet:Greeter", "-w", "2")
    workers = started(running, 2)
    running.signal(signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in workers), "the end of the workers")


def test_a_second_signal_ends_all_workers_at_once(cli: Cli, tmp_path: Path) -> None:
    running = cli.start("run", "greet:Greeter", "-w", "2")
    workers = started(running, 2)
    cli("publish", "wait", "{}")
    until((tmp_path / "started").exists, "the handler")
    running.signal(signal.SIGINT)
    running.until_said("finishes what is in hand")
    running.signal(signal.SIGINT)
    assert running.wait() == 130
    until(lambda: not any(alive(pid) for pid in workers), "the end of the workers")


def test_a_password_is_not_on_the_command_line_of_a_worker(cli: Cli) -> None:
    url = cli.env.pop("SPINE_URL")
    running = cli.start("run", "greet:Greeter", "-w", "2", "--url", url.replace("://", "://:@", 1))
    for pid in started(running, 2):
        assert "127.0.0.1" not in Path(f"/proc/{pid}/cmdline").read_text()
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def test_dev_runs_server_and_agents_and_shows_what_happens(cli: Cli, tmp_path: Path) -> None:
    del cli.env["SPINE_URL"]
    running = cli.start("dev", "greet:Greeter")
    assert "unix://" in running.until_said("server ")
    running.until_said("Ctrl-C")
    assert cli("publish", "hello", '{"n": 1}').code == 0
    running.until(lambda: len(running.out) == 2)
    assert [json.loads(line)["type"] for line in running.out] == ["hello", "greeted"]
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    assert len(cli("history").rows) == 2


def test_dev_reloads_code_that_changed_and_keeps_what_runs_while_it_cannot(cli: Cli, tmp_path: Path) -> None:
    code = tmp_path / "greet.py"
    dev = cli.start("dev", "greet:Greeter", "--reload", "--quiet")
    dev.until_said("runs greeter")

    def greets(n: int) -> dict[str, Any]:
        cli("publish", "hello", json.dumps({"n": n}))
        found = [row for row in cli("tail", "-t", "greeted", "--after", "0", "--count", str(n)).rows if row]
        return dict(found[-1]["payload"])

    first = greets(1)
    code.write_text(AGENTS.replace('"n": event', '"was": event'))
    dev.until_said("reloading")
    dev.until(lambda: sum("runs greeter" in line for line in dev.err) == 2)
    second = greets(2)
    assert (first["n"], second["was"]) == (1, 2)
    assert first["pid"] != second["pid"]
    code.write_text("def broken(:")
    dev.until_said("SyntaxError")
    dev.until_said("not reloaded")
    assert greets(3)["pid"] == second["pid"]
    code.write_text(AGENTS)
    dev.until(lambda: sum("runs greeter" in line for line in dev.err) == 3)
    dev.signal(signal.SIGINT)
    assert dev.wait() == 0
    assert cli("agents").rows[0]["workers"] == []
    assert cli("dev", "--reload").code == 2
    assert cli("dev", "--reload", "nowhere:Greeter").code == 3


def test_a_request_shows_its_answer_and_its_parts_and_the_trace_says_who_handled_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "clerk.py").write_text(
        "from spine.agent import Agent, on\n"
        "class Clerk(Agent):\n"
        "    name = 'clerk'\n"
        "    @on('slot.find')\n"
        "    async def find(self, event, ctx):\n"
        "        for n in range(3):\n"
        "            await ctx.stream({'n': n})\n"
        "        await ctx.reply({'slot': '10:00'})\n"
        "    @on('slot.never')\n"
        "    async def never(self, event):\n"
        "        pass\n"
    )
    nobody = cli("request", "slot.find", "{}")
    assert (nobody.code, nobody.out) == (1, "")
    assert "no agent ever declared a handler for 'slot.find'" in nobody.err

    started(cli.start("run", "clerk:Clerk"), 1)
    (answer,) = cli("request", "slot.find", "{}", "--correlation", "c-1").rows
    assert answer["payload"] == {"slot": "10:00"}
    parts = cli("request", "slot.find", "--stream", "--timeout", "30").rows
    assert [part["payload"] for part in parts] == [{"n": 0}, {"n": 1}, {"n": 2}, {"slot": "10:00"}]
    late = cli("request", "slot.never", "{}", "--timeout", "0.3")
    assert (late.code, late.out) == (1, "")
    assert "no answer to 'slot.never' within 0.3 s" in late.err

    asked, answered = cli("trace", "c-1").rows
    assert [(row["type"], row["depth"]) for row in (asked, answered)] == [("slot.find", 0), ("slot.find.reply", 1)]
    (handled,) = asked["handled"]
    assert (handled["agent"], handled["outcome"], handled["attempts"]) == ("clerk", "done", 1)
    assert "✓ clerk" in cli("trace", "c-1", "-o", "table").out
    following = cli.start("trace", "c-1", "--follow")
    following.until(lambda: len(following.out) >= 2)
    cli("publish", "later", "--correlation", "c-1")
    following.until(lambda: any('"later"' in line for line in following.out))
    following.signal(signal.SIGINT)
    assert following.wait() == 0
