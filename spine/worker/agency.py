"""One agent in one worker process: its partitions, its handlers at work, and what these need of their surroundings."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spine.agent import Agent, HandlerSpec
from spine.delivery.hand import Hand, Taken
from spine.delivery.leases import Lease, Leases
from spine.delivery.partition import Partition
from spine.delivery.states import States
from spine.errors import LeaseLost, SpineError
from spine.events import Event, Priority
from spine.handling import Handling
from spine.log.drafts import Drafts, Prepared, Write
from spine.worker.attempt import Attempt, Running
from spine.worker.held import HeldKeys
from spine.worker.intake import Intake
from spine.worker.limits import Limits
from spine.worker.outcomes import Outcomes
from spine.worker.preempting import Preempting
from spine.worker.sessions import Sessions
from spine.worker.slots import Slots
from spine.worker.waiting import WaitingLists

if TYPE_CHECKING:
    from spine.client import Spine

logger = logging.getLogger("spine")

PUT_OFF_S = 0.5


class Agency:
    """Serves one agent in this process; `spine.worker.process.Worker` holds one for each agent.

    Attributes:
        name: of the agent.
        worker: id of this worker.
        partitions: those held, by number.
        hand: the events in hand.
        intake: takes them.
        outcomes: commits what becomes of them.
        held: the held keys.
        paused: nothing is taken and nothing begins.
        stopping: the same, for good.
        waiting: handlers that wait for others, and so have given up their slot.
        changed: set when something ended that a hand-over may wait for.
        on_drained: called when a partition that is being handed over has nothing left.
    """

    def __init__(self, spine: Spine, agent: type[Agent[Any]], worker: str, leases: Leases, concurrency: int) -> None:
        self.agent = agent
        self.name = agent.name
        self.version = agent.version
        self.worker = worker
        self.concurrency = concurrency
        self.spine = spine
        self.server = spine.server
        self.requests = spine.requests
        self.catalog = spine.catalog if agent.catalog is None else agent.catalog
        self.drafts = Drafts(self.server.keys, agent.name, self.server.partitions, spine.drafts.max_bytes, self.catalog)
        self.states = States(spine.reader, agent)
        self.sessions = Sessions(self)
        self.hand = Hand(agent.ageing_s, ordered=agent.ordering == "key")
        self.partitions: dict[int, Partition] = {}
        self.paused = False
        self.stopping = False
        self.changed = asyncio.Event()
        self.on_drained: Callable[[], None] = lambda: None
        self.waiting = 0
        self.intake = Intake(self)
        self.outcomes = Outcomes(self, self._go_on)
        self.held = HeldKeys(
            self.server, spine.reader, agent.name, WaitingLists(self).admit, self.hand.is_busy_with, self.spawn
        )
        self.limits = Limits(self.server, agent, worker)
        self._leases = leases
        self._instance = agent()
        self._handlers: dict[str, HandlerSpec | None] = {}
        # More than may be at work over all workers would only stand in the way of those that come back from waiting.
        at_once = min(concurrency, agent.concurrency or concurrency)
        self._slots = Slots(at_once, self._next_work, self.hand.has_ready, f"spine-{agent.name}")
        self._running: dict[int, Running] = {}
        self._preempting = Preempting(agent, self.hand, self._slots, self._running, self.limits)
        self._cancelled: dict[str, int] = {}
        self._suspects = asyncio.Lock()
        self._alone_now = 0
        self._background: set[asyncio.Task[Any]] = set()

    # --- life ---

    def begin(self) -> None:
        """Start taking."""
        self.spawn(self.intake.run(), f"spine-take-{self.name}")

    async def close(self) -> None:
        """Stop at once; what runs is cancelled and stays where it is."""
        self.stopping = True
        await self._slots.close()
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.limits.close()
        await self.outcomes.close()
        if "threads" in self.__dict__:
            self.threads.shutdown(wait=False, cancel_futures=True)

    async def stop_running(self) -> None:
        """Cancel every handler; their events stay where they are."""
        for running in list(self._running.values()):
            running.cancel("stop")
        await asyncio.sleep(0)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a background task that ends with the agency."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    @property
    def rests(self) -> bool:
        """Tell whether nothing may be taken or begin now."""
        return self.paused or self.stopping

    @property
    def is_busy(self) -> bool:
        """Tell whether a handler is at work."""
        return bool(self._running)

    def resume(self) -> None:
        """The agent is not paused any more."""
        self._slots.wake()
        self.intake.wake()

    # --- partitions ---

    def acquired(self, lease: Lease) -> None:
        """Begin with a partition: what an earlier holder left comes first."""
        self.states.forget_partition(lease.partition)  # another worker may have held it since they were loaded
        self.partitions[lease.partition] = self.intake.acquired(lease)

    def drain(self, number: int) -> None:
        """Take nothing more of a partition; what has not begun stays with the group."""
        partition = self.partitions[number]
        partition.draining = True
        self.intake.drop(partition)

    def undrain(self, number: int) -> None:
        """Go on with a partition after all."""
        partition = self.partitions.get(number)
        if partition is not None and partition.draining:
            partition.draining = False
            self.intake.reopen(partition)

    def is_drained(self, number: int) -> bool:
        """Tell whether nothing of a partition is running or on its way to be committed."""
        return not self.outcomes.in_flight(number) and not self.hand.running(number)

    def lose(self, lease: Lease) -> None:
        """Another worker has this partition: stop what runs, forget what waits."""
        partition = self.partitions.get(lease.partition)
        if partition is None or partition.lease is not lease:
            return
        logger.warning("%s lost partition %d to another worker", self.name, lease.partition)
        del self.partitions[lease.partition]
        self._leases.forget(lease)
        self.intake.drop(partition)
        self.states.forget_partition(lease.partition)
        for running in list(self._running.values()):
            if running.taken.partition == lease.partition:
                running.cancel("lease")
        self.changed.set()

    def gave_back(self, number: int) -> None:
        """A drained partition was released; what was held last while it was drained is the next holder's business."""
        self.partitions.pop(number, None)
        self.held.drop_partition(number)
        self.states.forget_partition(number)

    def surely_holds(self, partition: Partition) -> bool:
        """Tell whether no other worker can have a partition now, without asking the server."""
        return self._leases.lasts(partition.lease)

    def is_ours(self, taken: Taken) -> bool:
        """Tell whether the lease that an event was taken under is still held."""
        partition = self.partitions.get(taken.partition)
        return partition is not None and partition.lease.generation == taken.generation

    def busy(self) -> dict[int, int]:
        """Return how many handlers run in each partition."""
        counts: dict[int, int] = {}
        for taken in self.hand.running():
            counts[taken.partition] = counts.get(taken.partition, 0) + 1
        return counts

    def rung(self, number: int, rings: list[Any] | None) -> None:
        """A bell rang (or may have)."""
        partition = self.partitions.get(number)
        if partition is None:
            return
        if rings is None:
            partition.look_everywhere()
        elif not partition.hear(rings):
            return
        self.intake.wake()

    def reload_holds(self, number: int) -> None:
        """Somebody changed holds of a partition from outside (a redrive): read them again."""
        partition = self.partitions.get(number)
        if partition is not None and not partition.draining:
            self.intake.reopen(partition)

    # --- running ---

    def look_for_work(self) -> None:
        """Something in hand may be ready to run."""
        self._slots.wake()
        self._preempting.look()

    def _go_on(self) -> None:
        """Some events were committed."""
        self.look_for_work()
        self.intake.go_on()
        self._look_for_drained()

    def _look_for_drained(self) -> None:
        draining = [partition.number for partition in self.partitions.values() if partition.draining]
        if draining:
            self.changed.set()
            if any(self.is_drained(number) for number in draining):
                self.on_drained()

    def _next_work(self, task: asyncio.Task[Any]) -> Awaitable[None] | None:
        if self.rests:
            return None
        taken = self.hand.next_ready(time.monotonic())
        if taken is None:
            return None
        attempt = Attempt(self, taken, task)
        return self._alone(attempt) if taken.deaths else attempt.run()

    async def _alone(self, attempt: Attempt) -> None:
        """Events that were at work when a worker died run one at a time, so that the killer is found.

        The next one waits until this one is committed: it would take it along when it kills the worker.
        """
        if self._suspects.locked():
            async with self._slots.waits():
                await self._suspects.acquire()
        else:
            await self._suspects.acquire()
        self._alone_now = attempt.taken.event.seq
        try:
            await attempt.run()
        finally:
            if not self.hand.runs(attempt.taken):
                self.not_alone(attempt.taken)

    def not_alone(self, taken: Taken) -> None:
        """Let the next event run that was at work when a worker died, if it waits for `taken`."""
        if self._alone_now == taken.event.seq:
            self._alone_now = 0
            self._suspects.release()

    async def prepare(self, taken: list[Taken]) -> None:
        """Load states and sessions of what was taken, in bulk."""
        events = [one.event for one in taken]
        if self.states.kept and events:
            await self.states.load(events)
        await self.sessions.prepare(taken)

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

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """The threads that plain ``def`` handlers run in."""
        return ThreadPoolExecutor(self.concurrency, f"spine-{self.name}")

    def overtakes(self, taken: Taken) -> bool:
        """Tell whether earlier events of its key may be unhandled when `taken` runs."""
        return (
            taken.redriven
            or any(lane > taken.lane for lane in self.intake.lanes)
            or taken.order_key in self.held
            or self.agent.ordering == "none"
        )

    def is_cancelled(self, event: Event[Any]) -> bool:
        """Tell whether the correlation of an event was cancelled after it was stored."""
        return bool(self._cancelled) and event.seq <= self._cancelled.get(event.context.correlation, 0)

    def set_cancelled(self, cancelled: dict[str, int]) -> None:
        """Take over which correlations are cancelled; running handlers of these end."""
        self._cancelled = cancelled
        for running in list(self._running.values()):
            if self.is_cancelled(running.taken.event):
                running.cancel("cancelled")

    def may_begin(self, taken: Taken) -> bool:
        """Tell whether an event that was chosen to run still may: not before it is known again which keys are held."""
        partition = self.partitions.get(taken.partition)
        if partition is None or self.rests or not self.is_ours(taken):
            return False
        return partition.opened and not partition.draining and not self._has_to_wait(taken)

    def _has_to_wait(self, taken: Taken) -> bool:
        """Tell whether the key of an event came to be held after it was taken; only what is urgent passes a hold."""
        return taken.source == "pending" and taken.lane != Priority.URGENT and taken.order_key in self.held

    def start(self, taken: Taken, spec: HandlerSpec, task: asyncio.Task[Any]) -> Running:
        """Note that a handler begins in `task`."""
        running = Running(taken, task, time.monotonic(), spec.preemptible)
        self._running[taken.event.seq] = running
        return running

    def stopped(self, running: Running) -> None:
        """Note that a handler ended."""
        self._running.pop(running.taken.event.seq, None)

    def interrupted(self, taken: Taken) -> None:
        """A handler was cut off without fault of its own: its event is at its old place, is taken again, or is lost."""
        taken.interrupted = True
        taken.event = taken.as_stored()  # what its handler did to the payload is no business of the next run
        self.not_alone(taken)
        if taken.counted and self.is_ours(taken):
            self.outcomes.uncount(taken)
        partition = self.partitions.get(taken.partition)
        if partition is None or not self.is_ours(taken) or partition.draining or self.stopping:
            self.hand.finished(taken)
            self.intake.left(taken)
            self.intake.go_on()  # its partition may have come back, and waits for what still runs of before
            self._look_for_drained()
        elif not partition.opened:
            self.hand.finished(taken)
            self.intake.take_again(taken)
        elif self._has_to_wait(taken):
            self.hand.finished(taken)
            self.intake.stash.add(taken)
            self.intake.place_stashed(taken.partition)
            self.held.finished(taken.order_key)
        else:
            self.hand.put_back(taken)
            self.look_for_work()

    def put_off(self, taken: Taken, error: Exception) -> None:
        """An event could not even be tried, the server being away: it is tried again in a moment."""
        logger.warning("%s: event %d is put off: %s", self.name, taken.event.seq, error, exc_info=_unexpected(error))
        asyncio.get_running_loop().call_later(PUT_OFF_S, self.interrupted, taken)

    # --- what a handler needs ---

    def release_slot(self, taken: Taken) -> None:
        """Give up the concurrency slot: the handler waits for others, and none of them may have to wait for it."""
        self.waiting += 1
        running = self._running.get(taken.event.seq)
        if running is not None:
            running.waits = True
        self.not_alone(taken)
        self.limits.leave(taken.event.seq)
        self._slots.release()
        self.intake.go_on()

    async def regain_slot(self, taken: Taken) -> None:
        """Return when the handler has a slot again; at once when it is being cancelled."""
        self.waiting -= 1
        running = self._running.get(taken.event.seq)
        ends = running is None or running.reason is not None
        await self._slots.regain(at_once=ends)
        if self.agent.concurrency is not None and not ends:
            await self.limits.come_back(taken.event.seq)
        if running is not None:
            running.waits = False
            self._preempting.look()

    async def state_at(self, key: str, seq: int) -> Any:
        """Return the state of a key at a seq."""
        return await self.states.at(key, seq)

    async def append_now(self, prepared: Prepared, dedupe: bool) -> Event[Any]:
        """Store an event at once, not with the commit."""
        return (await self.spine.publisher.append([prepared]))[0]

    async def write_now(self, taken: Taken, writes: tuple[Write, ...]) -> None:
        """Write at once, if the lease still holds."""
        if not self.is_ours(taken):
            raise LeaseLost(f"partition {taken.partition} of {self.name} has another holder")
        await self.outcomes.write_now(taken, writes)


def _unexpected(error: Exception) -> Exception | None:
    return None if isinstance(error, SpineError) else error
