"""What the documentation shows runs as it is printed, and prints what the comments behind it say."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from spine import Agent, Event, Handling, Spine, Worker, on
from spine.testing.servers import RedisServer

ROOT = Path(__file__).parents[2]
CONFIG = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


def blocks(file: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / file).read_text(), re.MULTILINE | re.DOTALL)


def run(source: str, file: str) -> None:
    """Run `source`, in which ``await`` may stand anywhere."""
    code = compile(source, file, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result: Any = eval(code, {"__name__": "__main__"})
    if inspect.iscoroutine(result):
        asyncio.run(result)


def said(source: str) -> list[str]:
    """Return the comments behind calls of `print`."""
    return re.findall(r"print\(.*\)  # (.*)$", source, re.MULTILINE)


@pytest.fixture
def elsewhere(url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What names no server uses that of this run."""
    monkeypatch.setenv("SPINE_URL", url)
    monkeypatch.setenv("SPINE_NAMESPACE", namespace)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("file", ["docs/agents.md", "docs/bus.md", "docs/catalog.md"])
def test_what_is_shown_prints_what_it_says(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = blocks(file)
    expected = said(source)
    assert expected
    run(source, file)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(expected)
    for line, comment in zip(printed, expected, strict=True):
        whole, *rest = comment.rsplit(", …", 1)
        assert line.startswith(whole) if rest else line == comment


class Calendar(Agent):
    name = "calendar"

    @on("calendar.find_slot")
    async def find(self, event: Event, ctx: Handling) -> None:
        await ctx.reply({"slot": 9})


async def test_the_client_without_await(url: str, namespace: str) -> None:
    (source,) = blocks("docs/blocking.md")
    source = source.replace("redis://localhost:6379/0", url).replace('"acme"', repr(namespace))
    async with Spine(url, namespace=namespace) as spine, Worker(spine, Calendar):
        await asyncio.to_thread(run, source, "docs/blocking.md")
        types = [event.type async for event in spine.replay()]
    assert types == ["order.placed", "calendar.find_slot", "calendar.find_slot.reply"]


def test_the_first_example_starts_a_server_of_its_own_and_prints_what_is_below_it(tmp_path: Path) -> None:
    (source,) = blocks("README.md")
    (tmp_path / "first.py").write_text(source)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPINE_")}
    command = [sys.executable, "first.py"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == blocks("README.md", "text")[0]


@pytest.mark.parametrize("server", ["embedded", "memory"])
def test_the_tests_that_are_shown_pass(tmp_path: Path, server: str) -> None:
    for source in blocks("docs/testing.md"):
        name = source.partition("\n")[0].removeprefix("# ")
        assert name.endswith(".py")
        (tmp_path / name).write_text(source)
    (tmp_path / "pytest.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--spine-server", server]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stdout
    assert "3 passed" in shown.stdout


async def test_the_user_that_is_shown_may_do_all_that_a_namespace_needs(tmp_path: Path) -> None:
    (line,) = re.findall(r"^(ACL SETUSER .*)$", (ROOT / "docs/server.md").read_text(), re.MULTILINE)
    with RedisServer.start(tmp_path, appendonly=True) as server, redis.Redis.from_url(server.url) as raw:
        raw.execute_command(*line.split(" "))
        url = f"redis://acme:PASSWORD@127.0.0.1:{server.port}/0"
        async with Spine(url, namespace="acme") as spine, Worker(spine, Calendar):
            answer = await spine.request("calendar.find_slot", {}, key="k", timeout=10)
            await (await spine.schedule("order.remind", {}, delay=60)).cancel()
            await spine.update_session("s-1", {"language": "de"})
            await spine.trim(until=await spine.head())
        assert answer.payload == {"slot": 9}
        refused = [entry for entry in raw.acl_log() if entry["username"] == "acme"]
        assert refused == []
