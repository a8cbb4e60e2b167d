"""One agent in one worker process: takes events, runs handlers in order, commits what they did."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError

from spine.agent import Agent, HandlerSpec
from spine.codec import decode_entry
from spine.delivery.commits import Committer, Held, NoLongerPending, Resolve, Unit
from spine.delivery.hand import Hand, Taken
from spine.delivery.holds import Hold
from spine.delivery.leases import Lease, Leases
from spine.delivery.partition import Partition, Read
from spine.delivery.records import DeadLetter, Done
from spine.delivery.states import States
from spine.errors import DecodeError, LeaseLost, SpineError
from spine.events import Event, Priority
from spine.handling import Handling
from spine.log.drafts import Drafts, Prepared, Write
from spine.log.reader import Entry
from spine.names import matcher
from spine.sessions import SessionState, load_sessions
from spine.worker.attempt import Attempt, Running, empty_session
from spine.worker.held import HeldKey, HeldKeys, held_as
from spine.worker.limits import Limits
from spine.worker.slots import Slots

if TYPE_CHECKING:
    from spine.client import Spine

logger = logging.getLogger("spine")

RETRY_COMMIT_S = 1.0
PATIENCE_FOR_EVER_S = 10**9
SESSIONS_AT_HAND = 20_000


class Agency:
    """Serves one agent in this process; `spine.worker.process.Worker` holds one for each agent.

    Attributes:
        name: of the agent.
        worker: id of this worker.
        starts: pattern → seq after which the agent reads the topics it stands for.
    """

    def __init__(self, spine: Spine, agent: type[Agent[Any]], worker: str, leases: Leases, concurrency: int) -> None:
        self.agent = agent
        self.name = agent.name
        self.version = agent.version
        self.worker = worker
        self.spine = spine
        self.server = spine.server
        self.requests = spine.requests
        self.drafts = Drafts(
            self.server.keys, agent.name, self.server.partitions, spine.drafts.max_bytes, spine.catalog
        )
        self.states = States(self.server, spine.reader, agent)
        self.hand = Hand(agent.ageing_s)
        self.partitions: dict[int, Partition] = {}
        self.starts: dict[str, int] = {}
        self.paused = False
        self.stopping = False
        self.changed = asyncio.Event()
        self._leases = leases
        self._instance = agent()
        self._reads = agent.reads()
        self._handlers: dict[str, HandlerSpec | None] = {}
        self._committer = Committer(self.server, spine.streams, self.drafts.producer)
        self._committer.patience_s = PATIENCE_FOR_EVER_S
        self._committer.after_call = self._go_on
        self._slots = Slots(concurrency, self._next_work, self.hand.has_ready, f"spine-{agent.name}")
        self._limits = Limits(self.server, agent, worker)
        self._held = HeldKeys(self.server, spine.reader, agent.name, self._admit_waiting, self.spawn)
        self._wake = asyncio.Event()
        self._mine: set[int] = set()
        self._left_meanwhile: set[int] | None = None
        self._in_flight: dict[int, int] = {}
        self._passing = 0
        self._running: dict[int, Running] = {}
        self._sessions: dict[str, SessionState] = {}
        self._recover: set[int] = set()
        self._cancelled: dict[str, int] = {}
        self._lanes: set[int] = set()
        self._suspects = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()
        self._task: asyncio.Task[None] | None = None

    # --- life ---

    def begin(self) -> None:
        """Start taking."""
        self._task = self.spawn(self._take_for_ever(), f"spine-take-{self.name}")

    async def close(self) -> None:
        """Stop at once; what runs is cancelled and stays where it is."""
        await self._slots.close()
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._limits.close()
        await self._committer.drain()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a background task that ends with the agency."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # --- partitions ---

    def acquired(self, lease: Lease) -> None:
        """Begin with a partition: what an earlier holder left comes first."""
        partition = Partition(self.server, self.spine.streams, lease, self._start_of)
        self._subscribe(partition)
        self.partitions[lease.partition] = partition
        self._recover.add(lease.partition)
        self._wake.set()

    def drain(self, number: int) -> None:
        """Take nothing more of a partition; what has not begun stays with the group."""
        partition = self.partitions[number]
        partition.draining = True
        partition.opening += 1
        self._drop_waiting(number)

    def undrain(self, number: int) -> None:
        """Go on with a partition after all."""
        partition = self.partitions.get(number)
        if partition is not None and partition.draining:
            partition.draining = False
            self._reopen(partition)

    def _reopen(self, partition: Partition) -> None:
        """Forget what has not begun in a partition, and look at it as if it had just been acquired."""
        self._drop_waiting(partition.number)
        partition.opened = False
        partition.opening += 1
        partition.look_everywhere()
        self._recover.add(partition.number)
        self._wake.set()

    def is_drained(self, number: int) -> bool:
        """Tell whether nothing of a partition is running or on its way to be committed."""
        return not self._in_flight.get(number) and not self.hand.running(number)

    def lose(self, lease: Lease) -> None:
        """Another worker has this partition: stop what runs, forget what waits."""
        partition = self.partitions.get(lease.partition)
        if partition is None or partition.lease is not lease:
            return
        del self.partitions[lease.partition]
        self._leases.forget(lease)
        self._drop_waiting(lease.partition)
        self.states.forget_partition(lease.partition)
        for running in list(self._running.values()):
            if running.taken.partition == lease.partition:
                running.cancel("lease")
        self.changed.set()

    def gave_back(self, number: int) -> None:
        """A drained partition was released."""
        self.partitions.pop(number, None)
        self.states.forget_partition(number)

    def busy(self) -> dict[int, int]:
        """Return how many handlers run in each partition."""
        counts: dict[int, int] = {}
        for taken in self.hand.running():
            counts[taken.partition] = counts.get(taken.partition, 0) + 1
        return counts

    def _drop_waiting(self, number: int) -> None:
        for taken in self.hand.drop_partition(number):
            self._mine.discard(taken.event.seq)
        self._held.drop_partition(number)

    def rung(self, number: int, rings: list[Any] | None) -> None:
        """A bell rang (or may have)."""
        partition = self.partitions.get(number)
        if partition is None:
            return
        if rings is None:
            partition.look_everywhere()
        else:
            partition.hear(rings)
        self._wake.set()

    def resume(self) -> None:
        """The agent is not paused any more."""
        self._slots.wake()
        self._wake.set()

    def reload_holds(self) -> None:
        """Somebody changed holds from outside (a redrive): read them again."""
        for partition in self.partitions.values():
            if not partition.draining:
                self._reopen(partition)

    # --- taking ---

    async def _take_for_ever(self) -> None:
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._take_what_is_there()
                failures = 0
            except Exception as error:
                failures += 1
                _report(f"{self.name} cannot take events", error, failures)
                self._wake.set()
                await asyncio.sleep(_pause_s(failures))

    async def _take_what_is_there(self) -> None:
        if self.paused or self.stopping:
            return
        await self._learn_streams()
        now = time.monotonic()
        for number in list(self._recover):
            partition = self.partitions.get(number)
            if partition is not None and partition.retry_at <= now:
                await self._recover_partition(partition)
        while not (self.paused or self.stopping):
            await self._learn_streams()
            ready = [p for p in self.partitions.values() if p.has_news and self._may_take(p)]
            room = self.agent.prefetch - self.hand.size - self._passing
            stalled = room <= 0 and not (self._passing or self.hand.has_ready() or self._running)
            if not ready or (room <= 0 and not stalled):
                return
            budget = max(1, room // len(ready)) if room > 0 else 0
            if len(ready) == 1:
                await self._take(ready[0], budget, stalled)
            else:
                await asyncio.gather(*(self._take(partition, budget, stalled) for partition in ready))
            await asyncio.sleep(0)

    def _may_take(self, partition: Partition) -> bool:
        return partition.opened and not partition.draining and partition.number not in self._recover

    async def _take(self, partition: Partition, budget: int, stalled: bool) -> None:
        opening = partition.opening
        try:
            reads = await partition.take(self.name, budget, stalled=stalled, ageing_s=self.agent.ageing_s)
            await self._admit(reads, partition, opening, suspect=False)
        except LeaseLost:
            self.lose(partition.lease)
        except Exception as error:
            self._set_aside(partition, error)
        else:
            self._set_bounds(partition)

    def _set_aside(self, partition: Partition, error: BaseException) -> None:
        """Leave a partition alone for a moment; others go on."""
        partition.failures += 1
        _report(f"{self.name} cannot take from partition {partition.number}", error, partition.failures)
        pause_s = _pause_s(partition.failures)
        partition.retry_at = time.monotonic() + pause_s
        self._recover.add(partition.number)
        asyncio.get_running_loop().call_later(pause_s, self._wake.set)

    def _set_bounds(self, partition: Partition) -> None:
        """Let run what nothing can overtake any more; not while a stream is unknown that may hold earlier events."""
        if partition.unknown or not self._may_take(partition):
            return
        self.hand.set_bounds(partition.number, partition.bounds())
        self._slots.wake()

    async def _recover_partition(self, partition: Partition) -> None:
        """Bring to hand what is pending and not in hand: of an earlier holder, or of a call whose reply was lost."""
        self._recover.discard(partition.number)
        if partition.draining:
            return
        opening = partition.opening
        self._left_meanwhile = set()
        try:
            if not partition.opened:
                await self._load_holds(partition)
            reads = await partition.recover(self.name)
            await self._admit(reads, partition, opening, suspect=partition.cut_off)
        except LeaseLost:
            self.lose(partition.lease)
        except Exception as error:
            self._set_aside(partition, error)
        else:
            partition.failures = 0
            if partition.opening == opening:
                partition.opened, partition.cut_off = True, False
        finally:
            self._left_meanwhile = None

    async def _load_holds(self, partition: Partition) -> None:
        await self._held.load(partition)
        for key, held in self._held.of_partition(partition.number):
            if held.hold.reason == "reducer" and held.hold.version != self.version:
                self._held.release(key)

    async def _learn_streams(self) -> None:
        """Bring the topic list up to what was heard; what is heard meanwhile may be newer than the answer."""
        asking = [partition for partition in self.partitions.values() if partition.unknown]
        if not asking:
            return
        for partition in asking:
            partition.unknown = False
        try:
            await self.spine.streams.refresh()
        except BaseException:
            for partition in asking:
                partition.unknown = True
            raise
        for partition in list(self.partitions.values()):
            self._subscribe(partition)
        for partition in asking:
            if self.partitions.get(partition.number) is partition:
                self._set_bounds(partition)

    def _start_of(self, topic: str) -> int:
        """Return the seq after which a topic is read: where the agent began to declare it."""
        return min((seq for pattern, seq in self.starts.items() if matcher((pattern,))(topic)), default=0)

    def _subscribe(self, partition: Partition) -> None:
        wanted, others = [], set()
        for stream in self.spine.streams.all():
            if self._reads(stream.topic):
                wanted.append(stream)
            else:
                others.add(stream.number)
        self._lanes.update(stream.lane for stream in wanted)
        partition.subscribe(wanted, others)

    async def _admit(self, reads: Iterable[Read], partition: Partition, opening: int, *, suspect: bool) -> None:
        taken: list[Taken] = []
        for read in reads:
            handled = await self._handled_before(read, partition)
            for entry in read.entries:
                seq = int(entry[0].partition(b"-")[0])
                if entry[0].endswith(b"-0") and (seq in self._mine or seq in (self._left_meanwhile or ())):
                    continue
                one = self._decode(entry, read.stream.topic, partition, read.stream.number, read.stream.lane, read.key)
                if one is None:
                    continue
                one.suspect = suspect
                self._mine.add(seq)
                if seq in handled:
                    self._acknowledge(one)
                else:
                    taken.append(one)
        await self._prepare(taken)
        if self.partitions.get(partition.number) is not partition or partition.opening != opening:
            self._mine.difference_update(one.event.seq for one in taken)
            return
        for one in taken:
            self._put(one)

    async def _handled_before(self, read: Read, partition: Partition) -> set[int]:
        """Return the seqs of a read that have a done record, where the group was made anew."""
        seqs = [int(entry[0].partition(b"-")[0]) for entry in read.entries]
        asked = [seq for seq in seqs if seq <= read.recheck]
        if not asked:
            return set()
        keys = self.server.keys
        replies = await self.server.commands(
            *(("HEXISTS", keys.done(self.name, partition.number, seq), seq) for seq in asked)
        )
        return {seq for seq, found in zip(asked, replies, strict=True) if found}

    async def _prepare(self, taken: list[Taken]) -> None:
        """Load states and sessions of what was taken, in bulk."""
        events = [one.event for one in taken]
        if self.states.kept and events:
            await self.states.load(events)
        wanted = {event.context.session_id for event in events if event.context.session_id is not None}
        if wanted:
            if len(self._sessions) > SESSIONS_AT_HAND:
                self._sessions.clear()
            self._sessions.update(await load_sessions(self.server, sorted(wanted)))

    def _put(self, one: Taken) -> None:
        if one.order_key in self._held and one.lane != Priority.URGENT:
            self._move_to_waiting(one)
        else:
            self.hand.add(one)

    def _decode(
        self, entry: Any, topic: str, partition: Partition, number: int, lane: int, stream: str
    ) -> Taken | None:
        try:
            event = decode_entry(topic, entry)
        except DecodeError as error:
            self._bury_damaged(entry, topic, partition, number, stream, error)
            return None
        return Taken(
            event=event,
            order_key=event.key if self.agent.ordering == "key" else f"{event.seq}",
            order=event.seq,
            partition=partition.number,
            generation=partition.lease.generation,
            lane=lane,
            stream=stream,
            number=number,
            taken_at=time.monotonic(),
        )

    async def _admit_waiting(
        self, entries: list[tuple[Entry, int]], partition: Partition, held: HeldKey, key: str
    ) -> None:
        """Take the head of a waiting list into hand, in the order of the list."""
        taken: list[Taken] = []
        for place, ((seq, topic, entry), number) in enumerate(entries):
            stream = self.spine.streams.key(partition.number, await self.spine.streams.get(number))
            one = self._decode(entry, topic, partition, number, Priority.NORMAL, stream)
            if one is None:
                break
            one.source, one.order, one.order_key = "waiting", place - 2**60, key
            one.attempt = held.hold.attempts.get(seq, 0) + 1
            one.redriven = seq in held.hold.redriven
            taken.append(one)
        await self._prepare(taken)
        if self._held.get(key) is not held or partition.draining or held.loaded:
            return
        held.loaded = len(taken)
        for one in taken:
            self.hand.add(one)
        self._slots.wake()

    # --- running ---

    def _next_work(self, task: asyncio.Task[Any]) -> Awaitable[None] | None:
        if self.paused or self.stopping:
            return None
        taken = self.hand.next_ready(time.monotonic())
        if taken is None:
            return None
        attempt = Attempt(self, taken, task)
        return attempt.run() if not taken.suspect else self._alone(attempt)

    async def _alone(self, attempt: Attempt) -> None:
        """Events that were in hand when a worker died run one at a time, so that the killer is found."""
        async with self._suspects:
            await attempt.run()

    def handler(self, event_type: str) -> HandlerSpec | None:
        """Return the handler for a type."""
        try:
            return self._handlers[event_type]
        except KeyError:
            spec = self._handlers[event_type] = self.agent.handler_of(event_type)
            return spec

    def call(self, spec: HandlerSpec, event: Event[Any], handling: Handling) -> Any:
        """Call a handler."""
        return (
            spec.function(self._instance, event, handling)
            if spec.takes_context
            else spec.function(self._instance, event)
        )

    def session(self, event: Event[Any]) -> SessionState:
        """Return the session of an event as it stood when the event was taken."""
        session_id = event.context.session_id
        return empty_session() if session_id is None else self._sessions.get(session_id, empty_session())

    def overtakes(self, taken: Taken) -> bool:
        """Tell whether earlier events of its key may be unhandled when `taken` runs."""
        return taken.redriven or any(lane > taken.lane for lane in self._lanes) or taken.order_key in self._held

    def is_cancelled(self, event: Event[Any]) -> bool:
        """Tell whether the correlation of an event was cancelled after it was stored."""
        return bool(self._cancelled) and event.seq <= self._cancelled.get(event.context.correlation, 0)

    def set_cancelled(self, cancelled: dict[str, int]) -> None:
        """Take over which correlations are cancelled; running handlers of these end."""
        self._cancelled = cancelled
        for running in list(self._running.values()):
            if self.is_cancelled(running.taken.event):
                running.cancel("cancelled")

    @property
    def limits(self) -> Limits:
        """The agent's rate and its limit over all workers."""
        return self._limits

    def start(self, taken: Taken, spec: HandlerSpec, task: asyncio.Task[Any]) -> Running:
        """Note that a handler begins in `task`."""
        running = self._running[taken.event.seq] = Running(taken, task, spec.preemptible)
        return running

    def stopped(self, running: Running) -> None:
        """Note that a handler ended."""
        self._running.pop(running.taken.event.seq, None)
        self._limits.leave(running.taken.event.seq)

    def interrupted(self, taken: Taken) -> None:
        """A handler was cut off without fault of its own: its event is at its old place, or with another worker."""
        taken.interrupted = True
        partition = self.partitions.get(taken.partition)
        if partition is not None and self._is_ours(taken) and not partition.draining and not self.stopping:
            self.hand.put_back(taken)
            self._slots.wake()
            return
        self.hand.finished(taken)
        self._left(taken)
        self.changed.set()

    def _is_ours(self, taken: Taken) -> bool:
        """Tell whether the lease that an event was taken under is still held."""
        partition = self.partitions.get(taken.partition)
        return partition is not None and partition.lease.generation == taken.generation

    def _left(self, taken: Taken) -> None:
        """An event left the hand. Where it was taken under an earlier lease, it may have to be taken again."""
        self._mine.discard(taken.event.seq)
        if self._left_meanwhile is not None:
            self._left_meanwhile.add(taken.event.seq)
        if taken.partition in self.partitions and not self._is_ours(taken):
            self._recover.add(taken.partition)
            self._wake.set()

    def waits(self) -> AbstractAsyncContextManager[None]:
        """Give up the concurrency slot while the handler waits for others."""
        return self._slots.waits()

    async def state_at(self, key: str, seq: int) -> Any:
        """Return the state of a key at a seq."""
        return await self.states.at(key, seq)

    async def append_now(self, prepared: Prepared, dedupe: bool) -> Event[Any]:
        """Store an event at once, not with the commit."""
        return (await self.spine.publisher.append([prepared]))[0]

    async def write_now(self, taken: Taken, writes: tuple[Write, ...]) -> None:
        """Write at once, if the lease still holds."""
        if not self._is_ours(taken):
            raise LeaseLost(f"partition {taken.partition} of {self.name} has another holder")
        lease = self.server.keys.lease(self.name, taken.partition)
        await self._committer.commit(lease=lease, generation=taken.generation, writes=writes)

    # --- committing ---

    def commit(self, taken: Taken, events: list[Prepared], writes: tuple[Write, ...], *, parks: bool = False) -> None:
        """Commit the end of an event: it leaves the group or the waiting list, with everything it did."""
        holds = self._held.writes(taken.partition)
        extra: list[Write] = []
        if taken.suspect:
            crashes = self.server.keys.crashes(self.name, taken.partition)
            extra.append(Write("HDEL", crashes, "hash", (taken.event.seq,)))
        if parks:
            hold = self.next_hold(taken)
            hold.until_ms, hold.reason = 2**53, "parked"
            extra.append(holds.set(taken.order_key, hold))
            self._begin_hold(taken, hold)
        elif taken.source == "waiting":
            extra.append(holds.release(taken.order_key))
        self._submit(taken, events, (*writes, *extra), held_as(taken, self.name, holds), parks=parks)

    def hold(self, taken: Taken, hold: Hold, writes: tuple[Write, ...]) -> None:
        """Commit that the key of `taken` is held, the event at the head of its waiting list."""
        holds = self._held.writes(taken.partition)
        keep = [holds.set(taken.order_key, hold)]
        held = held_as(taken, self.name, holds)
        if taken.source == "pending":
            keep.append(holds.to_front(taken.order_key, taken.reference))
        else:
            held = msgspec.structs.replace(held, kind="none")
        self._begin_hold(taken, hold)
        self._submit(taken, [], (*writes, *keep), held, parks=True)

    def next_hold(self, taken: Taken) -> Hold:
        """Return a copy of the hold of the event's key to change."""
        known = self._held.get(taken.order_key)
        if known is None:
            return Hold()
        hold = known.hold
        return Hold(attempts=dict(hold.attempts), redriven=list(hold.redriven))

    def _begin_hold(self, taken: Taken, hold: Hold) -> None:
        """Hold the key here, and move its events in hand to the waiting list."""
        self._held.hold(taken.order_key, taken.partition, hold)
        for one in self.hand.withdraw(taken.order_key):
            if one.source == "pending":
                self._move_to_waiting(one)
            else:
                self._mine.discard(one.event.seq)

    def _move_to_waiting(self, one: Taken) -> None:
        held = self._held.get(one.order_key)
        if held is not None:
            held.moving += 1
        holds = self._held.writes(one.partition)
        self._passing += 1
        self._commit_unit(
            one, [], holds.to_back(one.order_key, one.reference), held_as(one, self.name, holds), self._moved
        )

    def _moved(self, unit: Unit, stored: list[Event[Any]] | None, error: BaseException | None) -> None:
        held = self._held.get(unit.tag.order_key)
        if held is not None:
            held.moving -= 1
        self._passed(unit, stored, error)

    def _passed(self, unit: Unit, stored: list[Event[Any]] | None, error: BaseException | None) -> None:
        """Book that an event went on without being handled here."""
        self._passing -= 1
        self._settled(unit.tag, error, None)

    def _submit(
        self, taken: Taken, events: list[Prepared], writes: tuple[Write, ...], held: Any, *, parks: bool
    ) -> None:
        self._commit_unit(taken, events, writes, held, self._parked if parks else self._resolved)

    def _resolved(self, unit: Unit, stored: list[Event[Any]] | None, error: BaseException | None) -> None:
        self._parked(unit, stored, error)
        if error is None or isinstance(error, NoLongerPending | LeaseLost):
            self._held.finished(unit.tag)

    def _parked(self, unit: Unit, stored: list[Event[Any]] | None, error: BaseException | None) -> None:
        self._settled(unit.tag, error, unit)
        if error is None or isinstance(error, NoLongerPending | LeaseLost):
            self.hand.finished(unit.tag)

    def _commit_unit(
        self, taken: Taken, events: list[Prepared], writes: tuple[Write, ...], held: Held, resolve: Resolve
    ) -> None:
        partition = self.partitions.get(taken.partition)
        self._in_flight[taken.partition] = self._in_flight.get(taken.partition, 0) + 1
        self._committer.submit(
            Unit(
                resolve=resolve,
                tag=taken,
                lease=self.server.keys.lease(self.name, taken.partition) if partition is None else partition.lease.key,
                generation=taken.generation,
                held=held,
                events=events,
                writes=writes,
            )
        )

    def _settled(self, taken: Taken, error: BaseException | None, unit: Unit | None) -> None:
        """Book the end of a commit: it is stored, refused for good, or tried again."""
        if error is None or isinstance(error, NoLongerPending | LeaseLost) or unit is None:
            self._in_flight[taken.partition] -= 1
            self._left(taken)
        if error is None:
            return
        if isinstance(error, LeaseLost):
            if self._is_ours(taken):
                self.lose(self.partitions[taken.partition].lease)
        elif isinstance(error, NoLongerPending):
            logger.warning("%s: event %d was acknowledged elsewhere: %s", self.name, taken.event.seq, error)
            self.states.forget(taken.event.key)
            partition = self.partitions.get(taken.partition)
            if partition is not None and not partition.draining:
                self._reopen(partition)
        elif unit is not None:
            logger.error("%s: event %d is handled but not committed, again soon: %s", self.name, taken.event.seq, error)
            asyncio.get_running_loop().call_later(RETRY_COMMIT_S, self._committer.submit, unit)
        elif (partition := self.partitions.get(taken.partition)) is not None:
            self._set_aside(partition, error)

    def _go_on(self) -> None:
        self._slots.wake()
        runs_dry = self.hand.size <= self.agent.prefetch // 2 or not self.hand.has_ready()
        if runs_dry and any(p.has_news for p in self.partitions.values()):
            self._wake.set()
        if self._recover:
            self._wake.set()
        if self.stopping or any(partition.draining for partition in self.partitions.values()):
            self.changed.set()

    def _acknowledge(self, one: Taken) -> None:
        holds = self._held.writes(one.partition)
        self._passing += 1
        self._commit_unit(one, [], (), held_as(one, self.name, holds), self._passed)

    def _bury_damaged(
        self, entry: Any, topic: str, partition: Partition, number: int, stream: str, error: DecodeError
    ) -> None:
        """Put an entry that is no event among the dead letters."""
        entry_id = entry[0].decode()
        letter = DeadLetter(
            agent=self.name,
            seq=int(entry_id.partition("-")[0]),
            type="",
            topic=topic,
            key="",
            correlation="",
            partition=partition.number,
            stream=number,
            error_type=type(error).__name__,
            error=str(error),
            traceback="",
            attempts=0,
            worker=self.worker,
            ts_ms=self.server.now_ms(),
            entry_id=entry_id,
        )
        logger.error("%s: %s", self.name, error)
        done = Done(self.worker, self.server.now_ms(), 0.0, 0, "damaged")
        writes = [letter.write(self.server.keys)]
        if entry_id.endswith("-0"):
            writes.append(done.write(self.server.keys, self.name, partition.number, letter.seq))

        def resolved(unit: Unit, stored: list[Event[Any]] | None, error: BaseException | None) -> None:
            self._passing -= 1
            if error is not None and not isinstance(error, NoLongerPending | LeaseLost):
                self._set_aside(partition, error)

        self._passing += 1
        self._committer.submit(
            Unit(
                resolve=resolved,
                lease=partition.lease.key,
                generation=partition.lease.generation,
                held=Held("pending", stream, entry_id, self.name),
                writes=writes,
            )
        )

    async def stop_running(self) -> None:
        """Cancel every handler; their events stay where they are."""
        for running in list(self._running.values()):
            running.cancel("stop")
        await asyncio.sleep(0)


def _report(what: str, error: BaseException, failures: int) -> None:
    """Report a server that is away once, and anything unexpected each time, with its traceback."""
    if not isinstance(error, SpineError | RedisError | OSError):
        logger.exception("%s", what, exc_info=error)
    elif failures == 1:
        logger.warning("%s: %s", what, error)
    else:
        logger.debug("%s: %s", what, error)


def _pause_s(failures: int) -> float:
    return float(min(0.05 * 2 ** min(failures, 10), 1.0))
