"""Who runs what where, how far behind each agent is, and what pausing, cancelling and removing do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from spine import Agent, Context, Event, Handling, InvalidInput, Retry, Spine, Worker, on
from spine.testing.waiting import wait_until

TIMEOUT_S = 10.0


class Greeter(Agent[None]):
    name = "greeter"

    @on("greet.*", retry=Retry(attempts=1))
    async def greet(self, event: Event[dict[str, str]], ctx: Handling) -> None:
        if event.payload.get("wait"):
            await asyncio.sleep(3600)
        if event.payload.get("fail"):
            raise ValueError("no")
        await ctx.publish("greeted", {"n": event.payload.get("n")})


async def greeted(spine: Spine) -> int:
    return len([event async for event in spine.replay(types="greeted")])


async def test_agents_shows_workers_versions_and_what_they_hold(spine: Spine) -> None:
    async with Worker(spine, Greeter, worker="w1", concurrency=7):
        (found,) = await spine.agents()
    assert (found.name, found.version, found.paused) == ("greeter", "1", False)
    (worker,) = found.workers
    assert (worker.worker, worker.concurrency) == ("w1", 7)
    assert worker.partitions == tuple(range(spine.server.partitions))
    (gone,) = await spine.agents("greeter")
    assert gone.workers == ()
    assert len(gone.free) == spine.server.partitions


async def test_lag_counts_what_is_before_an_agent(spine: Spine) -> None:
    async with Worker(spine, Greeter):
        pass
    stored = [await spine.publish("greet.x", {"n": n}, key=f"k{n}") for n in range(5)]
    found = await spine.lag("greeter")
    assert sum(one.not_taken for one in found) == sum(one.total for one in found) == 5
    assert min(one.first for one in found if one.first) == stored[0].seq
    async with Worker(spine, Greeter):
        await wait_until(lambda: greeted_is(spine, 5), TIMEOUT_S)
    assert sum(one.total for one in await spine.lag()) == 0


async def test_a_topic_that_is_added_is_behind_by_what_comes_after(spine: Spine) -> None:
    async with Worker(spine, Greeter):
        pass
    for n in range(16):
        await spine.publish("bow.x", {"n": n}, key=f"k{n}")

    class Polite(Greeter):
        version = "2"

        @on("bow.*")
        async def bow(self, event: Event[dict[str, str]]) -> None:
            pass

    await spine.pause("greeter")
    async with Worker(spine, Polite):
        assert sum(one.total for one in await spine.lag("greeter")) == 0
        await spine.publish("bow.x", {}, key="k")
        assert sum(one.total for one in await spine.lag("greeter")) == 1


async def greeted_is(spine: Spine, count: int) -> bool:
    return await greeted(spine) == count


async def test_a_paused_agent_takes_nothing_until_it_is_resumed(spine: Spine) -> None:
    async with Worker(spine, Greeter) as worker:
        await spine.pause("greeter")
        await wait_until(lambda: _paused(worker), TIMEOUT_S)
        await spine.publish("greet.x", {"n": 1})
        (found,) = await spine.agents()
        assert found.paused
        assert sum(one.total for one in await spine.lag()) == 1
        await spine.resume("greeter")
        await wait_until(lambda: greeted_is(spine, 1), TIMEOUT_S)


async def _paused(worker: Worker) -> bool:
    return all(agency.paused for agency in worker._agencies.values())


async def test_cancel_ends_what_runs_and_what_waits(spine: Spine) -> None:
    context = Context(correlation="c-1")
    async with Worker(spine, Greeter) as worker:
        await spine.publish("greet.x", {"wait": "yes"}, key="k", context=context)
        await spine.publish("greet.x", {"n": 1}, key="k", context=context)
        await spine.publish("greet.x", {"n": 2}, key="k", context=Context(correlation="c-2"))
        await wait_until(lambda: _running(worker), TIMEOUT_S)
        await spine.cancel("c-1")
        await wait_until(lambda: greeted_is(spine, 1), TIMEOUT_S)
    (event,) = [event async for event in spine.replay(types="greeted")]
    assert event.payload == {"n": 2}


async def _running(worker: Worker) -> bool:
    return any(agency.busy() for agency in worker._agencies.values())


async def test_removing_an_agent_frees_all_that_it_pins(spine: Spine, url: str, namespace: str) -> None:
    async with Worker(spine, Greeter):
        await spine.publish("greet.x", {"fail": "yes"}, key="k")
        await wait_until(lambda: _has_dead(spine), TIMEOUT_S)
        with pytest.raises(InvalidInput, match="living"):
            await spine.remove_agent("greeter")
    await spine.remove_agent("greeter")
    with redis.Redis.from_url(url, decode_responses=True) as client:
        left = [key for key in client.scan_iter(match=f"spine:{{{namespace}}}:*") if "greeter" in key]
        assert left == []
    assert await spine.agents() == []
    with pytest.raises(InvalidInput, match="no agent"):
        await spine.lag("greeter")


async def test_removing_an_agent_looks_through_the_server_once_and_spares_the_others(
    spine: Spine, url: str, namespace: str
) -> None:
    class Greeters(Greeter):
        name = "greeter-2"

    async with Worker(spine, Greeter, Greeters):
        await spine.publish("greet.x", {"fail": "yes"}, key="k")
        await wait_until(lambda: _have_dead(spine, 2), TIMEOUT_S)
    with redis.Redis.from_url(url) as client:

        def scans() -> int:
            return int(client.info("commandstats")["cmdstat_scan"]["calls"])

        once = sum(1 for _ in _pages(client))
        before = scans()
        await spine.remove_agent("greeter")
        assert scans() - before <= once + 1
    assert [agent.dead for agent in await spine.agents()] == [1]


def _pages(client: redis.Redis) -> Iterator[int]:
    cursor: Any = None
    while cursor != 0:
        cursor, _ = client.scan(cursor or 0, count=1_000)
        yield cursor


async def _have_dead(spine: Spine, count: int) -> bool:
    return sum(agent.dead for agent in await spine.agents()) == count


async def test_an_agent_of_the_name_of_a_removed_one_begins_anew(spine: Spine) -> None:
    class Both(Greeter):
        @on("bow.*")
        async def bow(self, event: Event[dict[str, str]], ctx: Handling) -> None:
            await ctx.publish("greeted", {"n": event.payload.get("n")})

    class Fewer(Greeter):
        version = "2"

    async with Worker(spine, Both):
        await spine.publish("bow.x", {"n": 1}, key="k")
        await wait_until(lambda: greeted_is(spine, 1), TIMEOUT_S)
    async with Worker(spine, Fewer):
        await spine.publish("bow.x", {"n": 2}, key="k")
    await spine.remove_agent("greeter")
    async with Worker(spine, Both):
        assert sum(one.total for one in await spine.lag("greeter")) == 0
        await spine.publish("bow.x", {"n": 3}, key="k")
        await wait_until(lambda: greeted_is(spine, 2), TIMEOUT_S)
    assert [event.payload["n"] async for event in spine.replay(types="greeted")] == [1, 3]


async def _has_dead(spine: Spine) -> bool:
    return (await spine.agents())[0].dead == 1
