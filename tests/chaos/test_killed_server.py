"""The server is killed again and again: what was acknowledged is there, once, and no number is given twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import redis

from spine import Spine, Unavailable
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until

SCALE = float(os.environ.get("SPINE_CHAOS_SCALE", "1"))
EVENTS = round(100_000 * SCALE)
KILLS = max(2, round(20 * SCALE))
PUBLISHERS = 64
PATIENCE_S = 120 + 600 * SCALE

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240 + 1800 * SCALE)]


def fsyncs_waited_for(server: RedisServer) -> int:
    with redis.Redis.from_url(server.url) as client:
        stats: dict[str, Any] = client.info("commandstats")
    return int(stats.get("cmdstat_waitaof", {}).get("calls", 0))


async def test_acknowledged_events_survive_kills_of_the_server(tmp_path: Path) -> None:
    acknowledged: dict[int, int] = {}
    waits: list[int] = []
    handed_out = iter(range(EVENTS))
    with RedisServer.start(tmp_path, appendonly=True) as server:
        async with Spine(server.url, namespace="chaos", durability="disk", patience_s=60) as spine:

            async def publish() -> None:
                for n in handed_out:
                    try:
                        event = await spine.publish("a.b", {"n": n}, key=f"k{n % 97}")
                    except Unavailable:
                        continue
                    assert event.seq not in acknowledged
                    acknowledged[event.seq] = n

            async def enough(goal: int) -> bool:
                return len(acknowledged) >= goal or all(task.done() for task in tasks)

            async def kill() -> None:
                for kill in range(KILLS):
                    goal = EVENTS * (kill + 1) // (KILLS + 2)
                    await wait_until(lambda goal=goal: enough(goal), PATIENCE_S)
                    waits.append(await asyncio.to_thread(fsyncs_waited_for, server))
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.restart)

            tasks = [asyncio.create_task(publish()) for _ in range(PUBLISHERS)]
            killing = asyncio.create_task(kill())
            await asyncio.gather(*tasks)
            killing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await killing
            found = [(event.seq, event.payload["n"]) async for event in spine.replay()]
            waits.append(await asyncio.to_thread(fsyncs_waited_for, server))
    print(
        f"{len(found)} events, {len(acknowledged)} of them acknowledged, {len(waits) - 1} kills, {sum(waits)} WAITAOF"
    )
    assert len(waits) == KILLS + 1
    assert all(waits), "a life of the server in which nobody waited for its disk"
    assert len({seq for seq, _ in found}) == len(found)
    assert len({n for _, n in found}) == len(found), "stored twice"
    assert acknowledged.items() <= dict(found).items(), "an acknowledged event is lost or has another number"
    assert len(acknowledged) > EVENTS * 0.9
