"""Workers are killed or frozen while they work: every effect is there once, in order, and every state is the fold."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaos_agents import Bookkeeper, Ledger

from spine import Draft, Spine
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until

HERE = Path(__file__).parent
SCALE = float(os.environ.get("SPINE_CHAOS_SCALE", "1"))
EVENTS = round(200_000 * SCALE)
KEYS = max(50, round(5_000 * SCALE))
WORKERS = 4
LEASE_S = 2.0
PATIENCE_S = 120 + 600 * SCALE

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240 + 1800 * SCALE)]


async def start_worker(url: str, namespace: str) -> asyncio.subprocess.Process:
    code = (
        "import asyncio, sys; from chaos_agents import Bookkeeper; from spine import Spine, run\n"
        "async def main():\n"
        f"    async with Spine({url!r}, namespace={namespace!r}) as spine:\n"
        f"        await run(spine, Bookkeeper, lease_s={LEASE_S})\n"
        "asyncio.run(main())"
    )
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env={**os.environ, "PYTHONPATH": str(HERE)}, stderr=asyncio.subprocess.DEVNULL
    )


@asynccontextmanager
async def workers(url: str, namespace: str) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    running = [await start_worker(url, namespace) for _ in range(WORKERS)]
    try:
        yield running
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in running))


async def feed(spine: Spine) -> None:
    chance = random.Random(1)
    drafts = [
        Draft("entry.made", {"n": n, "amount": chance.randrange(100)}, key=f"k{chance.randrange(KEYS)}")
        for n in range(EVENTS)
    ]
    for start in range(0, EVENTS, 500):
        await spine.publish_many(drafts[start : start + 500])


async def nothing_left(spine: Spine) -> bool:
    known = await spine.agents()
    return bool(known) and not sum(one.total for one in await spine.lag("bookkeeper"))


async def until_done(spine: Spine, fed: asyncio.Task[None]) -> None:
    await fed
    await wait_until(lambda: nothing_left(spine), PATIENCE_S)


async def check(spine: Spine) -> None:
    """Compare the log with what a careful clerk would have done."""
    made: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    booked: dict[str, list[tuple[int, int]]] = defaultdict(list)
    audited: dict[str, list[tuple[int, int]]] = defaultdict(list)
    async for event in spine.replay():
        payload = event.payload
        if event.type == "entry.made":
            made[event.key].append((event.seq, payload["n"], payload["amount"]))
        elif event.type == "entry.booked":
            booked[event.key].append((payload["n"], payload["count"]))
        elif event.type == "entry.audited":
            audited[event.key].append((payload["n"], payload["total"]))
    assert sum(map(len, made.values())) == EVENTS
    for key, entries in made.items():
        total, expected_booked, expected_audited = 0, [], []
        for count, (_, n, amount) in enumerate(entries, 1):
            total += amount
            expected_booked.append((n, count))
            expected_audited.append((n, total))
        assert booked[key] == expected_booked, key
        assert audited[key] == expected_audited, key
        last = entries[-1][1]
        assert await spine.reduce(Bookkeeper, key=key) == Ledger(count=len(entries), total=total, last=last)
    assert await spine.dead_letters() == []


async def test_workers_killed_every_second(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path) as server:
        async with Spine(server.url, namespace="chaos") as spine, workers(server.url, "chaos") as running:
            done = asyncio.create_task(until_done(spine, asyncio.create_task(feed(spine))))
            kills = 0
            while not done.done():
                await asyncio.wait({done}, timeout=1.0)
                if not done.done():
                    victim = running.pop(random.randrange(len(running)))
                    victim.kill()
                    await victim.wait()
                    running.append(await start_worker(server.url, "chaos"))
                    kills += 1
            await done
            assert kills > 0
            await check(spine)


async def test_workers_frozen_for_longer_than_their_lease(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path) as server:
        async with Spine(server.url, namespace="chaos") as spine, workers(server.url, "chaos") as running:
            done = asyncio.create_task(until_done(spine, asyncio.create_task(feed(spine))))
            freezes = 0
            while not done.done():
                victim = random.choice(running)
                victim.send_signal(signal.SIGSTOP)
                try:
                    await asyncio.wait({done}, timeout=LEASE_S + 1.0)
                finally:
                    victim.send_signal(signal.SIGCONT)
                freezes += 1
                await asyncio.wait({done}, timeout=0.5)
            await done
            assert freezes > 0
            await check(spine)
