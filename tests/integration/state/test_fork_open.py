"""What waited at the moment of a fork waits there again: arrivals at a gate, scheduled events; whatever came since."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio
from ledger import Serve
from tenacity import wait_fixed

from spine import Agent, Event, Handling, Priority, Retry, Spine, on, on_all, on_missing
from spine.keys import partition_of
from spine.testing.waiting import wait_until
from spine.worker import Worker


class Joining(Agent[None]):
    """Waits for both halves of a thing, for an hour; and for both sides of another, for as long as it takes."""

    name = "joining"
    start = "beginning"

    @on_all("half.left", "half.right", within=3600)
    async def whole(self, events: dict[str, Event[Any]], ctx: Handling) -> None:
        await ctx.publish("whole", {"of": sorted(event.seq for event in events.values())})

    @on_missing("whole")
    async def broken(self, events: dict[str, Event[Any]], missing: tuple[str, ...], ctx: Handling) -> None:
        await ctx.publish("broken", {"of": sorted(event.seq for event in events.values()), "missing": missing})

    @on_all("side.a", "side.b")
    async def both(self, events: dict[str, Event[Any]], ctx: Handling) -> None:
        await ctx.publish("both", {"of": sorted(event.seq for event in events.values())})


async def found(spine: Spine, type: str, count: int) -> bool:
    return len(await spine.history(types=type, limit=100)) == count


async def handled(raw: redis.asyncio.Redis, spine: Spine, agent: str, *seqs: int) -> None:
    async def all_done() -> bool:
        places = [spine.server.keys.done(agent, n, seqs[0]) for n in range(8)]
        return sum([await raw.hexists(place, str(seq)) for seq in seqs for place in places]) == len(seqs)  # type: ignore[misc]

    await wait_until(all_done)


@pytest.mark.parametrize("since", ["nothing", "opened", "replaced", "opened and begun again"])
async def test_a_gate_that_waited_waits_in_the_fork_whatever_became_of_it_here(
    url: str, spine: Spine, serve: Serve, raw: redis.asyncio.Redis, other: str, since: str
) -> None:
    await serve(Joining)
    left = await spine.publish("half.left", {}, key="k")
    side = await spine.publish("side.b", {}, key="k")
    earlier = [await spine.publish(type, {}, key="full") for type in ("half.left", "half.right")]
    await wait_until(lambda: found(spine, "whole", 1))
    await handled(raw, spine, "joining", left.seq, side.seq)
    at = await spine.reader.head()
    if since != "nothing":
        again = await spine.publish("half.left", {}, key="k")
        await handled(raw, spine, "joining", again.seq)
    if since.startswith("opened"):
        await spine.publish("half.right", {}, key="k")
        await spine.publish("side.a", {}, key="k")
        await wait_until(lambda: found(spine, "both", 1))
        await wait_until(lambda: found(spine, "whole", 2))
    if since == "opened and begun again":
        more = [await spine.publish(type, {}, key="k") for type in ("half.left", "side.a")]
        await handled(raw, spine, "joining", *(event.seq for event in more))
    report = await spine.fork(other, at=at)
    assert report.open == {"joining": 2}
    async with Spine(url, namespace=other) as copy, Worker(copy, Joining):
        right = await copy.publish("half.right", {}, key="k")
        other_side = await copy.publish("side.a", {}, key="k")
        await wait_until(lambda: found(copy, "both", 1))
        await wait_until(lambda: found(copy, "whole", 2))
        assert [event.payload["of"] for event in await copy.history(types="whole")] == [
            [left.seq, right.seq],
            [event.seq for event in earlier],
        ]
        assert (await copy.history(types="both"))[0].payload["of"] == [side.seq, other_side.seq]
        # The round is over, and so is its time-out.
        assert await raw.zcard(copy.server.keys.due) == 0


async def test_a_gate_whose_time_is_over_in_the_fork_says_what_is_missing(
    url: str, spine: Spine, serve: Serve, raw: redis.asyncio.Redis, other: str
) -> None:
    class Hasty(Agent[None]):
        name = "hasty"

        @on_all("half.left", "half.right", within=0.4)
        async def whole(self, events: dict[str, Event[Any]], ctx: Handling) -> None:
            await ctx.publish("whole", {})

        @on_missing("whole")
        async def broken(self, events: dict[str, Event[Any]], missing: tuple[str, ...], ctx: Handling) -> None:
            await ctx.publish("broken", {"missing": missing})

    await serve(Hasty)
    left = await spine.publish("half.left", {}, key="k")
    await handled(raw, spine, "hasty", left.seq)
    await wait_until(lambda: found(spine, "broken", 1))
    await spine.fork(other, at=left.seq)
    async with Spine(url, namespace=other) as copy, Worker(copy, Hasty):
        await wait_until(lambda: found(copy, "broken", 1))
        assert (await copy.history(types="broken"))[0].payload == {"missing": ["half.right"]}
        await spine.publish("half.left", {}, key="k")
        await wait_until(lambda: found(spine, "broken", 2))


class Reminding(Agent[None]):
    name = "reminding"

    @on("order")
    async def remind(self, event: Event[Any], ctx: Handling) -> None:
        ctx.schedule("remind", {"of": event.seq}, delay=event.payload["delay"], priority=Priority.URGENT)
        await ctx.publish("noted", {})


async def test_what_was_scheduled_then_and_came_since_comes_in_the_fork_as_well(
    url: str, spine: Spine, serve: Serve, other: str
) -> None:
    await serve(Reminding)
    first = await spine.publish("order", {"delay": 0.2}, key="k")
    await wait_until(lambda: found(spine, "noted", 1))
    at = await spine.reader.head()
    await wait_until(lambda: found(spine, "remind", 1))
    await spine.publish("order", {"delay": 0.2}, key="k")
    await wait_until(lambda: found(spine, "remind", 2))
    await spine.fork(other, at=at)
    async with Spine(url, namespace=other) as copy:
        await wait_until(lambda: found(copy, "remind", 1))
        (reminder,) = await copy.history(types="remind")
        here = (await spine.history(types="remind"))[1]
        assert (reminder.payload, reminder.id, reminder.key) == ({"of": first.seq}, here.id, "k")
        assert (reminder.context, reminder.source, reminder.topic) == (here.context, here.source, here.topic)


async def test_what_a_client_scheduled_later_is_not_in_the_fork(
    url: str, spine: Spine, raw: redis.asyncio.Redis, other: str
) -> None:
    at = (await spine.publish("a.b")).seq
    early = await spine.schedule("remind", {}, key="k", delay=timedelta(hours=1))
    later = await spine.publish("a.b")
    await wait_until(lambda: spine.server.now_ms() > later.ts_ms + 50)
    await spine.schedule("remind", {}, key="k", delay=timedelta(hours=1))
    await spine.fork(other, at=at)
    async with Spine(url, namespace=other) as copy:
        assert await raw.zrange(copy.server.keys.due, 0, -1) == [early.id.encode()]


async def test_what_was_held_and_what_waited_behind_it_come_in_their_order(
    url: str, spine: Spine, serve: Serve, raw: redis.asyncio.Redis, other: str
) -> None:
    class Stuck(Agent[None]):
        name = "stuck"

        @on("order", retry=Retry(attempts=100, wait=wait_fixed(60)))
        async def work(self, event: Event[Any], ctx: Handling) -> None:
            if ctx.spine.namespace == other or event.key != "held":
                await ctx.publish("worked", {"of": event.seq})
                return
            raise RuntimeError("no luck")

    await serve(Stuck)
    held = [await spine.publish("order", {}, key="held") for _ in range(3)]
    free = await spine.publish("order", {}, key="free")
    waiting = spine.server.keys.waiting("stuck", partition_of("held", 8), "held")
    await wait_until(lambda: found(spine, "worked", 1))
    # The one that failed stands first, the two behind it after that.
    await wait_until(lambda: _length(raw, waiting, 3))
    await spine.pause("stuck")
    assert (await spine.fork(other)).open == {"stuck": 3}
    async with Spine(url, namespace=other) as copy, Worker(copy, Stuck):
        await wait_until(lambda: found(copy, "worked", 4))
        done = [event.payload["of"] for event in reversed(await copy.history(types="worked"))]
        assert done == [free.seq, *(event.seq for event in held)]
    assert await found(spine, "worked", 1)
    assert await raw.llen(waiting) == 3


async def _length(raw: redis.asyncio.Redis, name: str, wanted: int) -> bool:
    return int(await raw.llen(name)) == wanted
