"""Suspects: what was in hand when a worker died, of which one event may be the reason."""

from __future__ import annotations

from typing import Any

from spine.connection import Server
from spine.delivery.hand import Taken


class Suspects:
    """The suspects of one partition.

    An event is one until a worker that lives has committed it, however often the partition changes hands meanwhile.

    Attributes:
        cut_off: what is pending and not in hand was in hand when a worker died.
    """

    def __init__(self, *, cut_off: bool) -> None:
        self.cut_off = cut_off
        self._deaths: dict[int, int] = {}
        self._in_hand: set[int] = set()

    async def load(self, server: Server, agent: str, partition: int) -> None:
        """Read at how many deaths each event was at work."""
        raw: list[Any] = await server.command("HGETALL", server.keys.crashes(agent, partition))
        self._deaths = {int(raw[i]): int(raw[i + 1]) for i in range(0, len(raw), 2)}

    def look_at(self, taken: Taken, *, cut_off: bool) -> None:
        """Note on an event that comes to hand what is known against it; `cut_off` says that it was in a dead one's."""
        taken.deaths = self._deaths.get(taken.event.seq, 0)
        taken.suspect = cut_off or taken.deaths > 0
        if taken.suspect:
            self._in_hand.add(taken.event.seq)

    def acquit(self, taken: Taken) -> None:
        """A worker that lives has handled it."""
        self._in_hand.discard(taken.event.seq)
        self._deaths.pop(taken.event.seq, None)

    def drop(self, *, others: bool) -> None:
        """What is in hand leaves it unhandled; `others` says that there are suspects that never came to hand."""
        self.cut_off = self.cut_off or others or bool(self._in_hand)
        self._in_hand.clear()
