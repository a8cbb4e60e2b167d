"""The events in hand of one worker, and which of them may run: order per key, urgent first.

Pure bookkeeping, no Redis. An event may run when no event of its key is running, none of its key in the same or a more
urgent lane comes before it, and every stream that could still bring such a one has been read past it (the bound).
"""

from __future__ import annotations

import itertools
from heapq import heapify, heappop, heappush
from typing import Any, Literal

import msgspec

from spine.codec import decode
from spine.events import Event, Priority
from spine.log.streams import LANES

PASSED_BY = 3


class Taken(msgspec.Struct, gc=False, kw_only=True):
    """One event that this worker holds.

    Attributes:
        event: the event; its handler may change its payload.
        raw: how it is stored.
        order_key: what order is kept by: its key, or something unique without order.
        order: place within the key's events of one lane; its seq, or its place in the waiting list.
        partition: its partition.
        generation: fencing token of the lease that it was taken under.
        lane: its lane.
        stream: Redis key of the stream it stands in.
        number: number of that stream.
        source: ``pending`` in the consumer group, or at the head of the key's ``waiting`` list.
        attempt: number of this attempt to handle it, from 1.
        listed: how the waiting list names it, when it stands there.
        redriven: it comes back from the dead letters.
        carried: a ring brought it, and no take: its commit takes it.
        passing: it runs, or failed, although its key is held.
        suspect: a worker died while it was in hand.
        deaths: how many of these deaths it was at work at, as far as is known.
        counted: that it is at work is written down.
        interrupted: a run of it was cancelled without counting as an attempt.
        cut_off: a run of it was cancelled from outside of the worker, or by its handler.
        preempted: how often urgent work took its slot.
        preempted_at: when that was first (monotonic seconds).
        by_age: it had waited so long that it went before more urgent ones.
        since: since when it waits to be handled (monotonic seconds).
        size: bytes of its entry.
    """

    event: Event[Any]
    raw: bytes = b""
    order_key: str
    order: int
    partition: int
    generation: int = 0
    lane: int
    stream: str
    number: int
    source: Literal["pending", "waiting"] = "pending"
    attempt: int = 1
    listed: str = ""
    redriven: bool = False
    carried: bool = False
    passing: bool = False
    suspect: bool = False
    deaths: int = 0
    counted: bool = False
    interrupted: bool = False
    cut_off: bool = False
    preempted: int = 0
    preempted_at: float = 0.0
    by_age: bool = False
    since: float = 0.0
    size: int = 0

    def as_stored(self) -> Event[Any]:
        """Return the event as it is stored, whatever its handler did to it."""
        return decode(self.event.seq, self.event.topic, self.event.ts, self.raw)

    @property
    def reference(self) -> str:
        """How a waiting list names it."""
        return self.listed or f"{self.event.seq}:{self.number}"


# Heaps order by lane and place; the count in between decides among equals, so that no two events are ever compared.
_Waiting = tuple[int, int, int, Taken]
_Offered = tuple[int, int, Taken]


class _KeyQueue(msgspec.Struct):
    waiting: list[_Waiting]
    running: Taken | None = None


class Hand:
    """What one worker of one agent has in hand.

    Args:
        ageing_s: one of a less urgent lane that waits for longer has its turn at the latest when `PASSED_BY` others
            went before it.
        ordered: order is kept by key; without, nothing has to be read before something else may run.

    Attributes:
        sizes: how many events of each lane.
        lane_bytes: of their entries, for each lane.
    """

    def __init__(self, ageing_s: float = 5.0, *, ordered: bool = True) -> None:
        self.ageing_s = ageing_s
        self.sizes = [0 for _ in LANES]
        self.lane_bytes = [0 for _ in LANES]
        self._ordered = ordered
        self._keys: dict[str, _KeyQueue] = {}
        self._ready: list[list[_Offered]] = [[] for _ in LANES]
        self._beyond: dict[int, list[list[_Offered]]] = {}
        self._bounds: dict[int, list[int]] = {}
        self._turns = 0
        self._last_turn = [-PASSED_BY for _ in LANES]
        self._count = itertools.count()

    @property
    def size(self) -> int:
        """How many events."""
        return sum(self.sizes)

    @property
    def bytes(self) -> int:
        """How many bytes their entries have."""
        return sum(self.lane_bytes)

    def add(self, taken: Taken) -> None:
        """Take an event into hand."""
        queue = self._keys.get(taken.order_key)
        if queue is None:
            queue = self._keys[taken.order_key] = _KeyQueue([])
        heappush(queue.waiting, (taken.lane, taken.order, next(self._count), taken))
        self.sizes[taken.lane] += 1
        self.lane_bytes[taken.lane] += taken.size
        if queue.running is None and queue.waiting[0][3] is taken:
            self._offer(taken)

    def set_bounds(self, partition: int, bounds: list[int]) -> None:
        """Say up to which seq every stream that may overtake has been read, for each lane of a partition."""
        self._bounds[partition] = bounds
        for lane, beyond in enumerate(self._beyond.get(partition, ())):
            while beyond and (beyond[0][0] <= bounds[lane] or not self._ordered):
                offered = heappop(beyond)
                if self._is_head(offered[2]):
                    heappush(self._ready[lane], offered)

    def bounds(self, partition: int) -> list[int] | None:
        """Return the bounds of a partition as they were set; ``None`` when they are not known."""
        return self._bounds.get(partition)

    def next_ready(self, now: float) -> Taken | None:
        """Return the next event to run, ``None`` when none may; its key is running until `finished`."""
        lanes = [lane for lane, ready in enumerate(self._ready) if ready and self._head_of(ready) is not None]
        if not lanes:
            return None
        lane = lanes[0] if len(lanes) == 1 else self._next_lane(lanes, now)
        taken = heappop(self._ready[lane])[2]
        if lane != lanes[0]:
            taken.by_age = True
        self._turns += 1
        self._last_turn[lane] = self._turns
        queue = self._keys[taken.order_key]
        heappop(queue.waiting)
        queue.running = taken
        return taken

    def has_ready(self, lane: int | None = None) -> bool:
        """Tell whether an event (of one lane) could run now."""
        lanes = self._ready if lane is None else (self._ready[lane],)
        return any(self._head_of(ready) is not None for ready in lanes)

    def urgent_ready(self, at_most: int) -> int:
        """Return how many urgent events could run now, `at_most` so many."""
        found: set[str] = set()
        for _, _, taken in self._ready[Priority.URGENT]:
            if len(found) >= at_most:
                break
            if self._is_head(taken):
                found.add(taken.order_key)
        return len(found)

    def urgent_behind(self, order_key: str) -> bool:
        """Tell whether an urgent event could run if nothing of its key were running."""
        queue = self._keys.get(order_key)
        if queue is None or not queue.waiting:
            return False
        head = queue.waiting[0][3]
        return head.lane == Priority.URGENT and self.is_within_bounds(head)

    def held_back(self, partition: int, now: float) -> int | None:
        """Return a lane of which nothing may run because too little of the partition was read, ``None`` for none.

        A less urgent one is held back when it waits for longer than `ageing_s`.
        """
        for lane, beyond in enumerate(self._beyond.get(partition, ())):
            head = self._head_of(beyond)
            if head is None or self.has_ready(lane):
                continue
            if lane == Priority.URGENT or self._is_aged(head, now):
                return lane
        return None

    def finished(self, taken: Taken) -> None:
        """The event is handled: the next of its key may run."""
        queue = self._keys.get(taken.order_key)
        if queue is None or queue.running is not taken:
            return
        queue.running = None
        self.sizes[taken.lane] -= 1
        self.lane_bytes[taken.lane] -= taken.size
        self._go_on(taken.order_key, queue)

    def put_back(self, taken: Taken) -> None:
        """The event was interrupted: it is at its old place again."""
        queue = self._keys.get(taken.order_key)
        if queue is None or queue.running is not taken:
            return
        queue.running = None
        heappush(queue.waiting, (taken.lane, taken.order, next(self._count), taken))
        self._go_on(taken.order_key, queue)

    def withdraw(self, order_key: str) -> list[Taken]:
        """Take out and return the events of a key that wait, but for urgent ones; a running one stays."""
        queue = self._keys.get(order_key)
        if queue is None:
            return []
        out = [item for item in sorted(queue.waiting) if item[0] != Priority.URGENT]
        queue.waiting = [item for item in queue.waiting if item[0] == Priority.URGENT]
        heapify(queue.waiting)
        self._forget([item[3] for item in out])
        if queue.running is None:
            self._go_on(order_key, queue)
        return [item[3] for item in out]

    def drop_partition(self, partition: int) -> list[Taken]:
        """Forget and return what waits in a partition; what runs stays until it is finished."""
        dropped: list[Taken] = []
        for order_key, queue in list(self._keys.items()):
            gone = [item[3] for item in queue.waiting if item[3].partition == partition]
            if not gone:
                continue
            dropped += gone
            self._forget(gone)
            queue.waiting = [item for item in queue.waiting if item[3].partition != partition]
            heapify(queue.waiting)
            if not queue.waiting and queue.running is None:
                del self._keys[order_key]
        for ready in self._ready:  # what runs may be put back: it has to be offered anew
            ready[:] = [offered for offered in ready if offered[2].partition != partition]
            heapify(ready)
        self._beyond.pop(partition, None)
        self._bounds.pop(partition, None)
        return dropped

    def running(self, partition: int | None = None) -> list[Taken]:
        """Return what runs now (in one partition)."""
        return [
            queue.running
            for queue in self._keys.values()
            if queue.running is not None and partition in (None, queue.running.partition)
        ]

    def runs(self, taken: Taken) -> bool:
        """Tell whether `taken` runs."""
        queue = self._keys.get(taken.order_key)
        return queue is not None and queue.running is taken

    def is_running(self, order_key: str) -> bool:
        """Tell whether an event of a key runs."""
        queue = self._keys.get(order_key)
        return queue is not None and queue.running is not None

    def is_busy_with(self, order_key: str) -> bool:
        """Tell whether an event of a key runs, or events of its waiting list are in hand."""
        queue = self._keys.get(order_key)
        if queue is None:
            return False
        return queue.running is not None or any(item[3].source == "waiting" for item in queue.waiting)

    def _forget(self, gone: list[Taken]) -> None:
        for taken in gone:
            self.sizes[taken.lane] -= 1
            self.lane_bytes[taken.lane] -= taken.size

    def _go_on(self, order_key: str, queue: _KeyQueue) -> None:
        if queue.waiting:
            self._offer(queue.waiting[0][3])
        elif queue.running is None:
            self._keys.pop(order_key, None)

    def _offer(self, taken: Taken) -> None:
        offered = (taken.order, next(self._count), taken)
        if self.is_within_bounds(taken):
            heappush(self._ready[taken.lane], offered)
        else:
            beyond = self._beyond.get(taken.partition)
            if beyond is None:
                beyond = self._beyond[taken.partition] = [[] for _ in LANES]
            heappush(beyond[taken.lane], offered)

    def is_within_bounds(self, taken: Taken) -> bool:
        """Tell whether everything that may come before `taken` has been read."""
        if taken.source == "waiting":
            return True
        bounds = self._bounds.get(taken.partition)
        return bounds is not None and (taken.order <= bounds[taken.lane] or not self._ordered)

    def _is_head(self, taken: Taken) -> bool:
        queue = self._keys.get(taken.order_key)
        return queue is not None and queue.running is None and bool(queue.waiting) and queue.waiting[0][3] is taken

    def _head_of(self, ready: list[_Offered]) -> Taken | None:
        while ready:
            if self._is_head(ready[0][2]):
                return ready[0][2]
            heappop(ready)
        return None

    def _next_lane(self, lanes: list[int], now: float) -> int:
        """Return the lane whose turn it is: the most urgent, but not always where another waits for too long."""
        for lane in reversed(lanes):
            passed_by = self._turns - self._last_turn[lane]
            if lane != Priority.URGENT and passed_by >= PASSED_BY and self._is_aged(self._ready[lane][0][2], now):
                return lane
        return lanes[0]

    def _is_aged(self, taken: Taken, now: float) -> bool:
        return now - taken.since > self.ageing_s
