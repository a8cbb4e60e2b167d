"""`spine agents`, `lag`, `cancel` and `dlq`: looking after agents from a shell."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from spine_command import Cli

from spine import Agent, Event, Handling, Retry, Spine, Worker, on
from spine.testing.waiting import wait_until

TIMEOUT_S = 15.0


class Shaky(Agent[None]):
    name = "shaky"
    mended = False

    @on("work.*", retry=Retry(attempts=1))
    async def work(self, event: Event[dict[str, int]], ctx: Handling) -> None:
        if not self.mended:
            raise ValueError(f"cannot do {event.payload['n']}")
        await ctx.publish("worked", event.payload)


class Mended(Shaky):
    mended = True


@pytest.fixture
async def spine(url: str, namespace: str) -> AsyncIterator[Spine]:
    async with Spine(url, namespace=namespace) as client:
        yield client


async def given_up(spine: Spine, count: int) -> bool:
    return len(await spine.dead_letters()) == count


async def worked(spine: Spine) -> list[int]:
    return [event.payload["n"] async for event in spine.replay(types="worked")]


async def test_dead_letters_from_the_list_to_the_redrive(cli: Cli, spine: Spine) -> None:
    async with Worker(spine, Shaky):
        events = [await spine.publish(f"work.{n % 2}", {"n": n}, key="k") for n in range(4)]
        await wait_until(lambda: given_up(spine, 4), TIMEOUT_S)
    assert [row["seq"] for row in cli("dlq", "list").rows] == [event.seq for event in events]
    assert [row["type"] for row in cli("dlq", "list", "-t", "work.1", "--error", "cannot do 3").rows] == ["work.1"]
    shown = cli("dlq", "show", str(events[1].seq), "-o", "table")
    assert "ValueError: cannot do 1" in shown.out
    assert "Traceback" in shown.out

    assert cli("dlq", "redrive").code == 2
    dry = cli("dlq", "redrive", "--all", "--dry-run")
    assert (len(dry.rows), "4 would be redriven" in dry.err) == (4, True)
    assert cli("dlq", "discard", str(events[3].seq)).code == 0
    assert len(cli("dlq", "redrive", "--agent", "shaky").rows) == 3
    async with Worker(spine, Mended):
        await wait_until(lambda: _has_worked(spine, 3), TIMEOUT_S)
    assert await worked(spine) == [0, 1, 2]
    assert cli("dlq", "list").rows == []
    assert cli("dlq", "show", "1").code == 1
    for command in ("redrive", "discard"):
        missing = cli("dlq", command, "1", "2")
        assert (missing.code, "no such dead letter: 1, 2" in missing.err) == (1, True)
        assert cli("dlq", command, "--agent", "shakey").code == 2
    assert "known are: shaky" in cli("dlq", "list", "--agent", "shakey").err


async def _has_worked(spine: Spine, count: int) -> bool:
    return len(await worked(spine)) == count


async def test_agents_and_lag(cli: Cli, spine: Spine) -> None:
    assert cli("agents").rows == []
    async with Worker(spine, Mended, worker="w-1"):
        (row,) = cli("agents").rows
        assert (row["name"], row["workers"][0]["worker"]) == ("shaky", "w-1")
        assert cli("agents", "pause", "shaky").code == 0
        assert cli("agents").rows[0]["paused"]
        assert "paused" in cli("agents", "-o", "table").out
        assert cli("agents", "remove", "shaky").code == 2
    event = await spine.publish("work.0", {"n": 1}, key="k")
    assert cli("lag").rows[0]["lag"] == 1
    behind = cli("lag", "--max", "0")
    assert (behind.code, "shaky" in behind.err) == (5, True)
    assert cli("lag", "--max", "1").code == 0
    assert cli("agents", "resume", "shaky").code == 0
    unknown = cli("cancel", "--correlation", "nobodys")
    assert (unknown.code, "no event is stored" in unknown.err) == (0, True)
    known = cli("cancel", "--correlation", event.context.correlation)
    assert (known.code, "no event is stored" in known.err) == (0, False)
    assert cli("agents", "remove", "shaky").code == 0
    assert cli("agents").rows == []
    assert cli("lag", "nobody").code == 2
    assert cli("lag", "--max", "-1").code == 2
