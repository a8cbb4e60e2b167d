"""A session that moves on: who sees it, and what becomes of events that were written before."""

from __future__ import annotations

import asyncio
from typing import Any

from spine import Agent, Context, Event, Handling, Spine, on
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
