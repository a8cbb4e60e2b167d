"""Entries: what those of a stream are to the worker that took them."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from spine.codec import decode_entry
from spine.connection import Argument
from spine.delivery.hand import Taken
from spine.delivery.holds import Listed
from spine.delivery.partition import Partition, Read
from spine.errors import DecodeError
from spine.log.streams import Stream

if TYPE_CHECKING:
    from spine.worker.agency import Agency


class Entries:
    """Makes of entries what one agency has in hand."""

    def __init__(self, agency: Agency) -> None:
        self._agency = agency
        self._stored = (datetime.min, 0.0)

    def taken(self, stream: Stream, entry: Any, partition: Partition, key: str) -> Taken:
        """Return the event of one entry of a stream, or raise `DecodeError`."""
        if entry is None or entry[1] is None:
            raise DecodeError(f"an event of {stream.topic} was trimmed away before it was handled")
        event = decode_entry(stream.topic, entry)
        return Taken(
            event=event,
            raw=entry[1][1],
            order_key=event.key if self._agency.agent.ordering == "key" else f"{event.seq}",
            order=event.seq,
            partition=partition.number,
            generation=partition.lease.generation,
            lane=stream.lane,
            stream=key,
            number=stream.number,
            since=self._since(event.ts),
            size=len(entry[1][1]),
        )

    def _since(self, ts: datetime) -> float:
        """Return when an event was stored, in monotonic seconds; many share their time."""
        if ts is not self._stored[0]:
            now = time.monotonic()
            self._stored = (ts, min(now, now - self._agency.server.now_ms() / 1000 + ts.timestamp()))
        return self._stored[1]

    async def handled_before(self, taken: list[Taken], read: Read, partition: Partition) -> set[int]:
        """Return the seqs that are done or stand in a waiting list: a group that was made anew gives all again."""
        server, held = self._agency.server, self._agency.held
        asked = [one for one in taken if one.event.seq <= read.recheck]
        keys = sorted({one.order_key for one in asked if one.order_key in held})
        writes = held.writes(partition.number)
        commands: list[tuple[Argument, ...]] = [("LRANGE", writes.waiting(key), 0, -1) for key in keys]
        commands += [
            ("HEXISTS", server.keys.done(self._agency.name, partition.number, one.event.seq), one.event.seq)
            for one in asked
        ]
        replies = await server.commands(*commands)
        done = {one.event.seq for one, found in zip(asked, replies[len(keys) :], strict=True) if found}
        return done.union(*({Listed.parse(raw).seq for raw in listed} for listed in replies[: len(keys)]))
