"""Reading the log in seq order, over any number of topics and partitions, in constant memory.

Numbers are unique, so a window of n numbers holds at most n events whatever the number of streams: each window is read
from all its streams in one round trip and merged by seq, and while one is decoded the next is on its way. One key or
correlation is read by its index instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any

import msgspec

from spine.catalog.upcast import upcast, upcast_all
from spine.codec import decode_entry, decode_fields
from spine.connection import Argument, Server
from spine.errors import DecodeError
from spine.events import Event
from spine.keys import partition_of
from spine.log.streams import Stream, Streams
from spine.names import matcher

logger = logging.getLogger("spine")

FIRST_WINDOW = 256
WINDOW = 512
WINDOW_BYTES = 8 * 1024 * 1024
INDEX_CHUNK = 500
INDEX_PAGE = 10_000
MAX_SEQ = 2**63

Entry = tuple[int, str, Any]
Reference = tuple[int, int, int]
Test = Callable[[Event[Any]], bool]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to read.

    Attributes:
        types: types or patterns; empty for all.
        key: one key only.
        correlation: one correlation only.
        streams: only these (partition, stream number), no index is asked; ``None`` for all that may hold a wanted type.
    """

    types: tuple[str, ...] = ()
    key: str | None = None
    correlation: str | None = None
    streams: frozenset[tuple[int, int]] | None = None

    @property
    def by_index(self) -> bool:
        """Tell whether an index names the events."""
        return self.key is not None or self.correlation is not None

    def accepts(self) -> Test | None:
        """Return the test that an event has to pass after it was read; ``None`` where all do."""
        matches = matcher(self.types)
        key, correlation, types = self.key, self.correlation, self.types
        if not self.by_index:
            return (lambda event: matches(event.type)) if types else None

        def test(event: Event[Any]) -> bool:
            if types and not matches(event.type):
                return False
            if key is not None and event.key != key:
                return False
            return correlation is None or event.context.correlation == correlation

        return test


class Batch:
    """Some events of the log, in order; there may be none among them.

    Each time they are gone through they are decoded anew, one by one: an event that is dropped before the next one is
    decoded leaves its memory to that, which takes a quarter less time (docs/decisions/0010).

    Attributes:
        last: seq of the last one read, whether it was selected or not.
    """

    def __init__(self, entries: Sequence[Entry], accepts: Test | None) -> None:
        self._entries = entries
        self._accepts = accepts
        self.last = entries[-1][0]

    def __iter__(self) -> Iterator[Event[Any]]:
        events = decoded(self._entries)
        return events if self._accepts is None else filter(self._accepts, events)


class Extent(msgspec.Struct, gc=False):
    """The first and last seq of one stream of one partition."""

    key: str
    topic: str
    first: int
    last: int


class Reader:
    """Reads the log of one namespace.

    Attributes:
        server: the way to the server.
        streams: the streams known so far.
    """

    def __init__(self, server: Server, streams: Streams) -> None:
        self.server = server
        self.streams = streams

    async def head(self) -> int:
        """Return the last number given: everything up to it is in the log."""
        value = await self.server.command("GET", self.server.keys.seq)
        head = int(value or 0)
        self.server.highest_seen = max(self.server.highest_seen, head)
        return head

    async def last_before(self, ts_ms: int) -> int:
        """Return a number that all events stored before `ts_ms` are up to, and all later ones above.

        Times never decrease with seq: the boundary is found by bisection over the numbers.
        """
        extents = await self.extents(Selection())
        low, high = 0, await self.head()
        while low < high:
            middle = (low + high + 1) // 2
            ts = await self._time_of_last(extents, low, middle)
            if ts is None or ts < ts_ms:
                low = middle
            else:
                high = middle - 1
        return low

    async def _time_of_last(self, extents: list[Extent], low: int, high: int) -> int | None:
        """Return the time of the last event with ``low < seq <= high``."""
        replies = await self.server.commands(
            *(
                ("XREVRANGE", extent.key, f"{high}-0", f"({low}-0" if low else "-", "COUNT", 10)
                for extent in extents
                if extent.first <= high and extent.last > low
            )
        )
        timed = (entry for entries in replies for entry in entries if entry[1] and entry[1][0].isdigit())
        last = max(timed, key=_seq, default=None)
        return None if last is None else int(last[1][0])

    async def batches(self, selection: Selection, after: int, until: int) -> AsyncGenerator[Batch, None]:
        """Yield the events with ``after < seq <= until`` that `selection` names, in seq order, many at a time."""
        accepts = selection.accepts()
        async with aclosing(self.references(selection, after, until)) as references:
            if selection.by_index and selection.streams is None:
                source: _Chunks | _Windows = _Chunks(self, references)
            else:
                source = await self._windows(selection, after, until)
            async with aclosing(_one_ahead(source)) as found:
                async for entries in found:
                    yield Batch(entries, accepts)

    async def forward(self, selection: Selection, after: int, until: int) -> AsyncGenerator[Event[Any], None]:
        """Yield the same events one by one, their payloads of today's version. Raises `UnknownVersion`."""
        async with aclosing(self.batches(selection, after, until)) as batches:
            async for events in batches:
                for event in upcast_all(events):
                    yield event

    async def backward(self, selection: Selection, after: int, until: int) -> AsyncGenerator[Event[Any], None]:
        """Yield the same events newest first."""
        accepts = selection.accepts()
        backwards = self._chunks_backward if selection.by_index else self._windows_backward
        async with aclosing(backwards(selection, after, until)) as found:
            async for entries in found:
                for event in Batch(entries[::-1], accepts):
                    yield upcast(event)

    async def _chunks_backward(self, selection: Selection, after: int, until: int) -> AsyncGenerator[list[Entry], None]:
        async with aclosing(self.references(selection, after, until, backward=True)) as pages:
            async for references in pages:
                for start in range(len(references), 0, -INDEX_CHUNK):
                    yield await self.fetch(references[max(0, start - INDEX_CHUNK) : start])

    async def _windows_backward(
        self, selection: Selection, after: int, until: int
    ) -> AsyncGenerator[list[Entry], None]:
        extents = await self.extents(selection)
        high = min(until, max((extent.last for extent in extents), default=0))
        width = FIRST_WINDOW
        while high > after:
            low = max(after, high - width)
            entries = await self.window(extents, low, high)
            if entries:
                yield entries
                high = low
            else:
                high = await self.previous(extents, low)
            width = min(WINDOW, width * 2)

    async def extents(self, selection: Selection) -> list[Extent]:
        """Return the streams that may hold what `selection` names, with the numbers they span now."""
        if selection.streams is not None:
            return await self._touched(selection)
        await self.streams.refresh()
        wanted = [
            (self.streams.key(partition, stream), stream.topic)
            for stream in _relevant(self.streams.all(), selection.types)
            for partition in range(self.server.partitions)
        ]
        commands: list[tuple[Argument, ...]] = []
        for key, _ in wanted:
            commands += (("XRANGE", key, "-", "+", "COUNT", 1), ("XREVRANGE", key, "+", "-", "COUNT", 1))
        replies = await self.server.commands(*commands)
        return [
            Extent(key, topic, _seq(replies[2 * i][0]), _seq(replies[2 * i + 1][0]))
            for i, (key, topic) in enumerate(wanted)
            if replies[2 * i]
        ]

    async def _touched(self, selection: Selection) -> list[Extent]:
        """Return the streams that `selection` names one by one; what they span need not be asked."""
        only = None if selection.key is None else partition_of(selection.key, self.server.partitions)
        extents = []
        for partition, number in selection.streams or ():
            if only is None or partition == only:
                stream = await self.streams.get(number)
                if _relevant([stream], selection.types):
                    extents.append(Extent(self.streams.key(partition, stream), stream.topic, 0, MAX_SEQ))
        return extents

    async def _windows(self, selection: Selection, after: int, until: int) -> _Windows:
        extents = [extent for extent in await self.extents(selection) if extent.last > after and extent.first <= until]
        first = min((extent.first for extent in extents), default=until)
        last = max((extent.last for extent in extents), default=0)
        return _Windows(self, extents, max(after, first - 1), min(until, last))

    async def window(self, extents: list[Extent], low: int, high: int) -> list[Entry]:
        """Return the entries with ``low < seq <= high``, in seq order."""
        inside = [extent for extent in extents if extent.last > low and extent.first <= high]
        start, end = f"({low}-0" if low else "-", f"{high}-0"
        replies = await self.server.commands(*[("XRANGE", extent.key, start, end) for extent in inside])
        found: list[Entry] = []
        streams = 0
        for extent, entries in zip(inside, replies, strict=True):
            if entries:
                streams += 1
                topic = extent.topic
                found += [(int(e[0][:-2]) if e[0][-2:] == b"-0" else _seq(e), topic, e) for e in entries]
        if streams > 1:
            found.sort(key=itemgetter(0))
        return found

    async def next_after(self, extents: list[Extent], high: int) -> int:
        """Return the number before the first event after `high`: windows without events are jumped over."""
        replies = await self.server.commands(
            *(("XRANGE", extent.key, f"({high}-0", "+", "COUNT", 1) for extent in extents if extent.last > high)
        )
        return max(high, min((_seq(entries[0]) for entries in replies if entries), default=high + 1) - 1)

    async def previous(self, extents: list[Extent], low: int) -> int:
        """Return the seq of the last event up to `low`; 0 when there is none."""
        replies = await self.server.commands(
            *(("XREVRANGE", extent.key, f"{low}-0", "-", "COUNT", 1) for extent in extents if extent.first <= low)
        )
        return max((_seq(entries[0]) for entries in replies if entries), default=0)

    async def references(
        self, selection: Selection, after: int, until: int, *, backward: bool = False
    ) -> AsyncGenerator[list[Reference], None]:
        """Yield (seq, partition, stream number) of the events of a key or a correlation, in seq order, many at a time.

        Backward the newest come first; each list is in seq order all the same.
        """
        indexes, size = self._indexes(selection), INDEX_CHUNK
        while after < until and indexes:
            pages = await self._pages(indexes, after, until, size, backward)
            # What one list has beyond a page of another may come after what that has not shown yet.
            full = [page for page in pages if len(page) == size]
            if backward:
                edge = max((page[0][0] for page in full), default=after + 1)
            else:
                edge = min((page[-1][0] for page in full), default=until)
            found = {one[0]: one for page in pages for one in page if (one[0] >= edge if backward else one[0] <= edge)}
            if found:
                yield sorted(found.values())
            if not full:
                return
            after, until, size = (after, edge - 1, INDEX_PAGE) if backward else (edge, until, INDEX_PAGE)

    def _indexes(self, selection: Selection) -> list[tuple[str, int | None]]:
        """Return the lists that name what is selected, each with the partition of all that it names, if it is one."""
        keys, partitions = self.server.keys, self.server.partitions
        word = selection.correlation if selection.key is None else selection.key
        if word is None:
            return []
        by_key = (keys.by_key(partition_of(word, partitions), word), partition_of(word, partitions))
        return [by_key] if selection.key is not None else [by_key, (keys.by_correlation(word), None)]

    async def _pages(
        self, indexes: list[tuple[str, int | None]], after: int, until: int, size: int, backward: bool
    ) -> list[list[Reference]]:
        """Return the next references of each index; the streams they name go by the numbers of the same moment."""
        names = [self.server.keys.meta, *(name for name, _ in indexes)]
        epoch, *pages = await self.server.run("references", names, [after, until, size, int(backward)])
        self.streams.keep_up(epoch.decode())
        found = []
        for (_, of), page in zip(indexes, pages, strict=True):
            references = []
            for raw in page:
                seq, number, *partition = map(int, raw.split(b":"))
                references.append((seq, partition[0] if of is None else of, number))
            found.append(references)
        return found

    async def fetch(self, references: Sequence[Reference]) -> list[Entry]:
        """Return the entries that index `references` point to; those that were trimmed away are left out."""
        streams = [await self.streams.get(number) for _, _, number in references]
        replies = await self.server.commands(
            *(
                ("XRANGE", self.streams.key(partition, stream), f"{seq}-0", f"{seq}-0")
                for (seq, partition, _), stream in zip(references, streams, strict=True)
            )
        )
        return [
            (seq, stream.topic, entries[0])
            for (seq, _, _), stream, entries in zip(references, streams, replies, strict=True)
            if entries
        ]


class _Windows:
    """The windows of one replay, each as wide as memory allows; those without events are jumped over."""

    def __init__(self, reader: Reader, extents: list[Extent], low: int, until: int) -> None:
        self._reader = reader
        self._extents = extents
        self._low = low
        self._until = until
        self._widest = max(WINDOW, 4 * len(extents))
        self._width = min(self._widest, max(FIRST_WINDOW, 4 * len(extents)))

    async def next(self) -> list[Entry]:
        """Return the next entries; none when all are read."""
        while self._low < self._until:
            high = min(self._until, self._low + self._width)
            entries = await self._reader.window(self._extents, self._low, high)
            self._low = high if entries else await self._reader.next_after(self._extents, high)
            size = sum([len(entry[1][1]) for _, _, entry in entries if len(entry[1]) > 1])
            self._width = max(64, self._width // 2) if size > WINDOW_BYTES else min(self._width * 2, self._widest)
            if entries:
                return entries
        return []

    @property
    def exhausted(self) -> bool:
        """Tell whether all are read."""
        return self._low >= self._until


class _Chunks:
    """The entries that references of an index point to, some at a time."""

    def __init__(self, reader: Reader, pages: AsyncGenerator[list[Reference], None]) -> None:
        self._reader = reader
        self._pages = pages
        self._references: list[Reference] = []
        self._at = 0
        self.exhausted = False

    async def next(self) -> list[Entry]:
        """Return the next entries; none when all are read."""
        while not self.exhausted:
            if self._at >= len(self._references):
                self._references, self._at = await anext(self._pages, []), 0
                self.exhausted = not self._references
            chunk = self._references[self._at : self._at + INDEX_CHUNK]
            self._at += INDEX_CHUNK
            if chunk and (entries := await self._reader.fetch(chunk)):
                return entries
        return []


async def _one_ahead(source: _Windows | _Chunks) -> AsyncGenerator[list[Entry], None]:
    """Yield the entries of `source`; the next are on their way while some are used."""
    entries = await source.next()
    while entries:
        if source.exhausted:
            yield entries
            return
        ahead = asyncio.create_task(source.next(), name="spine-read-ahead")
        try:
            yield entries
            entries = await ahead
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


def decoded(entries: Iterable[Entry]) -> Iterator[Event[Any]]:
    """Yield the events of `entries`; an entry that is not one is reported and skipped, as delivery does."""
    for seq, topic, entry in entries:
        try:
            is_ours = entry[0][-2:] == b"-0"
            event = decode_fields(seq, topic, entry[1]) if is_ours else decode_entry(topic, entry)
        except DecodeError as error:
            logger.warning("skipped: %s", error)
        else:
            yield event


def _relevant(streams: list[Stream], types: tuple[str, ...]) -> list[Stream]:
    """Return the streams that may hold events of `types`: those topics, and where any type may be."""
    matches = matcher(types)
    return [stream for stream in streams if not types or stream.is_inbox or matches(stream.topic)]


def _seq(entry: Any) -> int:
    return int(entry[0].partition(b"-")[0])
