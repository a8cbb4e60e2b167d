"""Whoever reads an old event gets today's payload; who does not know its version is told so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio
from ledger import Book, Ledger, Serve, until_stored
from pydantic import BaseModel

from spine import Event, Handling, ReducerFailed, Retry, Spine, UnknownVersion, on, reduces, upcasts
from spine.catalog import upcast
from spine.catalog.types import EventType
from spine.testing.waiting import wait_until


class Old(EventType, name="money.in"):
    cents: int


class Newer(EventType, name="money.in", version=3):
    huge: int


class Amount(BaseModel):
    amount: int


@pytest.fixture(autouse=True)
def upcasters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upcast, "_upcasters", {})

    @upcasts("money.in", version=1)
    def whole(payload: dict[str, Any]) -> dict[str, Any]:
        return {"amount": payload["cents"] // 100}


async def test_every_reader_gets_todays_payload(spine: Spine) -> None:
    heard: list[Any] = []
    subscription = await spine.subscribe("money.*", lambda event: heard.append(event))
    stored = await spine.publish(Old(cents=300), key="k")
    assert (stored.type_version, stored.payload) == (1, {"cents": 300})
    new = await spine.publish("money.in", {"amount": 4}, key="k")
    assert new.type_version == 2
    wanted = [(2, {"amount": 3}), (2, {"amount": 4})]
    assert [(event.type_version, event.payload) async for event in spine.replay()] == wanted
    assert [(event.type_version, event.payload) async for event in spine.replay(key="k")] == wanted
    assert [(event.type_version, event.payload) for event in await spine.history()] == wanted[::-1]
    tail = spine.tail(after=0)
    assert [(event.type_version, event.payload) for event in (await anext(tail), await anext(tail))] == wanted
    await tail.aclose()
    await wait_until(lambda: len(heard) == 2)
    assert [(event.type_version, event.payload) for event in heard] == wanted
    await subscription.stop()
    assert (await spine.reduce(Ledger, key="k")).total == 7
    assert [step.event.payload async for step in spine.steps(Ledger, key="k")] == [{"amount": 3}, {"amount": 4}]


async def test_handlers_and_reducers_get_todays_payload(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    seen: list[Any] = []

    class Typed(Ledger):
        @reduces("money.in")
        def move(self, state: Book, event: Event[Amount]) -> Book:
            return Book(seqs=[*state.seqs, event.seq], total=state.total + event.payload.amount)

        @on("money.in")
        async def moved(self, event: Event[Amount], ctx: Handling) -> None:
            seen.append((event.payload.amount, event.type_version, ctx.state.total))

    await spine.publish(Old(cents=300), key="k")
    await serve(Typed)
    await until_stored(raw, spine, Typed, "k", (await spine.publish("money.in", {"amount": 4}, key="k")).seq)
    assert seen == [(3, 2, 3), (4, 2, 7)]


async def test_an_unknown_newer_version_is_an_error_that_says_so(spine: Spine) -> None:
    heard: list[int] = []
    subscription = await spine.subscribe("money.*", lambda event: heard.append(event.seq))
    await spine.publish("money.in", {"amount": 1}, key="k")
    await spine.publish(Newer(huge=1), key="k")
    await spine.publish("money.in", {"amount": 1}, key="k")
    events = spine.replay()
    assert (await anext(events)).seq == 1
    with pytest.raises(UnknownVersion, match=r"event 2 has version 3 of 'money\.in'; the newest known here is 2"):
        await anext(events)
    with pytest.raises(ReducerFailed, match="event 2 has version 3"):
        await spine.reduce(Ledger, key="k")
    assert (await spine.reduce(Ledger, key="k", at=1)).total == 1
    tail = spine.tail(after=0)
    assert (await anext(tail)).seq == 1
    with pytest.raises(UnknownVersion):
        await anext(tail)
    # One that only listens is told, and goes on.
    await wait_until(lambda: heard == [1, 3])
    assert subscription.errors == 1
    await subscription.stop()


async def test_an_event_of_newer_code_waits_among_the_dead_letters(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    handled = asyncio.Event()

    class Stateless(Ledger):
        name = "stateless"
        reducers = ()

        @on("money.in", retry=Retry(attempts=1))
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            handled.set()

    Stateless.reducers = ()
    await serve(Stateless)
    await spine.publish(Newer(huge=1), key="k")
    await spine.publish("money.in", {"amount": 1}, key="k")
    await handled.wait()
    dead = await raw.hgetall(spine.server.keys.dead("stateless"))  # type: ignore[misc]
    assert list(dead) == [b"1"]
    assert b"has version 3 of 'money.in'; the newest known here is 2" in dead[b"1"]
