"""Taking: how events of the partitions that a worker holds come to its hand, in order and within its bounds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from spine.delivery.hand import Taken
from spine.delivery.leases import Lease
from spine.delivery.partition import Carried, Partition, Read, take_all
from spine.delivery.stash import Stash
from spine.errors import DecodeError, LeaseLost, SpineError
from spine.events import Priority
from spine.log.streams import LANES, SESSIONS, Stream
from spine.names import matcher
from spine.worker.entries import Entries
from spine.worker.room import Room

if TYPE_CHECKING:
    from spine.worker.agency import Agency

logger = logging.getLogger("spine")

LOOK_EVERY_S = 30.0


class Intake:
    """Takes events for one agency.

    Attributes:
        stash: events of held keys that cannot go to the waiting list yet.
        starts: pattern → seq after which the agent reads the topics it stands for.
        lanes: the lanes that its topics have events in.
    """

    def __init__(self, agency: Agency) -> None:
        self._agency = agency
        self._hand = agency.hand
        self._room = Room(agency)
        self._entries = Entries(agency)
        self._reads = agency.agent.reads()
        self._wake = asyncio.Event()
        self._mine: dict[int, int] = {}  # seq in hand -> generation of the lease that it was taken under
        self._left_meanwhile: set[int] | None = None
        self._recover: set[int] = set()
        self.stash = Stash()
        self.starts: dict[str, int] = {}
        self.lanes: set[int] = set()

    async def run(self) -> None:
        """Take whatever there is, for ever."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            look = loop.call_later(LOOK_EVERY_S, self._wake.set)
            await self._wake.wait()
            look.cancel()
            self._wake.clear()
            try:
                await self._begin_what_rang()
                self._look_where_nothing_rang()
                await self._take_what_is_there()
                failures = 0
            except Exception as error:
                failures += 1
                _report(f"{self._agency.name} cannot take events", error, failures)
                self._wake.set()
                await asyncio.sleep(_pause_s(failures))

    async def _begin_what_rang(self) -> None:
        """Let events run that came with the rings that told of them: a lone one need not be asked for.

        What its handler does not end at once is taken right after, as everything else; the commit of one that does end
        takes it.
        """
        brought = []
        for partition in self._agency.partitions.values():
            carried = partition.carried()
            if carried is not None and self._may_begin(partition):
                one = self._of_ring(carried, partition)
                if one is not None:
                    brought.append((partition, partition.opening, [one]))
        if brought:
            await self._bring(brought)
            await asyncio.sleep(0)

    def _may_begin(self, partition: Partition) -> bool:
        agency = self._agency
        return not agency.rests and self._may_take(partition) and agency.surely_holds(partition)

    def _of_ring(self, carried: Carried, partition: Partition) -> Taken | None:
        """Return the event, ``None`` for what is no event: a take says so."""
        try:
            one = self._entries.taken(carried.stream, carried.entry, partition, carried.key)
        except DecodeError:
            return None
        one.carried = True
        self._mine[one.event.seq] = one.generation
        partition.brought(carried)
        return one

    def _look_where_nothing_rang(self) -> None:
        """Look at every stream now and then: what was not written by spine rings no bell."""
        now = time.monotonic()
        for partition in self._agency.partitions.values():
            if now - partition.looked_at > LOOK_EVERY_S:
                partition.look_everywhere()

    # --- what there is to do ---

    def wake(self) -> None:
        """There may be something to take."""
        self._wake.set()

    def acquired(self, lease: Lease) -> Partition:
        """Begin with a partition: what an earlier holder left comes first."""
        self.recover(lease.partition)
        return Partition(self._agency.server, self._agency.spine.streams, lease, self._start_of)

    def recover(self, number: int) -> None:
        """What is pending in a partition and not in hand is to be brought to hand."""
        self._recover.add(number)
        self._wake.set()

    def reopen(self, partition: Partition) -> None:
        """Forget what has not begun in a partition, and look at it as if it had just been acquired."""
        self.drop(partition)
        partition.opened = False
        partition.read_anew()
        self.recover(partition.number)

    def drop(self, partition: Partition) -> None:
        """Forget what has not begun in a partition; it stays with the group."""
        partition.opening += 1
        partition.suspects.drop(others=self._agency.held.has_suspects(partition.number))
        for taken in (*self._hand.drop_partition(partition.number), *self.stash.drop_partition(partition.number)):
            self._forget(taken)
        self._agency.held.drop_partition(partition.number)

    def left(self, taken: Taken) -> None:
        """An event left the hand. One of an earlier lease left it with that lease: it was taken again since."""
        self._agency.not_alone(taken)
        if self._forget(taken) and self._left_meanwhile is not None and self._agency.is_ours(taken):
            self._left_meanwhile.add(taken.event.seq)

    def take_again(self, taken: Taken) -> None:
        """An event left the hand unhandled while its partition is being opened: it is taken as if it never had been."""
        self._forget(taken)
        self.recover(taken.partition)

    def _forget(self, taken: Taken) -> bool:
        """Take an event off the list of what is in hand, if it stands there under the lease it was taken under."""
        if self._mine.get(taken.event.seq) != taken.generation:
            return False
        del self._mine[taken.event.seq]
        return True

    def set_aside(self, partition: Partition, error: BaseException) -> None:
        """Leave a partition alone for a moment; others go on."""
        partition.failures += 1
        _report(f"{self._agency.name} cannot take from partition {partition.number}", error, partition.failures)
        pause_s = _pause_s(partition.failures)
        partition.retry_at = time.monotonic() + pause_s
        self._recover.add(partition.number)
        asyncio.get_running_loop().call_later(pause_s, self._wake.set)

    def go_on(self) -> None:
        """Something was committed: look whether there is room for more."""
        if self._recover or any(partition.has_news for partition in self._agency.partitions.values()):
            self._wake.set()

    # --- the loop ---

    async def _take_what_is_there(self) -> None:
        agency = self._agency
        if agency.rests:
            return
        await self._learn_streams()
        await self._recover_what_may()
        while not agency.rests:
            await self._learn_streams()
            ready = [p for p in agency.partitions.values() if p.has_news and self._may_take(p)]
            takes = self._room.budgets(ready)
            stalled = bool(ready) and not takes and self._is_idle()
            if stalled:
                takes = [(partition, [0 for _ in LANES]) for partition in ready]
            if not takes:
                return
            await self._take(takes, stalled)
            await asyncio.sleep(0)

    def _is_idle(self) -> bool:
        return not (any(self._agency.outcomes.passing) or self._hand.has_ready() or self._agency.is_busy)

    def _may_take(self, partition: Partition) -> bool:
        return partition.opened and not partition.draining and partition.number not in self._recover

    async def _take(self, takes: Sequence[tuple[Partition, list[int]]], stalled: bool) -> None:
        """Take from several partitions in one call."""
        asks = [partition.ask(budgets, stalled=stalled) for partition, budgets in takes]
        opening = [partition.opening for partition, _ in takes]
        brought = []
        with self._noting_what_leaves():
            found: list[list[Read] | Exception]
            try:
                found = await take_all(self._agency.server, self._agency.name, asks)
            except Exception as error:
                found = [error for _ in takes]
            for (partition, _), reads, opened in zip(takes, found, opening, strict=True):
                if isinstance(reads, Exception):
                    self._not_taken(partition, reads)
                    continue
                try:
                    brought.append((partition, opened, await self._decode_reads(reads, partition)))
                except Exception as error:
                    self._not_taken(partition, error)
        await self._bring(brought)

    @contextlib.contextmanager
    def _noting_what_leaves(self) -> Iterator[None]:
        """What leaves the hand inside the block may be in an answer given before that: it is not brought again."""
        self._left_meanwhile = set()
        try:
            yield
        finally:
            self._left_meanwhile = None

    async def _bring(self, brought: Sequence[tuple[Partition, int, list[Taken]]]) -> None:
        """Bring to hand what was read, and let run what may."""
        try:
            await self._admit(brought)
        except Exception as error:
            for partition, _, _ in brought:
                self._not_taken(partition, error)
        else:
            for partition, _, _ in brought:
                self._set_bounds(partition)

    def _not_taken(self, partition: Partition, error: Exception) -> None:
        if isinstance(error, LeaseLost):
            self._agency.lose(partition.lease)
        else:
            self.set_aside(partition, error)

    def _set_bounds(self, partition: Partition) -> None:
        """Let run what nothing can overtake any more; not while a stream is unknown that may hold earlier events."""
        if partition.unknown or not self._may_take(partition):
            return
        bounds = partition.bounds()
        self._place_stashed(partition.number, bounds)
        self._hand.set_bounds(partition.number, bounds)
        self._agency.look_for_work()

    def place_stashed(self, number: int) -> None:
        """A hold is stored, or an event was stashed: what the hand's bounds allow goes where it belongs.

        The hand's, as what was read since may be on its way to hand.
        """
        bounds = self._hand.bounds(number)
        if bounds is not None:
            self._place_stashed(number, bounds)
            self._agency.look_for_work()

    def _place_stashed(self, number: int, bounds: list[int]) -> None:
        """Bring what was stashed to hand, or to the waiting list of its key: behind what begins the hold."""
        for one in self.stash.within(number, bounds):
            held = self._agency.held.get(one.order_key)
            if held is None:
                self._hand.add(one)
            elif held.settling:
                self.stash.add(one)
            else:
                self._agency.outcomes.move_to_waiting(one)

    # --- what is pending already ---

    async def _recover_what_may(self) -> None:
        now = time.monotonic()
        for number in list(self._recover):
            partition = self._agency.partitions.get(number)
            if partition is None or partition.draining:
                self._recover.discard(number)
            elif partition.retry_at <= now and (partition.opened or self._is_clear(partition)):
                self._recover.discard(number)
                await self._recover_partition(partition)

    def _is_clear(self, partition: Partition) -> bool:
        """Tell whether nothing is being committed, or at work under an earlier lease: it may have to be taken again."""
        if self._agency.outcomes.in_flight(partition.number):
            return False
        return all(self._agency.is_ours(taken) for taken in self._hand.running(partition.number))

    async def _recover_partition(self, partition: Partition) -> None:
        """Bring to hand what is pending and not in hand: of an earlier holder, or of a call whose reply was lost."""
        opening, agency = partition.opening, self._agency
        try:
            if not partition.opened and not await self._learn_holds(partition):
                self.recover(partition.number)
                return
            with self._noting_what_leaves():
                reads = await partition.recover(agency.name)
                taken = await self._decode_reads(reads, partition)
            for one in taken:
                partition.suspects.look_at(one, cut_off=partition.suspects.cut_off)
            await self._admit([(partition, opening, taken)])
        except LeaseLost:
            agency.lose(partition.lease)
        except Exception as error:
            self.set_aside(partition, error)
        else:
            partition.failures = 0
            if partition.opening == opening:
                if not partition.opened:
                    agency.held.opened(partition)
                partition.opened, partition.suspects.cut_off = True, False
                self._set_bounds(partition)

    async def _learn_holds(self, partition: Partition) -> bool:
        """Read what is held in a partition that is being opened; false when something was committed meanwhile.

        What was at work already when the partition was to be opened again may end at any moment.
        """
        agency = self._agency
        before = agency.outcomes.handed_over(partition.number)
        await partition.suspects.load(agency.server, agency.name, partition.number)
        return await agency.held.load(
            partition, agency.version, lambda: agency.outcomes.handed_over(partition.number) == before
        )

    # --- the topic list ---

    async def _learn_streams(self) -> None:
        """Bring the topic list up to what was heard; what is heard meanwhile may be newer than the answer."""
        partitions = self._agency.partitions
        asking = [partition for partition in partitions.values() if partition.unknown]
        if not asking:
            return
        for partition in asking:
            partition.unknown = False
        try:
            await self._agency.spine.streams.refresh()
        except BaseException:
            for partition in asking:
                partition.unknown = True
            raise
        for partition in list(partitions.values()):
            self._subscribe(partition)
        for partition in asking:
            if partitions.get(partition.number) is partition:
                self._set_bounds(partition)

    def _subscribe(self, partition: Partition) -> None:
        wanted: list[Stream] = []
        others: set[int] = set()
        sessions = frozenset(stream.number for stream in self._agency.spine.streams.all() if stream.topic == SESSIONS)
        for stream in self._agency.spine.streams.all():
            if self._reads(stream.topic):
                wanted.append(stream)
            else:
                others.add(stream.number)
        self.lanes.update(stream.lane for stream in wanted)
        partition.subscribe(wanted, others, sessions)

    def _start_of(self, topic: str) -> int:
        """Return the seq after which a topic is read: where the agent began to declare it."""
        return min((seq for pattern, seq in self.starts.items() if matcher((pattern,))(topic)), default=0)

    # --- what was taken ---

    async def _decode_reads(self, reads: Iterable[Read], partition: Partition) -> list[Taken]:
        """Return what was read and not handled before."""
        taken: list[Taken] = []
        for read in reads:
            new = self._decode_all(read, partition)
            if read.recheck:
                try:
                    handled = await self._entries.handled_before(new, read, partition)
                except BaseException:
                    self._forget_all(new)
                    raise
                for one in [one for one in new if one.event.seq in handled]:
                    self._agency.outcomes.acknowledge(one)
                    new.remove(one)
            taken += new
        return taken

    async def _admit(self, brought: Sequence[tuple[Partition, int, list[Taken]]]) -> None:
        """Bring what was taken to hand, from each partition as it was opened then, with what the handlers need."""
        everything = [one for _, _, taken in brought for one in taken]
        try:
            await self._agency.prepare(everything)
        except BaseException:
            self._forget_all(everything)
            raise
        held, hand = self._agency.held, self._hand
        for partition, opening, taken in brought:
            if self._agency.partitions.get(partition.number) is not partition or partition.opening != opening:
                self._forget_all(taken)
                continue
            for one in taken:
                if one.order_key in held and one.lane != Priority.URGENT:
                    self.stash.add(one)
                else:
                    hand.add(one)

    def _forget_all(self, taken: list[Taken]) -> None:
        """What was taken does not come to hand: it is to be recovered."""
        for one in taken:
            self._forget(one)

    def _decode_all(self, read: Read, partition: Partition) -> list[Taken]:
        """Return the events of a read that are not in hand yet; what is no event goes to the dead letters."""
        found: list[Taken] = []
        damaged: list[tuple[str, DecodeError]] = []
        mine, left, generation = self._mine, self._left_meanwhile or (), partition.lease.generation
        for entry in read.entries:
            try:
                one = self._entries.taken(read.stream, entry, partition, read.key)
            except DecodeError as error:  # whatever its number: an event that is in hand may have the same one
                damaged.append((entry[0].decode(), error))
                continue
            seq = one.event.seq
            if mine.get(seq) != generation and seq not in left:
                mine[seq] = generation
                found.append(one)
        if damaged:
            self._agency.outcomes.bury_damaged(damaged, read.stream, read.key, partition)
        return found


def _report(what: str, error: BaseException, failures: int) -> None:
    """Report a server that is away once, and anything unexpected each time, with its traceback."""
    if not isinstance(error, SpineError | RedisError | OSError):
        logger.error("%s", what, exc_info=error)
    elif failures == 1:
        logger.warning("%s: %s", what, error)
    else:
        logger.debug("%s: %s", what, error)


def _pause_s(failures: int) -> float:
    return float(min(0.05 * 2 ** min(failures, 10), 1.0))
