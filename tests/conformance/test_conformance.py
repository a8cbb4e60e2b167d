"""What every kind of server must make possible: the same tests on memory://, a real server, and those in containers."""

import asyncio
from datetime import timedelta
from typing import ClassVar

import pytest
from pydantic import BaseModel
from tenacity import wait_fixed

from spine import (
    Agent,
    Context,
    Draft,
    Event,
    Handling,
    NoHandler,
    NotDurable,
    Priority,
    RequestFailed,
    RequestTimeout,
    Retry,
    Spine,
    Worker,
    on,
    reduces,
)
from spine.bus import AgentEventBus
from spine.testing import wait_until

QUICK = Retry(attempts=3, wait=wait_fixed(0.01))


async def test_numbers_are_unique_and_the_log_is_in_their_order(spine: Spine, spine_connect) -> None:
    other = await spine_connect(name="other")
    sent = await asyncio.gather(
        *(client.publish(f"t.{n % 5}", {"n": n}, key=f"k-{n % 7}") for n in range(200) for client in (spine, other))
    )
    assert sorted(event.seq for event in sent) == list(range(1, 401))
    assert [event async for event in spine.replay()] == sorted(sent, key=lambda event: event.seq)
    assert [event async for event in spine.replay(types="t.1", after=100, until=300)] == [
        event for event in sorted(sent, key=lambda event: event.seq) if event.type == "t.1" and 100 < event.seq <= 300
    ]


async def test_a_batch_is_one(spine: Spine) -> None:
    batch = await spine.publish_many([Draft(f"t.{n}", {"n": n}, key=f"k-{n}") for n in range(50)])
    assert [event.seq for event in batch] == list(range(1, 51))
    assert len({event.ts for event in batch}) == 1


async def test_key_correlation_and_time_find_events(spine: Spine) -> None:
    first = await spine.publish("a", context=Context(correlation="c", session_id="s"))
    second = await spine.publish("b", key="s", context=Context(correlation="d"))
    third = await spine.publish("a", key="t", context=Context(correlation="c"))
    assert await spine.history(key="s") == [second, first]
    assert await spine.history(correlation="c") == [third, first]
    assert await spine.history(since=first.ts - timedelta(seconds=1), until=third.ts + timedelta(seconds=1)) == [
        third,
        second,
        first,
    ]


async def test_a_dedupe_key_stores_once(spine: Spine, spine_connect) -> None:
    other = await spine_connect()
    events = await asyncio.gather(*(client.publish("a", dedupe_key="d") for client in (spine, other) for _ in range(5)))
    assert len({event.seq for event in events}) == 1
    assert len(await spine.history()) == 1


async def test_readers_hear_at_once(spine: Spine, spine_connect) -> None:
    heard: asyncio.Queue[Event] = asyncio.Queue()
    await (await spine_connect()).subscribe("born.*", heard.put_nowait)
    sent = [await spine.publish(f"born.{n}") for n in range(10)]
    assert [await asyncio.wait_for(heard.get(), 5) for _ in sent] == sent


async def test_what_a_server_cannot_keep_is_said(spine: Spine) -> None:
    with pytest.raises(NotDurable):
        await spine.publish("a", durability="replicas")


class Count(BaseModel):
    n: int = 0


class Counter(Agent[Count]):
    """Counts, answers, fails as told."""

    name = "counter"
    handled: ClassVar[list[int]] = []

    @reduces("step")
    def count(self, state: Count, event: Event) -> Count:
        return Count(n=state.n + 1)

    @on("step", retry=QUICK)
    async def step(self, event: Event, ctx: Handling) -> None:
        self.handled.append(event.seq)
        if event.payload.get("fail", 0) >= ctx.attempt:
            raise ValueError("told to")
        paid = await ctx.step("pay", lambda: {"paid": event.seq})
        await ctx.publish("stepped", {"n": ctx.state.n, **paid})
        await ctx.session.update({"last": event.seq})

    @on("ask", retry=QUICK)
    async def ask(self, event: Event, ctx: Handling) -> None:
        if "fail" in event.payload:
            raise ValueError("told to")
        if "wait" in event.payload:
            await asyncio.sleep(60)
        await ctx.stream({"part": 1})
        await ctx.reply({"n": event.payload.get("n")})


@pytest.fixture(autouse=True)
def forgotten() -> None:
    Counter.handled.clear()


async def stepped(spine: Spine, count: int) -> list[Event]:
    found: list[Event] = []

    async def all_there() -> bool:
        found[:] = (await spine.history(types="stepped", limit=1_000))[::-1]
        return len(found) >= count

    await wait_until(all_there, 20)
    return found


async def test_agents_handle_each_key_in_order_and_once(spine: Spine, spine_connect) -> None:
    async with Worker(spine, Counter), Worker(await spine_connect(), Counter):
        sent = [await spine.publish("step", key=f"k-{n % 4}") for n in range(40)]
        found = await stepped(spine, 40)
    assert len(found) == 40
    for key in range(4):
        mine = [event for event in found if event.key == f"k-{key}"]
        assert [event.payload["n"] for event in mine] == list(range(1, 11))
        assert [event.context.causation for event in mine] == [e.seq for e in sent if e.key == f"k-{key}"]
    assert sorted(Counter.handled) == [event.seq for event in sent]
    assert (await spine.reduce(Counter, key="k-1")).n == 10
    assert (await spine.session("k-1"))["last"] == sent[-3].seq


async def test_a_failed_event_is_tried_again_and_then_given_up(spine: Spine) -> None:
    async with Worker(spine, Counter):
        again = await spine.publish("step", {"fail": 2}, key="a")
        given_up = await spine.publish("step", {"fail": 9}, key="b")
        behind = await spine.publish("step", {}, key="b")
        found = await stepped(spine, 2)
        assert {event.context.causation for event in found} == {again.seq, behind.seq}
        (letter,) = await spine.dead_letters("counter")
        assert (letter.seq, letter.error_type, letter.attempts) == (given_up.seq, "ValueError", 3)


async def test_an_urgent_event_goes_before_a_backlog(spine: Spine) -> None:
    class Waiting(Counter):
        start = "beginning"

    for n in range(20):
        await spine.publish("step", {"n": n}, key="k")
    urgent = await spine.publish("step", key="k", priority=Priority.URGENT)
    async with Worker(spine, Waiting):
        await stepped(spine, 21)
    assert Counter.handled[0] == urgent.seq


async def test_requests_have_answers_parts_time_outs_and_errors(spine: Spine, spine_connect) -> None:
    with pytest.raises(NoHandler):
        await spine.request("ask")
    async with Worker(await spine_connect(), Counter):
        replies = await asyncio.gather(*(spine.request("ask", {"n": n}, timeout=10) for n in range(50)))
        assert [reply.payload["n"] for reply in replies] == list(range(50))
        assert [part.payload async for part in spine.request_stream("ask", {"n": 1}, timeout=10)] == [
            {"part": 1},
            {"n": 1},
        ]
        with pytest.raises(RequestFailed, match="told to"):
            await spine.request("ask", {"fail": 1}, timeout=10)
        with pytest.raises(RequestTimeout):
            await spine.request("ask", {"wait": 1}, timeout=0.1)


async def test_scheduled_events_come_in_time(spine: Spine) -> None:
    await spine.schedule("later", {"n": 1}, delay=0.1)
    cancelled = await spine.schedule("later", {"n": 2}, delay=0.1)
    assert await cancelled.cancel()
    tail = spine.tail(after=0)
    assert (await asyncio.wait_for(anext(tail), 5)).payload == {"n": 1}
    await tail.aclose()


async def test_the_bus(spine: Spine, spine_connect) -> None:
    async with AgentEventBus(spine) as bus, AgentEventBus(await spine_connect()) as other:
        await other.subscribe("context.requested", lambda event: {"for": event.data["conversation_id"]})
        answers = await asyncio.gather(
            *(bus.emit_and_wait("context.requested", {"conversation_id": f"c-{n}"}, 10) for n in range(20))
        )
        assert [answer.response["for"] for answer in answers] == [f"c-{n}" for n in range(20)]
