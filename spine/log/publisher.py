"""Appending: publishes coalesce into one script call, one call in flight, each stored exactly once.

While an append is on its way, later ones gather and go together in the next. There is no timer and nothing to tune:
a lone publish leaves at once, a thousand leave in a few calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import msgspec
from redis.exceptions import RedisError

from spine.codec import decode_entry
from spine.connection import Argument, NamespaceChanged, Server, StaleBatch
from spine.errors import (
    DecodeError,
    InvalidInput,
    NotDurable,
    ServerUnreachable,
    SpineError,
    StreamBlocked,
    TooLarge,
)
from spine.events import Durability, Event
from spine.log.calls import ScriptCall
from spine.log.drafts import Prepared, Write
from spine.log.streams import Streams

MAX_EVENTS_A_CALL = 512
MAX_BYTES_A_CALL = 2 * 1024 * 1024
MAX_EVENTS_A_BATCH = 10_000
MAX_BYTES_A_BATCH = 32 * 1024 * 1024
BATCH_MEMORY_MS = 3_600_000
DURABILITY_TIMEOUT_MS = 5_000
APPEND_TIMEOUT_S = 5.0


class _Group(msgspec.Struct, gc=False):
    """The events of one publish: stored together or not at all."""

    events: Sequence[Prepared]
    writes: Sequence[Write]
    durability: Durability
    future: asyncio.Future[list[Event[Any]]]
    size: int


class Publisher:
    """Appends to the log of one namespace."""

    def __init__(self, server: Server, streams: Streams, producer: str) -> None:
        self._server = server
        self._streams = streams
        self._producer = producer
        self._batch = 0
        self._waiting: deque[_Group] = deque()
        self._task: asyncio.Task[None] | None = None
        self._checked_run = ""

    async def append(
        self, events: Sequence[Prepared], durability: Durability = "memory", writes: Sequence[Write] = ()
    ) -> list[Event[Any]]:
        """Append `events` as one atomic batch, with plain `writes`; return them as stored, in the same order.

        Raises `Unavailable` whose `stored` says what became of them.
        """
        size = sum(len(event.data) for event in events)
        if len(events) > MAX_EVENTS_A_BATCH or size > MAX_BYTES_A_BATCH:
            raise TooLarge(
                f"a batch of {len(events):,} events and {size:,} bytes is over the limit of {MAX_EVENTS_A_BATCH:,} "
                f"events and {MAX_BYTES_A_BATCH:,} bytes. Publish it in several batches. Nothing was stored."
            )
        if durability != "memory":
            await self._check_durability(durability)
        future: asyncio.Future[list[Event[Any]]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Group(events, writes, durability, future, size))
        if self._task is None:
            self._task = asyncio.create_task(self._flush(), name="spine-publisher")
        return await future

    async def drain(self) -> None:
        """Wait until everything handed over is stored or refused."""
        while self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _flush(self) -> None:
        groups: list[_Group] = []
        try:
            while self._waiting:
                groups = self._gather()
                try:
                    await self._store(groups)
                except StreamBlocked as error:
                    await self._store_apart(groups, error)
                except (SpineError, RedisError, OSError) as error:
                    _fail(groups, error)
        except BaseException:
            _fail(groups, ServerUnreachable("the publisher was stopped", stored=None))
            _fail(self._waiting, ServerUnreachable("the publisher was stopped. Nothing was stored."))
            self._waiting.clear()
            raise
        finally:
            self._task = None

    def _gather(self) -> list[_Group]:
        """Take the next groups that may share a call: same durability, within the limits of a call."""
        first = self._waiting.popleft()
        groups, count, size = [first], len(first.events), first.size
        while self._waiting:
            group = self._waiting[0]
            count, size = count + len(group.events), size + group.size
            if group.durability != first.durability or count > MAX_EVENTS_A_CALL or size > MAX_BYTES_A_CALL:
                break
            groups.append(self._waiting.popleft())
        return groups

    async def _store_apart(self, groups: list[_Group], blocked: StreamBlocked) -> None:
        """One blocked stream refuses a whole call: each group is tried alone, so that only the culprits fail."""
        if len(groups) == 1:
            _fail(groups, blocked)
            return
        for group in groups:
            try:
                await self._store([group])
            except (SpineError, RedisError, OSError) as error:
                _fail([group], error)

    async def _store(self, groups: list[_Group]) -> None:
        self._batch += 1
        durability = groups[0].durability
        attempts = 0

        async def once() -> tuple[ScriptCall, list[Any]]:
            nonlocal attempts
            attempts += 1
            known = self._server.namespace
            try:
                call, args = self._call(groups)
                around = _confirmations(durability, call.keys[4] if attempts > 1 else None)
                timeout = APPEND_TIMEOUT_S + (DURABILITY_TIMEOUT_MS / 1000 if around else 0)
                replies = await self._server.evaluate(
                    self._server.writer, "append", call.keys, args, *around, timeout=timeout
                )
                return call, replies
            except NamespaceChanged:
                await self._server.reopen(known)
                self._streams.forget()
                return await once()

        try:
            call, replies = await self._server.patiently(once)
        except StaleBatch as error:
            raise ServerUnreachable(
                "the append was overtaken by a later one of this client after a lost connection", stored=None
            ) from error
        await self._resolve(groups, call, replies)

    def _call(self, groups: list[_Group]) -> tuple[ScriptCall, list[Argument]]:
        call = ScriptCall(self._server.keys, self._producer, self._streams)
        prepared = groups[0].events if len(groups) == 1 else [event for group in groups for event in group.events]
        events = call.events(prepared)
        dedupe_count = 0
        dedupes: list[Argument] = []
        for place, event in enumerate(prepared, 1):
            if event.dedupe_key is not None:
                dedupe_count += 1
                dedupes += (place, call.place(self._server.keys.dedupe(event.dedupe_key)), event.dedupe_ms)
        writes: list[Write] = []
        before = 0
        for group in groups:
            writes += [write.shifted(before) for write in group.writes]
            before += len(group.events)
        written = call.writes(writes)
        head = (self._server.namespace.epoch, self._batch, BATCH_MEMORY_MS)
        return call, [*head, *call.streams_args(), *events, dedupe_count, *dedupes, *written]

    async def _resolve(self, groups: list[_Group], call: ScriptCall, replies: list[Any]) -> None:
        first_text, ts_text, skipped_text, registered = replies[0].decode().split(" ")
        call.learn(registered)
        seq, ts_ms = int(first_text), int(ts_text)
        skipped = dict(pair.split("=") for pair in skipped_text.split(",")) if skipped_text != "-" else {}
        stored: list[Event[Any]] = []
        undurable = _unconfirmed(groups[0].durability, replies[1:])
        for group in groups:
            start = len(stored)
            for prepared in group.events:
                original = skipped.get(str(len(stored) + 1)) if skipped else None
                if original is None:
                    stored.append(prepared.stored(seq, ts_ms))
                    seq += 1
                elif original.startswith("@"):
                    stored.append(stored[int(original[1:]) - 1])
                else:
                    stored.append(await self._original(prepared, original))
            if not group.future.done():
                if undurable is not None:
                    group.future.set_exception(undurable)
                else:
                    group.future.set_result(stored[start:])
        self._server.highest_seen = max(self._server.highest_seen, seq - 1)

    async def _original(self, prepared: Prepared, reference: str) -> Event[Any]:
        """Return the event that is stored under the dedupe key of `prepared`."""
        seq, number, ts_ms = reference.split(":")
        stream = await self._streams.get(int(number))
        for partition in range(self._server.partitions):
            key = self._streams.key(partition, stream)
            found = await self._server.command("XRANGE", key, f"{seq}-0", f"{seq}-0")
            if found:
                try:
                    return decode_entry(stream.topic, found[0])
                except DecodeError:
                    break
        return prepared.stored(int(seq), int(ts_ms))

    async def _check_durability(self, durability: Durability) -> None:
        """Refuse, before anything is stored, what this server cannot confirm."""
        if durability not in ("disk", "replicas"):
            raise InvalidInput(f"durability is 'memory', 'disk' or 'replicas', not {durability!r}. Nothing was stored.")
        run = f"{durability} {self._server.info.run_id}"
        if self._checked_run == run:
            return
        if durability == "disk":
            info = (await self._server.command("INFO", "persistence")).decode()
            if "aof_enabled:1" not in info:
                raise NotDurable(
                    "durability='disk' needs the append-only file, which is off on this server (appendonly no). "
                    "Nothing was stored.",
                    stored=False,
                )
            if not has_waitaof(self._server) and not await _fsyncs_always(self._server):
                raise NotDurable(
                    "durability='disk' needs WAITAOF (Redis 7.2+, Valkey) or appendfsync always. Nothing was stored.",
                    stored=False,
                )
        self._checked_run = run


def has_waitaof(server: Server) -> bool:
    """Tell whether the server can wait for its append-only file."""
    return server.info.product == "valkey" or server.info.version >= (7, 2)


async def _fsyncs_always(server: Server) -> bool:
    reply = await server.command("CONFIG", "GET", "appendfsync")
    return len(reply) == 2 and reply[1] == b"always"


def _confirmations(durability: Durability, touch: str | None) -> list[tuple[Argument, ...]]:
    """Return the commands that wait for `durability`.

    A repeated append may have written nothing on this connection, and the wait would prove nothing: `touch` is then
    written first.
    """
    if durability == "memory":
        return []
    commands: list[tuple[Argument, ...]] = []
    if touch is not None:
        commands.append(("SET", f"{touch}:touch", "1", "PX", 60_000))
    if durability == "disk":
        commands.append(("WAITAOF", 1, 0, DURABILITY_TIMEOUT_MS))
    else:
        commands.append(("WAIT", 1, DURABILITY_TIMEOUT_MS))
    return commands


def _unconfirmed(durability: Durability, replies: list[Any]) -> NotDurable | None:
    if durability == "memory":
        return None
    reply = replies[-1]
    if isinstance(reply, RedisError):
        if "unknown command" in str(reply).lower():
            return None
        return NotDurable(f"the events are in memory, but the server would not confirm more: {reply}")
    confirmed = reply[0] if isinstance(reply, list) else reply
    if confirmed >= 1:
        return None
    where = "on disk" if durability == "disk" else "on a replica"
    return NotDurable(f"the events are in memory, but not confirmed {where} within {DURABILITY_TIMEOUT_MS} ms")


def _fail(groups: Iterable[_Group], error: BaseException) -> None:
    """Raise `error` in each caller: an exception of its own, because raising one writes into it."""
    for group in groups:
        if not group.future.done():
            own = copy(error)
            own.__cause__ = error.__cause__
            group.future.set_exception(own)
