"""``memory://``: a server inside this process, for the quickest unit tests.

It is fakeredis: the same scripts, no process, no port, no disk. Clients that name the same server (``memory://name``;
``memory://`` alone is a server as well) share its data for as long as the process lives. What it cannot do is said at
once: no event on it is ever on disk or on a replica, and a second process sees nothing of it.
"""

from __future__ import annotations

import os
import re
import secrets
from typing import Any

import redis
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from spine.errors import Misconfigured

try:
    from fakeredis import FakeRedis, FakeServer
    from fakeredis._helpers import SimpleError
    from fakeredis._msgs import XGROUP_KEY_NOT_FOUND_MSG
    from fakeredis.aioredis import AsyncFakeSocket, FakeAsyncRedisConnection, FakeReader, FakeWriter
except ImportError as error:
    raise Misconfigured("memory:// needs fakeredis: pip install 'event-spine[testing]'") from error

VERSION = (7, 2, 0)
URL = re.compile(r"memory://[A-Za-z0-9._-]*")


class MemoryServer(FakeServer):
    """The data of one ``memory://`` server.

    Attributes:
        run_id: what INFO calls this run of the server; fixed, because the data lives exactly as long.
        pid: the process that it lives in; the child of a fork has but a copy.
    """

    def __init__(self) -> None:
        super().__init__(version=VERSION, server_type="redis")
        self.run_id = secrets.token_hex(20)
        self.pid = os.getpid()

    def info(self) -> bytes:
        """Return what INFO says, whatever the section."""
        version = ".".join(map(str, VERSION))
        lines = (f"redis_version:{version}", f"run_id:{self.run_id}", "aof_enabled:0", "role:master")
        return "\r\n".join(lines).encode()


class _Socket(AsyncFakeSocket):
    """Answers what fakeredis does not know and a client of spine asks."""

    def __init__(self, server: MemoryServer, *args: Any, **kwargs: Any) -> None:
        super().__init__(server, *args, **kwargs)
        self._memory = server

    def _process_command(self, fields: list[bytes]) -> None:
        match fields[0].upper() if fields else b"":
            case b"INFO":
                self.put_response(self._memory.info())
            case b"WAIT":
                self.put_response(0)
            case b"WAITAOF":
                self.put_response([0, 0])
            case _:
                super()._process_command(fields)

    def xreadgroup(self, *args: Any) -> Any:
        try:
            return super().xreadgroup(*args)
        except SimpleError as error:
            if error.value == XGROUP_KEY_NOT_FOUND_MSG:
                raise SimpleError("NOGROUP no such key or consumer group") from None  # as servers say it
            raise

    def _lua_redis_pcall(self, lua_runtime: Any, expected_globals: set[Any], op: bytes, *args: Any) -> Any:
        try:
            return self._lua_redis_call(lua_runtime, expected_globals, op, *args)
        except Exception as error:
            # fakeredis leaves a Python string here, which is no string for Lua
            return lua_runtime.table_from({b"err": str(error).encode()})

    def leave(self) -> None:
        """End a blocking read that waits, and be forgotten by the server."""
        with self._memory.lock:
            if self._blocked:
                self._unblock_reason = b"timeout"
                self._db.wake_all()
            if self in self._memory.sockets:
                self._memory.sockets.remove(self)


class _Connection(FakeAsyncRedisConnection):
    """A connection of redis-py whose other end is a `MemoryServer`."""

    def __init__(self, *args: Any, server: MemoryServer, **kwargs: Any) -> None:
        super().__init__(*args, server=server, **kwargs)
        self._memory = server
        self._socket: _Socket | None = None

    async def _connect(self) -> None:
        socket = _Socket(self._memory, self.db, client_class=self._client_class, client_info=self._client_info)
        self._sock = self._socket = socket
        self._reader = FakeReader(socket)
        self._writer = FakeWriter(socket)

    async def disconnect(self, nowait: bool = False, *args: Any, **kwargs: Any) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.leave()
        await super().disconnect(nowait, *args, **kwargs)


_servers: dict[str, MemoryServer] = {}


def memory_server(url: str) -> MemoryServer:
    """Return the server that `url` names in this process; it is made when it is first asked for.

    Raises `Misconfigured` where the process that made it has forked this one.
    """
    if not URL.fullmatch(url):
        raise Misconfigured(f"{url!r} is not of the form memory:// or memory://name")
    server = _servers.setdefault(url, MemoryServer())
    if server.pid != os.getpid():
        raise Misconfigured(f"{url} lives in process {server.pid}, before the fork: use a server that processes share")
    return server


def forget(url: str) -> None:
    """Drop the server that `url` names, and its data; clients that are open keep theirs to themselves."""
    _servers.pop(url, None)


def memory_client(url: str) -> redis.Redis:
    """Return a client without await, for a thread of its own, of the server that `url` names."""
    return FakeRedis(server=memory_server(url))


def memory_pool(url: str) -> ConnectionPool:
    """Return a pool of connections to the server that `url` names."""
    return ConnectionPool(
        connection_class=_Connection,
        server=memory_server(url),
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=None,  # with one, redis-py wraps each write in wait_for, which can swallow a cancellation
        decode_responses=False,
    )
