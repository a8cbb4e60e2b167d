"""What becomes of events: committed, held, moved on or buried, each in one script with all that goes with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from spine.delivery.commits import Committer, Held, NoLongerPending, Resolve, Unit
from spine.delivery.hand import Taken
from spine.delivery.holds import FOREVER, Hold, HoldWrites, Listed
from spine.delivery.partition import Partition, consumer_of
from spine.delivery.records import DeadLetter, Done
from spine.errors import DecodeError, LeaseLost
from spine.failures import said
from spine.log.drafts import Prepared, Write
from spine.log.streams import LANES, Stream

if TYPE_CHECKING:
    from spine.worker.agency import Agency

logger = logging.getLogger("spine")

RETRY_COMMIT_S = 1.0
PATIENCE_FOR_EVER_S = 10**9
CLOSE_PATIENCE_S = 5.0


class Outcomes:
    """Hands the ends of one agency's events to the committer, and books what came of it.

    Attributes:
        passing: events of each lane on their way to a waiting list or the dead letters without being handled here.
    """

    def __init__(self, agency: Agency, after_call: Callable[[], None]) -> None:
        self._agency = agency
        self._server = agency.server
        self._committer = Committer(agency.server, agency.spine.streams, agency.drafts.producer)
        self._committer.patience_s = PATIENCE_FOR_EVER_S
        self._committer.after_call = after_call
        self._in_flight: dict[int, int] = {}
        self._handed_over: dict[int, int] = {}
        self.passing = [0 for _ in LANES]

    async def close(self) -> None:
        """Wait for what is on its way, but not for a server that stays away."""
        await self._committer.close(CLOSE_PATIENCE_S)

    def in_flight(self, partition: int) -> int:
        """Return how many commits of a partition are on their way."""
        return self._in_flight.get(partition, 0)

    def handed_over(self, partition: int) -> int:
        """Return how many commits of a partition there ever were."""
        return self._handed_over.get(partition, 0)

    async def write_now(self, taken: Taken, writes: tuple[Write, ...]) -> None:
        """Write at once, if the lease still holds."""
        lease = self._server.keys.lease(self._agency.name, taken.partition)
        await self._committer.commit(lease=lease, generation=taken.generation, writes=writes)

    async def count(self, taken: Taken) -> None:
        """Write down, before it runs, that an event is at work: should the worker die now, it may be the reason."""
        await self.write_now(taken, (self._deaths(taken, taken.deaths + 1),))
        taken.counted = True

    def uncount(self, taken: Taken) -> None:
        """An event was interrupted, and the worker lives: only earlier deaths count."""
        taken.counted = False
        self._submit(taken, Held(), (self._deaths(taken, taken.deaths),), self._uncounted)

    def _deaths(self, taken: Taken, deaths: int) -> Write:
        crashes = self._server.keys.crashes(self._agency.name, taken.partition)
        if deaths:
            return Write("HSET", crashes, "hash", (taken.event.seq, deaths))
        return Write("HDEL", crashes, "hash", (taken.event.seq,))

    # --- the end of an event that was handled ---

    def commit(
        self,
        taken: Taken,
        events: Sequence[Prepared],
        writes: tuple[Write, ...],
        done: tuple[str, str],
        *,
        parks: bool = False,
    ) -> None:
        """The event leaves the group or the waiting list, with everything its handler did; `done` is kept of it."""
        holds = self._holds(taken)
        extra: list[Write] = []
        if taken.suspect:
            extra.append(self._deaths(taken, 0))
            partition = self._agency.partitions.get(taken.partition)
            if partition is not None:
                partition.suspects.acquit(taken)
        if parks:
            hold = self.next_hold(taken)
            hold.until_ms, hold.reason, hold.by = FOREVER, "parked", taken.event.seq
            extra.append(holds.set(taken.order_key, hold))
            self._begin_hold(taken, hold)
        elif taken.source == "waiting":
            extra.append(holds.release(taken.order_key))
            if taken.passing:
                self._agency.held.look_at_head(taken.order_key)
        self._submit(taken, self._held(taken), (*writes, *extra), self._holding if parks else self._ended, events, done)

    def hold_back(self, taken: Taken, due_ms: int, writes: tuple[Write, ...]) -> None:
        """An event that passed the hold of its key failed: it runs again at `due_ms`, and the hold stays as it is."""
        listed = Listed(taken.event.seq, taken.number, due_ms=due_ms, attempts=taken.attempt)
        keep = [*self._holds(taken).pass_to_front(taken.order_key, listed)]
        if taken.counted:
            keep.append(self._deaths(taken, taken.deaths))
        if self._agency.is_ours(taken):
            self._agency.held.passed(taken.order_key, taken.partition, due_ms)
            self._withdraw(taken.order_key)
        self._submit(taken, self._held(taken), (*writes, *keep), self._holding)

    def hold(self, taken: Taken, hold: Hold, writes: tuple[Write, ...]) -> None:
        """The key of `taken` is held, the event at the head of its waiting list."""
        holds = self._holds(taken)
        keep = [holds.set(taken.order_key, hold)]
        if taken.counted:
            keep.append(self._deaths(taken, taken.deaths))
        held = self._held(taken)
        if taken.source == "pending":
            keep.append(holds.to_front(taken.order_key, taken.reference))
        else:
            held = Held("head", held.source, held.reference)
        self._begin_hold(taken, hold)
        self._submit(taken, held, (*writes, *keep), self._holding)

    def next_hold(self, taken: Taken) -> Hold:
        """Return a new hold of the event's key that keeps the attempts counted so far."""
        known = self._agency.held.get(taken.order_key)
        return Hold() if known is None else Hold(attempts=dict(known.hold.attempts))

    def _begin_hold(self, taken: Taken, hold: Hold) -> None:
        """Hold the key here. Its events in hand leave it: they go to the waiting list when the hold is stored."""
        if self._agency.is_ours(taken):
            self._agency.held.hold(taken.order_key, taken.partition, hold)
            self._withdraw(taken.order_key)

    def _withdraw(self, key: str) -> None:
        for one in self._agency.hand.withdraw(key):
            if one.source == "pending":
                self._agency.intake.stash.add(one)

    # --- events that go on without being handled ---

    def move_to_waiting(self, one: Taken) -> None:
        """The key of `one` is held: it goes to the end of the waiting list."""
        held = self._agency.held.get(one.order_key)
        if held is not None:
            held.moving += 1
            held.moved += 1
        self.passing[one.lane] += 1
        self._submit(one, self._held(one), self._holds(one).to_back(one.order_key, one.reference), self._moved)

    def acknowledge(self, one: Taken) -> None:
        """The event was handled before."""
        self.passing[one.lane] += 1
        self._submit(one, self._held(one), (), self._passed)

    def bury_damaged(
        self, damaged: list[tuple[str, DecodeError]], stream: Stream, source: str, partition: Partition
    ) -> None:
        """Entries that are no events go to the dead letters."""
        logger.error("%s: %d entries cannot be read; the first: %s", self._agency.name, len(damaged), damaged[0][1])
        for entry_id, error in damaged:
            held = Held("pending", source, entry_id, self._agency.name)
            self._bury(entry_id, error, stream, partition, held, (), lambda: None)

    def bury_listed(self, listed: Listed, error: DecodeError, stream: Stream, partition: Partition, key: str) -> None:
        """The head of a waiting list cannot be read: it goes to the dead letters, and the list goes on."""
        logger.error("%s: %s", self._agency.name, error)
        holds = self._agency.held.writes(partition.number)
        held = Held("waiting", holds.waiting(key), str(listed))
        self._bury(
            f"{listed.seq}-0", error, stream, partition, held, (holds.release(key),),
            lambda: self._agency.held.finished(key),
        )  # fmt: skip

    def _bury(
        self,
        entry_id: str,
        error: DecodeError,
        stream: Stream,
        partition: Partition,
        held: Held,
        writes: tuple[Write, ...],
        then: Callable[[], None],
    ) -> None:
        agency = self._agency
        letter = DeadLetter(
            agent=agency.name,
            seq=int(entry_id.partition("-")[0]),
            type="",
            topic=stream.topic,
            key="",
            correlation="",
            partition=partition.number,
            stream=stream.number,
            error_type=type(error).__name__,
            error=said(error),
            traceback="",
            attempts=0,
            worker=agency.worker,
            ts_ms=self._server.now_ms(),
            entry_id=entry_id,
        )
        writes = (letter.write(self._server.keys), *writes)
        done = None
        if entry_id.endswith("-0"):
            record = Done(agency.worker, agency.version, self._server.now_ms(), 0.0, 0, "damaged")
            done = record.kept(self._server.keys, agency.name, partition.number, letter.seq)

        def resolved(unit: Unit, failure: BaseException | None) -> None:
            self.passing[stream.lane] -= 1
            self._in_flight[partition.number] -= 1
            if failure is not None and not isinstance(failure, NoLongerPending | LeaseLost):
                agency.intake.set_aside(partition, failure)
                asyncio.get_running_loop().call_later(RETRY_COMMIT_S, then)
            else:
                then()

        self.passing[stream.lane] += 1
        self._count(partition.number)
        lease = partition.lease
        self._committer.submit(
            Unit(resolve=resolved, lease=lease.key, generation=lease.generation, held=held, done=done, writes=writes)
        )

    # --- what came of it ---

    def _submit(
        self,
        taken: Taken,
        held: Held,
        writes: tuple[Write, ...],
        resolve: Resolve,
        events: Sequence[Prepared] = (),
        done: tuple[str, str] | None = None,
    ) -> None:
        self._count(taken.partition)
        if held.kind == "carried" and self._agency.is_ours(taken):
            self._agency.partitions[taken.partition].is_taken(taken.number, taken.event.seq)
        self._committer.submit(
            Unit(
                resolve=resolve,
                tag=taken,
                lease=self._server.keys.lease(self._agency.name, taken.partition),
                generation=taken.generation,
                held=held,
                done=done,
                events=events,
                writes=writes,
            )
        )

    def _count(self, partition: int) -> None:
        self._in_flight[partition] = self.in_flight(partition) + 1
        self._handed_over[partition] = self.handed_over(partition) + 1

    def _ended(self, unit: Unit, error: BaseException | None) -> None:
        if self._settled(unit, error, again=True):
            taken: Taken = unit.tag
            if error is None:
                self._agency.sessions.stored(unit.events)
            self._agency.hand.finished(taken)
            self._agency.held.finished(taken.order_key)

    def _holding(self, unit: Unit, error: BaseException | None) -> None:
        if self._settled(unit, error, again=True):
            taken: Taken = unit.tag
            self._agency.hand.finished(taken)
            self._agency.held.stored(taken.order_key)
            self._agency.intake.place_stashed(taken.partition)

    def _moved(self, unit: Unit, error: BaseException | None) -> None:
        held = self._agency.held.get(unit.tag.order_key)
        if held is not None:
            held.moving -= 1
        self._passed(unit, error)

    def _passed(self, unit: Unit, error: BaseException | None) -> None:
        self.passing[unit.tag.lane] -= 1
        self._settled(unit, error, again=False)

    def _uncounted(self, unit: Unit, error: BaseException | None) -> None:
        self._in_flight[unit.tag.partition] -= 1

    def _settled(self, unit: Unit, error: BaseException | None, *, again: bool) -> bool:
        """Book the end of a commit: stored or refused for good (true), or tried `again`."""
        taken: Taken = unit.tag
        agency = self._agency
        if again and error is not None and not isinstance(error, NoLongerPending | LeaseLost):
            logger.error(
                "%s: event %d is handled but not committed, again soon: %s", agency.name, taken.event.seq, error
            )
            asyncio.get_running_loop().call_later(RETRY_COMMIT_S, self._committer.submit, unit)
            return False
        self._in_flight[taken.partition] -= 1
        agency.intake.left(taken)
        partition = agency.partitions.get(taken.partition) if agency.is_ours(taken) else None
        if error is None or partition is None:
            return True
        if isinstance(error, LeaseLost):
            agency.lose(partition.lease)
        elif isinstance(error, NoLongerPending):
            logger.warning(
                "%s: event %d, or one committed with it, was acknowledged elsewhere: %s",
                agency.name,
                taken.event.seq,
                error,
            )
            agency.states.forget(taken.event.key)
            if not partition.draining:
                agency.intake.reopen(partition)
        else:
            agency.intake.set_aside(partition, error)
        return True

    def _holds(self, taken: Taken) -> HoldWrites:
        return self._agency.held.writes(taken.partition)

    def _held(self, taken: Taken) -> Held:
        """Return how the commit of `taken` finds it held."""
        if taken.source == "waiting":
            return Held("waiting", self._holds(taken).waiting(taken.order_key), taken.reference)
        kind: Literal["carried", "pending"] = "carried" if taken.carried else "pending"
        return Held(kind, taken.stream, f"{taken.event.seq}-0", self._agency.name, consumer_of(taken.partition))
