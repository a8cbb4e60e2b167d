"""Projections in workers: one owner folds the log as it grows; whoever reads begins where it is stored."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio
from ledger import Book, Serve, by_hand, stored
from pydantic import BaseModel

from spine import Agent, Draft, Event, Handling, InvalidInput, Projection, Retry, Spine, on, reduces
from spine.keys import partition_of
from spine.testing.waiting import wait_until


class Totals(BaseModel):
    """Money by key."""

    by_key: dict[str, int] = {}
    count: int = 0


class Balances(Projection[Totals]):
    """One state over all keys."""

    name = "balances"
    scope = "global"
    snapshot_events = 50

    @reduces("money.in")
    def move(self, state: Totals, event: Event[dict[str, Any]]) -> Totals:
        balance = state.by_key.get(event.key, 0) + event.payload["amount"]
        return Totals(by_key={**state.by_key, event.key: balance}, count=state.count + 1)


class Books(Projection[Book]):
    """A state of each key."""

    name = "books"

    @reduces("money.in")
    def move(self, state: Book, event: Event[dict[str, Any]]) -> Book:
        if event.payload["amount"] < 0:
            raise ValueError("negative")
        return Book(seqs=[*state.seqs, event.seq], total=state.total + event.payload["amount"])


async def grow(spine: Spine, count: int) -> int:
    drafts = [Draft("money.in", {"amount": n}, key=f"k{n % 5}") for n in range(count)]
    return (await spine.publish_many(drafts))[-1].seq


async def position(raw: redis.asyncio.Redis, spine: Spine, name: str, version: str = "1") -> int:
    return int(await raw.hget(spine.server.keys.own("position", name), version) or 0)  # type: ignore[misc]


async def until_position(raw: redis.asyncio.Redis, spine: Spine, name: str, seq: int) -> None:
    async def there() -> bool:
        return await position(raw, spine, name) >= seq

    await wait_until(there, what=f"{name} to be stored up to {seq}")


async def test_the_state_is_stored_as_the_log_grows(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    await grow(spine, 120)
    await serve(Balances, Books)
    last = await grow(spine, 130)
    for name in ("balances", "books"):
        await until_position(raw, spine, name, last)
    wanted = await spine.reduce(Balances)
    assert wanted.count == 250
    for n in range(5):
        cell = await stored(raw, spine, Books, f"k{n}")
        assert cell is not None
        assert cell.state == await by_hand(spine, Books, f"k{n}")
    # Nothing of the log is read any more.
    before = (await raw.info("commandstats"))["cmdstat_xrange"]["calls"]
    assert await spine.reduce(Balances) == wanted
    assert (await spine.reduce(Books, key="k1")).seqs[-1] == 247
    assert (await raw.info("commandstats"))["cmdstat_xrange"]["calls"] - before <= 1
    assert [one.events for one in await spine.snapshots(Balances)] == [50, 100, 150, 200, 250]
    assert (await spine.reduce(Balances, at=77)).count == 77


async def test_one_owns_it_and_another_goes_on_where_it_ended(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    first = await serve(Balances)
    await until_position(raw, spine, "balances", await grow(spine, 10))
    second = await serve(Balances)
    last = await grow(spine, 10)
    await until_position(raw, spine, "balances", last)
    assert (first._projectors[0]._generation > 0, second._projectors[0]._generation) == (True, 0)
    await first.stop()
    last = await grow(spine, 10)
    await until_position(raw, spine, "balances", last)
    assert second._projectors[0]._generation > 0
    assert (await stored_global(raw, spine)).count == 30


async def stored_global(raw: redis.asyncio.Redis, spine: Spine) -> Totals:
    from spine.state.fold import Cell

    found = await raw.hget(spine.server.keys.state("balances", "1", 0), "")  # type: ignore[misc]
    state: Totals = Cell.decode(Totals, found).state  # type: ignore[arg-type]
    return state


async def test_one_that_lost_it_stores_nothing(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    worker = await serve(Balances)
    await until_position(raw, spine, "balances", await grow(spine, 10))
    lease = spine.server.keys.lease("balances:1", 0)
    await raw.hset(lease, mapping={"gen": "9" * 14, "owner": "another", "until": "9" * 14})  # type: ignore[misc]
    await wait_until(lambda: worker._projectors[0]._generation == 0)
    await grow(spine, 10)
    assert (await stored_global(raw, spine)).count == 10
    await raw.hset(lease, "until", "0")  # type: ignore[misc]
    await until_position(raw, spine, "balances", 20)
    assert (await stored_global(raw, spine)).count == 20


async def test_handlers_read_it(spine: Spine, serve: Serve) -> None:
    seen: list[int] = []

    class Reading(Agent[None]):
        name = "reading"

        @on("question")
        async def answer(self, event: Event[Any], ctx: Handling) -> None:
            seen.append((await ctx.spine.reduce(Balances)).count)

    await serve(Reading, Balances)
    await grow(spine, 7)
    await spine.publish("question", key="q")
    await wait_until(lambda: seen == [7])


async def test_what_it_has_not_stored_is_not_trimmed(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    worker = await serve(Balances, Books)
    for name in ("balances", "books"):
        await until_position(raw, spine, name, await grow(spine, 50))
    await worker.stop()
    late = await grow(spine, 50)
    report = await spine.trim(until=late, kinds=[Balances, Books])
    done = min([await position(raw, spine, name) for name in ("balances", "books")])
    assert set(report.floors.values()) == {done}
    assert done >= 50
    assert {(one.agent, one.seq) for one in report.blockers} >= {("balances", done + 1)}
    await serve(Balances, Books)
    for name in ("balances", "books"):
        await until_position(raw, spine, name, late)
    whole = await spine.reduce(Balances, at=late - 20)
    mine = await spine.reduce(Books, key="k1", at=late - 20)
    assert (await spine.trim(until=late - 30, kinds=[Balances, Books])).blockers == []
    assert await spine.reduce(Balances, at=late - 20) == whole
    assert await spine.reduce(Books, key="k1", at=late - 20) == mine
    assert (await spine.reduce(Balances)).count == late
    # Again and again leaves no more than what is needed.
    for at in range(late - 29, late - 20):
        await spine.trim(until=at, kinds=[Balances, Books])
    assert len(await spine.snapshots(Balances)) <= 3


async def test_a_trim_that_is_held_up_leaves_every_state_since_the_floor(spine: Spine, serve: Serve) -> None:
    """What one key holds up, the next partition may let go: the floor is nowhere near the seq that was asked for."""

    class Stuck(Agent[Book]):
        name = "stuck"
        start = "beginning"

        @on("money.in", retry=Retry(attempts=1))
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            if 10 < event.seq < 60 and event.seq % 7 == 3:
                raise RuntimeError("no luck")

    await serve(Balances, Stuck)
    last = await grow(spine, 100)

    async def handled() -> bool:
        checked = await spine.trim(until=last, kinds=[Balances], dry_run=True)
        return not [one for one in checked.blockers if "dead letter" not in one.why]

    await wait_until(handled)
    wanted = {at: await spine.reduce(Balances, at=at) for at in range(last + 1)}
    report = await spine.trim(until=last, kinds=[Balances])
    floor = max(report.floors.values())
    assert 10 < floor < 60
    for at in range(floor, last + 1):
        assert await spine.reduce(Balances, at=at) == wanted[at]


@pytest.mark.parametrize(("kind", "name"), [(Balances, ""), (Books, "k1")])
@pytest.mark.parametrize("damage", [b"", b"garbage"])
async def test_a_state_that_is_lost_or_damaged_keeps_its_events(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis, kind: Any, name: str, damage: bytes
) -> None:
    worker = await serve(kind)
    await until_position(raw, spine, kind.name, await grow(spine, 50))
    await worker.stop()
    key = name or None
    wanted = await spine.reduce(kind, key=key)
    place = spine.server.keys.state(kind.name, "1", partition_of(name, 8) if name else 0)
    await raw.delete(place)
    if damage:
        await raw.hset(place, name, damage)  # type: ignore[misc]
    await spine.remove_snapshots(kind)
    report = await spine.trim(until=40)
    assert {(one.agent, one.why.split(" of ")[0]) for one in report.blockers} == {(kind.name, "1 states")}
    assert await spine.reduce(kind, key=key) == wanted
    assert (await spine.trim(until=40, kinds=[kind])).blockers == []
    assert await spine.reduce(kind, key=key) == wanted
    await serve(kind)
    await until_position(raw, spine, kind.name, await grow(spine, 5))
    assert (await spine.reduce(kind, key=key)).model_dump() != wanted.model_dump()


async def test_a_state_that_cannot_be_stored_stays_behind_alone(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    class Memo(BaseModel):
        value: Any = None

    class Keeper(Projection[Memo]):
        name = "keeper"

        @reduces("money.in")
        def keep(self, state: Memo, event: Event[dict[str, Any]]) -> Memo:
            return Memo(value=b"\xff" if event.key == "k2" else event.seq)

    worker = await serve(Keeper)
    last = await grow(spine, 10)

    async def there() -> bool:
        return (await spine.reduce(Keeper, key="k4")).value == last and await position(raw, spine, "keeper") == 2

    await wait_until(there)
    place = spine.server.keys.state("keeper", "1", partition_of("k4", 8))
    await wait_until(lambda: raw.hexists(place, "k4"), what="the other keys to be stored")
    await worker.stop()


async def test_what_another_version_that_is_served_has_not_stored_is_not_trimmed(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    class Newer(Books):
        version = "2"

        @reduces("money.in")
        def move(self, state: Book, event: Event[dict[str, Any]]) -> Book:
            if event.seq == 31:
                raise ValueError("as far as this one comes")
            return Book(seqs=[*state.seqs, event.seq])

    last = await grow(spine, 50)
    newer = await serve(Newer)
    await serve(Books)  # of the old version, and it began last

    async def stored() -> bool:
        return [await position(raw, spine, "books", version) for version in ("1", "2")] == [last, 30]

    await wait_until(stored)
    report = await spine.trim(until=40, dry_run=True)
    assert {(one.agent, one.seq) for one in report.blockers} == {("books", 31)}
    await newer.stop()
    assert (await spine.trim(until=40, dry_run=True)).blockers == []


async def test_other_events_do_not_hold_up_a_trim(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    await serve(Balances)
    await until_position(raw, spine, "balances", await grow(spine, 5))
    noise = await spine.publish("noise", key="k")
    await until_position(raw, spine, "balances", noise.seq)
    assert (await spine.trim(until=noise.seq)).blockers == []


async def test_a_key_that_cannot_be_folded_stays_behind_alone(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Mended(Books):
        version = "2"

        @reduces("money.in")
        def move(self, state: Book, event: Event[dict[str, Any]]) -> Book:
            return Book(seqs=[*state.seqs, event.seq])

    worker = await serve(Books)
    await grow(spine, 10)
    bad = await spine.publish("money.in", {"amount": -1}, key="bad")
    last = await grow(spine, 10)

    async def others_go_on() -> bool:
        cell = await stored(raw, spine, Books, "k4")
        return cell is not None and cell.seq == last

    await wait_until(others_go_on)
    assert await position(raw, spine, "books") == bad.seq - 1
    assert "key 'bad' waits for a new version of books" in caplog.text
    await worker.stop()
    await serve(Mended)
    await wait_until(lambda: _at(raw, spine, "2", last))
    assert (await spine.trim(until=last)).blockers == []


async def _at(raw: redis.asyncio.Redis, spine: Spine, version: str, seq: int) -> bool:
    return await position(raw, spine, "books", version) >= seq


async def test_one_that_is_not_wanted_any_more_is_removed(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    worker = await serve(Books)
    await until_position(raw, spine, "books", await grow(spine, 10))
    await worker.stop()
    last = await grow(spine, 10)
    assert (await spine.trim(until=last)).blockers
    await spine.remove_projection("books")
    assert (await spine.trim(until=last)).blockers == []
    assert await raw.exists(spine.server.keys.state("books", "1", partition_of("k1", 8))) == 0


async def test_a_name_is_given_once(spine: Spine, serve: Serve) -> None:
    with pytest.raises(InvalidInput, match="two"):
        await serve(Books, type("Other", (Books,), {}))
