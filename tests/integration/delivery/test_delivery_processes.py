"""Worker processes that are killed, frozen and stopped from outside."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from recording import everything, pending

from spine import Draft, Spine
from spine.testing.waiting import wait_until

SCRIPT = Path(__file__).with_name("delivery_process.py")
LEASE_S = 1.5


class Process:
    """A worker process."""

    def __init__(self, process: asyncio.subprocess.Process, worker: str) -> None:
        self.process = process
        self.worker = worker

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self, timeout: float = 15) -> int:
        async with asyncio.timeout(timeout):
            return await self.process.wait()


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(url: str, namespace: str) -> AsyncIterator[Start]:
    """Starts worker processes, which end with the test."""
    running: list[Process] = []
    names = itertools.count(1)

    async def one(agent: str, lease_s: float = LEASE_S) -> Process:
        worker = f"w{next(names)}"
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), url, namespace, worker, str(lease_s), agent,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        running.append(Process(process, worker))
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"ready\n"
        return running[-1]

    yield one
    for each in running:
        if each.process.returncode is None:
            each.send(signal.SIGKILL)
        await each.wait()
        assert each.process.stdout is not None
        await each.process.stdout.read()


async def emitted(spine: Spine, count: int, event_type: str = "a.c") -> list[int]:
    found = [event.payload["of"] for event in await everything(spine, types=event_type)]
    return found if len(found) >= count else []


@pytest.mark.parametrize("first", [{}, {"fail": True}], ids=["from the group", "from the waiting list"])
async def test_an_event_that_kills_its_worker_is_given_up_and_no_other(
    spine: Spine, start: Start, raw: redis.asyncio.Redis, first: dict[str, Any]
) -> None:
    process = await start("Deadly")
    drafts = [Draft("a.b", {"kill": True} | first if i == 37 else {}, key=f"k{i % 11}") for i in range(200)]
    events = await spine.publish_many(drafts)
    deaths = 0
    while not await spine.dead_letters():
        if process.process.returncode is not None:
            deaths += 1
            assert process.process.returncode == 9
            assert deaths < 6
            await spine.expire_worker(process.worker)
            process = await start("Deadly")
        await asyncio.sleep(0.01)
    fine = sorted(event.seq for event in events if not event.payload)
    found = await wait_until(lambda: emitted(spine, 199))
    assert sorted(found) == fine
    (letter,) = await spine.dead_letters()
    assert (letter.seq, letter.error_type) == (events[37].seq, "WorkerDied")
    assert deaths == 3
    assert await pending(raw, spine, "recorder") == 0
    assert not [key async for key in raw.scan_iter(match=spine.server.keys.own("crash", "*"))]


async def test_a_killed_worker_is_replaced_by_the_living_within_its_lease(spine: Spine, start: Start) -> None:
    await start("Slow")
    second = await start("Slow")
    await wait_until(lambda: _shares(spine, [4, 4]))
    await spine.publish_many([Draft("a.b", {"seconds": 0.05}, key=f"k{i}") for i in range(32)])
    await wait_until(lambda: emitted(spine, 16, "b.started"))
    second.send(signal.SIGKILL)
    began = time.monotonic()
    await second.wait()
    await wait_until(lambda: _shares(spine, [8]))
    assert time.monotonic() - began < LEASE_S + 1.0
    found = await wait_until(lambda: emitted(spine, 32))
    assert len(found) == len(set(found)) == 32


async def test_a_frozen_worker_is_replaced_and_harms_nothing_when_it_wakes(
    spine: Spine, start: Start, raw: redis.asyncio.Redis
) -> None:
    await start("Slow")
    frozen = await start("Slow")
    await wait_until(lambda: _shares(spine, [4, 4]))
    events = await spine.publish_many([Draft("a.b", {"seconds": 0.02}, key=f"k{i % 20}") for i in range(100)])
    await wait_until(lambda: emitted(spine, 10, "b.started"))
    frozen.send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        await wait_until(lambda: _shares(spine, [8]))
        assert time.monotonic() - began < LEASE_S + 1.0
        more = await spine.publish_many([Draft("a.b", {}, key=f"k{i % 20}") for i in range(100)])
        await wait_until(lambda: emitted(spine, 200))
    finally:
        frozen.send(signal.SIGCONT)
    await wait_until(lambda: _shares(spine, [4, 4]))
    last = await spine.publish_many([Draft("a.b", {}, key=f"k{i % 20}") for i in range(100)])
    found = await wait_until(lambda: emitted(spine, 300))
    assert sorted(found) == [event.seq for event in (*events, *more, *last)]
    assert await pending(raw, spine, "recorder") == 0


async def test_a_handler_may_block_its_process_for_longer_than_the_lease(spine: Spine, start: Start) -> None:
    blocking = await start("Slow", lease_s=0.5)
    await spine.publish("a.blocks", {"seconds": 2.0}, key="k")
    (before,) = await spine.agents("recorder")
    await start("Slow")
    (after,) = await spine.agents("recorder")
    assert blocking.worker in {serving.worker for serving in before.workers} & {s.worker for s in after.workers}
    await wait_until(lambda: _shares(spine, [4, 4]), timeout=20)
    assert await spine.dead_letters() == []


async def test_the_first_signal_drains_and_the_second_ends(spine: Spine, start: Start) -> None:
    process = await start("Slow")
    event = await spine.publish("a.b", {"seconds": 0.5}, key="k")
    await wait_until(lambda: emitted(spine, 1, "b.started"))
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    assert await emitted(spine, 1) == [event.seq]
    assert await _shares(spine, [])

    process = await start("Slow")
    await spine.publish("a.b", {"seconds": 60}, key="k")
    await wait_until(lambda: emitted(spine, 2, "b.started"))
    process.send(signal.SIGINT)
    await wait_until(lambda: _stops_taking(spine))
    process.send(signal.SIGINT)
    assert await process.wait() == 130


async def _shares(spine: Spine, shares: list[int]) -> bool:
    (status,) = await spine.agents("recorder")
    return sorted(len(serving.partitions) for serving in status.workers) == shares


async def _stops_taking(spine: Spine) -> bool:
    """Publish something else: a worker that drains does not begin it."""
    before = len(await everything(spine, types="b.started"))
    await spine.publish("a.b", {}, key=f"other-{before}")
    await asyncio.sleep(0.05)
    return len(await everything(spine, types="b.started")) == before
