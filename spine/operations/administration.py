"""Looking after a server and its namespaces without opening, and so creating, one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from spine.connection import not_connected, refused
from spine.errors import Misconfigured
from spine.events import from_ms
from spine.keys import Keys, namespace_of, namespaces_pattern
from spine.server_url import pool

TIMEOUT_S = 5.0
SCAN_COUNT = 1_000


class NamespaceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace as the list shows it.

    Attributes:
        name: its name.
        seq: the last number given.
        streams: how many lanes of topics it has.
        agents: how many agents ever ran in it.
        partitions: how many partitions.
        layout: where it lies on a cluster.
        created: when.
    """

    name: str
    seq: int
    streams: int
    agents: int
    partitions: int
    layout: str
    created: datetime


@asynccontextmanager
async def connected(url: str | None) -> AsyncGenerator[Redis, None]:
    """Yield a client of the server at `url`; of the embedded server where there is none.

    Errors of redis-py leave it as those of spine.
    """
    embedded: Any = None
    if url is None:
        from spine.embedded import EmbeddedServer

        embedded = await asyncio.to_thread(EmbeddedServer.join)
    address = url or embedded.url
    client = Redis.from_pool(pool(address, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S))
    try:
        yield client
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise not_connected(address, error) from error
    except RedisError as error:
        raise refused(error) from error
    finally:
        await client.aclose()
        if embedded is not None:
            await asyncio.to_thread(embedded.leave)


async def namespaces(client: Redis) -> list[NamespaceSummary]:
    """Return the namespaces of the server, by name."""
    found = [namespace_of(key.decode()) async for key in client.scan_iter(match=namespaces_pattern(), count=SCAN_COUNT)]
    return [await summary(client, name) for name in sorted(set(found))]


async def summary(client: Redis, name: str) -> NamespaceSummary:
    """Return what namespace `name` is. Raises `Misconfigured` when there is none of this name."""
    keys = Keys(name)
    async with client.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.meta)
        pipe.get(keys.seq)
        pipe.hlen(keys.streams)
        pipe.hlen(keys.agents)
        meta, seq, streams, agents = await pipe.execute()
    if not meta:
        raise Misconfigured(f"there is no namespace {name!r} on this server; `spine namespace list` shows them")
    return NamespaceSummary(
        name=name,
        seq=int(seq or 0),
        streams=streams,
        agents=agents,
        partitions=int(meta.get(b"partitions", 0)),
        layout=meta.get(b"layout", b"").decode(),
        created=from_ms(int(meta.get(b"created", 0))),
    )


async def delete_namespace(client: Redis, name: str, told: Callable[[int], None] = lambda deleted: None) -> int:
    """Delete every key of namespace `name`; return how many. `told` is called with the count as it grows.

    What says that the namespace exists goes last: after a break in the middle it is still listed, and a second call
    finishes. Stop its workers first: whoever is still connected goes on writing.
    """
    keys = Keys(name)
    last = {keys.meta.encode(), keys.seq.encode(), keys.epochs.encode()}
    deleted = 0
    cursor = 0
    while True:
        cursor, found = await client.scan(cursor, match=keys.all(), count=SCAN_COUNT)
        doomed = [key for key in found if key not in last]
        if doomed:
            deleted += await client.unlink(*doomed)
            told(deleted)
        if cursor == 0:
            break
    return deleted + int(await client.unlink(*last))
