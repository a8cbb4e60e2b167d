"""The way to the server: the one place that knows the topology, the URL and the connections.

A client holds three connections: `Server.link` for reads and small scripts, `Server.writer` for appends and commits
(a durable one may wait there without holding up the others) and `Server.listener` for the one blocking read.
redis-py opens them; its own retries are off, because a blindly repeated write is stored twice.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec
import redis
from redis.asyncio.connection import AbstractConnection
from redis.backoff import NoBackoff
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
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry as BlockingRetry
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential, wait_random

from spine import clock
from spine.durations import in_seconds
from spine.errors import (
    InvalidInput,
    NamespaceMismatch,
    ServerRefused,
    ServerUnreachable,
    SpineError,
    StreamBlocked,
    UnsupportedServer,
)
from spine.keys import Keys
from spine.link import COMMAND_TIMEOUT_S, ClientClosed, Link
from spine.link import Argument as Argument
from spine.scripts import script
from spine.server_url import pool
from spine.unreachable import no_connection, no_login

logger = logging.getLogger("spine")

T = TypeVar("T")

FORMAT = "1"
INCOMPLETE = "incomplete"
LAYOUT = "single"
DEFAULT_PARTITIONS = 8
MAX_PARTITIONS = 4_096
JUMP = 1_000_000
PATIENCE_S = 10.0
MINIMUM_VERSION = (6, 2)
# What a script is told that may not call a command: Redis, and Valkey.
_DENIED = re.compile("can't run this command|ACL failure in script")


class NamespaceChanged(SpineError):
    """The namespace was opened anew since (data loss, failover, restart): the caller opens it again and repeats."""


class StaleBatch(SpineError):
    """A later batch of the same producer is stored already."""


class WrongGroup(SpineError):
    """A consumer group is missing."""


def refused(error: RedisError) -> Exception:
    """Return the error of spine that says what an error reply of the server means for the caller."""
    text = str(error).rstrip(".")
    if text.startswith("SPINEEPOCH"):
        return NamespaceChanged(text)
    if text.startswith("SPINESTALE"):
        return StaleBatch(text)
    if isinstance(error, NoPermissionError) or _DENIED.search(text):
        what = text.removeprefix("SPINEBLOCKED ")
        return ServerRefused(
            f"the server does not permit this user what spine needs: {what}. Nothing was stored. `spine doctor` names "
            "all that is missing, docs/server.md what a user of its own needs."
        )
    if text.startswith("SPINEBLOCKED"):
        return StreamBlocked(
            f"{text.removeprefix('SPINEBLOCKED ')}. An entry that spine did not write stands in the way; nothing was "
            "stored. `spine doctor` names it, `spine doctor --repair` mends it."
        )
    if text.startswith("NOGROUP"):
        return WrongGroup(text)
    if isinstance(error, OutOfMemoryError) or text.startswith("OOM"):
        return ServerRefused(
            "the server is out of memory (maxmemory); nothing was stored. Trim the log (`spine trim`) or give it more."
        )
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return ServerUnreachable(text)
    if isinstance(error, ReadOnlyError):
        return ServerRefused("the server is a read-only replica; nothing was stored. Connect to its primary.")
    return ServerRefused(f"the server refused: {text}. Nothing was stored.")


def not_connected(url: str, error: Exception) -> Exception:
    """Return the error of spine for a connection to `url` that failed: the server refused us, or there is none."""
    if isinstance(error, AuthenticationError):
        return ServerRefused(no_login(url, error))
    if isinstance(error, ResponseError):
        return refused(error)
    return ServerUnreachable(no_connection(url, error))


def is_passing(error: BaseException) -> bool:
    """Tell whether the same call may succeed in a moment: the server is away, loading, or failing over."""
    if isinstance(error, ServerUnreachable):
        return not isinstance(error, ClientClosed)
    return isinstance(error.__cause__, BusyLoadingError | ReadOnlyError | MasterDownError | TryAgainError)


def check_partitions(partitions: int | None) -> int | None:
    """Return `partitions` when a namespace may have as many. Raises `InvalidInput`."""
    if partitions is not None and (type(partitions) is not int or not 0 < partitions <= MAX_PARTITIONS):
        raise InvalidInput(f"a namespace has 1 to {MAX_PARTITIONS:,} partitions, not {partitions!r}")
    return partitions


def by_field(flat: Sequence[bytes]) -> dict[str, bytes]:
    """Return the fields of a hash, as a reply holds them one after another, with their values."""
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


class ServerInfo(msgspec.Struct, frozen=True):
    """What kind of server it is.

    Attributes:
        product: ``redis`` or ``valkey``.
        version: of the product.
        run_id: changes with each start of the server and with each failover.
    """

    product: str
    version: tuple[int, ...]
    run_id: str


class Namespace(msgspec.Struct, frozen=True):
    """What the namespace was created with.

    Attributes:
        partitions: number of partitions; fixed for good.
        epoch: changes when the counter jumped: the server's run is another one, or the data is gone.
    """

    partitions: int
    epoch: str


class Server:
    """The server as one namespace sees it.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``memory://`` (fakeredis, for unit tests).
        namespace: name of the namespace.
        partitions: wanted number of partitions; ``None`` takes what is there, or 8.
        patience_s: how long a call goes on trying while the server is away.
        accepts_incomplete: open a namespace that is being filled, too.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        partitions: int | None = None,
        patience_s: float = PATIENCE_S,
        accepts_incomplete: bool = False,
    ) -> None:
        self.url = url
        self.keys = Keys(namespace)
        self.patience_s = in_seconds(patience_s, "patience_s")
        self._partitions = check_partitions(partitions)
        self._accepts_incomplete = accepts_incomplete
        self._pool = pool(url)
        self._run_id = ""
        self._opening = asyncio.Lock()
        self.info = ServerInfo("", (), "")
        self.namespace = Namespace(0, "")
        self.highest_seen = 0
        self.clock_offset_ms = 0
        self.link = Link("reads", self._connect)
        self.writer = Link("writes", self._connect)
        self.listener = Link("listens", self._connect)

    @property
    def partitions(self) -> int:
        """Number of partitions of the namespace."""
        return self.namespace.partitions

    def blocking_client(self) -> redis.Redis:
        """Return a connection for a thread of its own: short time-outs, no retries."""
        if self.url.startswith("memory://"):
            from spine.testing.memory import memory_client

            return memory_client(self.url)
        return redis.Redis.from_url(
            self.url, protocol=2, retry=BlockingRetry(NoBackoff(), 0), socket_timeout=2.0, socket_connect_timeout=2.0
        )

    def now_ms(self) -> int:
        """Return the server's time in ms, as far as this client knows it."""
        return round(time.time() * 1000) + self.clock_offset_ms + clock.moved_ms()

    def note_time(self, server_ms: int) -> None:
        """Take over the server's time that a reply brought along."""
        self.clock_offset_ms = server_ms - round(time.time() * 1000) - clock.moved_ms()

    async def open(self) -> None:
        """Connect, and create the namespace or join it. Raises `ServerUnreachable` or `Misconfigured`."""
        await self.patiently(self._ask_time)
        clock.after_move(self._ask_time)

    async def _ask_time(self) -> None:
        """Take over the server's time; what was asked on the same link before has been answered then."""
        self.note_time(clock.ms_of((await self.link.call(("TIME",)))[0]))

    async def close(self) -> None:
        """Close every connection."""
        clock.forget(self)
        for link in (self.listener, self.writer, self.link):
            await link.close()
        await self._pool.disconnect()

    async def reopen(self, known: Namespace) -> None:
        """Open the namespace again unless somebody did since `known` was read."""
        async with self._opening:
            if self.namespace is known:
                self._run_id = ""
                replies = await self.link.call(self._open_command())
                self._opened(replies[0])

    async def command(self, *command: Argument) -> Any:
        """Send one command that may be sent twice without harm; return its reply, again and again while away."""

        async def once() -> Any:
            reply = (await self.link.call(command))[0]
            if isinstance(reply, RedisError):
                raise refused(reply) from reply
            return reply

        return await self.patiently(once)

    async def commands(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Send commands that may be sent twice without harm in one round trip; the first error reply raises."""
        if not commands:
            return []

        async def once() -> list[Any]:
            replies = await self.link.call(*commands)
            for reply in replies:
                if isinstance(reply, RedisError):
                    raise refused(reply) from reply
            return replies

        return await self.patiently(once)

    async def hash(self, key: str) -> dict[str, bytes]:
        """Return the fields of a hash; none where there is no such key."""
        return by_field(await self.command("HGETALL", key))

    async def evaluate(
        self,
        link: Link,
        name: str,
        keys: Sequence[str],
        args: Sequence[Argument],
        *around: tuple[Argument, ...],
        timeout: float | None = None,
    ) -> list[Any]:
        """Call a script on `link`, once, and the commands `around` after it in the same round trip.

        A server that lost its scripts is taught again unseen. Returns the replies; an error reply of the script
        raises (see `refused`), one of `around` is returned in its place.
        """
        lua = script(name)
        call = ("EVALSHA", lua.sha, len(keys), *keys, *args)
        replies = await link.call(call, *around, timeout=timeout)
        if isinstance(replies[0], NoScriptError):
            replies = (await link.call(("SCRIPT", "LOAD", lua.source), call, *around, timeout=timeout))[1:]
        if isinstance(replies[0], RedisError):
            raise refused(replies[0]) from replies[0]
        return replies

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument] = ()) -> Any:
        """Call a script that may be called twice without harm, again and again while the server is away."""

        async def once() -> Any:
            return (await self.evaluate(self.link, name, keys, args))[0]

        return await self.patiently(once)

    async def patiently(self, once: Callable[[], Awaitable[T]], patience_s: float | None = None) -> T:
        """Return ``await once()``, repeated while the server is away, for `patience_s` at most."""
        try:
            return await once()
        except (ServerUnreachable, ServerRefused) as error:
            if not is_passing(error):
                raise
            uncertain = error.stored is None
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(is_passing),
                stop=stop_after_delay(self.patience_s if patience_s is None else patience_s),
                wait=wait_exponential(multiplier=0.02, max=1.0) + wait_random(0, 0.05),
                reraise=True,
            ):
                with attempt:
                    try:
                        return await once()
                    except SpineError as error:
                        uncertain = uncertain or error.stored is None
                        raise
        except (ServerUnreachable, ServerRefused) as error:
            if uncertain:
                error.stored = None
            raise
        raise AssertionError("unreachable")

    async def _connect(self) -> AbstractConnection:
        connection = cast(AbstractConnection, self._pool.make_connection())
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await connection.connect()
                await self._greet(connection)
        except (RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            raise not_connected(self.url, error) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _greet(self, connection: AbstractConnection) -> None:
        """Look which run of the server this is; on a new one open the namespace before anything else is sent."""
        info = await _server_info(connection)
        async with self._opening:
            if info.run_id != self._run_id:
                self.info = info
                await connection.send_command(*self._open_command())
                self._opened(await connection.read_response(disable_decoding=True))

    def _open_command(self) -> tuple[Argument, ...]:
        keys = (self.keys.meta, self.keys.seq, self.keys.epochs)
        wanted = self._partitions or self.partitions or DEFAULT_PARTITIONS
        args = (FORMAT, LAYOUT, wanted, self.info.run_id, JUMP, self.highest_seen, secrets.token_hex(4))
        return ("EVAL", script("open").source, len(keys), *keys, *args)

    def _opened(self, reply: Any) -> None:
        if isinstance(reply, RedisError):
            raise refused(reply) from reply
        found_format, layout, partitions, epoch, _, ended_at = (value.decode() for value in reply)
        if found_format == INCOMPLETE and not self._accepts_incomplete:
            raise NamespaceMismatch(
                f"namespace {self.keys.namespace!r} is being filled by a fork or an import. Where that was broken off, "
                "run it again, or `spine namespace delete` it."
            )
        if found_format not in (FORMAT, INCOMPLETE) or layout != LAYOUT:
            raise NamespaceMismatch(
                f"namespace {self.keys.namespace!r} has format {found_format}, layout {layout!r}; this client speaks "
                f"format {FORMAT}, layout {LAYOUT!r}. Use another namespace or another version of event-spine."
            )
        if self._partitions is not None and int(partitions) != self._partitions:
            raise NamespaceMismatch(
                f"namespace {self.keys.namespace!r} was created with {partitions} partitions, not {self._partitions}: "
                "the number is fixed. Leave `partitions` out, or use another namespace."
            )
        if epoch != self.namespace.epoch and int(ended_at) < self.highest_seen:
            logger.warning(
                "the server came back with less than it had: namespace %r ended at seq %d, %d was seen before. What "
                "lay between is lost; its numbers are not given again.",
                self.keys.namespace, int(ended_at), self.highest_seen,
            )  # fmt: skip
        self._run_id = self.info.run_id
        self.namespace = Namespace(int(partitions), epoch)


async def _server_info(connection: AbstractConnection) -> ServerInfo:
    await connection.send_command("INFO", "server")
    text = (await connection.read_response(disable_decoding=True)).decode()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    product = "valkey" if "valkey_version" in fields else "redis"
    version = tuple(int(part) for part in fields.get(f"{product}_version", "0").split(".")[:3])
    if version < MINIMUM_VERSION:
        raise UnsupportedServer(
            f"{product} {'.'.join(map(str, version))} is too old: spine needs Redis 6.2+ or Valkey 7.2+."
        )
    return ServerInfo(product, version, fields.get("run_id", ""))
