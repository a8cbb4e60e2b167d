"""Events of held keys that may not go to the waiting list yet: a stream that is behind may hold earlier ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from heapq import heappop, heappush

from spine.delivery.hand import Taken
from spine.log.streams import LANES


class Stash:
    """Keeps such events by partition and lane, in seq order.

    Attributes:
        sizes: how many of each lane.
    """

    def __init__(self) -> None:
        self.sizes = [0 for _ in LANES]
        self._lanes: dict[int, list[list[tuple[int, int, Taken]]]] = {}
        self._count = itertools.count()

    def add(self, taken: Taken) -> None:
        """Keep an event."""
        lanes = self._lanes.setdefault(taken.partition, [[] for _ in LANES])
        heappush(lanes[taken.lane], (taken.order, next(self._count), taken))
        self.sizes[taken.lane] += 1

    def within(self, partition: int, bounds: Sequence[int]) -> list[Taken]:
        """Take out and return the events that nothing earlier can come before any more, in seq order."""
        found: list[Taken] = []
        for lane, waiting in enumerate(self._lanes.get(partition, ())):
            while waiting and waiting[0][0] <= bounds[lane]:
                found.append(heappop(waiting)[2])
                self.sizes[lane] -= 1
        return sorted(found, key=lambda taken: taken.order)

    def drop_partition(self, partition: int) -> list[Taken]:
        """Forget and return what is kept of a partition."""
        dropped = [item[2] for waiting in self._lanes.pop(partition, ()) for item in waiting]
        for taken in dropped:
            self.sizes[taken.lane] -= 1
        return dropped
