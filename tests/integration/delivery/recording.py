"""Agents that note what they handled, and what the log and the server say afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from typing import Any, ClassVar

import redis.asyncio

from spine import Agent, Event, Spine
from spine.delivery.records import Done
from spine.worker import Worker


class Recorder(Agent):
    """Notes what it handled, each subclass for itself."""

    name = "recorder"
    seen: ClassVar[dict[str, list[int]]]
    count: ClassVar[int]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.seen = defaultdict(list)
        cls.count = 0

    @classmethod
    def note(cls, event: Event[Any]) -> None:
        cls.seen[event.key].append(event.seq)
        cls.count += 1


async def everything(spine: Spine, **selection: Any) -> list[Event[Any]]:
    """Return the log."""
    return [event async for event in spine.replay(**selection)]


async def outcomes(spine: Spine, raw: redis.asyncio.Redis, agent: str) -> dict[int, Done]:
    """Return the done records of an agent by seq."""
    found: dict[int, Done] = {}
    async for key in raw.scan_iter(match=spine.server.keys.own("done", agent, "*"), count=1000):
        for seq, record in (await raw.hgetall(key)).items():
            found[int(seq)] = Done.decode(record)
    return found


async def pending(raw: redis.asyncio.Redis, spine: Spine, agent: str) -> int:
    """Return how many events are pending in the groups of an agent."""
    count = 0
    async for key in raw.scan_iter(match=spine.server.keys.own("log", "*"), count=1000):
        for group in await raw.xinfo_groups(key):
            if group["name"] == agent.encode():
                count += group["pending"]
    return count


async def die(worker: Worker) -> None:
    """Let a worker of this process end as if it had been killed: nothing is finished, nothing is given back."""
    worker.dead = True  # type: ignore[attr-defined]
    worker._leases._stop.set()
    for link in (worker._server.writer, worker._server.link, worker._server.listener):
        await link.close()
    tasks = [worker._task]
    for agency in worker._agencies.values():
        agency.stopping = True
        tasks += [*agency._background, *agency._slots._tasks, agency.outcomes._committer._task]
    for task in tasks:
        if task is not None:
            task.cancel()
    with contextlib.suppress(Exception):
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
    await worker._leases.close()
