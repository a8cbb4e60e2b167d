"""A test moves the clock: deadlines pass, what is due comes, retries begin, the leases of the dead end."""

import asyncio
import time
from datetime import timedelta

import pytest

from spine import Agent, Context, Event, Handling, Retry, Spine, Worker, on
from spine.bus import AgentEventBus
from spine.testing import Clock, wait_until


@pytest.fixture(params=["memory", "embedded"])
def spine_url(request: pytest.FixtureRequest) -> str:
    """Both kinds of server."""
    if request.param == "memory":
        return request.getfixturevalue("spine_memory_url")
    return request.getfixturevalue("spine_server").url


class Diary(Agent):
    name = "diary"
    attempts = 0

    @on("note", retry=Retry(attempts=3))
    async def note(self, event: Event, ctx: Handling) -> None:
        await ctx.publish("noted", {"at": ctx.now().isoformat()})

    @on("flaky", retry=Retry(attempts=3))
    async def flaky(self, event: Event, ctx: Handling) -> None:
        if ctx.attempt < 3:
            raise ValueError("not yet")
        await ctx.publish("noted", {"attempt": ctx.attempt})


async def noted(spine: Spine) -> Event | None:
    found = await spine.history(types="noted", limit=1)
    return found[0] if found else None


async def outcome(spine: Spine, event: Event) -> str:
    keys = spine.server.keys
    for partition in range(spine.server.partitions):
        raw = await spine.server.command("HGET", keys.done("diary", partition, event.seq), event.seq)
        if raw:
            return raw.decode()
    return ""


async def test_a_scheduled_event_comes_when_its_time_has_come(spine: Spine, spine_clock: Clock) -> None:
    before = time.monotonic()
    async with Worker(spine, Diary):
        await spine.schedule("note", {}, delay=timedelta(days=3))
        await spine_clock.advance(timedelta(days=3) - timedelta(seconds=30))
        assert await spine.history() == []
        now = await spine_clock.advance(31)
        event = await wait_until(lambda: noted(spine))
        assert abs(event.ts - now) < timedelta(seconds=5)
    assert time.monotonic() - before < 20


async def test_a_deadline_passes(spine: Spine, spine_clock: Clock) -> None:
    deadline = spine_clock.now() + timedelta(hours=1)
    event = await spine.publish("note", {}, context=Context(deadline=deadline))
    other = await spine.publish("note", {}, context=Context(deadline=deadline + timedelta(hours=2)))
    await spine_clock.advance_to(deadline + timedelta(seconds=1))

    class Late(Diary):
        start = "beginning"

    async with Worker(spine, Late):
        await wait_until(lambda: outcome(spine, other))
        assert "done" in await outcome(spine, other)
        assert "expired" in await wait_until(lambda: outcome(spine, event))


async def test_a_retry_need_not_be_waited_for(spine: Spine, spine_clock: Clock) -> None:
    from tenacity import wait_fixed

    class Patient(Agent):
        name = "patient"

        @on("flaky", retry=Retry(attempts=3, wait=wait_fixed(3600)))
        async def flaky(self, event: Event, ctx: Handling) -> None:
            if ctx.attempt < 3:
                raise ValueError("not yet")
            await ctx.publish("noted", {"attempt": ctx.attempt})

    async def held() -> int:
        keys = [spine.server.keys.holds("patient", number) for number in range(spine.server.partitions)]
        return sum(await spine.server.commands(*(("HLEN", key) for key in keys)))

    async with Worker(spine, Patient):
        await spine.publish("flaky", key="k")
        for _ in range(2):
            await wait_until(held)
            await asyncio.sleep(0.05)
            await spine_clock.advance(3601)
        assert (await wait_until(lambda: noted(spine))).payload == {"attempt": 3}


async def test_those_who_live_keep_their_leases(
    spine: Spine, spine_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Worker(spine, Diary, worker="a"), Worker(spine, Diary, worker="b"):
        for _ in range(5):
            await spine_clock.advance(60)
            await spine.publish("note")
            assert {worker.worker for worker in await spine.workers("diary")} == {"a", "b"}

        async def all_noted() -> bool:
            return len(await spine.history(types="noted")) == 5

        await wait_until(all_noted)
    assert not [record for record in caplog.records if "lost" in record.message]


async def test_the_lease_of_one_who_died_ends(spine: Spine, spine_clock: Clock, spine_connect) -> None:
    dead = Worker(await spine_connect(), Diary, worker="dead", lease_s=3600)
    await dead.start()
    dead._leases._stop.set()  # its heart beats no more, and it gives nothing back
    for agency in dead._agencies.values():
        agency._leases._held.clear()
        agency._leases._agents.clear()
        agency.stopping = True
    async with Worker(spine, Diary, worker="alive", lease_s=3600):
        event = await spine.publish("note", key="k")
        await spine_clock.advance(3601)
        assert await wait_until(lambda: noted(spine))
        assert (await outcome(spine, event)).startswith("alive")
    await dead.stop()


async def test_subscriptions_of_the_bus_live_on(spine: Spine, spine_clock: Clock) -> None:
    async with AgentEventBus(spine) as bus:
        await bus.subscribe("context.requested", lambda event: {"ok": True})
        await spine_clock.advance(3600)
        assert (await bus.emit_and_wait("context.requested", {"conversation_id": "c"}, timeout=10)).response


async def test_the_clock_is_right_in_the_next_test(spine: Spine) -> None:
    event = await spine.publish("a.b")
    assert abs(event.ts.timestamp() - time.time()) < 60


async def test_time_does_not_go_back(spine_clock: Clock) -> None:
    with pytest.raises(ValueError, match="back"):
        await spine_clock.advance(-1)


async def test_what_was_closed_before_is_left_in_peace(spine_url: str, spine_namespace: str) -> None:
    async with Spine(spine_url, namespace=spine_namespace) as gone, Worker(gone, Diary), AgentEventBus(gone) as bus:
        await bus.subscribe("note", print)
    kept = (gone, bus)  # objects of an earlier part of the test that still live
    async with Spine(spine_url, namespace=spine_namespace) as spine, Worker(spine, Diary):
        clock = Clock(spine)
        try:
            await spine.schedule("note", {}, delay=3600)
            await clock.advance(3600)
            await wait_until(lambda: noted(spine))
        finally:
            clock.reset()
    assert kept
