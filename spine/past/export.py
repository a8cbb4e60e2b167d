"""Export: a whole log as lines of JSON, and what is left of what was trimmed away.

The last line counts and sums up those after the first: without it, or with another sum, an export is not whole.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from spine.connection import Server, by_field
from spine.errors import StateError
from spine.log.floors import floors
from spine.log.reader import Reader, Selection
from spine.log.streams import Streams, stream_name
from spine.past.lines import plain, to_line
from spine.scan import scan
from spine.state.fold import split_stored

KIND = "spine.export"
END = "spine.export.end"
VERSION = 1
PAGE = 500


class Tally(msgspec.Struct):
    """What the lines of an export come to, counted where they are written and where they are read.

    Attributes:
        events: how many events are among them.
        last_seq: number of the last of these.
        crc32: of all lines after the first, one after the other, without their ends.
    """

    events: int = 0
    last_seq: int = 0
    crc32: int = 0

    def add(self, line: bytes) -> bytes:
        """Take a line in, and return it."""
        self.crc32 = zlib.crc32(line.strip(), self.crc32)
        return line

    def end(self) -> bytes:
        """Return the last line."""
        return msgspec.json.encode({END: VERSION, "events": self.events, "crc32": self.crc32})


async def export_lines(reader: Reader, until: int) -> AsyncGenerator[bytes, None]:
    """Yield a log up to a seq as lines: what it is, its types, what is left of what was trimmed, events, the end."""
    server = reader.server
    tally, gone = Tally(), await floors(server)
    yield await _header(server, until, gone)
    async with aclosing(_beside_events(server, reader.streams, until, gone)) as lines:
        async for line in lines:
            yield tally.add(line)
    async with aclosing(reader.batches(Selection(), 0, until)) as batches:
        async for events in batches:
            for event in events:
                tally.events += 1
                yield tally.add(to_line(event))
    if await floors(server) != gone:
        raise StateError("the log was trimmed while it was exported: what was written is not whole. Export it again.")
    yield tally.end()


async def _header(server: Server, until: int, gone: dict[int, int]) -> bytes:
    created = await server.command("HGET", server.keys.meta, "created") or 0
    header = {"namespace": server.keys.namespace, "created": int(created), "last": until, "floors": gone}
    return msgspec.json.encode({KIND: VERSION, **header, "partitions": server.partitions})


async def _beside_events(
    server: Server, streams: Streams, until: int, gone: dict[int, int]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(_fields(server, server.keys.catalog)) as types:
        async for name, raw in types:
            yield msgspec.json.encode({"catalog": name, "known": msgspec.Raw(raw)})
    if gone:
        for left in (_what_is_gone(server, streams), _states(server, until), _sessions(server, until)):
            async with aclosing(left) as lines:
                async for line in lines:
                    yield line


async def _what_is_gone(server: Server, streams: Streams) -> AsyncGenerator[bytes, None]:
    await streams.refresh()
    names = {stream.number: stream_name(stream.lane, stream.topic) for stream in streams.all()}
    for partition in range(server.partitions):
        async with aclosing(_fields(server, server.keys.gone(partition))) as pages:
            async for key, raw in pages:
                seqs = (entry.split(":") for entry in raw.decode().split(","))
                yield msgspec.json.encode({"gone": key, "last": {names[int(number)]: int(seq) for seq, number in seqs}})


async def _states(server: Server, until: int) -> AsyncGenerator[bytes, None]:
    """Yield the stored states and snapshots: of what is gone there is nothing else."""
    for kind in ("state", "snap"):
        async with aclosing(scan(server, server.keys.own(kind, ""))) as pages:
            async for names in pages:
                for name in names:
                    async with aclosing(_fields(server, server.keys.own(kind, name))) as fields:
                        async for field, raw in fields:
                            if _reaches(raw, until):
                                yield msgspec.json.encode({kind: name, "field": field, "stored": raw.decode()})


def _reaches(raw: bytes, until: int) -> bool:
    """Tell whether a stored state is of `until` or before; what is damaged is left behind."""
    try:
        return split_stored(raw)[0] <= until
    except ValueError:
        return False


async def _sessions(server: Server, until: int) -> AsyncGenerator[bytes, None]:
    """Yield the sessions as they stand; the events that changed them may be gone."""
    async with aclosing(scan(server, server.keys.own("session", ""))) as pages:
        async for names in pages:
            for name in names:
                fields = await server.hash(server.keys.own("session", name))
                if int(fields.get("", 0)) <= until:
                    yield msgspec.json.encode({"session": name.partition(":")[2], "fields": plain(fields)})


async def _fields(server: Server, place: str) -> AsyncGenerator[tuple[str, bytes], None]:
    cursor: int | bytes = 0
    while True:
        cursor, found = await server.command("HSCAN", place, cursor, "COUNT", PAGE)
        for field in by_field(found).items():
            yield field
        if int(cursor) == 0:
            return
