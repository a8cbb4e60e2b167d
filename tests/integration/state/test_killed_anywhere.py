"""Killed after any call to the server, a fork, a trim and an import end as if they had never been."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from ledger import Ledger, Serve

from spine import Agent, Draft, Event, Handling, Priority, Retry, Spine, on
from spine.keys import Keys
from spine.testing.waiting import wait_until

HERE = Path(__file__).parent
OWN = ("prod:", "inbox:", "control", "meta", "epochs", "bell:")
Contents = dict[str, Any]


class Clerk(Agent[None]):
    """Leaves dead letters, parked keys, steps and scheduled events behind."""

    name = "clerk"
    start = "beginning"

    @on("money.in", retry=Retry(attempts=1), on_dead="park")
    async def file(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        amount = event.payload["amount"]
        await ctx.step("read", _read, amount)
        if amount % 40 == 13:
            raise RuntimeError("no luck")
        if amount % 30 == 2:
            ctx.schedule("money.in", {"amount": 1}, delay=3_600)

    @on("money.out", retry=Retry(attempts=1))
    async def out(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        if event.payload["amount"] % 20 == 5:
            raise RuntimeError("no luck")


async def _read(amount: int) -> int:
    return amount


async def process(url: str, namespace: str, *args: str, die_at: int = 0) -> int:
    """Run the process to its end, or until it dies after a call; return how many calls there were."""
    environment = {**os.environ, "DIE_AT": str(die_at), "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"}
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "past_process.py"), url, namespace, *args, env=environment, stdout=pipe, stderr=pipe
    )
    try:
        out, said = await asyncio.wait_for(child.communicate(), 60)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == (-signal.SIGKILL if die_at else 0), said.decode()
    return 0 if die_at else int(out)


@pytest.fixture
async def copies(raw: redis.asyncio.Redis) -> AsyncIterator[str]:
    """What the names of other namespaces begin with, all deleted after the test."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    found = [key async for key in raw.scan_iter(match=f"spine:{{{name}*", count=1000)]
    for start in range(0, len(found), 1000):
        await raw.unlink(*found[start : start + 1000])


async def contents(raw: redis.asyncio.Redis, namespace: str) -> Contents:
    """Everything that a namespace holds, but for what clients keep for themselves; groups by what is pending."""
    keys, found = Keys(namespace), {}
    async for raw_name in raw.scan_iter(match=keys.all(), count=1000):
        name = raw_name.decode().removeprefix(keys.prefix)
        if not name.startswith(OWN):
            found[name] = await _value(raw, raw_name)
    return found


async def _value(raw: Any, name: bytes) -> Any:
    kind = (await raw.type(name)).decode()
    if kind == "stream":
        groups = []
        for group in await raw.xinfo_groups(name):
            pending = await raw.xpending_range(name, group["name"], "-", "+", 10_000)
            ids = [one["message_id"] for one in pending]
            groups.append((group["name"], group["last-delivered-id"], ids))
        return await raw.xrange(name), sorted(groups)
    read = {
        "hash": lambda: raw.hgetall(name),
        "list": lambda: raw.lrange(name, 0, -1),
        "zset": lambda: raw.zrange(name, 0, -1, withscores=True),
        "set": lambda: raw.smembers(name),
        "string": lambda: raw.get(name),
    }
    return await read[kind]()


@pytest.fixture
async def history(spine: Spine, serve: Serve) -> int:
    """A history with everything in it that a fork copies; returns its head."""
    worker = await serve(Ledger, Clerk)
    chance = random.Random(3)
    for start in range(0, 1_600, 100):
        drafts = [
            Draft(
                "money.in" if chance.random() < 0.7 else "money.out",
                {"amount": number},
                key=f"k{number % 12}",
                priority=chance.choice(list(Priority)),
            )
            for number in range(start, start + 100)
        ]
        await spine.publish_many(drafts)
        await spine.update_session(f"k{start % 7}", {"at": start})
    await spine.schedule("money.in", {"amount": 1}, key="k1", delay=3_600)

    async def done() -> bool:
        return all(lag.not_taken == lag.pending == 0 for lag in await spine.lag())

    await wait_until(done)
    assert [letter for letter in await spine.dead_letters("clerk") if letter.parked]
    await worker.stop()
    for number in range(12):
        await spine.snapshot(Ledger, key=f"k{number}", at=700)
    await spine.publish_many([Draft("money.out", {"amount": number}, key=f"k{number}") for number in range(12)])
    return await spine.reader.head()


KILLS = [3, pytest.param(40, marks=pytest.mark.soak)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", KILLS)
async def test_a_fork(url: str, spine: Spine, raw: redis.asyncio.Redis, copies: str, history: int, kills: int) -> None:
    at = str(history * 2 // 3)
    before = await contents(raw, spine.namespace)
    calls = await process(url, spine.namespace, "fork", f"{copies}-whole", at)
    wanted = await contents(raw, f"{copies}-whole")
    for die_at in random.Random(5).sample(range(1, calls), kills):
        copy = f"{copies}-{die_at}"
        await process(url, spine.namespace, "fork", copy, at, die_at=die_at)
        await process(url, spine.namespace, "fork", copy, at)
        assert await contents(raw, copy) == wanted, die_at
    assert await contents(raw, spine.namespace) == before


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", KILLS)
async def test_a_trim(url: str, spine: Spine, raw: redis.asyncio.Redis, copies: str, history: int, kills: int) -> None:
    await spine.discard("clerk")
    until = str(history * 2 // 3)
    await spine.fork(f"{copies}-whole")
    calls = await process(url, f"{copies}-whole", "trim", until)
    wanted = await contents(raw, f"{copies}-whole")
    for die_at in random.Random(6).sample(range(1, calls), kills):
        copy = f"{copies}-{die_at}"
        await spine.fork(copy)
        await process(url, copy, "trim", until, die_at=die_at)
        await process(url, copy, "trim", until)
        assert await contents(raw, copy) == wanted, die_at


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("kills", KILLS)
async def test_an_import(
    url: str, spine: Spine, raw: redis.asyncio.Redis, copies: str, tmp_path: Path, kills: int
) -> None:
    await spine.trim(until=500, force=True)
    export = tmp_path / "log.ndjson"
    export.write_bytes(b"\n".join([line async for line in spine.export()]))
    calls = await process(url, f"{copies}-whole", "import", str(export))
    wanted = await contents(raw, f"{copies}-whole")
    # The last call opens the namespace: nothing goes on after it.
    for die_at in random.Random(7).sample(range(1, calls - 1), kills):
        copy = f"{copies}-{die_at}"
        await process(url, copy, "import", str(export), die_at=die_at)
        await process(url, copy, "import", str(export))
        assert await contents(raw, copy) == wanted, die_at
