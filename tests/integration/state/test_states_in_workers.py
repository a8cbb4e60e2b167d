"""The state that a handler sees and a commit stores is the fold of the log, whatever happens around it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio
from ledger import Book, Connect, Ledger, Serve, by_hand, stored, until_stored
from pydantic import BaseModel

from spine import Agent, Context, Draft, Event, Handling, Priority, Retry, Spine, on, reduces
from spine.testing.waiting import wait_until


async def pay(spine: Spine, key: str, amount: int = 1, **options: Any) -> int:
    return (await spine.publish("money.in", {"amount": amount}, key=key, **options)).seq


async def holds_of(raw: redis.asyncio.Redis, spine: Spine, agent: str) -> set[str]:
    keys = spine.server.keys
    found = [await raw.hkeys(keys.holds(agent, partition)) for partition in range(spine.server.partitions)]
    return {key.decode() for held in found for key in held}


async def test_a_handler_sees_the_state_with_its_event_in_it(spine: Spine, serve: Serve) -> None:
    seen: list[tuple[int, list[int]]] = []

    class Watching(Ledger):
        @on("money.in")
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            seen.append((event.seq, ctx.state.seqs))

    await serve(Watching)
    for n in range(5):
        await pay(spine, "k" if n % 2 else "other")
    await wait_until(lambda: len(seen) == 5)
    assert sorted(seen) == [(1, [1]), (2, [2]), (3, [1, 3]), (4, [2, 4]), (5, [1, 3, 5])]


async def test_what_a_handler_does_to_its_state_is_lost(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    class Meddling(Ledger):
        @on("money.in")
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            ctx.state.seqs.append(-1)
            ctx.state.total = -1

    await serve(Meddling)
    for _ in range(3):
        last = await pay(spine, "k")
    assert (await until_stored(raw, spine, Meddling, "k", last)).state == Book(seqs=[1, 2, 3], total=3)


async def test_an_urgent_event_sees_earlier_ones_folded_though_they_are_not_handled(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    gate, seen, exact = asyncio.Event(), [], []

    class Lanes(Ledger):
        @on("money.in")
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            if event.seq == 1:
                await gate.wait()
            seen.append((event.seq, ctx.state.seqs))
            exact.append((event.seq, (await ctx.state_at(event.seq)).seqs))

    hand = (await serve(Lanes))._agencies["ledger"].hand
    await pay(spine, "k")
    await wait_until(hand.running)
    await pay(spine, "k", priority=Priority.BACKGROUND)
    await pay(spine, "k")
    await pay(spine, "k", priority=Priority.URGENT)
    await wait_until(lambda: hand.size == 4)
    gate.set()
    await wait_until(lambda: len(exact) == 4)
    assert seen == [(1, [1]), (4, [1, 2, 3, 4]), (3, [1, 2, 3, 4]), (2, [1, 2, 3, 4])]
    assert exact == [(1, [1]), (4, [1, 2, 3, 4]), (3, [1, 2, 3]), (2, [1, 2])]
    assert (await until_stored(raw, spine, Lanes, "k", 4)).state == await by_hand(spine, Lanes, "k")


@pytest.mark.parametrize("lose", [False, True])
async def test_a_stored_state_moves_only_forward(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis, lose: bool
) -> None:
    """An event comes back to a worker that knows nothing of its key, when later ones are handled and stored."""
    seen: list[tuple[int, list[int]]] = []

    class Failing(Ledger):
        mended = False

        @on("money.in", retry=Retry(attempts=1))
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            if event.seq == 2 and not Failing.mended:
                raise RuntimeError("no luck")
            seen.append((event.seq, ctx.state.seqs))

    worker = await serve(Failing)
    for _ in range(4):
        last = await pay(spine, "k")
    await until_stored(raw, spine, Failing, "k", last)
    await wait_until(lambda: len(seen) == 3)
    await worker.stop()
    if lose:
        await raw.delete(*[spine.server.keys.state("ledger", "1", n) for n in range(8)])
    Failing.mended = True
    assert [letter.seq for letter in await spine.redrive(seq=2)] == [2]
    await serve(Failing)
    await wait_until(lambda: len(seen) == 4)
    assert seen[3][0] == 2
    last = await pay(spine, "k")
    found = await until_stored(raw, spine, Failing, "k", last)
    assert seen[4] == (5, [1, 2, 3, 4, 5])
    assert found.state == await by_hand(spine, Failing, "k")


async def test_a_new_agent_starts_at_the_present_with_the_state_of_the_whole_log(spine: Spine, serve: Serve) -> None:
    handled: list[tuple[int, list[int]]] = []

    class Newcomer(Ledger):
        name = "newcomer"
        start = "present"

        @on("money.in")
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            handled.append((event.seq, ctx.state.seqs))

    for _ in range(1_200):  # more than is read of a key at once
        await pay(spine, "old")
    await pay(spine, "other")
    await serve(Newcomer)
    await pay(spine, "old")
    await pay(spine, "new")
    await wait_until(lambda: len(handled) == 2)
    assert sorted(handled) == [(1202, [*range(1, 1201), 1202]), (1203, [1203])]


async def test_events_taken_from_several_topics_at_once_are_folded_in_their_order(spine: Spine, serve: Serve) -> None:
    """The first event of a key in hand is not the first that a take returned: topics are read one after another."""
    handled: list[tuple[int, list[int]]] = []

    class Newcomer(Ledger):
        name = "newcomer"

        @on("money.*")
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            handled.append((event.seq, ctx.state.seqs))

    await spine.publish("money.out", {"amount": 1}, key="k0")  # the stream of this type is the older one
    await spine.publish_many([Draft(f"money.{'in' if n % 3 else 'out'}", {"amount": 1}, key="k") for n in range(1, 31)])
    await serve(Newcomer)
    await wait_until(lambda: len(handled) == 31)
    mine = [item for item in handled if item[0] > 1]
    assert mine == [(seq, list(range(2, seq + 1))) for seq in range(2, 32)]


async def test_a_new_version_rebuilds_while_the_old_one_serves(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Doubled(Ledger):
        version = "2"

        @reduces("money.in")
        def move(self, state: Book, event: Event[Any]) -> Book:
            return Book(seqs=[*state.seqs, event.seq], total=state.total + 2 * event.payload["amount"])

    old = await serve(Ledger)
    first = await pay(spine, "k")
    await until_stored(raw, spine, Ledger, "k", first)
    new = await serve(Doubled)
    await wait_until(lambda: len(new._agencies["ledger"].partitions) == 8)
    second = await pay(spine, "k")
    assert (await until_stored(raw, spine, Doubled, "k", second)).state == Book(seqs=[1, 2], total=4)
    assert (await stored(raw, spine, Ledger, "k")).seq == first  # type: ignore[union-attr]
    # The new one goes, the old one takes over and sees what it missed; then the other way round.
    await new.stop()
    third = await pay(spine, "k")
    assert (await until_stored(raw, spine, Ledger, "k", third)).state == Book(seqs=[1, 2, 3], total=3)
    await serve(Doubled)
    await wait_until(lambda: not old._agencies["ledger"].partitions)
    fourth = await pay(spine, "k")
    assert (await until_stored(raw, spine, Doubled, "k", fourth)).state == Book(seqs=[1, 2, 3, 4], total=8)
    assert not [record for record in caplog.records if "rebuilt" in record.message]


@pytest.mark.parametrize(
    ("harm", "reported"),
    [(b"", "lost"), (b"2 0 2 0 {}", "damaged"), (b"garbage", "damaged"), (b"999 1 2", "damaged")],
)
async def test_a_lost_or_damaged_state_is_rebuilt_equal_and_reported(
    spine: Spine,
    serve: Serve,
    raw: redis.asyncio.Redis,
    caplog: pytest.LogCaptureFixture,
    harm: bytes,
    reported: str,
) -> None:
    worker = await serve(Ledger)
    await pay(spine, "k", 5)
    second = await pay(spine, "k", 7)
    await until_stored(raw, spine, Ledger, "k", second)
    await worker.stop()
    states = spine.server.keys.state("ledger", "1", spine.drafts.prepare(Draft("a.b", key="k")).partition)
    if harm:
        await raw.hset(states, "k", harm)  # type: ignore[misc]
    else:
        await raw.hdel(states, "k")  # type: ignore[misc]
    await serve(Ledger)
    third = await pay(spine, "k", 1)
    new = await pay(spine, "new", 1)
    assert (await until_stored(raw, spine, Ledger, "k", third)).state == Book(seqs=[1, 2, 3], total=13)
    await until_stored(raw, spine, Ledger, "new", new)
    told = [record.message for record in caplog.records if "rebuilt" in record.message]
    assert len(told) == 1
    assert f"state of ledger, key 'k' is {reported} and rebuilt" in told[0]


class Picky(Ledger):
    """Cannot fold a negative amount."""

    name = "picky"

    @reduces("money.in")
    def move(self, state: Book, event: Event[Any]) -> Book:
        if event.payload["amount"] < 0:
            raise ValueError("negative")
        return Book(seqs=[*state.seqs, event.seq], total=state.total + event.payload["amount"])


class Mended(Picky):
    version = "2"

    @reduces("money.in")
    def move(self, state: Book, event: Event[Any]) -> Book:
        return Book(seqs=[*state.seqs, event.seq], total=state.total + abs(event.payload["amount"]))


@pytest.mark.filterwarnings("ignore")
async def test_a_reducer_that_raises_parks_its_key_until_a_new_version(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    worker = await serve(Picky)
    await until_stored(raw, spine, Picky, "bad", await pay(spine, "bad", 1))
    await pay(spine, "bad", -1)
    last = await pay(spine, "bad", 1)
    await pay(spine, "bad", 1, priority=Priority.URGENT)
    good = await pay(spine, "good", 1)
    await until_stored(raw, spine, Picky, "good", good)
    await wait_until(lambda: holds_of(raw, spine, "picky"))
    assert (await stored(raw, spine, Picky, "bad")).seq == 1  # type: ignore[union-attr]
    await worker.stop()
    # The same version again changes nothing.
    worker = await serve(Picky)
    good = await pay(spine, "good", 1)
    await until_stored(raw, spine, Picky, "good", good)
    assert await holds_of(raw, spine, "picky") == {"bad"}
    await worker.stop()
    await serve(Mended)
    found = await until_stored(raw, spine, Mended, "bad", last + 1)
    assert found.state == Book(seqs=[1, 2, 3, 4], total=4)
    await wait_until(lambda: _released(raw, spine))


class Memo(BaseModel):
    value: Any = None


class Keeper(Agent[Memo]):
    """Keeps what it is given, as bytes where it is told to: these have no JSON."""

    name = "keeper"
    start = "beginning"

    @reduces("money.in")
    def keep(self, state: Memo, event: Event[dict[str, Any]]) -> Memo:
        amount = event.payload["amount"]
        return Memo(value=b"\xff" if amount < 0 else amount)

    @on("money.in")
    async def kept(self, event: Event[Any], ctx: Handling) -> None: ...


async def test_a_state_that_cannot_be_stored_parks_its_key(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await serve(Keeper)
    await until_stored(raw, spine, Keeper, "bad", await pay(spine, "bad", 1))
    await pay(spine, "bad", -1)
    good = await pay(spine, "good", 1)
    await until_stored(raw, spine, Keeper, "good", good)
    await wait_until(lambda: holds_of(raw, spine, "keeper"))
    assert await holds_of(raw, spine, "keeper") == {"bad"}
    assert (await stored(raw, spine, Keeper, "bad")).seq == 1  # type: ignore[union-attr]
    assert "keeper, key 'bad': the state with event 2 in it cannot be stored as JSON" in caplog.text


async def _released(raw: redis.asyncio.Redis, spine: Spine) -> bool:
    return not await holds_of(raw, spine, "picky")


async def test_an_old_event_that_cannot_be_folded_stops_no_other_key_of_a_new_agent(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    class Newcomer(Picky):
        name = "newcomer"
        start = "present"

    await pay(spine, "bad", -1)
    await serve(Newcomer)
    await pay(spine, "bad", 1)
    good = await pay(spine, "good", 1)
    await until_stored(raw, spine, Newcomer, "good", good)
    await wait_until(lambda: holds_of(raw, spine, "newcomer"))
    assert await stored(raw, spine, Newcomer, "bad") is None


async def test_what_is_not_handled_is_folded_all_the_same(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    class Failing(Ledger):
        @on("money.in", retry=Retry(attempts=1))
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            if event.payload["amount"] == 13:
                raise RuntimeError("no luck")

    gone = Context(correlation="c", deadline=datetime.now(UTC) - timedelta(seconds=1))
    await pay(spine, "k", 1)
    await pay(spine, "k", 2, context=gone)
    await pay(spine, "k", 13)
    last = await pay(spine, "k", 4)
    await serve(Failing)
    found = await until_stored(raw, spine, Failing, "k", last)
    assert found.state == Book(seqs=[1, 2, 3, 4], total=20) == await by_hand(spine, Failing, "k")


async def test_what_was_sent_to_another_agent_is_in_no_rebuilt_state_either(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    worker = await serve(Ledger)
    await pay(spine, "k", 1)
    await pay(spine, "k", 2, to="somebody")
    last = await pay(spine, "k", 4, to="ledger")
    lived = await until_stored(raw, spine, Ledger, "k", last)
    assert lived.state == Book(seqs=[1, 3], total=5)
    await worker.stop()
    assert await spine.reduce(Ledger, key="k") == lived.state
    await raw.delete(*[spine.server.keys.state("ledger", "1", n) for n in range(8)])
    assert await spine.reduce(Ledger, key="k") == lived.state


async def test_without_order_a_state_is_the_fold_all_the_same(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    class Unordered(Ledger):
        name = "unordered"
        ordering = "none"

        @on("money.in")
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            assert event.seq in ctx.state.seqs
            await asyncio.sleep((event.seq % 5) / 1000)

    await serve(Unordered)
    await asyncio.gather(*(pay(spine, f"k{n % 3}") for n in range(150)))

    async def all_there() -> bool:
        cells = [await stored(raw, spine, Unordered, f"k{n}") for n in range(3)]
        return sum(len(cell.state.seqs) for cell in cells if cell) == 150

    await wait_until(all_there)
    for n in range(3):
        cell = await stored(raw, spine, Unordered, f"k{n}")
        assert cell is not None
        assert cell.state == await by_hand(spine, Unordered, f"k{n}")


async def test_a_partition_that_comes_back_is_read_anew(
    connect: Connect, spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    """Another worker may have handled events of it meanwhile."""
    first = await serve(Ledger)
    await until_stored(raw, spine, Ledger, "k", await pay(spine, "k"))
    second = await serve(Ledger)
    await wait_until(lambda: len(first._agencies["ledger"].partitions) == 4)
    holder, other = (first, second) if _holds(first, spine, "k") else (second, first)
    await until_stored(raw, spine, Ledger, "k", await pay(spine, "k"))
    await holder.stop()
    await until_stored(raw, spine, Ledger, "k", await pay(spine, "k"))
    again = await serve(Ledger)
    await wait_until(lambda: len(other._agencies["ledger"].partitions) == 4)
    await other.stop()
    await wait_until(lambda: len(again._agencies["ledger"].partitions) == 8)
    found = await until_stored(raw, spine, Ledger, "k", await pay(spine, "k"))
    assert found.state.seqs == [1, 2, 3, 4]


def _holds(worker: Any, spine: Spine, key: str) -> bool:
    return spine.drafts.prepare(Draft("a.b", key=key)).partition in worker._agencies["ledger"].partitions


async def test_an_unchanged_state_is_not_written_again(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    class Also(Agent[Book]):
        name = "also"

        @reduces("money.in")
        def move(self, state: Book, event: Event[Any]) -> Book:
            return Book(seqs=[*state.seqs, event.seq])

        @on("money.*", "other.thing")
        async def moved(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.publish("seen.it", {"seqs": ctx.state.seqs})

    await serve(Also)
    await pay(spine, "k")
    await spine.publish("other.thing", key="k")
    await wait_until(lambda: _published(spine, 2))
    assert (await stored(raw, spine, Also, "k")).seq == 1  # type: ignore[union-attr]
    answers = await spine.history(types="seen.it")
    assert [event.payload["seqs"] for event in answers] == [[1], [1]]


async def _published(spine: Spine, count: int) -> bool:
    return len(await spine.history(types="seen.it")) == count
