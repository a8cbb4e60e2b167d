"""The state at any moment: by seq, by time, per key and over all keys, step by step."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio
from ledger import Book, Ledger, Serve, by_hand, until_stored
from pydantic import BaseModel

from spine import Agent, Draft, Event, InvalidInput, Projection, ReducerFailed, Spine, Step, reduces
from spine.keys import partition_of
from spine.state.fold import Cell


class Totals(BaseModel):
    """Money by key, and the seqs that it came by."""

    by_key: dict[str, int] = {}
    seqs: list[int] = []


class Everything(Projection[Totals]):
    """One state over all keys."""

    name = "everything"
    scope = "global"

    @reduces("money.*")
    def move(self, state: Totals, event: Event[dict[str, Any]]) -> Totals:
        amount = event.payload["amount"] * (1 if event.type == "money.in" else -1)
        by_key = {**state.by_key, event.key: state.by_key.get(event.key, 0) + amount}
        return Totals(by_key=by_key, seqs=[*state.seqs, event.seq])


class PerKey(Projection[Book]):
    """A read model of each key."""

    name = "per-key"

    @reduces("money.in")
    def move(self, state: Book, event: Event[dict[str, Any]]) -> Book:
        return Book(seqs=[*state.seqs, event.seq], total=state.total + event.payload["amount"])


@pytest.fixture
async def log(spine: Spine) -> list[Event[Any]]:
    """Three hundred events of ten keys."""
    chance = random.Random(7)
    drafts = [
        Draft(chance.choice(["money.in", "money.out", "noise"]), {"amount": n}, key=f"k{chance.randrange(10)}")
        for n in range(300)
    ]
    return await spine.publish_many(drafts)


async def test_the_state_at_any_seq_is_the_fold_up_to_it(spine: Spine, log: list[Event[Any]]) -> None:
    for at in random.Random(1).sample(range(301), 30):
        for kind in (Ledger, PerKey):
            assert await spine.reduce(kind, key="k3", at=at) == await by_hand(spine, kind, "k3", at)
        whole = await spine.reduce(Everything, at=at)
        assert whole.seqs == [event.seq for event in log if event.seq <= at and event.type != "noise"]
    assert await spine.reduce(Ledger, key="k3") == await by_hand(spine, Ledger, "k3")
    assert await spine.reduce(Ledger, key="nobody") == Book()


async def test_the_state_at_a_time_has_what_was_stored_by_then(spine: Spine) -> None:
    first = await spine.publish("money.in", {"amount": 1}, key="k")
    while (await spine.publish("noise", key="k")).ts == first.ts:
        pass
    second = await spine.publish("money.in", {"amount": 1}, key="k")
    assert (await spine.reduce(Ledger, key="k", at=second.ts)).seqs == [first.seq, second.seq]
    assert (await spine.reduce(Ledger, key="k", at=first.ts)).seqs == [first.seq]
    assert (await spine.reduce(Ledger, key="k", at=first.ts - timedelta(milliseconds=1))).seqs == []
    assert (await spine.reduce(Ledger, key="k", at=datetime.now(UTC) + timedelta(days=1))).seqs == [1, second.seq]


async def test_the_head_is_the_last_number_given_now_or_by_a_moment(spine: Spine) -> None:
    assert await spine.head() == 0
    first = await spine.publish("money.in", {"amount": 1}, key="k")
    while (last := await spine.publish("noise", key="k")).ts == first.ts:
        pass
    assert await spine.head() == await spine.head(last.seq + 1) == last.seq
    assert await spine.head(first.seq) == await spine.head(first.ts - timedelta(milliseconds=1)) + 1 == first.seq
    assert first.seq <= await spine.head(first.ts) < last.seq == await spine.head(datetime.now(UTC) + timedelta(days=1))


async def test_there_is_nothing_before_the_beginning(spine: Spine) -> None:
    await spine.publish("money.in", {"amount": 1}, key="k")
    for call in (spine.reduce(Ledger, key="k", at=-1), spine.fork("nowhere", at=-1), spine.trim(until=-1)):
        with pytest.raises(InvalidInput, match="0 or more"):
            await call


async def test_each_step_has_the_event_and_the_states_around_it(spine: Spine, log: list[Event[Any]]) -> None:
    mine = [event for event in log if event.key == "k5" and event.type != "noise"]
    steps = [step async for step in spine.steps(Ledger, key="k5")]
    assert [step.event for step in steps] == mine
    state = Book()
    for step in steps:
        assert isinstance(step, Step)
        assert step.before == state
        assert step.after.seqs == [*state.seqs, step.event.seq]
        state = step.after
    later = [step async for step in spine.steps(Ledger, key="k5", after=mine[2].seq, until=mine[4].seq)]
    assert later == steps[3:5]
    assert [step.event.seq async for step in spine.steps(Everything, after=290)] == [
        event.seq for event in log if event.seq > 290 and event.type != "noise"
    ]


async def test_a_stored_state_is_where_a_fold_begins(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    await serve(Ledger)
    for _ in range(3):
        last = (await spine.publish("money.in", {"amount": 1}, key="k")).seq
    cell = await until_stored(raw, spine, Ledger, "k", last)
    # Were the log read from its beginning, this would not be seen.
    cell.state.total, cell._body = 1000, None
    states = spine.server.keys.state("ledger", "1", partition_of("k", 8))
    await raw.hset(states, "k", cell.encode())  # type: ignore[misc]
    assert (await spine.reduce(Ledger, key="k")).total == 1000
    assert (await spine.reduce(Ledger, key="k", at=2)).total == 2
    # A damaged one is as good as none.
    await raw.hset(states, "k", cell.encode()[:-2])  # type: ignore[misc]
    assert (await spine.reduce(Ledger, key="k")).total == 3


async def test_a_reducer_that_raises_is_named(spine: Spine) -> None:
    await spine.publish("money.in", {}, key="k")
    with pytest.raises(ReducerFailed, match=r"ledger\.move raised on event 1 \(money\.in\) of key 'k': KeyError"):
        await spine.reduce(Ledger, key="k")
    with pytest.raises(ReducerFailed):
        [step async for step in spine.steps(Everything)]


async def test_a_key_goes_with_a_state_per_key_and_with_no_other(spine: Spine) -> None:
    with pytest.raises(InvalidInput, match="give key="):
        await spine.reduce(Ledger)
    with pytest.raises(InvalidInput, match="leave key out"):
        await spine.reduce(Everything, key="k")

    class Stateless(Agent[None]):
        name = "stateless"

    with pytest.raises(InvalidInput, match="no reducers"):
        await spine.reduce(Stateless, key="k")


async def test_a_long_history_of_a_key_is_read_from_where_it_is_needed(spine: Spine, raw: redis.asyncio.Redis) -> None:
    for _ in range(7):
        await spine.publish_many([Draft("money.in", {"amount": 1}, key="k") for _ in range(1_000)])
    cell = Cell(Book(seqs=[-1], total=6_990), seq=6_990, events=6_990)
    await raw.hset(spine.server.keys.state("ledger", "1", partition_of("k", 8)), "k", cell.encode())  # type: ignore[misc]
    before = (await raw.info("commandstats"))["cmdstat_xrange"]["calls"]
    assert (await spine.reduce(Ledger, key="k")) == Book(seqs=[-1, *range(6_991, 7_001)], total=7_000)
    assert (await raw.info("commandstats"))["cmdstat_xrange"]["calls"] - before == 10
    assert len((await spine.reduce(Ledger, key="k", at=6_989)).seqs) == 6_989
