"""Whoever is killed: what was emitted is in the history, and every caller that lives has a response or an error."""

import asyncio
import random
from collections.abc import Callable

import pytest
from processes import Script

from spine import Spine
from spine.bus import AgentEventBus
from spine.testing.waiting import wait_until


async def check(url: str, namespace: str, lines: list[str], count: int | None) -> None:
    """Check the report of one emitter; `count` is how many it was to ask, where it was not killed."""
    emitted = {int(n): event_id for word, n, event_id in map(str.split, lines) if word == "emitted"}
    ended = [int(n) for word, n, _ in map(str.split, lines) if word in ("answered", "failed")]
    answered = {int(n): event_id for word, n, event_id in map(str.split, lines) if word == "answered"}
    assert len(ended) == len(set(ended))
    if count is not None:
        assert sorted(emitted) == sorted(ended) == list(range(count))
    async with Spine(url, namespace=namespace) as spine, AgentEventBus(spine) as bus:
        steps = {event.event_id: event.data["n"] for event in await bus.history("step.done", limit=10_000)}
        asked = {event.event_id: event.data["a"] for event in await bus.history("sum.asked", limit=10_000)}
        assert {steps.get(event_id) for event_id in emitted.values()} == set(emitted)
        assert {asked.get(event_id) for event_id in answered.values()} == set(answered)
        for n, event_id in random.sample(sorted(answered.items()), min(20, len(answered))):
            response = await bus.response(event_id)
            assert response is not None
            assert response.response == {"sum": n + 1}


async def kill_and_replace(start: Callable[[], Script], pauses: tuple[float, float]) -> None:
    """Keep one script running, killing it again and again, until cancelled."""
    while True:
        with start() as script:
            await wait_until(script.said("ready"), 30)
            await asyncio.sleep(random.uniform(*pauses))
            await asyncio.to_thread(script.kill)


async def run(url: str, namespace: str, count: int) -> None:
    killers = [
        asyncio.create_task(kill_and_replace(lambda: Script("subscriber.py", url, namespace), (0.1, 1.0))),
        asyncio.create_task(kill_and_replace(lambda: Script("worker.py", url, namespace), (0.1, 2.0))),
    ]
    try:
        with Script("emitter.py", url, namespace, str(count)) as emitter:
            await wait_until(lambda: emitter.process.poll() is not None, 300)
            assert await asyncio.to_thread(emitter.finish) == 0
    finally:
        for killer in killers:
            killer.cancel()
        results = await asyncio.gather(*killers, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    await check(url, namespace, emitter.lines, count)


async def test_killed_subscribers_and_workers_leave_no_caller_without_an_end(url: str, namespace: str) -> None:
    await run(url, namespace, 100)


async def test_a_killed_emitter_has_emitted_what_it_says(url: str, namespace: str) -> None:
    with Script("subscriber.py", url, namespace) as subscriber:
        await wait_until(subscriber.said("ready"), 20)
        with Script("emitter.py", url, namespace, "100000") as emitter:
            await wait_until(lambda: len(emitter.lines) > random.randrange(20, 200), 30)
            emitter.kill()
        complete = [line for line in emitter.lines if len(line.split()) == 3]
        await check(url, namespace, complete, None)


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_kills_at_any_moment(url: str, namespace: str) -> None:
    await run(url, namespace, 2_000)
    for _ in range(10):
        await test_a_killed_emitter_has_emitted_what_it_says(url, namespace)
