"""One connection with many calls in flight: sent as they come, answered in order.

redis-py opens the connection (address, TLS, login, database); then the transport is taken over by a protocol that feeds
hiredis, because a coroutine for each reply costs more than the reply. Nothing is repeated here: a blindly repeated
write is stored twice.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import hiredis
import msgspec
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from spine.errors import ServerUnreachable

Argument = str | bytes | int | float

COMMAND_TIMEOUT_S = 5.0

_KINDS: dict[str, type[RedisError]] = {
    "BUSY": TryAgainError,
    "CLUSTERDOWN": TryAgainError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOREPLICAS": TryAgainError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
    "WRONGPASS": AuthenticationError,
}
_pack = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)
_IN_SCRIPT = re.compile(r"-([A-Z]+) ")  # Redis 6.2 wraps the error of a command in that of the script that called it


class ClientClosed(ServerUnreachable):
    """The client was closed: no later call can succeed."""


def error_reply(text: str) -> RedisError:
    """Return the exception for an error reply of the server; its text begins with the error's code."""
    code = text.partition(" ")[0]
    if text.startswith("ERR Error running script"):
        wrapped = _IN_SCRIPT.search(text)
        code = wrapped[1] if wrapped else code
    return _KINDS.get(code, ResponseError)(text)


class _Call(msgspec.Struct, gc=False):
    future: asyncio.Future[list[Any]]
    wanted: int
    deadline: float
    timeout_s: float
    replies: list[Any]


class _Wire(asyncio.Protocol):
    """A live connection: what is in flight on it, and who waits for it.

    Attributes:
        lost: done when the connection is gone.
    """

    def __init__(self, transport: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._reader = hiredis.Reader(replyError=error_reply, notEnoughData=_PENDING)
        self._in_flight: deque[_Call] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.alive = True
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def send(self, commands: tuple[tuple[Argument, ...], ...], timeout_s: float) -> asyncio.Future[list[Any]]:
        """Send `commands` together; the result is the list of their replies."""
        packed = _pack(commands[0]) if len(commands) == 1 else b"".join([_pack(command) for command in commands])
        future = self._loop.create_future()
        deadline = self._loop.time() + timeout_s
        self._in_flight.append(_Call(future, len(commands), deadline, timeout_s, []))
        if self._timer is None or deadline < self._timer_at:
            self._watch(deadline)
        self._transport.write(packed)
        return future

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            reply = self._reader.gets()
            while reply is not _PENDING:
                self.take(reply)
                reply = self._reader.gets()
        except hiredis.ProtocolError as error:
            self.fail(f"not the protocol of Redis: {error}")

    def take(self, reply: Any) -> None:
        """Hand a reply to the call that waits for it."""
        if not self._in_flight:
            self.fail(f"the server said {reply!r} unasked")
            return
        call = self._in_flight[0]
        call.replies.append(reply)
        if len(call.replies) == call.wanted:
            self._in_flight.popleft()
            if not call.future.done():
                call.future.set_result(call.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(str(exc) if exc else "the server closed it")

    def fail(self, why: str, error: type[ServerUnreachable] = ServerUnreachable) -> None:
        """Give the connection up; every call in flight raises `error`, of which nobody knows whether it was stored."""
        if not self.alive:
            return
        self.alive = False
        if self._timer is not None:
            self._timer.cancel()
        lost, self._in_flight = self._in_flight, deque()
        for call in lost:
            if not call.future.done():
                failure = error(f"the connection to the server broke: {why}")
                failure.stored = None
                call.future.set_exception(failure)
        self._transport.abort()
        if not self.lost.done():
            self.lost.set_result(None)

    def _watch(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        """One timer serves all calls: it is set to the earliest deadline, and looks again when it goes off."""
        self._timer = None
        now = self._loop.time()
        earliest = min(self._in_flight, key=lambda call: call.deadline, default=None)
        if earliest is None:
            return
        if earliest.deadline <= now:
            self.fail(f"no answer within {earliest.timeout_s:g} s")
        else:
            self._watch(earliest.deadline)


_PENDING = object()


class _Borrowed:
    """Stands in for a transport where redis-py keeps the connection (``memory://``)."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection: Any = connection

    def write(self, data: bytes) -> None:
        self._connection._writer.writelines([data])

    def abort(self) -> None:
        """Nothing: the link disconnects."""


class Link:
    """One connection, opened when it is first needed and again when it was lost.

    A caller that is cancelled disturbs no other. When the connection breaks, every call in flight raises
    `ServerUnreachable` with ``stored=None``, and the next call connects again.

    Args:
        name: for the task's name.
        connect: opens a connection that is logged in and has nothing in flight.
    """

    def __init__(self, name: str, connect: Callable[[], Awaitable[AbstractConnection]]) -> None:
        self.name = name
        self._connect = connect
        self._connecting = asyncio.Lock()
        self._wire: _Wire | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    async def call(self, *commands: tuple[Argument, ...], timeout: float | None = None) -> list[Any]:
        """Send `commands` together and return their replies; an error reply stands in its place as an exception."""
        wire = self._wire
        if wire is None or not wire.alive:
            wire = await self._connected()
        return await wire.send(commands, timeout or COMMAND_TIMEOUT_S)

    async def _connected(self) -> _Wire:
        async with self._connecting:
            if self._closed:
                raise ClientClosed("the client is closed. Nothing was stored.")
            if self._wire is None or not self._wire.alive:
                await self._retire()
                connection = await self._connect()
                self._wire = wire = _take_over(connection)
                self._keeper = asyncio.create_task(_keep(connection, wire), name=f"spine-link-{self.name}")
            return self._wire

    async def _retire(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await asyncio.gather(keeper, return_exceptions=True)

    async def close(self) -> None:
        """Close the connection for good; calls in flight raise, and so do later ones."""
        self._closed = True
        if self._wire is not None:
            self._wire.fail("the client was closed", ClientClosed)
        await self._retire()


def _take_over(connection: Any) -> _Wire:
    transport: Any = getattr(connection._writer, "transport", None)
    if not hasattr(transport, "set_protocol"):  # fakeredis has a transport as well, but only to ask it questions
        return _Wire(_Borrowed(connection))
    wire = _Wire(transport)
    transport.set_protocol(wire)
    return wire


async def _keep(connection: AbstractConnection, wire: _Wire) -> None:
    """Own `connection` until it is lost; closing it is left to redis-py, which opened it."""
    pump = None
    if isinstance(wire._transport, _Borrowed):
        pump = asyncio.create_task(_pump(connection, wire), name="spine-link-pump")
    try:
        await wire.lost
    finally:
        wire.fail("the client was closed", ClientClosed)
        if pump is not None:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        await connection.disconnect(nowait=True)


async def _pump(connection: AbstractConnection, wire: _Wire) -> None:
    try:
        while True:
            try:
                reply = await connection.read_response(disable_decoding=True, disconnect_on_error=False)
            except (ResponseError, AuthenticationError) as error:
                reply = error
            wire.take(reply)
    except (RedisError, OSError) as error:
        wire.fail(str(error) or type(error).__name__)
