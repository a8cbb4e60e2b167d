"""Whoever is killed: what was emitted is in the history, and every caller that lives has a response or an error."""

import asyncio
import os
import random
from collections.abc import Callable

import pytest
from processes import Script

from spine import Spine
from spine.bus import AgentEventBus
from spine.testing.waiting import wait_until

SCALE = float(os.environ.get("SPINE_CHAOS_SCALE", "1"))
EVERYTHING = 100_000


async def check(url: str, namespace: str, lines: list[str], count: int | None) -> None:
    """Check the report of one emitter; `count` is how many it was to ask, where it was not killed."""
    said = [line.split() for line in lines if len(line.split()) == 3]  # a kill may cut the last line
    emitted = {int(n): event_id for word, n, event_id in said if word == "emitted"}
    answered = {int(n): event_id for word, n, event_id in said if word == "answered"}
    ended = [int(n) for word, n, _ in said if word in ("answered", "failed")]
    assert len(ended) == len(set(ended))
    if count is not None:
        assert sorted(emitted) == sorted(ended) == list(range(count))
    async with Spine(url, namespace=namespace) as spine, AgentEventBus(spine) as bus:
        steps = {event.event_id: event.data["n"] for event in await bus.history("step.done", limit=EVERYTHING)}
        asked = {event.event_id: event.data["a"] for event in await bus.history("sum.asked", limit=EVERYTHING)}
        assert {steps.get(event_id) for event_id in emitted.values()} == set(emitted)
        assert {asked.get(event_id) for event_id in answered.values()} == set(answered)
        for n, event_id in random.sample(sorted(answered.items()), min(20, len(answered))):
            response = await bus.response(event_id)
            assert response is not None
            assert response.response == {"sum": n + 1}


async def kill_and_replace(
    start: Callable[[], Script], ready: str, pauses: tuple[float, float], reports: list[list[str]]
) -> None:
    """Keep one script running, killing it again and again, until cancelled; what each said goes to `reports`."""
    while True:
        with start() as script:
            await wait_until(script.said(ready), 30)
            await asyncio.sleep(random.uniform(*pauses))
            await asyncio.to_thread(script.kill)
            reports.append(script.lines)


async def run(url: str, namespace: str, count: int) -> None:
    """Let one emitter live while subscribers, workers and other emitters are killed at any moment."""
    killed: dict[str, list[list[str]]] = {"subscriber.py": [], "worker.py": [], "emitter.py": []}

    def killer(name: str, ready: str, pauses: tuple[float, float], *args: str) -> asyncio.Task[None]:
        def start() -> Script:
            return Script(name, url, namespace, *args)

        return asyncio.create_task(kill_and_replace(start, ready, pauses, killed[name]), name=name)

    killers = [
        killer("subscriber.py", "ready", (0.1, 1.0)),
        killer("worker.py", "ready", (0.1, 2.0)),
        killer("emitter.py", "emitted", (0.0, 0.5), str(EVERYTHING)),
    ]
    try:
        await wait_until(lambda: all(killed.values()), 60, "the first kill of each")
        with Script("emitter.py", url, namespace, str(count)) as emitter:
            await wait_until(lambda: emitter.process.poll() is not None, 300)
            assert await asyncio.to_thread(emitter.finish) == 0
    finally:
        for one in killers:
            one.cancel()
        results = await asyncio.gather(*killers, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * len(killers)
    await check(url, namespace, emitter.lines, count)
    for lines in killed["emitter.py"]:
        await check(url, namespace, lines, None)


async def test_kills_leave_no_caller_without_an_end_and_no_emitted_event_out_of_history(
    url: str, namespace: str
) -> None:
    await run(url, namespace, 400)


async def test_a_killed_emitter_has_emitted_what_it_says(url: str, namespace: str) -> None:
    with Script("subscriber.py", url, namespace) as subscriber:
        await wait_until(subscriber.said("ready"), 20)
        with Script("emitter.py", url, namespace, "100000") as emitter:
            await wait_until(lambda: len(emitter.lines) > random.randrange(20, 200), 30)
            emitter.kill()
        await check(url, namespace, emitter.lines, None)


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_kills_at_any_moment(url: str, namespace: str) -> None:
    await run(url, namespace, max(200, round(2_000 * SCALE)))
    for _ in range(max(2, round(10 * SCALE))):
        await test_a_killed_emitter_has_emitted_what_it_says(url, namespace)
