"""Reading the log in seq order, over any number of topics and partitions, in constant memory.

Numbers are unique, so a window of n numbers holds at most n events whatever the number of streams: each window is read
from all its streams in one round trip and merged by seq. One key or correlation is read by its index instead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from spine.codec import decode_entry
from spine.connection import Argument, Server
from spine.errors import DecodeError
from spine.events import Event
from spine.keys import partition_of
from spine.log.streams import Stream, Streams
from spine.names import matcher

logger = logging.getLogger("spine")

WINDOW = 2_048
WINDOW_BYTES = 8 * 1024 * 1024
INDEX_CHUNK = 500
INDEX_PAGE = 10_000

Entry = tuple[int, str, Any]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to read.

    Attributes:
        types: types or patterns; empty for all.
        key: one key only.
        correlation: one correlation only.
        streams: only these (partition, stream number); ``None`` for all that may hold a wanted type.
    """

    types: tuple[str, ...] = ()
    key: str | None = None
    correlation: str | None = None
    streams: frozenset[tuple[int, int]] | None = None

    def accepts(self) -> Callable[[Event[Any]], bool]:
        """Return the test that an event has to pass after it was read."""
        matches = matcher(self.types)
        key, correlation, types = self.key, self.correlation, self.types

        def test(event: Event[Any]) -> bool:
            if types and not matches(event.type):
                return False
            if key is not None and event.key != key:
                return False
            return correlation is None or event.context.correlation == correlation

        return test


class Extent(msgspec.Struct, gc=False):
    """The first and last seq of one stream of one partition."""

    key: str
    topic: str
    first: int
    last: int


class Reader:
    """Reads the log of one namespace."""

    def __init__(self, server: Server, streams: Streams) -> None:
        self._server = server
        self._streams = streams

    async def head(self) -> int:
        """Return the last number given: everything up to it is in the log."""
        value = await self._server.command("GET", self._server.keys.seq)
        head = int(value or 0)
        self._server.highest_seen = max(self._server.highest_seen, head)
        return head

    async def last_before(self, ts_ms: int) -> int:
        """Return the seq of the last event stored before `ts_ms`; 0 when there is none.

        Times never decrease with seq: the boundary is found by bisection over the numbers.
        """
        extents = await self.extents(Selection())
        low, high = 0, max((extent.last for extent in extents), default=0)
        while low < high:
            middle = (low + high + 1) // 2
            found = await self._previous_entry(extents, middle)
            if found is None or int(found[1][0]) < ts_ms:
                low = middle
            else:
                high = _seq(found) - 1
        return low

    async def _previous_entry(self, extents: list[Extent], seq: int) -> Any:
        behind = [extent for extent in extents if extent.first <= seq]
        replies = await self._server.commands(
            *(("XREVRANGE", extent.key, f"{seq}-0", "-", "COUNT", 1) for extent in behind)
        )
        return max((entries[0] for entries in replies if entries), key=_seq, default=None)

    async def forward(self, selection: Selection, after: int, until: int) -> AsyncGenerator[Event[Any], None]:
        """Yield the events with ``after < seq <= until`` that `selection` names, in seq order."""
        accepts = selection.accepts()
        if selection.key is not None or selection.correlation is not None:
            batches = self._by_index(selection, after, until)
        else:
            batches = self._by_window(selection, after, until)
        async for batch in batches:
            for event in decode_all(batch):
                if accepts(event):
                    yield event

    async def backward(self, selection: Selection, after: int, until: int) -> AsyncGenerator[Event[Any], None]:
        """Yield the same events newest first."""
        accepts = selection.accepts()
        if selection.key is not None or selection.correlation is not None:
            references = await self.references(selection, after, until)
            for start in range(len(references), 0, -INDEX_CHUNK):
                batch = await self.fetch(references[max(0, start - INDEX_CHUNK) : start])
                for event in reversed(list(decode_all(batch))):
                    if accepts(event):
                        yield event
            return
        extents = await self.extents(selection)
        high = min(until, max((extent.last for extent in extents), default=0))
        width = 256
        while high > after:
            low = max(after, high - width)
            batch = await self._window(extents, low, high)
            for event in reversed(list(decode_all(batch))):
                if accepts(event):
                    yield event
            width = min(WINDOW, width * 2)
            high = low if batch else await self._previous(extents, low)

    async def extents(self, selection: Selection) -> list[Extent]:
        """Return the streams that may hold what `selection` names, with the numbers they span now."""
        await self._streams.refresh()
        wanted = [
            (self._streams.key(partition, stream), stream.topic)
            for stream in _relevant(self._streams.all(), selection.types)
            for partition in range(self._server.partitions)
            if selection.streams is None or (partition, stream.number) in selection.streams
        ]
        commands: list[tuple[Argument, ...]] = []
        for key, _ in wanted:
            commands += (("XRANGE", key, "-", "+", "COUNT", 1), ("XREVRANGE", key, "+", "-", "COUNT", 1))
        replies = await self._server.commands(*commands)
        return [
            Extent(key, topic, _seq(replies[2 * i][0]), _seq(replies[2 * i + 1][0]))
            for i, (key, topic) in enumerate(wanted)
            if replies[2 * i]
        ]

    async def _by_window(self, selection: Selection, after: int, until: int) -> AsyncIterator[list[Entry]]:
        extents = [extent for extent in await self.extents(selection) if extent.last > after and extent.first <= until]
        width = max(WINDOW, 4 * len(extents))
        low = max(after, min((extent.first for extent in extents), default=until) - 1)
        until = min(until, max((extent.last for extent in extents), default=0))
        while low < until:
            high = min(until, low + width)
            batch = await self._window(extents, low, high)
            if batch:
                yield batch
                low = high
                size = sum(_size(entry) for _, _, entry in batch)
                width = max(64, width // 2) if size > WINDOW_BYTES else min(width * 2, max(WINDOW, 4 * len(extents)))
            else:
                low = await self._next(extents, high)

    async def _window(self, extents: list[Extent], low: int, high: int) -> list[Entry]:
        """Return the entries with ``low < seq <= high``, in seq order."""
        inside = [extent for extent in extents if extent.last > low and extent.first <= high]
        replies = (
            await self._server.commands(*(("XRANGE", extent.key, f"({low}-0", f"{high}-0") for extent in inside))
            if low
            else await self._server.commands(*(("XRANGE", extent.key, "-", f"{high}-0") for extent in inside))
        )
        found = [
            (_seq(entry), extent.topic, entry)
            for extent, entries in zip(inside, replies, strict=True)
            for entry in entries
        ]
        if sum(1 for entries in replies if entries) > 1:
            found.sort(key=itemgetter(0))
        return found

    async def _next(self, extents: list[Extent], high: int) -> int:
        """Return the number before the first event after `high`: windows without events are jumped over."""
        ahead = [extent for extent in extents if extent.last > high]
        replies = await self._server.commands(
            *(("XRANGE", extent.key, f"({high}-0", "+", "COUNT", 1) for extent in ahead)
        )
        return max(high, min((_seq(entries[0]) for entries in replies if entries), default=high + 1) - 1)

    async def _previous(self, extents: list[Extent], low: int) -> int:
        found = await self._previous_entry(extents, low)
        return 0 if found is None else _seq(found)

    async def _by_index(self, selection: Selection, after: int, until: int) -> AsyncIterator[list[Entry]]:
        references = await self.references(selection, after, until)
        for start in range(0, len(references), INDEX_CHUNK):
            yield await self.fetch(references[start : start + INDEX_CHUNK])

    async def references(self, selection: Selection, after: int, until: int) -> list[tuple[int, int, int]]:
        """Return (seq, partition, stream number) of the events of a key or a correlation, in seq order.

        The partition is -1 where the index does not tell.
        """
        keys = self._server.keys
        found: dict[int, tuple[int, int, int]] = {}
        for word in {selection.key, selection.correlation} - {None}:
            partition = partition_of(str(word), self._server.partitions)
            await self._collect(keys.by_key(partition, str(word)), partition, after, until, found)
        if selection.correlation is not None and selection.key is None:
            await self._collect(keys.by_correlation(selection.correlation), -1, after, until, found)
        return sorted(found.values())

    async def _collect(
        self, key: str, partition: int, after: int, until: int, found: dict[int, tuple[int, int, int]]
    ) -> None:
        start = 0
        while True:
            page = await self._server.command("LRANGE", key, start, start + INDEX_PAGE - 1)
            for reference in page:
                seq_raw, _, number = reference.partition(b":")
                seq = int(seq_raw)
                if after < seq <= until:
                    found[seq] = (seq, partition, int(number))
            if len(page) < INDEX_PAGE:
                return
            start += INDEX_PAGE

    async def fetch(self, references: Sequence[tuple[int, int, int]]) -> list[Entry]:
        """Return the entries that index `references` point to; those that were trimmed away are left out."""
        commands: list[tuple[Argument, ...]] = []
        topics: list[tuple[int, str]] = []
        for seq, partition, number in references:
            stream = await self._streams.get(number)
            places = range(self._server.partitions) if partition < 0 else (partition,)
            for place in places:
                commands.append(("XRANGE", self._streams.key(place, stream), f"{seq}-0", f"{seq}-0"))
                topics.append((seq, stream.topic))
        replies = await self._server.commands(*commands)
        return [(seq, topic, entries[0]) for (seq, topic), entries in zip(topics, replies, strict=True) if entries]


def decode_all(batch: Iterable[Entry]) -> Iterable[Event[Any]]:
    """Yield the events of `batch`; an entry that is not one is reported and skipped, as delivery does."""
    for _, topic, entry in batch:
        try:
            yield decode_entry(topic, entry)
        except DecodeError as error:
            logger.warning("skipped: %s", error)


def _relevant(streams: list[Stream], types: tuple[str, ...]) -> list[Stream]:
    """Return the streams that may hold events of `types`: those topics, and where any type may be."""
    matches = matcher(types)
    return [stream for stream in streams if not types or stream.is_inbox or matches(stream.topic)]


def _seq(entry: Any) -> int:
    return int(entry[0].partition(b"-")[0])


def _size(entry: Any) -> int:
    fields = entry[1]
    return len(fields[1]) if fields and len(fields) > 1 else 0
