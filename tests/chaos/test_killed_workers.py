"""Workers are killed or frozen while they work: every effect is there once, in order, and every state is the fold."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaos_agents import Bookkeeper, Ledger
from pydantic import BaseModel

from spine import Draft, Spine
from spine.state.fold import Cell
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


class Workers:
    """Worker processes; what `spine run -w` would supervise."""

    def __init__(self, url: str, namespace: str, directory: Path) -> None:
        self.log = directory / "workers.log"
        self.url = url
        self.namespace = namespace
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self._names = itertools.count(1)

    async def start(self) -> None:
        name = f"w{next(self._names)}"
        code = (
            "import asyncio, sys; from chaos_agents import Bookkeeper; from spine import Spine, run\n"
            "async def main():\n"
            f"    async with Spine({self.url!r}, namespace={self.namespace!r}) as spine:\n"
            f"        await run(spine, Bookkeeper, worker={name!r}, lease_s={LEASE_S})\n"
            "asyncio.run(main())"
        )
        with self.log.open("ab") as log:
            self.running[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, env={**os.environ, "PYTHONPATH": str(HERE)}, stderr=log
            )

    def lost(self) -> int:
        """Return how many partitions workers found to be lost when they woke up."""
        return self.log.read_text().count("to another worker")

    def choose(self) -> asyncio.subprocess.Process:
        return random.choice(list(self.running.values()))

    async def replace_one(self, spine: Spine) -> None:
        name = random.choice(list(self.running))
        victim = self.running.pop(name)
        assert victim.returncode is None, f"{name} ended by itself, {victim.returncode}: {self.log.read_text()[-3000:]}"
        victim.kill()
        await victim.wait()
        await spine.expire_worker(name)
        await self.start()


@asynccontextmanager
async def workers(url: str, namespace: str, directory: Path) -> AsyncIterator[Workers]:
    herd = Workers(url, namespace, directory)
    for _ in range(WORKERS):
        await herd.start()
    try:
        yield herd
    finally:
        for process in herd.running.values():
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in herd.running.values()))


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
    left = sum(one.total for one in await spine.lag("bookkeeper")) if known else EVENTS
    print(f"{time.strftime('%X')} {left} left", flush=True)
    return not left


async def serving(spine: Spine) -> bool:
    return sum(len(status.workers) for status in await spine.agents()) == WORKERS


async def until_done(spine: Spine, fed: asyncio.Task[None]) -> None:
    await fed
    async with asyncio.timeout(PATIENCE_S):
        while not await nothing_left(spine):  # noqa: ASYNC110 - asking more often would take the server's time
            await asyncio.sleep(1.0)


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
    assert await spine.dead_letters() == []
    assert sum(map(len, made.values())) == EVENTS
    stored = await stored_states(spine)
    for key, entries in made.items():
        total, expected_booked, expected_audited = 0, [], []
        for count, (_, n, amount) in enumerate(entries, 1):
            total += amount
            expected_booked.append((n, count))
            expected_audited.append((n, total))
        assert booked[key] == expected_booked, key
        assert audited[key] == expected_audited, key
        assert stored[key] == Ledger(count=len(entries), total=total, last=entries[-1][1])


async def stored_states(spine: Spine) -> dict[str, BaseModel]:
    """Return the state of every key as the workers stored it."""
    states: dict[str, BaseModel] = {}
    for partition in range(spine.server.partitions):
        key = spine.server.keys.state("bookkeeper", Bookkeeper.version, partition)
        raw = await spine.server.command("HGETALL", key)
        for i in range(0, len(raw), 2):
            states[raw[i].decode()] = Cell.decode(Ledger, raw[i + 1]).state
    return states


async def test_workers_killed_every_second(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path) as server:
        async with Spine(server.url, namespace="chaos") as spine, workers(server.url, "chaos", tmp_path) as herd:
            done = asyncio.create_task(until_done(spine, asyncio.create_task(feed(spine))))
            kills = 0
            while not done.done():
                await asyncio.wait({done}, timeout=1.0)
                if not done.done():
                    await herd.replace_one(spine)
                    kills += 1
            await done
            assert kills > 0
            await check(spine)
            print(f"{EVENTS} events, {kills} kills")


async def test_workers_frozen_for_longer_than_their_lease(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path) as server:
        async with Spine(server.url, namespace="chaos") as spine, workers(server.url, "chaos", tmp_path) as herd:
            await wait_until(lambda: serving(spine), 60)
            done = asyncio.create_task(until_done(spine, asyncio.create_task(feed(spine))))
            freezes = 0
            while not done.done():
                victim = herd.choose()
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
            lost = await wait_until(herd.lost)
            print(f"{EVENTS} events, {freezes} freezes, {lost} partitions lost by them")
