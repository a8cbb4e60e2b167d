"""Trimming takes out what nobody needs, with all that names it, and says what it left and why."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio
from ledger import Book, Ledger, Serve, by_hand, stored, until_stored

from spine import Agent, Context, Draft, Event, Handling, InvalidInput, Priority, ReplayGap, Retry, Spine, on, reduces
from spine.keys import partition_of
from spine.past.trimming.trimming import Trim
from spine.testing.waiting import wait_until


async def grow(spine: Spine, count: int, keys: int = 4) -> list[Event[Any]]:
    return await spine.publish_many([Draft("money.in", {"amount": n}, key=f"k{n % keys}") for n in range(count)])


async def settled(raw: redis.asyncio.Redis, spine: Spine, kind: type[Agent[Any]], events: list[Event[Any]]) -> None:
    for key, seq in {event.key: event.seq for event in events}.items():
        await until_stored(raw, spine, kind, key, seq)


async def numbers(spine: Spine, **selection: Any) -> list[int]:
    return [event.seq async for event in spine.replay(**selection)]


async def names_left(raw: redis.asyncio.Redis, spine: Spine) -> set[str]:
    prefix = spine.server.keys.prefix
    return {name.decode().removeprefix(prefix) async for name in raw.scan_iter(match=spine.server.keys.all())}


async def test_without_agents_everything_up_to_the_seq_goes(spine: Spine, raw: redis.asyncio.Redis) -> None:
    await grow(spine, 50)
    await spine.publish("noise", key="quiet", context=Context(correlation="other"))
    await grow(spine, 50)
    report = await spine.trim(until=60)
    assert (report.events, report.blockers, report.unreachable) == (60, [], 0)
    assert set(report.floors.values()) == {60}
    assert await numbers(spine, after=60) == list(range(61, 102))
    assert await numbers(spine, key="k1", after=58) == list(range(61, 102, 4))
    assert [event.seq for event in await spine.history(limit=200)] == list(range(101, 60, -1))
    # The indexes name nothing that is gone, and those of what is all gone are gone themselves.
    left = await names_left(raw, spine)
    assert not [name for name in left if name.startswith(("corr:other", "key:")) and name.endswith("quiet")]
    for name in left:
        if name.startswith(("key:", "corr:")):
            for reference in await raw.lrange(spine.server.keys.prefix + name, 0, -1):
                assert int(reference.split(b":")[0]) > 60


async def test_a_dry_run_says_the_same_and_changes_nothing(spine: Spine, raw: redis.asyncio.Redis) -> None:
    await grow(spine, 50)
    before = {name: await raw.dump(spine.server.keys.prefix + name) for name in await names_left(raw, spine)}
    would = await spine.trim(until=30, dry_run=True)
    assert {name: await raw.dump(spine.server.keys.prefix + name) for name in await names_left(raw, spine)} == before
    did = await spine.trim(until=30)
    assert (
        (would.events, would.floors, would.blockers) == (did.events, did.floors, did.blockers) == (30, did.floors, [])
    )
    again = await spine.trim(until=30)
    assert (again.events, again.floors) == (0, did.floors)


async def test_a_replay_that_needs_what_is_gone_says_so(spine: Spine) -> None:
    await grow(spine, 40)
    await spine.publish("money.in", {"amount": 1}, key="new")
    await spine.trim(until=20)
    for selection in ({}, {"after": 19}, {"types": "money.*"}, {"key": "k1", "after": 17}, {"until": 10}):
        with pytest.raises(ReplayGap):
            await numbers(spine, **selection)
    with pytest.raises(ReplayGap, match="up to 20 were trimmed away"):
        await anext(spine.tail(after=5))
    assert await numbers(spine, after=20) == list(range(21, 42))
    assert await numbers(spine, key="k1", after=18) == [22, 26, 30, 34, 38]
    assert await numbers(spine, key="new") == [41]
    with pytest.raises(ReplayGap, match="key 'k1', at seq 30"):
        await spine.reduce(Ledger, key="k1", at=30)
    assert (await spine.reduce(Ledger, key="new")).seqs == [41]


async def test_where_nothing_went_nothing_is_missing(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    worker = await serve(Ledger)
    event = await spine.publish("money.in", {"amount": 1}, key="k")
    await until_stored(raw, spine, Ledger, "k", event.seq)
    await worker.stop()
    await raw.delete(spine.server.keys.state("ledger", "1", event_partition := partition_of("k", 8)))
    report = await spine.trim(until=1)
    assert ([one.partition for one in report.blockers], report.events, report.floors) == ([event_partition], 0, {})
    assert [found async for found in spine.replay()] == [event]


async def test_a_replay_under_way_says_when_it_is_overtaken(spine: Spine) -> None:
    await grow(spine, 9_000)
    events = spine.replay()
    assert (await anext(events)).seq == 1
    await spine.trim(until=8_990)
    with pytest.raises(ReplayGap):
        async for _ in events:
            pass


@pytest.mark.parametrize("kinds", [(), (Ledger,)])
async def test_what_agents_have_handled_and_stored_goes(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis, kinds: Any
) -> None:
    worker = await serve(Ledger)
    events = await grow(spine, 400)
    await settled(raw, spine, Ledger, events)
    by = {n: [await by_hand(spine, Ledger, f"k{n}", at) for at in range(401)] for n in range(4)}
    report = await spine.trim(until=250, kinds=kinds)
    assert (report.events, report.blockers, report.unreachable) == (250, [], 0 if kinds else 4)
    assert not [name for name in await names_left(raw, spine) if name.startswith("done:ledger:0:0")]
    for n in range(4):
        assert await spine.reduce(Ledger, key=f"k{n}") == by[n][400]
        for at in random.Random(n).sample(range(251, 396), 10):
            if kinds:
                assert await spine.reduce(Ledger, key=f"k{n}", at=at) == by[n][at]
            else:
                with pytest.raises(ReplayGap):
                    await spine.reduce(Ledger, key=f"k{n}", at=at)
    # The agent goes on, here and in another process.
    last = await grow(spine, 4)
    await settled(raw, spine, Ledger, last)
    await worker.stop()
    await serve(Ledger)
    last = await grow(spine, 4)
    await settled(raw, spine, Ledger, last)
    for n in range(4):
        cell = await stored(raw, spine, Ledger, f"k{n}")
        assert cell is not None
        assert len(cell.state.seqs) == 102


async def test_a_key_that_comes_back_after_a_trim_can_be_travelled_still(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    """Its stored state moves on; that at the floor is kept as a snapshot."""
    await serve(Ledger)
    await settled(raw, spine, Ledger, await grow(spine, 20))
    await spine.trim(until=20)
    (base,) = await spine.snapshots(Ledger, key="k2")
    assert (base.seq, base.needed) == (19, True)
    later = await grow(spine, 8)
    await settled(raw, spine, Ledger, later)
    assert (await spine.reduce(Ledger, key="k2", at=23)).seqs == [3, 7, 11, 15, 19, 23]
    assert (await spine.reduce(Ledger, key="k2", at=22)).seqs == [3, 7, 11, 15, 19]
    with pytest.raises(ReplayGap):
        await spine.reduce(Ledger, key="k2", at=18)
    assert await spine.remove_snapshots(Ledger) == 0
    assert (await spine.reduce(Ledger, key="k2", at=23)).seqs == [3, 7, 11, 15, 19, 23]
    # The next trim keeps a later one instead.
    await spine.trim(until=24, kinds=[Ledger])
    assert [one.seq for one in await spine.snapshots(Ledger, key="k2")] == [23]
    assert (await spine.reduce(Ledger, key="k2", at=27)).seqs == [3, 7, 11, 15, 19, 23, 27]


class Slow(Ledger):
    """Handles nothing of one key until it is let."""

    name = "slow"
    gate: asyncio.Event

    @on("money.in", retry=Retry(attempts=1))
    async def moved(self, event: Event[Any], ctx: Handling) -> None:
        if event.payload["amount"] == 13:
            await self.gate.wait()
        if event.payload["amount"] == 17:
            raise RuntimeError("no luck")


def why(report: Trim) -> list[tuple[str, int, str]]:
    return sorted((one.agent, one.seq, one.why) for one in report.blockers)


async def test_what_is_not_handled_stays_and_is_named(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    Slow.gate = asyncio.Event()
    worker = await serve(Slow)
    await grow(spine, 20, keys=20)
    await wait_until(lambda: raw.hexists(spine.server.keys.dead("slow"), "18"))
    await wait_until(lambda: _handled(raw, spine, "slow", 20, but={14}))
    report = await spine.trim(until=20)
    assert why(report) == [
        ("slow", 14, "money.in is taken, but not handled"),
        ("slow", 18, "a dead letter: redrive or discard it"),
    ]
    held_up = {partition_of("k13", 8): 13, partition_of("k17", 8): 17}
    assert report.floors == {n: held_up.get(n, 20) for n in range(8)}
    left = await numbers(spine, after=20)
    assert left == []
    assert [event.seq for event in await spine.history()][-1] >= 14
    assert await numbers(spine, key="k13") == [14]
    Slow.gate.set()
    await until_stored(raw, spine, Slow, "k13", 14)
    await wait_until(lambda: _handled(raw, spine, "slow", 14, but=set(range(14)) - {13}))
    await worker.stop()
    # What comes while no worker runs stays as well.
    first = await spine.publish("money.in", {"amount": 1}, key="k0")
    report = await spine.trim(until=first.seq)
    assert ("slow", first.seq, "money.in is not taken yet") in why(report)
    assert await numbers(spine, key="k0", after=1) == [first.seq]


async def _handled(raw: redis.asyncio.Redis, spine: Spine, agent: str, last: int, but: set[int]) -> bool:
    for seq in set(range(1, last + 1)) - but:
        places = [spine.server.keys.done(agent, partition, seq) for partition in range(8)]
        if not any([await raw.hexists(place, str(seq)) for place in places]):
            return False
    return True


async def test_what_waits_for_a_held_key_stays(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    class Parking(Ledger):
        name = "parking"

        @on("money.in", retry=Retry(attempts=1), on_dead="park")
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            raise RuntimeError("no luck")

    await serve(Parking)
    for _ in range(3):
        await spine.publish("money.in", {"amount": 1}, key="k")
    waiting = spine.server.keys.waiting("parking", partition_of("k", 8), "k")
    await wait_until(lambda: _length(raw, waiting, 2))
    report = await spine.trim(until=3)
    assert why(report) == [
        ("parking", 1, "a dead letter: redrive or discard it"),
        ("parking", 2, "key 'k' is held"),
    ]
    assert await numbers(spine, key="k") == [1, 2, 3]


async def _length(raw: redis.asyncio.Redis, name: str, length: int) -> bool:
    return bool(await raw.llen(name) == length)


async def test_a_state_that_is_not_stored_keeps_its_events(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    class Later(Ledger):
        version = "2"

    old = await serve(Ledger)
    await settled(raw, spine, Ledger, await grow(spine, 40))
    await old.stop()
    new = await serve(Later)
    await wait_until(lambda: len(new._agencies["ledger"].partitions) == 8)
    await until_stored(raw, spine, Later, "k1", (await spine.publish("money.in", {"amount": 1}, key="k1")).seq)
    report = await spine.trim(until=41)
    assert {(one.agent, one.seq, one.partition) for one in report.blockers} == {
        ("ledger", n + 1, partition_of(f"k{n}", 8)) for n in (0, 2, 3)
    }
    assert "states of version 2 are not stored, as that of key" in report.blockers[0].why
    # With the class at hand they are folded, and stored for its workers.
    report = await spine.trim(until=41, kinds=[Later])
    assert (report.blockers, set(report.floors.values())) == ([], {41})
    cell = await stored(raw, spine, Later, "k3")
    assert cell is not None
    assert cell.state.seqs == list(range(4, 41, 4))


async def test_a_damaged_state_is_as_good_as_none(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    worker = await serve(Ledger)
    await settled(raw, spine, Ledger, await grow(spine, 8))
    await worker.stop()
    place = spine.server.keys.state("ledger", "1", partition_of("k1", 8))
    await raw.hset(place, "k1", (await raw.hget(place, "k1"))[:-1])  # type: ignore[misc]
    report = await spine.trim(until=8)
    assert [one.seq for one in report.blockers] == [2]
    report = await spine.trim(until=8, kinds=[Ledger])
    assert report.blockers == []
    assert (await spine.reduce(Ledger, key="k1")).seqs == [2, 6]


async def test_by_force_everything_goes_and_who_needed_it_is_named(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    Slow.gate = asyncio.Event()
    worker = await serve(Slow)
    await grow(spine, 20, keys=20)
    await wait_until(lambda: _handled(raw, spine, "slow", 20, but={14}))
    await worker.stop()
    await spine.publish("money.in", {"amount": 5}, key="k0")
    report = await spine.trim(until=21, force=True)
    assert (report.events, set(report.floors.values())) == (21, {21})
    assert {(one.agent, one.seq) for one in report.blockers} == {("slow", 14), ("slow", 18)}
    assert "by force" in caplog.text
    # The agent is told of what it did not handle, and goes on.
    await serve(Slow)
    await wait_until(lambda: raw.hexists(spine.server.keys.dead("slow"), f"14-0@{partition_of('k13', 8)}.1"))
    last = await spine.publish("money.in", {"amount": 5}, key="fresh")
    await until_stored(raw, spine, Slow, "fresh", last.seq)


async def test_a_new_version_takes_over_what_an_old_one_stored_if_it_can(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    class Cannot(Ledger):
        version = "2"

    class Can(Ledger):
        version = "3"

        @classmethod
        def migrate(cls, version: str, state: dict[str, Any]) -> Book:
            assert version == "1"
            return Book(seqs=state["seqs"], total=-state["total"])

    worker = await serve(Ledger)
    await settled(raw, spine, Ledger, await grow(spine, 8))
    await spine.trim(until=8)
    await worker.stop()
    with pytest.raises(ReplayGap, match=r"migrate\(\)"):
        await spine.reduce(Cannot, key="k1")
    assert await spine.reduce(Can, key="k1") == Book(seqs=[2, 6], total=-6)
    worker = await serve(Cannot)
    last = await spine.publish("money.in", {"amount": 1}, key="k1")
    await until_stored(raw, spine, Cannot, "new", (await spine.publish("money.in", {"amount": 1}, key="new")).seq)
    await wait_until(lambda: raw.hexists(spine.server.keys.holds("ledger", partition_of("k1", 8)), "k1"))
    await worker.stop()
    await serve(Can)
    assert (await until_stored(raw, spine, Can, "k1", last.seq)).state == Book(seqs=[2, 6, 9], total=-5)


async def test_lanes_and_inboxes_are_trimmed_alike(spine: Spine, raw: redis.asyncio.Redis) -> None:
    for priority in Priority:
        await spine.publish("money.in", {"amount": 1}, key="k", priority=priority)
    await spine.publish("money.in", {"amount": 1}, key="k", to="somebody")
    await spine.update_session("k", {"x": 1})
    assert (await spine.trim(until=5)).events == 5
    assert [name for name in await names_left(raw, spine) if name.startswith("key:")] == []
    assert await spine.session("k") == {"x": 1}


async def test_a_retention_is_kept_with_the_namespace(spine: Spine) -> None:
    assert await spine.retention() is None
    with pytest.raises(InvalidInput, match="keeps everything"):
        await spine.trim()
    for wrong in (0, timedelta(0), timedelta(days=-1)):
        with pytest.raises(InvalidInput, match="keep nothing"):
            await spine.retention(keep=wrong)
    rule = await spine.retention(keep=timedelta(days=30))
    assert rule is not None
    assert (rule.age_s, rule.events) == (30 * 86_400, None)
    assert await spine.retention() == rule
    await grow(spine, 50)
    assert (await spine.trim()).events == 0
    await spine.retention(keep=20)
    assert (await spine.trim()).events == 30
    assert await spine.retention(keep="forever") is None


async def test_the_newest_events_are_counted_where_the_numbers_jumped(spine: Spine, raw: redis.asyncio.Redis) -> None:
    await grow(spine, 30)
    keys = spine.server.keys
    # As a restart of the server leaves it: the counter jumps, and the jump is written down.
    await raw.set(keys.seq, 1_000_000)
    await raw.rpush(keys.epochs, "later 1000000 run 0")  # type: ignore[misc]
    await grow(spine, 10)
    await spine.retention(keep=25)
    await spine.trim()
    assert [event.seq for event in await spine.history()][::-1] == [*range(16, 31), *range(1_000_001, 1_000_011)]


async def test_events_go_by_their_age(spine: Spine) -> None:
    first = (await grow(spine, 10))[-1]
    while (later := await spine.publish("noise")).ts == first.ts:
        pass
    assert (await spine.trim(until=later.ts)).events >= 10
    assert [event.seq for event in await spine.history()][-1] == later.seq


async def test_correlations_over_several_partitions_lose_only_what_is_gone(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    Slow.gate = asyncio.Event()
    await serve(Slow)
    context = Context(correlation="c")
    for n in (13, 1, 2):
        await spine.publish("money.in", {"amount": n}, key=f"k{n}", context=context)
    await wait_until(lambda: _handled(raw, spine, "slow", 3, but={1}))
    await spine.trim(until=3)
    left = [event.seq for event in await spine.history(correlation="c")]
    assert left[-1] == 1
    assert {partition_of(f"k{n}", 8) for n in (1, 2)} != {partition_of("k13", 8)}
    assert [node.event.seq for node in (await spine.trace("c")).nodes] == left[::-1]
    Slow.gate.set()


async def test_workers_keep_the_log_within_its_bounds(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spine.worker.housekeeping.EVERY_S", 0.05)
    worker = await serve(Ledger)
    worker._housekeeping._every_s = 0.05
    await worker._housekeeping.stop()
    worker._housekeeping.start()
    await spine.retention(keep=10)
    events = await grow(spine, 100)
    await settled(raw, spine, Ledger, events)
    await wait_until(lambda: _oldest(spine, 91))


async def _oldest(spine: Spine, seq: int) -> bool:
    return (await spine.history(limit=200))[-1].seq == seq


async def test_a_reducer_that_cannot_fold_keeps_its_events(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    class Picky(Ledger):
        name = "picky"

        @reduces("money.in")
        def move(self, state: Book, event: Event[Any]) -> Book:
            if event.key == "k1":
                raise ValueError("no")
            return Book(seqs=[*state.seqs, event.seq])

    await serve(Picky)
    await grow(spine, 8)
    await until_stored(raw, spine, Picky, "k3", 8)
    await wait_until(lambda: raw.hexists(spine.server.keys.holds("picky", partition_of("k1", 8)), "k1"))
    report = await spine.trim(until=8, kinds=[Picky])
    assert {(one.seq, one.partition) for one in report.blockers} == {(2, partition_of("k1", 8))}
