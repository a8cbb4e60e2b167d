"""Looking through the Redis keys of a namespace, some at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from spine.connection import Server

SCANNED_AT_ONCE = 1_000


async def scan(server: Server, start: str, rest: str = "*") -> AsyncGenerator[list[str], None]:
    """Yield the rest of the names of Redis keys that begin with `start`, in no order; only rests like the glob `rest`.

    What is there from beginning to end is met at least once; it may be met twice.
    """
    cursor: int | bytes = 0
    while True:
        cursor, found = await server.command("SCAN", cursor, "MATCH", start + rest, "COUNT", SCANNED_AT_ONCE)
        if found:
            yield [name.decode().removeprefix(start) for name in found]
        if int(cursor) == 0:
            return


async def delete(server: Server, start: str) -> int:
    """Delete every Redis key whose name begins with `start`; return how many."""
    deleted = 0
    async with aclosing(scan(server, start)) as pages:
        async for page in pages:
            deleted += await server.command("UNLINK", *(start + rest for rest in page))
    return deleted


async def all_keys(server: Server) -> AsyncGenerator[list[str], None]:
    """Yield the keys that have events in the log, as `scan` does."""
    async with aclosing(scan(server, server.keys.prefix + "key:")) as pages:
        async for page in pages:
            yield [name.partition(":")[2] for name in page]
