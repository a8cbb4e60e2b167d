"""A lone event comes with its ring: it runs before it is taken, and all that taking guarantees holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio
from recording import Recorder, die, outcomes, pending

from spine import Draft, Event, Handling, Priority, Spine, on
from spine.delivery import partition
from spine.delivery.commits import Committer
from spine.errors import StreamBlocked
from spine.keys import partition_of
from spine.testing.waiting import wait_until
from spine.worker import Worker

KEY = "k"
NEIGHBOURS = [key for key in map(str, range(1_000)) if partition_of(key, 8) == partition_of(KEY, 8)]


class Noting(Recorder):
    """Notes what it handles, once it may."""

    gate: asyncio.Event

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.gate = asyncio.Event()
        cls.gate.set()

    @on("a.b", "a.c")
    async def handle(self, event: Event[Any], ctx: Handling) -> None:
        self.note(event)
        await self.gate.wait()


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many streams each take asked for."""
    counts: list[int] = []
    call = partition._call

    async def counting(server: Any, group: str, asks: Any) -> Any:
        counts.append(sum(len(ask.numbers) for ask in asks))
        return await call(server, group, asks)

    monkeypatch.setattr(partition, "_call", counting)
    return counts


async def begun(spine: Spine, worker: Worker, agent: type[Recorder], key: str = KEY) -> None:
    """Have the agent read the stream of `key` to its end: from then on rings tell all there is."""
    await spine.publish("a.b", {}, key=key)
    await wait_until(lambda: agent.seen[key], what="the first event")
    agency = worker._agencies[agent.name]
    await wait_until(lambda: not any(one.has_news for one in agency.partitions.values()), what="all read")
    await wait_until(lambda: not any(map(agency.outcomes.in_flight, agency.partitions)), what="all committed")


async def test_a_lone_event_is_handled_and_committed_without_a_take(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, takes: list[int]
) -> None:
    class Swift(Noting): ...

    worker = await serve(Swift)
    await begun(spine, worker, Swift)
    hand = worker._agencies["recorder"].hand
    before = len(takes)
    events = []
    for count in range(2, 22):
        events.append(await spine.publish("a.b", {}, key=KEY))
        await wait_until(lambda count=count: Swift.count == count and not hand.size)
    assert Swift.seen[KEY][1:] == [event.seq for event in events]
    assert len(takes) == before
    await wait_until(lambda: _all_done(spine, raw, 21))
    assert await pending(raw, spine, "recorder") == 0


async def _all_done(spine: Spine, raw: redis.asyncio.Redis, count: int) -> bool:
    done = await outcomes(spine, raw, "recorder")
    return len(done) == count and all(one.outcome == "done" for one in done.values())


async def test_what_is_not_handled_at_once_is_pending_meanwhile(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, takes: list[int]
) -> None:
    class Slow(Noting): ...

    worker = await serve(Slow)
    await begun(spine, worker, Slow)
    Slow.gate.clear()
    event = await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: Slow.seen[KEY][-1] == event.seq)
    await wait_until(lambda: pending(raw, spine, "recorder"), what="pending")
    Slow.gate.set()
    await wait_until(lambda: _all_done(spine, raw, 2))
    assert await pending(raw, spine, "recorder") == 0
    assert Slow.count == 2


async def test_the_answer_of_a_take_that_comes_after_the_commit_brings_nothing_again(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Noting): ...

    worker = await serve(Late)
    await begun(spine, worker, Late)
    call, answered = partition._call, asyncio.Event()

    async def slow(*args: Any) -> Any:
        found = await call(*args)
        Late.gate.set()
        await answered.wait()
        return found

    monkeypatch.setattr(partition, "_call", slow)
    Late.gate.clear()
    await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: _all_done(spine, raw, 2), what="the commit")
    agency = worker._agencies["recorder"]
    await wait_until(lambda: not agency.hand.size, what="an empty hand")
    answered.set()
    await wait_until(lambda: not any(one.has_news for one in agency.partitions.values()))
    last = await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: Late.seen[KEY][-1] == last.seq)
    assert Late.count == 3


async def test_a_worker_whose_lease_may_have_run_out_asks_first(
    spine: Spine, serve: Any, takes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doubtful(Noting): ...

    worker = await serve(Doubtful)
    await begun(spine, worker, Doubtful)
    monkeypatch.setattr(worker._leases, "lasts", lambda lease: False)
    before = len(takes)
    event = await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: Doubtful.seen[KEY][-1] == event.seq)
    assert len(takes) > before


async def test_a_take_does_not_bring_a_second_time_what_its_rings_carry(
    spine: Spine, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Taking(Noting): ...

    worker = await serve(Taking)
    await begun(spine, worker, Taking)
    monkeypatch.setattr(worker._leases, "lasts", lambda lease: False)
    call = partition._call
    rings: list[Any] = []

    async def noting(*args: Any) -> Any:
        answers, head = await call(*args)
        rings.extend(ring for since, *_ in answers for ring in since)
        return answers, head

    monkeypatch.setattr(partition, "_call", noting)
    event = await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: Taking.seen[KEY][-1] == event.seq)
    (ring,) = rings
    assert ring[0] == b"%d-0" % event.seq
    assert len(ring[1]) == 2


async def test_a_lease_lasts_from_before_it_was_asked_for(spine: Spine, serve: Any) -> None:
    class Short(Noting): ...

    worker = await serve(Short, lease_s=0.6)
    await begun(spine, worker, Short)
    lease = next(iter(worker._agencies["recorder"].partitions.values())).lease
    assert worker._leases.lasts(lease)
    until = worker._leases._lasts_until[lease.key]
    await wait_until(lambda: worker._leases._lasts_until[lease.key] > until, what="renewed")
    worker._leases._stop.set()  # no heartbeat any more
    await wait_until(lambda: not worker._leases.lasts(lease), what="run out")
    worker._leases.forget(lease)
    assert not worker._leases.lasts(lease)


async def test_large_events_and_batches_are_taken(spine: Spine, serve: Any, takes: list[int]) -> None:
    class Taking(Noting): ...

    worker = await serve(Taking)
    await begun(spine, worker, Taking)
    before = len(takes)
    await spine.publish("a.b", {"text": "x" * 5_000}, key=KEY)
    await wait_until(lambda: Taking.count == 2)
    after_large = len(takes)
    assert after_large > before
    await spine.publish_many([Draft("a.b", {}, KEY), Draft("a.b", {}, KEY)])
    await wait_until(lambda: Taking.count == 4)
    assert len(takes) > after_large
    assert Taking.seen[KEY] == sorted(Taking.seen[KEY])


async def test_an_event_behind_another_of_its_key_waits(spine: Spine, serve: Any) -> None:
    class Ordered(Noting): ...

    worker = await serve(Ordered)
    await begun(spine, worker, Ordered)
    Ordered.gate.clear()
    events = [await spine.publish("a.b", {}, key=KEY)]
    await wait_until(lambda: Ordered.count == 2)
    for lane in (Priority.BACKGROUND, Priority.NORMAL, Priority.URGENT):
        events.append(await spine.publish("a.b", {}, key=KEY, priority=lane))
    hand = worker._agencies["recorder"].hand
    await wait_until(lambda: hand.size == 4, what="all in hand")
    assert Ordered.count == 2
    Ordered.gate.set()
    await wait_until(lambda: Ordered.count == 5)
    first, background, normal, urgent = events
    assert Ordered.seen[KEY][1:] == [first.seq, urgent.seq, normal.seq, background.seq]


async def test_no_more_than_one_is_brought_to_hand_beyond_its_room(spine: Spine, serve: Any) -> None:
    class Busy(Noting):
        prefetch = 8

    worker = await serve(Busy, concurrency=1)
    await begun(spine, worker, Busy)
    Busy.gate.clear()
    for key in NEIGHBOURS[:40]:
        last = await spine.publish("a.b", {}, key=key)
    (own,) = [one for one in worker._agencies["recorder"].partitions.values() if one.number == partition_of(KEY, 8)]
    await wait_until(lambda: own._rung and max(own._rung.values())[0] >= last.seq, what="all heard of")
    assert worker._agencies["recorder"].hand.size <= 8 + 1
    Busy.gate.set()
    await wait_until(lambda: Busy.count == 41)


async def test_an_entry_that_stands_before_the_carried_event_keeps_neither_back(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    """Nothing rang for it: the commit meets it in the place of the event that it is to take."""

    class Stray(Recorder):
        @on("a.b")
        async def emit(self, event: Event[Any], ctx: Handling) -> None:
            self.note(event)
            ctx.publish("a.d", {"of": event.seq})

    worker = await serve(Stray)
    await begun(spine, worker, Stray)
    (key,) = [key async for key in raw.scan_iter(match=spine.server.keys.own("log", "*", "a.b"))]
    await raw.xadd(key, {"who": "knows"}, id="1-7")
    event = await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: spine.dead_letters("recorder"), what="the stray among the dead letters")
    await wait_until(lambda: pending_is(raw, spine, 0))
    assert set(Stray.seen[KEY]) == {1, event.seq}
    assert (await outcomes(spine, raw, "recorder"))[event.seq].outcome == "done"
    emitted = [one.payload["of"] async for one in spine.replay(types="a.d")]
    assert emitted == [1, event.seq]


async def pending_is(raw: redis.asyncio.Redis, spine: Spine, count: int) -> bool:
    return await pending(raw, spine, "recorder") == count


async def test_a_carried_event_whose_commit_was_lost_with_its_worker_is_handled_by_the_next(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(Noting): ...

    worker = await serve(Lost, lease_s=0.6)
    await begun(spine, worker, Lost)
    monkeypatch.setattr(Committer, "submit", lambda self, unit: None)
    event = await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: Lost.count == 2)
    assert await pending(raw, spine, "recorder") == 0  # it was never taken
    await die(worker)
    monkeypatch.undo()
    await serve(Lost, lease_s=0.6)
    await wait_until(lambda: _all_done(spine, raw, 2))
    assert Lost.seen[KEY] == [1, event.seq, event.seq]


async def test_a_paused_agent_begins_nothing_that_rings(spine: Spine, serve: Any) -> None:
    class Paused(Noting): ...

    worker = await serve(Paused)
    await begun(spine, worker, Paused)
    await spine.pause("recorder")
    await wait_until(lambda: worker._agencies["recorder"].paused)
    for _ in range(3):
        last = await spine.publish("a.b", {}, key=KEY)
    partition_of_it = next(one for one in worker._agencies["recorder"].partitions.values() if one.has_news)
    await wait_until(lambda: partition_of_it._rung and max(partition_of_it._rung.values())[0] >= last.seq)
    assert Paused.count == 1
    await spine.resume("recorder")
    await wait_until(lambda: Paused.count == 4)
    assert Paused.seen[KEY] == sorted(Paused.seen[KEY])


async def test_a_chain_of_agents_needs_no_take(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, takes: list[int]
) -> None:
    """What a handler emits is carried by the ring of the commit."""

    class Chain(Recorder):
        @on("a.b")
        async def first(self, event: Event[Any], ctx: Handling) -> None:
            ctx.publish("a.c", {})

        @on("a.c")
        async def second(self, event: Event[Any], ctx: Handling) -> None:
            self.note(event)

    worker = await serve(Chain)
    await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: Chain.count == 1)
    agency = worker._agencies["recorder"]
    await wait_until(lambda: not agency.hand.size and not any(one.has_news for one in agency.partitions.values()))
    before = len(takes)
    await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: Chain.count == 2)
    assert len(takes) == before
    await wait_until(lambda: _all_done(spine, raw, 4))


async def test_what_is_behind_an_event_that_its_commit_could_not_take_waits_for_it(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Patient(Noting): ...

    worker = await serve(Patient)
    await begun(spine, worker, Patient)
    await spine.publish("a.c", {}, key=KEY)
    await wait_until(lambda: _all_done(spine, raw, 2))
    (key,) = [key async for key in raw.scan_iter(match=spine.server.keys.own("log", "*", "a.b"))]
    await raw.xadd(key, {"who": "knows"}, id="1-7")
    held: list[Any] = []
    submit = Committer.submit
    monkeypatch.setattr(Committer, "submit", lambda self, unit: held.append((self, unit)))
    first = await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: held, what="the commit of the first")
    second = await spine.publish("a.c", {}, key=KEY)
    await wait_until(lambda: pending_is(raw, spine, 1), what="the second in hand")
    monkeypatch.setattr(Committer, "submit", submit)
    for committer, unit in held:
        submit(committer, unit)
    await wait_until(lambda: _all_done(spine, raw, 4))
    assert Patient.seen[KEY][2:] == [first.seq, first.seq, second.seq]


async def test_an_event_that_cannot_be_committed_keeps_no_other_of_its_stream_back(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Blocked(Recorder):
        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            self.note(event)
            if event.key == KEY and event.seq > 1 and ctx.attempt == 1:
                raise RuntimeError("to be held")

    worker = await serve(Blocked)
    await begun(spine, worker, Blocked)
    waiting = worker._agencies["recorder"].held.writes(partition_of(KEY, 8)).waiting(KEY)
    await raw.set(waiting, "none of ours")
    blocked = await spine.publish("a.b", {}, key=KEY)
    await wait_until(lambda: Blocked.seen[KEY][-1] == blocked.seq)
    others = [await spine.publish("a.b", {}, key=key) for key in NEIGHBOURS[:3] if key != KEY]
    await wait_until(lambda: _are_done(spine, raw, others), what="the others")
    await raw.delete(waiting)
    await wait_until(lambda: _are_done(spine, raw, [blocked]))
    assert Blocked.count == 1 + 2 + len(others)


async def _are_done(spine: Spine, raw: redis.asyncio.Redis, events: list[Event[Any]]) -> bool:
    return {event.seq for event in events} <= (await outcomes(spine, raw, "recorder")).keys()


@pytest.mark.parametrize("by_commit", [False, True])
async def test_an_event_that_could_not_be_stored_rings_nowhere(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture, by_commit: bool
) -> None:
    class Told(Noting):
        @on("a.d")
        async def emit(self, event: Event[Any], ctx: Handling) -> None:
            ctx.publish("a.b", {}, key=event.payload["to"])

    worker = await serve(Told)
    await begun(spine, worker, Told)
    blocked, fine = [key for key in NEIGHBOURS if key != KEY][:2]
    index = spine.server.keys.by_key(partition_of(KEY, 8), blocked)
    await raw.set(index, "none of ours")
    if by_commit:
        await spine.publish("a.d", {"to": blocked}, key=KEY)
        await wait_until(lambda: "not committed" in caplog.text)
    else:
        with pytest.raises(StreamBlocked):
            await spine.publish("a.b", {}, key=blocked)
    await spine.publish("a.b", {}, key=fine)
    await wait_until(lambda: Told.seen[fine])
    assert not Told.seen[blocked]
    await raw.delete(index)
    await wait_until(lambda: _all_done(spine, raw, 4 if by_commit else 2))
