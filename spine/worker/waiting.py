"""Waiting lists: their heads come back to the hand of a worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from spine.delivery.hand import Taken
from spine.delivery.partition import Partition
from spine.errors import DecodeError
from spine.events import Priority
from spine.worker.entries import Entries
from spine.worker.held import HeldKey, Waiting

if TYPE_CHECKING:
    from spine.worker.agency import Agency

FIRST_PLACE = -(2**60)


class WaitingLists:
    """Brings to hand what waited for one agency while its key was held."""

    def __init__(self, agency: Agency) -> None:
        self._agency = agency
        self._entries = Entries(agency)

    async def admit(self, waiting: list[Waiting], partition: Partition, held: HeldKey, key: str) -> None:
        """Take the head of a waiting list into hand, in the order of the list; what cannot be read is given up."""
        taken: list[Taken] = []
        hold = held.hold
        for place, one in enumerate(waiting):
            stream = await self._agency.spine.streams.get(one.listed.stream)
            source = self._agency.spine.streams.key(partition.number, stream)
            try:
                each = self._entries.taken(stream, one.entry, partition, source)
            except DecodeError as error:
                if not taken:
                    self._agency.outcomes.bury_listed(one.listed, error, stream, partition, key)
                break
            each.source, each.listed, each.order_key = "waiting", str(one.listed), key
            each.since = time.monotonic()
            each.lane, each.order = Priority.NORMAL, FIRST_PLACE + place
            each.passing = one.listed.due_ms is not None
            each.attempt = (one.listed.attempts or held.hold.attempts.get(one.listed.seq, 0)) + 1
            each.redriven = one.listed.redriven
            taken.append(each)
        await self._agency.prepare(taken)
        if self._agency.held.get(key) is not held or partition.draining:
            return
        if held.settling or held.hold is not hold:  # one that passed the hold failed meanwhile
            return
        if taken:
            partition.suspects.look_at(taken[0], cut_off=held.suspect)
            held.suspect = False
        for each in taken:
            self._agency.hand.add(each)
        self._agency.look_for_work()
