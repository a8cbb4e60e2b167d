"""A fork has the history up to its moment, delivers again what was open then, and leaves the original alone."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import redis.asyncio
from ledger import Ledger, Serve, by_hand, until_stored

from spine import (
    Agent,
    Context,
    Draft,
    Event,
    Handling,
    Misconfigured,
    NamespaceMismatch,
    Priority,
    ReplayGap,
    Retry,
    Spine,
    on,
)
from spine.keys import Keys, partition_of
from spine.testing.waiting import wait_until
from spine.worker import Worker


async def dump(raw: redis.asyncio.Redis, namespace: str) -> dict[bytes, Any]:
    """Everything in a namespace but what clients keep for themselves."""
    passing = (b":prod:", b":inbox:", b":control")
    names = [
        name async for name in raw.scan_iter(match=Keys(namespace).all()) if not any(part in name for part in passing)
    ]
    return {name: await raw.dump(name) for name in names}


class Doubler(Agent[None]):
    """Answers each order with two events; fails and waits where it is told to."""

    name = "doubler"
    start = "beginning"
    gate = asyncio.Event()
    handled: list[tuple[str, int]]

    @on("order", retry=Retry(attempts=1))
    async def double(self, event: Event[Any], ctx: Handling) -> None:
        Doubler.handled.append((ctx.spine.namespace, event.seq))
        if event.payload.get("wait") and not Doubler.gate.is_set():
            await Doubler.gate.wait()
        if event.payload.get("fail"):
            raise RuntimeError("no luck")
        await ctx.publish("half", {"of": event.seq, "n": 1})
        await ctx.publish("half", {"of": event.seq, "n": 2})


@pytest.fixture(autouse=True)
def fresh() -> None:
    Doubler.gate, Doubler.handled = asyncio.Event(), []


async def everything(spine: Spine, **selection: Any) -> list[Event[Any]]:
    return [event async for event in spine.replay(**selection)]


def halves(events: list[Event[Any]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for event in events:
        if event.type == "half":
            found.setdefault(event.payload["of"], []).append(event.payload["n"])
    return found


async def test_the_history_is_equal_up_to_the_moment(
    url: str, spine: Spine, other: str, raw: redis.asyncio.Redis
) -> None:
    chance = random.Random(5)
    for _ in range(3):
        await spine.publish_many(
            [
                Draft(chance.choice(["money.in", "money.out"]), {"amount": n}, key=f"k{n % 7}",
                      priority=chance.choice(list(Priority)), context=Context(correlation=f"c{n % 3}"))
                for n in range(400)
            ]
        )  # fmt: skip
    before = await dump(raw, spine.namespace)
    report = await spine.fork(other, at=777)
    assert (report.at, report.events, report.open, report.sessions) == (777, 777, {}, [])
    assert await dump(raw, spine.namespace) == before
    async with Spine(url, namespace=other) as copy:
        for selection in ({}, {"key": "k3"}, {"correlation": "c1"}, {"types": "money.out"}):
            assert await everything(copy, **selection) == await everything(spine, until=777, **selection)
        for n in range(7):
            at = chance.randrange(778)
            assert await copy.reduce(Ledger, key=f"k{n}", at=at) == await by_hand(spine, Ledger, f"k{n}", at)
        last = (await everything(spine, until=777))[-1]
        more = await copy.publish("money.in", {"amount": 1}, key="k0")
        assert (more.seq, more.ts >= last.ts) == (778, True)
    assert await spine.reader.head() == 1_200


async def test_what_was_open_is_delivered_again_and_nothing_else(
    url: str, spine: Spine, serve: Serve, other: str
) -> None:
    await serve(Doubler)
    for n in range(20):
        await spine.publish("order", {"wait": n % 4 == 3}, key=f"k{n}")
    await wait_until(lambda: _count(spine, "half", 30))
    here = await everything(spine)
    at = here[-1].seq
    report = await spine.fork(other)
    assert (report.at, report.open) == (at, {"doubler": 5})
    Doubler.gate.set()
    await wait_until(lambda: _count(spine, "half", 40))
    before = len(Doubler.handled)
    async with Spine(url, namespace=other) as copy, Worker(copy, Doubler):
        await wait_until(lambda: _count(copy, "half", 40))
        await copy.publish("order", {}, key="k0")
        await wait_until(lambda: _count(copy, "half", 42))
        there = await everything(copy)
    assert there[:at] == here
    assert set(map(tuple, halves(there).values())) == {(1, 2)}
    again = sorted(seq for _, seq in Doubler.handled[before:])
    assert again == [*(event.seq for event in here if event.payload.get("wait")), at + 11]
    assert set(map(tuple, halves(await everything(spine)).values())) == {(1, 2)}


async def _count(spine: Spine, type: str, count: int) -> bool:
    return len(await spine.history(types=type, limit=count + 1)) == count


@pytest.mark.parametrize("at", list(range(1, 14)))
async def test_at_any_moment_of_a_run_each_order_ends_once(
    url: str, spine: Spine, serve: Serve, other: str, at: int
) -> None:
    """Also in the middle of what one commit stored: the fork is then at the number before that."""
    await serve(Doubler)
    for n in range(4):
        await spine.publish("order", {}, key=f"k{n}")
        await wait_until(lambda n=n: _count(spine, "half", 2 * n + 2))  # type: ignore[misc]
    original = await everything(spine)
    report = await spine.fork(other, at=at)
    assert report.at == {2: 1, 5: 4, 8: 7, 11: 10}.get(at, min(at, 12))
    orders = sum(1 for event in original[: report.at] if event.type == "order")
    async with Spine(url, namespace=other) as copy, Worker(copy, Doubler):
        await wait_until(lambda: _count(copy, "half", 2 * orders))
        end = await copy.publish("order", {}, key="end")
        await wait_until(lambda: _count(copy, "half", 2 * orders + 2))
        there = await everything(copy)
    assert there[: report.at] == original[: report.at]
    assert set(map(tuple, halves(there).values())) == {(1, 2)}
    assert end.seq > report.at


async def test_dead_letters_and_parked_keys_of_then_come_along(
    url: str, spine: Spine, serve: Serve, other: str, raw: redis.asyncio.Redis
) -> None:
    class Parking(Doubler):
        name = "parking"

        @on("order", retry=Retry(attempts=1), on_dead="park")
        async def double(self, event: Event[Any], ctx: Handling) -> None:
            if event.payload.get("fail"):
                raise RuntimeError("no luck")
            await ctx.publish("half", {"of": event.seq, "n": 1})

    await serve(Parking)
    await spine.publish("order", {"fail": True}, key="k")
    await wait_until(lambda: raw.hexists(spine.server.keys.dead("parking"), "1"))
    await spine.publish("order", {}, key="k")
    await spine.publish("order", {}, key="other")
    await wait_until(lambda: _count(spine, "half", 1))
    await spine.fork(other)
    async with Spine(url, namespace=other) as copy, Worker(copy, Parking):
        assert await raw.hkeys(copy.server.keys.dead("parking")) == [b"1"]  # type: ignore[misc]
        await copy.publish("order", {}, key="another")
        await wait_until(lambda: _count(copy, "half", 2))
        # What follows a parked event of its key waits here as it did there.
        await wait_until(lambda: _waits(raw, copy, "parking", "k"))
        assert [event.payload["of"] for event in await copy.history(types="half")] == [5, 3]


async def _waits(raw: redis.asyncio.Redis, spine: Spine, agent: str, key: str) -> bool:
    return bool(await raw.llen(spine.server.keys.waiting(agent, partition_of(key, 8), key)))


async def test_steps_are_kept_up_to_the_fork_and_taken_anew_after_it(
    url: str, spine: Spine, serve: Serve, other: str, raw: redis.asyncio.Redis
) -> None:
    calls: list[str] = []

    class Stepping(Agent[None]):
        name = "stepping"
        fails = True

        @on("order", retry=Retry(attempts=1_000))
        async def take(self, event: Event[Any], ctx: Handling) -> None:
            async def call(what: str) -> str:
                calls.append(f"{what} in {'fork' if ctx.spine.namespace == other else 'original'}")
                return f"{what}-{len(calls)}"

            first = await ctx.step("first", call, "first")
            await wait_until(lambda: Stepping.forkable.is_set() or not Stepping.fails)
            second = await ctx.step("second", call, "second")
            if Stepping.fails:
                raise RuntimeError("no luck")
            await ctx.publish("taken", {"first": first, "second": second})

        forkable = asyncio.Event()

    await serve(Stepping)
    order = await spine.publish("order", {}, key="k")
    steps = spine.server.keys.steps("stepping", partition_of("k", 8), order.seq)
    await wait_until(lambda: raw.exists(steps))
    assert calls == ["first in original"]
    await spine.publish("noise")
    Stepping.forkable.set()
    await wait_until(lambda: "second in original" in calls)
    await spine.fork(other, at=order.seq)
    Stepping.fails = False
    async with Spine(url, namespace=other) as copy, Worker(copy, Stepping):
        await wait_until(lambda: _count(copy, "taken", 1))
        (taken,) = await copy.history(types="taken")
    assert taken.payload["first"] == "first-1"
    assert calls.count("second in fork") == 1
    assert calls.count("first in fork") == 0


async def test_sessions_are_as_they_stood(url: str, spine: Spine, other: str) -> None:
    await spine.update_session("s", {"city": "Ulm", "day": 1})
    await spine.update_session("quiet", {"x": 1})
    at = (await spine.update_session("s", {"day": None, "night": 2})).seq
    await spine.update_session("s", {"city": "Rome"})
    await spine.update_session("later", {"x": 1})
    report = await spine.fork(other, at=at)
    assert report.sessions == []
    async with Spine(url, namespace=other) as copy:
        assert await copy.session("s") == {"city": "Ulm", "night": 2}
        assert await copy.session("quiet") == {"x": 1}
        assert await copy.session("later") == {}


async def test_what_is_scheduled_and_what_was_deduplicated_comes_along(
    url: str, spine: Spine, serve: Serve, other: str
) -> None:
    class Reminding(Agent[None]):
        name = "reminding"

        @on("order")
        async def remind(self, event: Event[Any], ctx: Handling) -> None:
            ctx.schedule("remind", {"of": event.seq}, delay=3600.0)
            await ctx.publish("noted", {})

    await serve(Reminding)
    await spine.publish("order", {}, key="k", dedupe_key="o-1")
    await wait_until(lambda: _count(spine, "noted", 1))
    at = await spine.reader.head()
    await spine.publish("order", {}, key="k", dedupe_key="o-2")
    await wait_until(lambda: _count(spine, "noted", 2))
    await spine.fork(other, at=at)
    async with Spine(url, namespace=other) as copy:
        due = await copy.server.command("ZCARD", copy.server.keys.due)
        assert due == 1
        assert (await copy.publish("order", {}, key="k", dedupe_key="o-1")).seq == 1
        assert (await copy.publish("order", {}, key="k", dedupe_key="o-2")).seq == at + 1


async def test_an_agent_that_came_later_starts_at_the_fork(
    url: str, spine: Spine, serve: Serve, other: str, raw: redis.asyncio.Redis
) -> None:
    class Late(Ledger):
        name = "late"
        start = "present"

    for _ in range(5):
        await spine.publish("money.in", {"amount": 1}, key="k")
    worker = await serve(Late)
    for _ in range(5):
        last = await spine.publish("money.in", {"amount": 1}, key="k")
    await until_stored(raw, spine, Late, "k", last.seq)
    await worker.stop()
    await spine.fork(other, at=3)
    async with Spine(url, namespace=other) as copy, Worker(copy, Late):
        event = await copy.publish("money.in", {"amount": 1}, key="k")
        cell = await until_stored(raw, copy, Late, "k", event.seq)
        assert cell.state.seqs == [1, 2, 3, 4]


async def test_a_trimmed_log_is_forked_as_far_as_it_goes(
    url: str, spine: Spine, serve: Serve, other: str, raw: redis.asyncio.Redis
) -> None:
    worker = await serve(Ledger)
    events = await spine.publish_many([Draft("money.in", {"amount": 1}, key=f"k{n % 3}") for n in range(300)])
    for n in range(3):
        await until_stored(raw, spine, Ledger, f"k{n}", events[-1].seq - 2 + n)
    await worker.stop()
    wanted = {(n, at): await spine.reduce(Ledger, key=f"k{n}", at=at) for n in range(3) for at in (210, 240)}
    await spine.trim(until=200, kinds=[Ledger])
    with pytest.raises(ReplayGap, match="no history at 150"):
        await spine.fork(other, at=150)
    await spine.fork(other, at=250)
    async with Spine(url, namespace=other) as copy:
        for (n, at), state in wanted.items():
            assert await copy.reduce(Ledger, key=f"k{n}", at=at) == state
        with pytest.raises(ReplayGap):
            await everything(copy)
        async with Worker(copy, Ledger):
            more = await copy.publish("money.in", {"amount": 1}, key="k1")
            cell = await until_stored(raw, copy, Ledger, "k1", more.seq)
            assert cell.state.seqs == [*range(2, 251, 3), 251]


async def test_a_name_that_is_taken_is_refused(url: str, spine: Spine, other: str) -> None:
    await spine.publish("a.b")
    async with Spine(url, namespace=other) as copy:
        await copy.publish("a.b")
    with pytest.raises(Misconfigured, match="exists already"):
        await spine.fork(other)


async def test_an_unfinished_fork_is_closed_and_goes_on_at_its_moment(
    url: str, spine: Spine, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spine.past.fork.fork import Fork

    await spine.publish_many([Draft("a.b", key=f"k{n}") for n in range(50)])

    async def broken(self: Fork, at: int) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Fork, "_copy_indexes", broken)
        with pytest.raises(ConnectionError):
            await spine.fork(other, at=40)
    with pytest.raises(NamespaceMismatch, match="being filled"):
        await Spine(url, namespace=other).open()
    with pytest.raises(Misconfigured, match="no unfinished fork"):
        await spine.fork(other, at=30)
    assert (await spine.fork(other)).at == 40
    async with Spine(url, namespace=other) as copy:
        assert [event.seq for event in await everything(copy)] == list(range(1, 41))
        assert [event.seq for event in await everything(copy, key="k7")] == [8]
