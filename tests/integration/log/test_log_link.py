"""One connection, many calls: answered in order, given up together, and no caller in another's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from spine import ServerUnreachable
from spine.link import ClientClosed, Link
from spine.testing.servers import RedisServer

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def link_to(port: int) -> Link:
    async def connect() -> Connection:
        connection = Connection(
            host="127.0.0.1", port=port, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=None, driver_info=None
        )
        try:
            await connection.connect()
        except Exception as error:
            await connection.disconnect(nowait=True)
            raise ServerUnreachable(f"no connection: {error}") from error
        return connection

    return Link("test", connect)


@pytest.fixture
async def link(server: RedisServer) -> AsyncIterator[Link]:
    link = link_to(server.port)
    yield link
    await link.close()


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[Link]:
    """A link to a server that behaves as `handler` does, once the client's own greeting is through."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(run(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    link = link_to(listener.sockets[0].getsockname()[1])
    try:
        yield link
    finally:
        await link.close()
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


async def test_calls_are_answered_in_order_each_with_its_own_replies(link: Link) -> None:
    await link.call(("DEL", "n"))
    results = await asyncio.gather(*(link.call(("ECHO", i), ("INCR", "n")) for i in range(500)))
    await link.call(("DEL", "n"))
    assert results == [[str(i).encode(), i + 1] for i in range(500)]


async def test_an_error_reply_stands_in_its_place(link: Link) -> None:
    before, error, after = await link.call(("ECHO", "a"), ("NONSENSE",), ("ECHO", "b"))
    assert (before, after) == (b"a", b"b")
    assert isinstance(error, ResponseError)
    assert "unknown command" in str(error)


@pytest.mark.parametrize("size", [10, 20_000_000])
async def test_a_cancelled_caller_disturbs_no_other(link: Link, size: int) -> None:
    await link.call(("PING",))
    cancelled = asyncio.create_task(link.call(("ECHO", b"x" * size)))
    await asyncio.sleep(0)
    others = [asyncio.create_task(link.call(("ECHO", i))) for i in range(50)]
    cancelled.cancel()
    assert [await other for other in others] == [[str(i).encode()] for i in range(50)]
    assert cancelled.cancelled()


async def test_no_answer_in_time_fails_all_in_flight_and_the_next_call_connects_anew() -> None:
    connections = 0

    async def silent_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.read(1 << 16):
            if connections > 1:
                writer.write(b"+PONG\r\n")

    async with answering(silent_once) as link:
        calls = [link.call(("PING",), timeout=0.1), link.call(("PING",), timeout=5), link.call(("PING",))]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ServerUnreachable] * 3
        assert [result.stored for result in results if isinstance(result, ServerUnreachable)] == [None] * 3
        assert "no answer within 0.1 s" in str(results[0])
        assert await link.call(("PING",)) == [b"PONG"]
        assert connections == 2


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"-ERR max number of clients reached\r\n", "max number of clients"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not the protocol of Redis"),
        (b"", "the server closed it"),
        (b"*2\r\n$1\r\na\r\n", "the server closed it"),
    ],
)
async def test_whatever_ends_a_connection_is_told(said: bytes, why: str) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        await writer.drain()

    async with answering(rude) as link:
        with pytest.raises(ServerUnreachable) as error:
            await link.call(("PING",), ("PING",))
        assert why in str(error.value) or said.startswith(b"-ERR")
        assert error.value.stored is None


async def test_replies_may_come_in_any_pieces() -> None:
    async def dribbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        for byte in b"*2\r\n$3\r\nabc\r\n:7\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with answering(dribbling) as link:
        assert await link.call(("PING",)) == [[b"abc", 7]]


async def test_a_closed_link_fails_what_is_in_flight_and_what_comes_later() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()

    async with answering(silent) as link:
        waiting = asyncio.create_task(link.call(("PING",)))
        await asked.wait()
        await link.close()
        with pytest.raises(ClientClosed):
            await waiting
        with pytest.raises(ClientClosed) as error:
            await link.call(("PING",))
        assert error.value.stored is False


async def test_many_first_calls_share_one_connection() -> None:
    connections = 0

    async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while data := await reader.read(1 << 16):
            writer.write(b"+PONG\r\n" * data.count(b"PING"))

    async with answering(polite) as link:
        results: list[Any] = await asyncio.gather(*(link.call(("PING",)) for _ in range(200)))
        assert results == [[b"PONG"]] * 200
        assert connections == 1
