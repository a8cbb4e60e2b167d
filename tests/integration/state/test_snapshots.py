"""Snapshots: kept on the way, used where they are near, and removed without loss."""

from __future__ import annotations

import random
from typing import Any

import pytest
import redis.asyncio
from ledger import Book, Ledger, Serve, by_hand, until_stored

from spine import Agent, Draft, Event, InvalidInput, Spine, reduces
from spine.keys import partition_of
from spine.testing.waiting import wait_until


class Every5(Ledger):
    """Keeps every fifth state."""

    name = "every5"
    snapshot_events = 5


class EverySecond(Ledger):
    """Keeps a state a second."""

    name = "every-second"
    snapshot_s = 1.0


async def grow(spine: Spine, count: int, keys: int = 3) -> int:
    drafts = [Draft("money.in", {"amount": n}, key=f"k{n % keys}") for n in range(count)]
    return (await spine.publish_many(drafts))[-1].seq


async def test_a_snapshot_is_kept_after_each_so_many_events(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    await serve(Every5)
    last = await grow(spine, 60)
    for n in range(3):
        await until_stored(raw, spine, Every5, f"k{n}", last - 2)
    found = await wait_until(lambda: _twelve(spine))
    assert [(one.key, one.seq, one.events) for one in found] == [
        (f"k{n}", 3 * events - 2 + n, events) for n in range(3) for events in (5, 10, 15, 20)
    ]
    assert await spine.snapshots("every5", key="k1") == found[4:8]
    assert all(one.ts is not None and one.size > 0 and not one.needed and not one.damaged for one in found)


async def _twelve(spine: Spine) -> Any:
    found = await spine.snapshots(Every5)
    return found if len(found) == 12 else None


async def test_a_snapshot_is_kept_after_so_many_seconds(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    await serve(EverySecond)
    first = await spine.publish("money.in", {"amount": 1}, key="k")
    later = first
    while later.ts_ms // 1000 == first.ts_ms // 1000:
        later = await spine.publish("money.in", {"amount": 1}, key="k")
        await until_stored(raw, spine, EverySecond, "k", later.seq)
    assert [one.seq for one in await spine.snapshots(EverySecond)] == [later.seq]


@pytest.mark.parametrize("removed", [False, True])
async def test_states_are_equal_with_snapshots_and_without(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis, removed: bool
) -> None:
    await serve(Every5)
    last = await grow(spine, 150)
    for n in range(3):
        await until_stored(raw, spine, Every5, f"k{n}", last - 2)
    await wait_until(lambda: spine.snapshots(Every5))
    if removed:
        await spine.remove_snapshots(Every5)
        assert await spine.snapshots(Every5) == []
    for at in random.Random(3).sample(range(151), 20):
        assert await spine.reduce(Every5, key="k2", at=at) == await by_hand(spine, Every5, "k2", at)


async def test_a_replay_begins_at_the_nearest_snapshot_that_can_be_read(spine: Spine, raw: redis.asyncio.Redis) -> None:
    await grow(spine, 90)
    for at in (31, 61):
        assert (await spine.snapshot(Ledger, key="k0", at=at)).seq == at
    snapshots = spine.server.keys.snapshots("ledger", "1", partition_of("k0", 8), "k0")

    async def reads(at: int) -> int:
        before = (await raw.info("commandstats"))["cmdstat_xrange"]["calls"]
        assert await spine.reduce(Ledger, key="k0", at=at) == Book(
            seqs=list(range(1, at + 1, 3)), total=sum(range(0, at, 3))
        )
        return int((await raw.info("commandstats"))["cmdstat_xrange"]["calls"]) - before

    assert [await reads(at) for at in (31, 60, 61, 90)] == [0, 9, 0, 9]
    await raw.hset(snapshots, "61", b"rubbish")  # type: ignore[misc]
    assert [one.damaged for one in await spine.snapshots(Ledger)] == [False, True]
    assert await reads(64) == 11


async def test_a_damaged_snapshot_hides_no_earlier_one(spine: Spine, raw: redis.asyncio.Redis) -> None:
    await grow(spine, 90)
    for at in (31, 61):
        await spine.snapshot(Ledger, key="k0", at=at)
    await spine.trim(until=31)
    snapshots = spine.server.keys.snapshots("ledger", "1", partition_of("k0", 8), "k0")
    for field in ("61", "67", "what"):
        await raw.hset(snapshots, field, b"rubbish")  # type: ignore[misc]
    assert (await spine.reduce(Ledger, key="k0", at=70)).seqs == list(range(1, 71, 3))
    assert (await spine.trim(until=40)).events == 9
    assert [line async for line in spine.export() if b"rubbish" in line] == []


async def test_a_snapshot_that_covers_what_is_gone_of_its_types_is_needed(spine: Spine) -> None:
    """Of the same key later events of another type are gone as well, which are no part of the state."""
    await grow(spine, 10)
    await spine.publish_many([Draft("noise", key="k0") for _ in range(10)])
    await grow(spine, 10)
    await spine.snapshot(Ledger, key="k0", at=12)
    await spine.snapshot(Ledger, key="k0", at=28)
    await spine.trim(until=20)
    wanted = await spine.reduce(Ledger, key="k0", at=24)
    assert [one.needed for one in await spine.snapshots(Ledger)] == [True, True]
    assert await spine.remove_snapshots(Ledger) == 0
    assert await spine.reduce(Ledger, key="k0", at=24) == wanted
    assert wanted.seqs == [1, 4, 7, 10, 21, 24]


async def test_snapshots_before_a_seq_are_removed(spine: Spine) -> None:
    await grow(spine, 30)
    for at in (4, 10, 16):
        await spine.snapshot(Ledger, key="k0", at=at)
    await spine.snapshot(Ledger, key="k1", at=5)
    assert await spine.remove_snapshots(Ledger, key="k0", before=16) == 2
    assert [(one.key, one.seq) for one in await spine.snapshots(Ledger)] == [("k0", 16), ("k1", 5)]
    assert await spine.remove_snapshots(Ledger) == 2


async def test_snapshots_of_another_version_are_not_used(spine: Spine) -> None:
    class Doubled(Agent[Book]):
        name = "ledger"
        version = "2"

        @reduces("money.in")
        def move(self, state: Book, event: Event[Any]) -> Book:
            return Book(seqs=state.seqs, total=state.total + 2 * event.payload["amount"])

    await grow(spine, 30)
    await spine.snapshot(Ledger, key="k0", at=16)
    assert (await spine.reduce(Doubled, key="k0", at=20)).total == 2 * sum(range(0, 20, 3))


async def test_a_name_has_to_be_known(spine: Spine) -> None:
    with pytest.raises(InvalidInput, match="ever ran"):
        await spine.snapshots("nobody")
