"""An export into an empty namespace makes an equal log, as often as it is broken off."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio
from ledger import Connect, Ledger, Serve, by_hand, until_stored

from spine import (
    Catalog,
    Context,
    Draft,
    Event,
    EventType,
    InvalidInput,
    Misconfigured,
    NamespaceMismatch,
    Priority,
    ReplayGap,
    Spine,
)
from spine.catalog.stored import load
from spine.operations.transfer import Import


async def fill(spine: Spine) -> list[Event[Any]]:
    """A log with everything in it."""
    await spine.publish("money.in", {"amount": 1}, key="k0", priority=Priority.URGENT)
    await spine.publish("blob.stored", {"raw": b"\x00\xff", "deep": {"$bytes": "no"}}, key="k1")
    await spine.publish("note", {"x": 1}, context=Context(correlation="c", session_id="k2", path=("a",), causation=1))
    await spine.publish("money.in", {"amount": 5}, key="k2", to="ledger")
    await spine.update_session("k2", {"city": "Ulm", "gone": 1})
    await spine.update_session("k2", {"gone": None})
    await spine.publish_many([Draft("money.in", {"amount": n}, key=f"k{n % 5}") for n in range(1_200)])
    return [event async for event in spine.replay()]


async def exported(spine: Spine, **options: Any) -> list[bytes]:
    return [line async for line in spine.export(**options)]


@pytest.mark.parametrize("partitions", [8, 3])
async def test_a_round_trip_is_equal(url: str, spine: Spine, other: str, partitions: int) -> None:
    events = await fill(spine)
    lines = await exported(spine)
    assert len(lines) == len(events) + 2
    async with Import(url, namespace=other, partitions=partitions) as target:
        report = await target.load(lines)
    assert (report.events, report.present, report.last_seq) == (len(events), 0, events[-1].seq)
    async with Spine(url, namespace=other) as copy:
        assert [event async for event in copy.replay()] == events
        for selection in ({"key": "k2"}, {"correlation": "c"}, {"types": "money.*"}):
            wanted = [event async for event in spine.replay(**selection)]
            assert [event async for event in copy.replay(**selection)] == wanted
        assert await copy.session("k2") == await spine.session("k2") == {"city": "Ulm"}
        assert await exported(copy) != []
        assert (await exported(copy))[1:] == lines[1:]
        # It goes on with numbers of its own, and with times that never go back.
        more = await copy.publish("money.in", {"amount": 1}, key="k0")
        assert more.seq == events[-1].seq + 1
        assert more.ts >= events[-1].ts
        assert await copy.reduce(Ledger, key="k0") == await by_hand(copy, Ledger, "k0")


async def test_an_agent_runs_on_a_copy(url: str, spine: Spine, other: str, raw: redis.asyncio.Redis) -> None:
    from spine.worker import Worker

    events = await fill(spine)
    async with Import(url, namespace=other) as target:
        await target.load(await exported(spine))
    last = max(event.seq for event in events if event.key == "k2" and event.type == "money.in")
    async with Spine(url, namespace=other) as copy, Worker(copy, Ledger):
        cell = await until_stored(raw, copy, Ledger, "k2", last)
        assert cell.state == await by_hand(spine, Ledger, "k2")


async def test_the_catalogue_comes_along(url: str, connect: Connect, other: str) -> None:
    class Placed(EventType):
        """An order was placed."""

        event_type = "order.placed"
        sku: int

    spine = await connect(catalog=Catalog(Placed))
    await spine.publish(Placed(sku=7), key="k")
    async with Import(url, namespace=other) as target:
        await target.load(await exported(spine))
    async with Spine(url, namespace=other) as copy:
        assert await load(copy.server) == await load(spine.server) != {}


async def test_a_part_of_the_past_is_exported(url: str, spine: Spine, other: str) -> None:
    events = await fill(spine)
    async with Import(url, namespace=other) as target:
        await target.load(await exported(spine, until=700))
    async with Spine(url, namespace=other) as copy:
        assert [event async for event in copy.replay()] == events[:700]


async def test_what_was_broken_off_is_closed_to_others_and_goes_on(url: str, spine: Spine, other: str) -> None:
    events = await fill(spine)
    lines = await exported(spine)
    async with Import(url, namespace=other) as target:
        with pytest.raises(InvalidInput, match="line 1102: not JSON"):
            await target.load([*lines[:1_101], b"{"])
    with pytest.raises(NamespaceMismatch, match="being filled"):
        await Spine(url, namespace=other).open()
    async with Import(url, namespace=other) as target:
        with pytest.raises(InvalidInput, match="another import"):
            await target.load(await exported(spine, until=700))
        report = await target.load(lines)
    assert (report.events, report.present) == (len(events), 1_000)
    async with Spine(url, namespace=other) as copy:
        assert [event async for event in copy.replay()] == events


async def test_it_goes_only_into_an_empty_namespace(url: str, spine: Spine, other: str) -> None:
    await fill(spine)
    lines = await exported(spine)
    async with Spine(url, namespace=other) as copy:
        await copy.publish("a.b")
    async with Import(url, namespace=other) as target:
        with pytest.raises(Misconfigured, match="not empty"):
            await target.load(lines)
    with pytest.raises(InvalidInput, match="line 1: not an export"):
        async with Import(url, namespace=other) as target:
            await target.load(lines[1:])
    async with Import(url, namespace=other) as target:
        with pytest.raises(InvalidInput, match="nothing to import"):
            await target.load([])


async def test_it_goes_not_where_agents_wait_already(url: str, spine: Spine, other: str) -> None:
    from spine.worker import Worker

    await fill(spine)
    async with Spine(url, namespace=other) as copy, Worker(copy, Ledger):
        pass
    async with Import(url, namespace=other) as target:
        with pytest.raises(Misconfigured, match="agents have run"):
            await target.load(await exported(spine))
    async with Spine(url, namespace=other) as copy:
        assert await copy.history() == []


async def test_an_export_that_breaks_off_is_closed_to_others_and_goes_on(url: str, spine: Spine, other: str) -> None:
    events = await fill(spine)
    lines = await exported(spine)
    async with Import(url, namespace=other) as target:
        for count in (len(lines) - 1, 700, 1):
            with pytest.raises(InvalidInput, match=f"breaks off after {count - 1:,} events"):
                await target.load(lines[:count])
    with pytest.raises(NamespaceMismatch, match="being filled"):
        await Spine(url, namespace=other).open()
    async with Import(url, namespace=other) as target:
        await target.load(lines)
    async with Spine(url, namespace=other) as copy:
        assert [event async for event in copy.replay()] == events


@pytest.mark.parametrize("damage", ["another amount", "a line less", "a line twice", "a line after the end"])
async def test_lines_that_are_not_those_that_were_exported_are_refused(
    url: str, spine: Spine, other: str, damage: str
) -> None:
    await fill(spine)
    lines = await exported(spine)
    damaged = {
        "another amount": [line.replace(b'"amount":17', b'"amount":18') for line in lines],
        "a line less": [*lines[:900], *lines[901:]],
        "a line twice": [*lines[:900], *lines[899:]],
        "a line after the end": [*lines, lines[-2]],
    }[damage]
    async with Import(url, namespace=other) as target:
        with pytest.raises(InvalidInput):
            await target.load(damaged)
    with pytest.raises(NamespaceMismatch, match="being filled"):
        await Spine(url, namespace=other).open()


async def test_another_export_does_not_go_on_where_one_was_broken_off(url: str, spine: Spine, other: str) -> None:
    await fill(spine)
    lines = await exported(spine)
    damaged = [line.replace(b'"amount":17', b'"amount":18') for line in lines]
    async with Import(url, namespace=other) as target:
        with pytest.raises(InvalidInput, match="breaks off"):
            await target.load(damaged[:-1])
        with pytest.raises(InvalidInput, match="not the lines of which the import was begun"):
            await target.load(lines)
        with pytest.raises(InvalidInput, match="the sum of the lines is another"):
            await target.load(damaged)
        with pytest.raises(InvalidInput, match="another import was begun here"):
            await target.load(lines)


async def test_an_export_that_was_edited_on_purpose_goes_without_its_sum(url: str, spine: Spine, other: str) -> None:
    await fill(spine)
    lines = await exported(spine)
    edited = [line.replace(b'"amount":17', b'"amount":18') for line in lines[:-1]]
    async with Import(url, namespace=other) as target:
        await target.load([*edited, b'{"spine.export.end":1,"events":%d}' % (len(lines) - 2)])
    async with Spine(url, namespace=other) as copy:
        assert len(await copy.history(types=("money.in",), limit=5)) == 5


async def test_lines_out_of_order_are_refused(url: str, spine: Spine, other: str) -> None:
    await fill(spine)
    lines = await exported(spine)
    async with Import(url, namespace=other) as target:
        with pytest.raises(InvalidInput, match="order"):
            await target.load([lines[0], lines[2], lines[1]])


async def test_of_a_trimmed_log_what_is_left_comes_along(
    url: str, spine: Spine, serve: Serve, other: str, raw: redis.asyncio.Redis
) -> None:
    worker = await serve(Ledger)
    events = await fill(spine)
    for n in range(5):
        last = max(event.seq for event in events if event.key == f"k{n}" and event.type == "money.in")
        await until_stored(raw, spine, Ledger, f"k{n}", last)
    await worker.stop()
    wanted = {(n, at): await spine.reduce(Ledger, key=f"k{n}", at=at) for n in range(5) for at in (900, 1_000, 1_206)}
    assert (await spine.trim(until=800, kinds=[Ledger])).blockers == []
    async with Import(url, namespace=other, partitions=5) as target:
        await target.load(await exported(spine))
    async with Spine(url, namespace=other) as copy:
        assert [event async for event in copy.replay(after=800)] == events[800:]
        with pytest.raises(ReplayGap):
            await anext(copy.replay())
        for (n, at), state in wanted.items():
            assert await copy.reduce(Ledger, key=f"k{n}", at=at) == state
        assert await copy.session("k2") == {"city": "Ulm"}
        with pytest.raises(ReplayGap):
            await copy.reduce(Ledger, key="k1", at=700)
