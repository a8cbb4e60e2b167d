"""Failing: retries hold their key and nothing else; what is given up is kept, and comes back in order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
import redis.asyncio
from recording import Recorder, die, outcomes, pending
from tenacity import wait_fixed, wait_none

from spine import Draft, Event, Handling, InvalidName, Priority, Retry, Spine, on
from spine.keys import partition_of
from spine.testing.waiting import wait_until


def held(spine: Spine, key: str) -> str:
    """Return the Redis key of the waiting list of `key`."""
    return spine.server.keys.waiting("recorder", partition_of(key, spine.server.partitions), key)


async def no_holds(spine: Spine, raw: redis.asyncio.Redis) -> bool:
    names = [spine.server.keys.own(kind, "recorder", "*") for kind in ("hold", "wait")]
    return not [key for name in names async for key in raw.scan_iter(match=name)]


async def test_a_retry_holds_its_key_while_others_go_on(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Trying(Recorder):
        open: ClassVar[bool] = False
        attempts: ClassVar[list[int]] = []

        @on("a.b", retry=Retry(attempts=1000, wait=wait_fixed(0.02)))
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            if event.key == "bad" and not self.open:
                self.attempts.append(ctx.attempt)
                raise ValueError("not yet")
            self.note(event)

    await serve(Trying)
    bad = [event.seq for event in await spine.publish_many([Draft("a.b", {}, key="bad") for _ in range(5)])]
    await spine.publish_many([Draft("a.b", {}, key=f"k{i}") for i in range(50)])
    await wait_until(lambda: Trying.count == 50)
    await wait_until(lambda: len(Trying.attempts) > 5)
    assert Trying.attempts == list(range(1, len(Trying.attempts) + 1))
    Trying.open = True
    await wait_until(lambda: Trying.seen["bad"] == bad)
    await wait_until(lambda: no_holds(spine, raw))
    assert await pending(raw, spine, "recorder") == 0


async def test_without_a_wait_it_is_tried_again_at_once(spine: Spine, serve: Any) -> None:
    class Trying(Recorder):
        @on("a.b", retry=Retry(attempts=20, wait=wait_none()))
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            if ctx.attempt < 20:
                raise ValueError("not yet")
            self.note(event)

    await serve(Trying)
    events = await spine.publish_many([Draft("a.b", {}, key=f"k{i % 3}") for i in range(30)])
    await wait_until(lambda: Trying.count == 30)
    for key in ("k0", "k1", "k2"):
        assert Trying.seen[key] == [event.seq for event in events if event.key == key]


async def test_the_backlog_of_a_held_key_takes_nothing_from_the_budget(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Trying(Recorder):
        prefetch = 16
        open: ClassVar[bool] = False

        @on("a.b", retry=Retry(attempts=10_000, wait=wait_fixed(0.05)))
        async def handle(self, event: Event[Any]) -> None:
            if event.key == "bad" and not self.open:
                raise ValueError("not yet")
            self.note(event)

    await serve(Trying)
    bad: list[int] = []
    for _ in range(4):
        bad += [event.seq for event in await spine.publish_many([Draft("a.b", {}, key="bad") for _ in range(200)])]
    other = await spine.publish("a.b", {}, key="good")
    await wait_until(lambda: Trying.seen["good"] == [other.seq])
    await wait_until(lambda: _has_length(raw, held(spine, "bad"), 800))
    Trying.open = True
    await wait_until(lambda: Trying.count == 801)
    assert Trying.seen["bad"] == bad
    await wait_until(lambda: no_holds(spine, raw))


async def test_an_urgent_event_passes_a_hold(spine: Spine, serve: Any) -> None:
    class Trying(Recorder):
        @on("a.b", retry=Retry(attempts=2, wait=wait_fixed(60)))
        async def handle(self, event: Event[Any]) -> None:
            if event.payload:
                raise ValueError("not yet")
            self.note(event)

    await serve(Trying)
    await spine.publish("a.b", {"fail": True}, key="k")
    await spine.publish("a.b", {}, key="k")
    urgent = await spine.publish("a.b", {}, key="k", priority=Priority.URGENT)
    await wait_until(lambda: Trying.seen["k"] == [urgent.seq])


async def test_attempts_survive_a_death_and_a_hand_over(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Trying(Recorder):
        attempts: ClassVar[list[int]] = []

        @on("a.b", retry=Retry(attempts=4, wait=wait_fixed(0.3)))
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            if event.payload:
                self.attempts.append(ctx.attempt)
                raise ValueError("never")
            self.note(event)

    first = await serve(Trying, lease_s=0.5)
    await spine.publish("a.b", {"fail": True}, key="k")
    behind = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _has_length(raw, held(spine, "k"), 2))
    await die(first)
    second = await serve(Trying)
    await wait_until(lambda: Trying.attempts == [1, 2])
    await second.stop()
    second.dead = True
    assert Trying.seen["k"] == []
    await serve(Trying)
    await wait_until(lambda: Trying.seen["k"] == [behind.seq])
    assert Trying.attempts == [1, 2, 3, 4]
    (letter,) = await spine.dead_letters("recorder")
    assert letter.attempts == 4


async def test_a_dead_letter_tells_what_happened(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Failing(Recorder):
        @on("a.b", retry=Retry(attempts=3, wait=wait_none(), on=(KeyError,)))
        async def handle(self, event: Event[Any]) -> None:
            if event.payload:
                raise KeyError("sku")
            raise ValueError("not worth another try")

    worker = await serve(Failing)
    before = datetime.now(UTC) - timedelta(seconds=1)
    one = await spine.publish("a.b", {"x": 1}, key="k")
    two = await spine.publish("a.b", {}, key="k")
    first, second = await wait_until(lambda: _letters(spine, 2))
    assert (first.seq, first.type, first.key, first.correlation) == (one.seq, "a.b", "k", one.context.correlation)
    assert (first.error_type, first.error, first.attempts, first.worker) == ("KeyError", "'sku'", 3, worker.id)
    assert "raise KeyError" in first.traceback
    assert before.timestamp() * 1000 < first.ts_ms < datetime.now(UTC).timestamp() * 1000 + 1000
    assert (second.seq, second.attempts) == (two.seq, 1)
    done = await outcomes(spine, raw, "recorder")
    assert {seq: record.outcome for seq, record in done.items()} == {one.seq: "dead", two.seq: "dead"}


async def test_a_request_that_is_given_up_is_answered(spine: Spine, serve: Any) -> None:
    from spine import RequestFailed

    class Failing(Recorder):
        @on("a.ask", retry=Retry(attempts=1))
        async def handle(self, event: Event[Any]) -> None:
            raise ValueError("cannot")

    await serve(Failing)
    with pytest.raises(RequestFailed, match="ValueError: cannot"):
        await spine.request("a.ask", {}, timeout=5)


class Mended(Recorder):
    """Fails on what is named `bad` until it is mended."""

    mended: ClassVar[bool] = False
    redriven: ClassVar[list[int]] = []

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.mended, cls.redriven = False, []

    async def handled(self, event: Event[Any], ctx: Handling) -> None:
        if event.payload.get("bad") and not self.mended:
            raise ValueError("bad")
        if ctx.redriven:
            self.redriven.append(event.seq)
        self.note(event)


async def test_a_redriven_event_runs_next_for_its_key(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Going(Mended):
        @on("a.b", retry=Retry(attempts=2, wait=wait_none()))
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await self.handled(event, ctx)
            ctx.publish("a.c", {"of": event.seq})

    await serve(Going)
    events = await spine.publish_many([Draft("a.b", {"bad": i % 2 == 0}, key=f"k{i // 6}") for i in range(12)])
    bad = [event.seq for event in events if event.payload["bad"]]
    await wait_until(lambda: _letters(spine, 6))
    await wait_until(lambda: Going.count == 6, what="the last one, behind a dead letter")
    Going.mended = True
    came = await spine.redrive("recorder")
    assert [letter.seq for letter in came] == bad
    await wait_until(lambda: Going.count == 12)
    assert Going.seen["k0"][3:] == bad[:3]
    assert Going.seen["k1"][3:] == bad[3:]
    assert sorted(Going.redriven) == bad
    assert await spine.dead_letters() == []
    await wait_until(lambda: no_holds(spine, raw))
    caused = [event async for event in spine.replay(types="a.c")]
    assert sorted(event.context.causation or 0 for event in caused) == sorted(event.seq for event in events)
    done = await outcomes(spine, raw, "recorder")
    assert {done[seq].outcome for seq in bad} == {"done"}


async def test_with_park_the_key_waits_and_a_redrive_takes_the_old_place(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Parking(Mended):
        @on("a.b", retry=Retry(attempts=1), on_dead="park")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await self.handled(event, ctx)

    worker = await serve(Parking)
    events = await spine.publish_many([Draft("a.b", {"bad": i == 1}, key="k") for i in range(4)])
    (letter,) = await wait_until(lambda: spine.dead_letters("recorder", key="k"))
    assert letter.parked
    late = await spine.publish("a.b", {}, key="k")
    other = await spine.publish("a.b", {}, key="other")
    await wait_until(lambda: Parking.seen["other"] == [other.seq])
    assert Parking.seen["k"] == [events[0].seq]
    await worker.stop()
    worker.dead = True
    await serve(Parking)
    Parking.mended = True
    again = await spine.publish("a.b", {}, key="other")
    await wait_until(lambda: Parking.seen["other"] == [other.seq, again.seq])
    assert Parking.seen["k"] == [events[0].seq]
    await spine.redrive("recorder", seq=letter.seq)
    expected = [*(event.seq for event in events), late.seq]
    await wait_until(lambda: Parking.seen["k"] == expected)
    assert Parking.redriven == [letter.seq]
    await wait_until(lambda: no_holds(spine, raw))


async def test_a_redriven_event_has_all_its_attempts_again(spine: Spine, serve: Any) -> None:
    class Trying(Recorder):
        attempts: ClassVar[list[tuple[int, bool]]] = []

        @on("a.b", retry=Retry(attempts=2, wait=wait_none()), on_dead="park")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            if event.payload:
                self.attempts.append((ctx.attempt, ctx.redriven))
                raise ValueError("bad")

    await serve(Trying)
    await spine.publish("a.b", {"bad": True}, key="k")
    await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _letters(spine, 1))
    assert len(await spine.redrive()) == 1
    await wait_until(lambda: len(Trying.attempts) == 4)
    assert Trying.attempts == [(1, False), (2, False), (1, True), (2, True)]
    await wait_until(lambda: _letters(spine, 1))


async def test_discarding_lets_a_parked_key_go_on(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Parking(Mended):
        @on("a.b", retry=Retry(attempts=1), on_dead="park")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await self.handled(event, ctx)

    await serve(Parking)
    events = await spine.publish_many([Draft("a.b", {"bad": i == 0}, key="k") for i in range(3)])
    await wait_until(lambda: _letters(spine, 1))
    assert [letter.seq for letter in await spine.discard()] == [events[0].seq]
    await wait_until(lambda: Parking.seen["k"] == [events[1].seq, events[2].seq])
    await wait_until(lambda: no_holds(spine, raw))
    assert await spine.dead_letters() == []
    assert await spine.discard() == []


async def test_a_key_stays_parked_while_a_letter_is_left_that_parked_it(spine: Spine, serve: Any) -> None:
    class Both(Mended):
        @on("a.parks", retry=Retry(attempts=1), on_dead="park")
        async def parks(self, event: Event[Any], ctx: Handling) -> None:
            await self.handled(event, ctx)

        @on("a.goes", retry=Retry(attempts=1))
        async def goes(self, event: Event[Any], ctx: Handling) -> None:
            await self.handled(event, ctx)

    await serve(Both)
    goes = await spine.publish("a.goes", {"bad": True}, key="k")
    parks = await spine.publish("a.parks", {"bad": True}, key="k")
    rest = await spine.publish("a.goes", {}, key="k")
    await wait_until(lambda: _letters(spine, 2))
    Both.mended = True
    assert len(await spine.redrive(seq=goes.seq)) == 1
    other = await spine.publish("a.goes", {}, key="other")
    await wait_until(lambda: Both.seen["other"] == [other.seq])
    assert Both.seen["k"] == []
    await spine.redrive()
    await wait_until(lambda: Both.seen["k"] == [parks.seq, goes.seq, rest.seq])


async def test_rubbish_under_the_number_of_an_event_in_hand_is_reported(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Busy(Recorder):
        go: ClassVar[asyncio.Event]

        @on("a.b", "a.c")
        async def handle(self, event: Event[Any]) -> None:
            await self.go.wait()
            self.note(event)

    Busy.go = asyncio.Event()
    await serve(Busy)
    await spine.publish("a.c", {}, key="k")
    event = await spine.publish("a.b", {}, key="k")
    stream = spine.server.keys.log(partition_of("k", spine.server.partitions), Priority.NORMAL, "a.c")
    await raw.xadd(stream, {"x": "rubbish"}, id=f"{event.seq}-0")
    await spine.publish("a.c", {}, key="k")
    (letter,) = await wait_until(lambda: _letters(spine, 1))
    assert letter.entry_id == f"{event.seq}-0"
    Busy.go.set()
    await wait_until(lambda: Busy.count == 3)


async def test_dead_letters_are_chosen_by_what_they_are(spine: Spine, serve: Any) -> None:
    class Failing(Recorder):
        @on("a.*", retry=Retry(attempts=1))
        async def handle(self, event: Event[Any]) -> None:
            raise (KeyError if event.type == "a.one" else ValueError)(event.key)

    await serve(Failing)
    one = await spine.publish("a.one", {}, key="k1")
    two = await spine.publish("a.two", {}, key="k2")
    await wait_until(lambda: _letters(spine, 2))

    async def seqs(**wanted: Any) -> list[int]:
        return [letter.seq for letter in await spine.dead_letters(**wanted)]

    assert await seqs() == [one.seq, two.seq]
    assert await seqs(agent="recorder") == [one.seq, two.seq]
    assert await seqs(agent="nobody") == []
    assert await seqs(seq=two.seq) == [two.seq]
    assert await seqs(types="a.one") == [one.seq]
    assert await seqs(types=("a.t*", "b.*")) == [two.seq]
    assert await seqs(key="k2") == [two.seq]
    assert await seqs(correlation=one.context.correlation) == [one.seq]
    assert await seqs(error="KeyError") == [one.seq]
    assert await seqs(error="k2") == [two.seq]
    assert await seqs(since=datetime.now(UTC) + timedelta(minutes=1)) == []
    assert await seqs(until=datetime.now(UTC) + timedelta(minutes=1)) == [one.seq, two.seq]
    with pytest.raises(InvalidName):
        await spine.dead_letters(types="not a type")


async def test_what_is_no_event_is_a_dead_letter_that_stays(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Fine(Recorder):
        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(Fine)
    first = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Fine.count == 1)
    stream = spine.server.keys.log(partition_of("k", spine.server.partitions), Priority.NORMAL, "a.b")
    await raw.xadd(stream, {"x": "rubbish"}, id=f"{first.seq}-7")
    last = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Fine.seen["k"] == [first.seq, last.seq])
    (letter,) = await wait_until(lambda: _letters(spine, 1))
    assert (letter.entry_id, letter.error_type) == (f"{first.seq}-7", "DecodeError")
    assert await spine.redrive() == []
    assert len(await spine.discard()) == 1


async def test_an_event_of_a_waiting_list_that_was_trimmed_away_is_given_up(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Parking(Mended):
        @on("a.b", retry=Retry(attempts=1), on_dead="park")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await self.handled(event, ctx)

    await serve(Parking)
    events = await spine.publish_many([Draft("a.b", {"bad": i == 0}, key="k") for i in range(4)])
    await wait_until(lambda: _has_length(raw, held(spine, "k"), 3))
    stream = spine.server.keys.log(partition_of("k", spine.server.partitions), Priority.NORMAL, "a.b")
    await raw.xdel(stream, f"{events[1].seq}-0", f"{events[3].seq}-0")
    Parking.mended = True
    await spine.redrive()
    await wait_until(lambda: Parking.seen["k"] == [events[0].seq, events[2].seq])
    letters = await wait_until(lambda: _letters(spine, 2))
    assert [letter.seq for letter in letters] == [events[1].seq, events[3].seq]
    assert "trimmed" in letters[0].error
    later = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Parking.seen["k"][-1] == later.seq)
    await wait_until(lambda: no_holds(spine, raw))


async def test_an_event_that_was_trimmed_away_cannot_be_redriven(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Failing(Recorder):
        @on("a.b", retry=Retry(attempts=1))
        async def handle(self, event: Event[Any]) -> None:
            raise ValueError("no")

    await serve(Failing)
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _letters(spine, 1))
    stream = spine.server.keys.log(partition_of("k", spine.server.partitions), Priority.NORMAL, "a.b")
    await raw.xdel(stream, f"{event.seq}-0")
    assert await spine.redrive() == []
    assert len(await spine.dead_letters()) == 1


async def test_without_ordering_a_failed_event_is_redriven_by_itself(spine: Spine, serve: Any) -> None:
    class Plain(Mended):
        ordering = "none"

        @on("a.b", retry=Retry(attempts=2, wait=wait_none()), on_dead="park")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await self.handled(event, ctx)

    await serve(Plain)
    events = await spine.publish_many([Draft("a.b", {"bad": i == 0}, key="k") for i in range(3)])
    await wait_until(lambda: _letters(spine, 1))
    await wait_until(lambda: sorted(Plain.seen["k"]) == [event.seq for event in events[1:]])
    Plain.mended = True
    await spine.redrive()
    await wait_until(lambda: sorted(Plain.seen["k"]) == [event.seq for event in events])


async def test_a_redrive_while_the_key_is_busy_keeps_the_order_of_the_rest(spine: Spine, serve: Any) -> None:
    class Busy(Mended):
        go: ClassVar[asyncio.Event]

        @on("a.b", retry=Retry(attempts=1))
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            if event.payload.get("wait"):
                await self.go.wait()
            await self.handled(event, ctx)

    Busy.go = asyncio.Event()
    await serve(Busy)
    bad = await spine.publish("a.b", {"bad": True}, key="k")
    await wait_until(lambda: _letters(spine, 1))
    Busy.mended = True
    events = await spine.publish_many([Draft("a.b", {"wait": i == 0}, key="k") for i in range(40)])
    await spine.redrive()
    events += await spine.publish_many([Draft("a.b", {}, key="k") for _ in range(40)])
    Busy.go.set()
    await wait_until(lambda: Busy.count == 81)
    rest = [seq for seq in Busy.seen["k"] if seq != bad.seq]
    assert rest == [event.seq for event in events]
    assert Busy.seen["k"].index(bad.seq) <= 1
    assert Busy.redriven == [bad.seq]


async def _letters(spine: Spine, count: int) -> list[Any]:
    found = await spine.dead_letters("recorder")
    return found if len(found) == count else []


async def _has_length(raw: redis.asyncio.Redis, key: str, length: int) -> bool:
    return await raw.llen(key) == length


async def test_a_redrive_does_not_wait_for_what_runs(spine: Spine, serve: Any) -> None:
    class Long(Recorder):
        go: ClassVar[asyncio.Event]
        mended: ClassVar[bool] = False

        @on("a.long")
        async def runs(self, event: Event[Any]) -> None:
            await self.go.wait()
            self.note(event)

        @on("a.b", retry=Retry(attempts=1))
        async def handle(self, event: Event[Any]) -> None:
            if not self.mended:
                raise ValueError("not yet")
            self.note(event)

    Long.go = asyncio.Event()
    worker = await serve(Long)
    beside = next(f"b{i}" for i in range(1_000) if partition_of(f"b{i}", 8) == partition_of("k", 8))
    dead = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _dead(spine))
    await spine.publish("a.long", {}, key=beside)
    await wait_until(lambda: worker._agencies["recorder"].is_busy)
    Long.mended = True
    await spine.redrive(seq=dead.seq)
    await wait_until(lambda: Long.seen["k"] == [dead.seq])
    Long.go.set()
    await wait_until(lambda: Long.count == 2)


async def test_events_that_are_named_are_redriven_together_in_order(spine: Spine, serve: Any) -> None:
    class Mended(Recorder):
        mended: ClassVar[bool] = False
        tried: ClassVar[list[int]] = []

        @on("a.b", retry=Retry(attempts=1))
        async def handle(self, event: Event[Any]) -> None:
            if not self.mended:
                raise ValueError("not yet")
            self.tried.append(event.seq)
            self.note(event)

    await serve(Mended)
    seqs = [(await spine.publish("a.b", {}, key="k")).seq for _ in range(20)]
    await wait_until(lambda: _letters(spine, 20))
    Mended.mended = True
    assert await spine.redrive(seq=[]) == []
    came = await spine.redrive(seq=[*reversed(seqs[5:]), seqs[5]])
    assert [letter.seq for letter in came] == seqs[5:]
    await wait_until(lambda: Mended.count == 15)
    assert Mended.tried == seqs[5:]  # none was begun before an earlier one was on its way
    assert [letter.seq for letter in await spine.dead_letters()] == seqs[:5]


async def test_a_redriven_event_is_not_lost_while_its_partition_is_still_being_opened(
    spine: Spine, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is due as soon as the holds are known, which is before anything may begin."""

    class Mended(Recorder):
        mended: ClassVar[bool] = False

        @on("a.b", retry=Retry(attempts=1))
        async def handle(self, event: Event[Any]) -> None:
            if not self.mended:
                raise ValueError("not yet")
            self.note(event)

    worker = await serve(Mended)
    dead = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _dead(spine))
    agency = worker._agencies["recorder"]
    partition = agency.partitions[partition_of("k", 8)]
    recover = partition.recover

    async def recover_later(*args: Any) -> Any:
        await asyncio.sleep(0.1)  # long enough to begin with what is due
        return await recover(*args)

    monkeypatch.setattr(partition, "recover", recover_later)
    Mended.mended = True
    await spine.redrive(seq=dead.seq)
    await wait_until(lambda: Mended.seen["k"] == [dead.seq])


async def _dead(spine: Spine) -> bool:
    return len(await spine.dead_letters()) == 1
