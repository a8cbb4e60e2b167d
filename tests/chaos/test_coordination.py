"""Handoffs, sequences, routes, fan-outs, gathers, gates, preemption: all at once, while processes and the server die.

Each case ends in each of these ways exactly once, and as it would have without any death.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spine import Priority, Spine
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until

HERE = Path(__file__).parent
SCALE = float(os.environ.get("SPINE_CHAOS_SCALE", "1"))
CASES = max(20, round(500 * SCALE))
SERVER_KILLS = max(1, round(6 * SCALE))
AT_ONCE = 8
LEASE_S = 2.0
PATIENCE_S = 120 + 600 * SCALE
WAYS = ("sequence", "route", "fan", "gather", "gate", "slow", "urgent")
GROUPS = ("Opener", "First, Second", "Auto, Review, Human", "Oracle", "Gatekeeper", "Yielding")
KEYS = ("k/{}", "ключ {}", "a:b:{}", "{{x}}{}", "*{}?[a]", "line\n{}", " {} ")
CONFIDENCES = (0.85, 0.8499, 0.5, 0.4999, 1, 85, None, "0.9")
ROUTES = ("auto", "review", "review", "human", "auto", "human", "human", "human")

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240 + 1800 * SCALE)]


class Herd:
    """Two worker processes of each group of agents; one that is killed is replaced."""

    def __init__(self, url: str, log: Path) -> None:
        self._url = url
        self._log = log
        self._numbers = itertools.count(1)
        self._running: list[tuple[str, str, asyncio.subprocess.Process]] = []
        self.deaths: Counter[str] = Counter()

    async def start(self, group: str) -> None:
        name = f"w{next(self._numbers)}"
        code = (
            f"import asyncio; from coordination_agents import {group}; from spine import Spine, run\n"
            "async def main():\n"
            f"    async with Spine({self._url!r}, namespace='chaos') as spine:\n"
            f"        await run(spine, {group}, worker={name!r}, lease_s={LEASE_S}, concurrency=4)\n"
            "asyncio.run(main())"
        )
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, env={**os.environ, "PYTHONPATH": str(HERE)}, stderr=log
            )
        self._running.append((group, name, process))

    async def kill_one(self) -> None:
        """SIGKILL, and another takes its place; nobody is told: the lease has to end."""
        group, name, victim = self._running.pop(random.randrange(len(self._running)))
        assert victim.returncode is None, f"{name} ended by itself: {self._log.read_text()[-3000:]}"
        victim.kill()
        await victim.wait()
        self.deaths[group] += 1
        await self.start(group)

    async def freeze_one(self) -> None:
        """For longer than its lease: it wakes up when others have its partitions."""
        group, _, victim = random.choice(self._running)
        victim.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(LEASE_S + 0.5)
        finally:
            victim.send_signal(signal.SIGCONT)
        self.deaths[f"{group}, frozen"] += 1

    async def end(self) -> None:
        for _, _, process in self._running:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for _, _, process in self._running))


@asynccontextmanager
async def herd(url: str, spine: Spine, log: Path) -> AsyncIterator[Herd]:
    workers = Herd(url, log)
    try:
        for group in GROUPS * 2:
            await workers.start(group)
        agents = [name.strip().lower() for group in GROUPS for name in group.split(",")]
        for agent in agents:
            await wait_until(lambda agent=agent: _serves(spine, agent), 60, agent)
        yield workers
    finally:
        await workers.end()


async def _serves(spine: Spine, agent: str) -> bool:
    return len(await spine.workers(agent)) == 2


async def play(spine: Spine, case: int) -> None:
    """Publish all that one case is about, what the gate waits for in any order and lane."""
    key = KEYS[case % len(KEYS)].format(case)
    payload = {"case": case, "confidence": CONFIDENCES[case % len(CONFIDENCES)]}
    for way in ("sequence", "route", "fan", "gather", "slow"):
        await spine.publish(f"{way}.wanted", payload, key=f"{way} {key}")
    await spine.publish(
        "urgent.wanted", payload, key=f"{'slow' if case % 2 else 'urgent'} {key}", priority=Priority.URGENT
    )
    for condition in random.sample(("a", "b", "c") if case % 3 else ("a", "b"), 3 if case % 3 else 2):
        await spine.publish(f"gate.{condition}", payload, key=f"gate {key}", priority=random.choice(list(Priority)))


def expected(way: str, case: int) -> dict[str, Any]:
    """Return what is told at the end of one way."""
    match way:
        case "sequence":
            hands = ["first", "second"] if case % 5 == 0 else ["first", "second", "first"]
            return {"case": case, "confidence": CONFIDENCES[case % len(CONFIDENCES)], "hands": hands}
        case "route":
            return {"case": case, "to": ROUTES[case % len(ROUTES)]}
        case "gate" if case % 3:
            return {"case": case, "came": ["gate.a", "gate.b", "gate.c"]}
        case "gate":
            return {"case": case, "came": ["gate.a", "gate.b"], "missing": ["gate.c"]}
        case _:
            return {"case": case}


def told(way: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Return of what was told all that is sure beforehand."""
    if way == "gather":
        assert len(payload["answers"]) >= 4
        assert not payload["partial"]
        return {"case": payload["answers"][0]["payload"]["case"]}
    if way == "fan":
        assert payload["came"] >= 3
        assert not payload["partial"]
        return {"case": payload["case"]}
    return payload


async def all_ended(spine: Spine) -> bool:
    found = Counter([event.type async for event in spine.replay(types="*.ended")])
    return all(found[f"{way}.ended"] >= CASES for way in WAYS)


async def test_every_case_ends_once_in_every_way(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as server:
        async with (
            Spine(server.url, namespace="chaos", patience_s=60) as spine,
            herd(server.url, spine, tmp_path / "workers.log") as workers,
        ):
            cases = iter(range(CASES))
            played = 0

            async def feed() -> None:
                nonlocal played
                for case in cases:
                    await play(spine, case)
                    await asyncio.sleep(random.random() * 1.5)
                    played += 1

            async def torment() -> None:
                for goal in range(1, SERVER_KILLS + 1):
                    while played < CASES * goal // (SERVER_KILLS + 1):
                        await random.choice((workers.kill_one, workers.kill_one, workers.freeze_one))()
                        await asyncio.sleep(random.random())
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(random.random())
                    await asyncio.to_thread(server.restart)

            async with asyncio.TaskGroup() as group:
                group.create_task(torment())
                for _ in range(AT_ONCE):
                    group.create_task(feed())
            await wait_until(lambda: all_ended(spine), PATIENCE_S, "every end of every case")
            await wait_until(lambda: _idle(spine), PATIENCE_S, "nothing left to do")
            for way in WAYS:
                ends = [told(way, event.payload) async for event in spine.replay(types=f"{way}.ended")]
                by_case = sorted(ends, key=lambda end: end["case"])
                assert by_case == [expected(way, case) for case in range(CASES)], way
            assert await spine.dead_letters() == []
            print(f"{CASES} cases, {SERVER_KILLS} kills of the server, {dict(workers.deaths)}")


async def _idle(spine: Spine) -> bool:
    return sum(lag.total for lag in await spine.lag()) == 0
