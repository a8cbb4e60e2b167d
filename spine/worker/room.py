"""Room: how much more of each lane a worker may take into hand, so that no lane's backlog keeps another one out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spine.delivery.partition import Partition
from spine.log.streams import LANES

if TYPE_CHECKING:
    from spine.worker.agency import Agency

HAND_BYTES = 32 * 1024 * 1024
ROUND = 128
PAGE = 16
BEYOND = 8


class Room:
    """Says how much one agency may take. Each lane has room of its own: `prefetch` events and `HAND_BYTES`."""

    def __init__(self, agency: Agency) -> None:
        self._agency = agency
        self._hand = agency.hand
        self._prefetch = agency.agent.prefetch

    def budgets(self, partitions: Sequence[Partition]) -> list[tuple[Partition, list[int]]]:
        """Return how many events of each lane to take from each partition; those of which nothing is are left out."""
        now = time.monotonic()
        news = [(partition, partition.lanes_with_news) for partition in partitions]
        budgets = []
        for partition, lanes in news:
            budget = [0 for _ in LANES]
            for lane in lanes:
                sharing = sum(1 for _, others in news if lane in others)
                budget[lane] = self._share(self.of(lane), sharing)
            held_back = self._hand.held_back(partition.number, now)
            for lane in lanes:
                if held_back is not None and lane <= held_back and self._may_go_beyond(lane):
                    budget[lane] = max(budget[lane], PAGE)
            if any(budget):
                budgets.append((partition, budget))
        return budgets

    def of(self, lane: int) -> int:
        """Return how many events of `lane` may be taken; none where it is not worth a call."""
        if self._hand.lane_bytes[lane] > HAND_BYTES:
            return 0
        agency = self._agency
        # Handlers that wait for others make room, up to a limit: what they wait for may have to come here.
        room = self._prefetch + min(agency.waiting, self._prefetch)
        room -= self._hand.sizes[lane] + agency.intake.stash.sizes[lane] + agency.outcomes.passing[lane]
        if room < self._prefetch // 2 and self._hand.has_ready(lane):
            return 0
        return max(0, room)

    def _share(self, room: int, sharing: int) -> int:
        if room <= 0:
            return 0
        return max(1, min(room // sharing, max(PAGE, ROUND // sharing)))

    def _may_go_beyond(self, lane: int) -> bool:
        """Tell whether so little is in hand that more may be taken for the sake of one that it holds back."""
        return self._hand.sizes[lane] < BEYOND * self._prefetch and self._hand.lane_bytes[lane] <= HAND_BYTES
