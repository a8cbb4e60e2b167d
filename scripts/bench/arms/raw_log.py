"""Bare redis-py with hiredis: what the server and the client library give, without any of the spine's work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.events import Envelopes
from scripts.bench.load import drain_rate, rate_in_batches
from scripts.bench.processes import Counter, beside, new_counter

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from redis.asyncio import Redis

PACKAGES = ("redis", "hiredis", "msgpack")
STREAM, COUNTER, GROUP = "raw", "raw:seq", "raw"
BATCH = 256

APPEND = """
local first = redis.call('INCRBY', KEYS[1], #ARGV) - #ARGV
for i = 1, #ARGV do
  redis.call('XADD', KEYS[2], string.format('%.0f-0', first + i), 'e', ARGV[i])
end
return first + 1
"""


def connect(url: str) -> Redis:
    """A client as redis-py makes it; hiredis parses where it is installed."""
    from redis.asyncio import Redis

    return Redis.from_url(url)


class Appender:
    """Packs a range of envelopes and appends them with one script call."""

    def __init__(self, redis: Redis) -> None:
        import msgpack

        self._append: Any = redis.register_script(APPEND)
        self._pack = msgpack.packb
        self._envelopes = Envelopes()

    async def __call__(self, numbers: range) -> None:
        pack, envelopes = self._pack, self._envelopes
        await self._append(keys=[COUNTER, STREAM], args=[pack(envelopes[number]) for number in numbers])


async def fill(redis: Redis, total: int) -> None:
    """Append `total` events."""
    append = Appender(redis)
    for low in range(0, total, BATCH):
        await append(range(low, min(low + BATCH, total)))


@arm("raw.lua_batch", packages=PACKAGES, count=200_000, quick=20_000)
async def lua_batch(setup: Setup) -> Sample:
    """One script call with 256 events: numbers given and entries added, packing included."""
    async with connect(setup.redis_url) as redis:
        return await rate_in_batches(Appender(redis), setup, BATCH)


@arm("raw.take", packages=PACKAGES, count=200_000, quick=20_000)
async def take(setup: Setup) -> Sample:
    """XREADGROUP COUNT 512, unpack, XACK, in a consumer process on a backlog."""
    counter = new_counter()
    async with connect(setup.redis_url) as redis:
        await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        await fill(redis, setup.total)
        with beside(_take, setup.timeout, setup.redis_url, counter):
            return await drain_rate([counter], setup)


async def _take(_: Connection, url: str, counter: Counter) -> None:
    import msgpack

    async with connect(url) as redis:
        while True:
            streams = await redis.xreadgroup(GROUP, "c", {STREAM: ">"}, count=512, block=1_000)
            entries = list(all_entries(streams))
            for _id, fields in entries:
                msgpack.unpackb(fields[b"e"])
            if entries:
                await redis.xack(STREAM, GROUP, *[entry_id for entry_id, _ in entries])
            counter.value += len(entries)


def all_entries(streams: Any) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of a reply of XREAD or XREADGROUP, whichever protocol shaped it."""
    if isinstance(streams, dict):
        return (entry for batches in streams.values() for entries in batches for entry in entries)
    return (entry for _, entries in streams or () for entry in entries)


@arm("raw.xrange", packages=PACKAGES, count=300_000, quick=30_000)
async def xrange(setup: Setup) -> Sample:
    """XRANGE COUNT 1000 and unpack, from the first entry to the last."""
    import msgpack

    async with connect(setup.redis_url) as redis:
        await fill(redis, setup.total)
        after, read, start, before = b"-", 0, time.monotonic(), 0
        while entries := await _range(redis, after):
            for _id, fields in entries:
                msgpack.unpackb(fields[b"e"])
            after = b"(" + entries[-1][0]
            read += len(entries)
            if not before and read >= setup.warmup:
                start, before = time.monotonic(), read
        return {"rate": (read - before) / (time.monotonic() - start)}


async def _range(redis: Redis, after: bytes) -> list[tuple[bytes, dict[bytes, bytes]]]:
    entries: Any = await redis.xrange(STREAM, min=after, count=1_000)  # redis-py's type allows for any decoding
    return entries or []


async def add_plainly(redis: Redis, values: list[bytes]) -> float:
    """Bytes that each value takes when a plain XADD puts it into one stream."""
    before = await used_memory(redis)
    for low in range(0, len(values), BATCH):
        async with redis.pipeline(transaction=False) as pipe:
            for value in values[low : low + BATCH]:
                pipe.xadd("plain", {b"e": value})
            await pipe.execute()
    return (await used_memory(redis) - before) / len(values)


async def used_memory(redis: Redis) -> int:
    """Bytes of data and of the table of keys, without the buffers of clients and of the AOF."""
    stats: dict[str, Any] = await redis.memory_stats()
    tables = (table for name, table in stats.items() if name.startswith("db.") and isinstance(table, dict))
    return int(stats["dataset.bytes"]) + sum(sum(map(int, table.values())) for table in tables)
