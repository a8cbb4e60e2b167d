"""The events in hand of one worker, and which of them may run: order per key, urgent first.

Pure bookkeeping, no Redis. An event may run when no event of its key is running, none of its key in the same or a more
urgent lane comes before it, and every stream that could still bring such a one has been read past it (the bound).
"""

from __future__ import annotations

import itertools
from heapq import heapify, heappop, heappush
from typing import Any, Literal

import msgspec

from spine.events import Event, Priority
from spine.log.streams import LANES


class Taken(msgspec.Struct, gc=False, kw_only=True):
    """One event that this worker holds.

    Attributes:
        event: the event.
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
        suspect: a worker died while it was in hand.
        deaths: how many of these deaths it was at work at, as far as is known.
        counted: that it is at work is written down.
        interrupted: a run of it was cancelled without counting as an attempt.
        taken_at: when it came to hand (monotonic seconds).
        size: bytes of its entry.
    """

    event: Event[Any]
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
    suspect: bool = False
    deaths: int = 0
    counted: bool = False
    interrupted: bool = False
    taken_at: float = 0.0
    size: int = 0

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
        ageing_s: an event of a less urgent lane that could run for this long goes before more urgent ones.

    Attributes:
        size: how many events.
        bytes: of their entries.
    """

    def __init__(self, ageing_s: float = 5.0) -> None:
        self.ageing_s = ageing_s
        self.size = 0
        self.bytes = 0
        self._keys: dict[str, _KeyQueue] = {}
        self._ready: list[list[_Offered]] = [[] for _ in LANES]
        self._beyond: dict[int, list[list[_Offered]]] = {}
        self._bounds: dict[int, list[int]] = {}
        self._count = itertools.count()

    def add(self, taken: Taken) -> None:
        """Take an event into hand."""
        queue = self._keys.get(taken.order_key)
        if queue is None:
            queue = self._keys[taken.order_key] = _KeyQueue([])
        heappush(queue.waiting, (taken.lane, taken.order, next(self._count), taken))
        self.size += 1
        self.bytes += taken.size
        if queue.running is None and queue.waiting[0][3] is taken:
            self._offer(taken)

    def set_bounds(self, partition: int, bounds: list[int]) -> None:
        """Say up to which seq every stream that may overtake has been read, for each lane of a partition."""
        self._bounds[partition] = bounds
        for lane, beyond in enumerate(self._beyond.get(partition, ())):
            while beyond and beyond[0][0] <= bounds[lane]:
                offered = heappop(beyond)
                if self._is_head(offered[2]):
                    heappush(self._ready[lane], offered)

    def next_ready(self, now: float) -> Taken | None:
        """Return the next event to run, ``None`` when none may; its key is running until `finished`."""
        for lane in self._lanes_by_need(now):
            ready = self._ready[lane]
            while ready:
                taken = heappop(ready)[2]
                if self._is_head(taken):
                    queue = self._keys[taken.order_key]
                    heappop(queue.waiting)
                    queue.running = taken
                    return taken
        return None

    def has_ready(self) -> bool:
        """Tell whether an event could run now."""
        return any(self._head_of(ready) is not None for ready in self._ready)

    def urgent_ready(self) -> bool:
        """Tell whether an urgent event could run now."""
        return self._head_of(self._ready[Priority.URGENT]) is not None

    def finished(self, taken: Taken) -> None:
        """The event is handled: the next of its key may run."""
        queue = self._keys.get(taken.order_key)
        if queue is None or queue.running is not taken:
            return
        queue.running = None
        self.size -= 1
        self.bytes -= taken.size
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

    def is_running(self, order_key: str) -> bool:
        """Tell whether an event of a key runs."""
        queue = self._keys.get(order_key)
        return queue is not None and queue.running is not None

    def _forget(self, gone: list[Taken]) -> None:
        self.size -= len(gone)
        self.bytes -= sum(taken.size for taken in gone)

    def _go_on(self, order_key: str, queue: _KeyQueue) -> None:
        if queue.waiting:
            self._offer(queue.waiting[0][3])
        elif queue.running is None:
            self._keys.pop(order_key, None)

    def _offer(self, taken: Taken) -> None:
        bounds = self._bounds.get(taken.partition)
        offered = (taken.order, next(self._count), taken)
        if taken.source == "waiting" or (bounds is not None and taken.order <= bounds[taken.lane]):
            heappush(self._ready[taken.lane], offered)
        else:
            beyond = self._beyond.setdefault(taken.partition, [[] for _ in LANES])
            heappush(beyond[taken.lane], offered)

    def _is_head(self, taken: Taken) -> bool:
        queue = self._keys.get(taken.order_key)
        return queue is not None and queue.running is None and bool(queue.waiting) and queue.waiting[0][3] is taken

    def _head_of(self, ready: list[_Offered]) -> Taken | None:
        while ready:
            if self._is_head(ready[0][2]):
                return ready[0][2]
            heappop(ready)
        return None

    def _lanes_by_need(self, now: float) -> tuple[int, ...]:
        """Return the lanes in the order to look in: the most urgent first, but one that waited too long before."""
        for lane in reversed(LANES[1:]):
            head = self._head_of(self._ready[lane])
            if head is not None and now - head.taken_at > self.ageing_s:
                return (lane, *(other for other in LANES if other != lane))
        return LANES
