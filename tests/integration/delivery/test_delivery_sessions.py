"""A session that moves on: who sees it, and what becomes of events that were written before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spine import Agent, Context, Draft, Event, Handling, Spine, on
from spine.delivery.partition import Partition
from spine.testing.waiting import wait_until


async def test_work_on_a_stale_session_is_a_choice(spine: Spine, serve: Any) -> None:
    seen: list[tuple[str, dict[str, Any], bool]] = []
    dropped: list[int] = []

    def note(event: Event[Any], ctx: Handling) -> None:
        seen.append((event.type, dict(ctx.session), ctx.moved_on))

    class Refreshing(Agent):
        name = "refreshing"

        @on("a.b", stale="refresh")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.publish("a.refreshed", {"session": ctx.context.session})
            note(event, ctx)

    class Handing(Agent):
        name = "handing"

        @on("a.b", stale="handle")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            note(event, ctx)

    class Dropping(Agent):
        name = "dropping"

        @on("a.b", stale="drop")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            dropped.append(event.seq)

    await serve(Refreshing, Handing, Dropping)

    async def publish(context: Context) -> Event[Any]:
        seen.clear()
        event = await spine.publish("a.b", context=context)
        await wait_until(lambda: len(seen) == 2)
        await asyncio.sleep(0.05)
        return event

    first = await spine.update_session("s", {"v": 1})
    known = Context(session_id="s", session={"v": 1}, session_seq=first.seq)
    fresh = await publish(known)
    assert sorted(seen, key=str) == [("a.b", {"v": 1}, False)] * 2
    await spine.update_session("s", {"v": 2})
    await publish(known)
    assert sorted(seen, key=str) == [("a.b", {"v": 1}, True), ("a.b", {"v": 2}, True)]
    bare = await publish(Context(session_id="s"))  # it knows no session, and none has changed since
    assert sorted(seen, key=str) == [("a.b", {"v": 2}, False), ("a.b", {}, False)]
    await wait_until(lambda: dropped == [fresh.seq, bare.seq])
    refreshed = [event.payload["session"] async for event in spine.replay(types="a.refreshed")]
    assert refreshed == [{"v": 1}, {"v": 2}, {"v": 2}]


@pytest.mark.parametrize("key", ["s", "another"])
@pytest.mark.parametrize("hears", [True, False])
async def test_each_of_many_in_hand_finds_the_session_as_the_one_before_left_it(
    spine: Spine, serve: Any, monkeypatch: pytest.MonkeyPatch, key: str, hears: bool
) -> None:
    found: list[int] = []
    if not hears:  # the bell comes later than the next handler begins
        subscribe = Partition.subscribe
        monkeypatch.setattr(
            Partition, "subscribe", lambda self, wanted, others, sessions: subscribe(self, wanted, others)
        )

    class Counting(Agent):
        name = "counting"

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            found.append(ctx.session.get("n", 0))
            assert ctx.context.session.get("n", 0) == found[-1]
            ctx.session.update(n=found[-1] + 1)

    await serve(Counting)
    context = Context(session_id="s")
    await spine.publish("a.b", key=key, context=context)
    await spine.publish_many([Draft("a.b", key=key, context=context) for _ in range(50)])
    await wait_until(lambda: len(found) == 51)
    assert found == list(range(51))
    await wait_until(lambda: _is(spine, {"n": 51}))


async def test_one_in_hand_finds_the_session_as_others_left_it(spine: Spine, serve: Any) -> None:
    gate, found = asyncio.Event(), list[Any]()

    class Waiting(Agent):
        name = "waiting"

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            found.append(dict(ctx.session))
            await gate.wait()

    await spine.update_session("s", {"by": "before"})
    worker = await serve(Waiting)
    await spine.publish_many([Draft("a.b", context=Context(session_id="s")) for _ in range(3)])
    await wait_until(lambda: found)
    await spine.update_session("s", {"by": "another"})
    await spine.publish("a.b", context=Context(session_id="s"))
    await wait_until(lambda: worker._agencies["waiting"].hand.size == 4)
    gate.set()
    await wait_until(lambda: len(found) == 4)
    assert found == [{"by": "before"}, *[{"by": "another"}] * 3]


async def test_what_a_handler_does_to_a_value_of_the_session_is_lost(spine: Spine, serve: Any) -> None:
    found: list[Any] = []

    class Changing(Agent):
        name = "changing"

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            found.append(list(ctx.session["items"]))
            ctx.session["items"].append(event.seq)

    await spine.update_session("s", {"items": ["a"]})
    await serve(Changing)
    await spine.publish_many([Draft("a.b", context=Context(session_id="s")) for _ in range(5)])
    await wait_until(lambda: len(found) == 5)
    assert found == [["a"]] * 5


async def test_the_list_of_streams_outlives_the_first_call(spine: Spine, connect: Any) -> None:
    await spine.publish("a.b")
    other = await connect()
    await other.streams.refresh()
    await other.publish("a.c")
    assert {stream.topic for stream in other.streams.all()} == {"a.b", "a.c"}


async def _is(spine: Spine, session: dict[str, Any]) -> bool:
    return await spine.session("s") == session
