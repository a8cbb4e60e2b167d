"""Appending: publishes coalesce into one script call, one call in flight, each stored exactly once.

While an append is on its way, later ones gather and go together in the next. There is no timer and nothing to tune:
a lone publish leaves at once, a thousand leave in a few calls. The next call is sent before the callers of the last one
are woken, so that client and server work at the same time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from copy import copy
from datetime import datetime
from typing import Any

import msgspec
from redis.exceptions import RedisError

from spine.codec import decode_entry
from spine.connection import Argument, NamespaceChanged, Server, StaleBatch
from spine.errors import (
    DecodeError,
    NotDurable,
    ServerUnreachable,
    SpineError,
    StreamBlocked,
    TooLarge,
)
from spine.events import Durability, Event, from_ms
from spine.link import ClientClosed
from spine.log.calls import ScriptCall
from spine.log.drafts import Prepared, Write
from spine.log.durability import (
    DURABILITY_TIMEOUT_MS,
    check_durability,
    check_not_demoted,
    confirmations,
    unconfirmed,
)
from spine.log.streams import Streams

MAX_EVENTS_A_CALL = 256
MIN_EVENTS_A_CALL = 32
MAX_BYTES_A_CALL = 2 * 1024 * 1024
MAX_EVENTS_A_BATCH = 10_000
MAX_BYTES_A_BATCH = 32 * 1024 * 1024
BATCH_MEMORY_MS = 3_600_000
APPEND_TIMEOUT_S = 5.0


class _Group(msgspec.Struct, gc=False):
    """The events of one publish: stored together or not at all; `alone` when the caller waits for the one event."""

    events: Sequence[Prepared]
    writes: Sequence[Write]
    durability: Durability
    future: asyncio.Future[Any]
    size: int
    alone: bool = False


class _Answer(msgspec.Struct, gc=False):
    """What the server said to a call: the callers are still to be told.

    Attributes:
        first: number of the first event stored.
        originals: by place (from 1), what a dedupe key stands for: an event of an earlier call, the place of one of
            this call, or the error met in reading it.
    """

    groups: list[_Group]
    count: int
    first: int
    ts: datetime
    originals: dict[int, Event[Any] | int | SpineError]
    undurable: NotDurable | None


class Publisher:
    """Appends to the log of one namespace."""

    def __init__(self, server: Server, streams: Streams, producer: str) -> None:
        self._server = server
        self._streams = streams
        self._producer = producer
        self._batch = 0
        self._waiting: deque[_Group] = deque()
        self._task: asyncio.Task[None] | None = None
        self._confirms: set[tuple[Durability, str]] = set()
        self._closed = False

    async def append(
        self, events: Sequence[Prepared], durability: Durability = "memory", writes: Sequence[Write] = ()
    ) -> list[Event[Any]]:
        """Append `events` as one atomic batch, with plain `writes`; return them as stored, in the same order.

        Raises `Unavailable` whose `stored` says what became of them.
        """
        size = sum([len(event.data) for event in events])
        if len(events) > MAX_EVENTS_A_BATCH or size > MAX_BYTES_A_BATCH:
            raise TooLarge(
                f"a batch of {len(events):,} events and {size:,} bytes is over the limit of {MAX_EVENTS_A_BATCH:,} "
                f"events and {MAX_BYTES_A_BATCH:,} bytes. Publish it in several batches. Nothing was stored."
            )
        if durability != "memory":
            await self._check(durability)
        future: asyncio.Future[list[Event[Any]]] = asyncio.get_running_loop().create_future()
        self._add(_Group(events, writes, durability, future, size))
        return await future

    def append_one(self, event: Prepared, durability: Durability = "memory") -> Awaitable[Event[Any]]:
        """Append one event; awaited, it is the event as stored. Raises `Unavailable` whose `stored` tells the rest."""
        if durability != "memory":
            return self._append_one_durably(event, durability)
        future: asyncio.Future[Event[Any]] = asyncio.get_running_loop().create_future()
        self._add(_Group((event,), (), durability, future, len(event.data), True))
        return future

    async def _append_one_durably(self, event: Prepared, durability: Durability) -> Event[Any]:
        return (await self.append((event,), durability))[0]

    async def drain(self) -> None:
        """Wait until everything handed over is stored or refused."""
        while self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def close(self) -> None:
        """Refuse what comes from now on; return when all else is stored or refused."""
        self._closed = True
        await self.drain()

    async def _check(self, durability: Durability) -> None:
        run = (durability, self._server.info.run_id)
        if run not in self._confirms:
            await check_durability(self._server, durability)
            self._confirms.add(run)

    def _add(self, group: _Group) -> None:
        if self._closed:
            raise ClientClosed("the client is closed. Nothing was stored.")
        self._waiting.append(group)
        if self._task is None:
            self._task = asyncio.create_task(self._flush(), name="spine-publisher")

    async def _flush(self) -> None:
        answer: _Answer | None = None
        groups: list[_Group] = []
        try:
            while self._waiting:
                groups = self._gather(answer.count if answer else 0)
                if answer is None:
                    answer = await self._try(groups)
                else:
                    sending = asyncio.create_task(self._try(groups), name="spine-append")
                    _tell(answer)  # its callers run after the next call has left
                    answer = None
                    answer = await sending
            if answer is not None:
                _tell(answer)
        except BaseException as error:
            for lost, stored in ((groups, None), (self._waiting, False)):
                stopped = ServerUnreachable(f"the publisher was stopped: {error!r}")
                stopped.stored, stopped.__cause__ = stored, error
                _fail(lost, stopped)
            self._waiting.clear()
            raise
        finally:
            self._task = None

    def _gather(self, answered: int) -> list[_Group]:
        """Take the next groups that may share a call: same durability, within the limits of a call.

        Half of what is under way (waiting, or about to come again from the `answered` callers) is enough for one call:
        the other half is worked on here while the server works on this one.
        """
        half = (len(self._waiting) + answered + 1) // 2
        most = min(MAX_EVENTS_A_CALL, max(MIN_EVENTS_A_CALL, half))
        first = self._waiting.popleft()
        groups, count, size = [first], len(first.events), first.size
        while self._waiting:
            group = self._waiting[0]
            count, size = count + len(group.events), size + group.size
            if group.durability != first.durability or count > most or size > MAX_BYTES_A_CALL:
                break
            groups.append(self._waiting.popleft())
        return groups

    async def _try(self, groups: list[_Group]) -> _Answer | None:
        """Store `groups`; return the answer, or nothing when the callers know already that it failed."""
        try:
            return await self._store(groups)
        except StreamBlocked as error:
            await self._store_apart(groups, error)
        except (SpineError, RedisError, OSError) as error:
            _fail(groups, error)
        return None

    async def _store_apart(self, groups: list[_Group], blocked: StreamBlocked) -> None:
        """One blocked stream refuses a whole call: each group is tried alone, so that only the culprits fail."""
        if len(groups) == 1:
            _fail(groups, blocked)
            return
        for group in groups:
            try:
                _tell(await self._store([group]))
            except (SpineError, RedisError, OSError) as error:
                _fail([group], error)

    async def _store(self, groups: list[_Group]) -> _Answer:
        self._batch += 1
        durability = groups[0].durability
        attempts = 0

        async def once() -> tuple[ScriptCall, list[Any]]:
            nonlocal attempts
            while True:
                attempts += 1
                known = self._server.namespace
                try:
                    call, args = self._call(groups)
                    around = confirmations(durability, call.keys[4] if attempts > 1 else None)
                    timeout = APPEND_TIMEOUT_S + (DURABILITY_TIMEOUT_MS / 1000 if around else 0)
                    replies = await self._server.evaluate(
                        self._server.writer, "append", call.keys, args, *around, timeout=timeout
                    )
                    check_not_demoted(replies[1:])
                    return call, replies
                except NamespaceChanged:
                    await self._server.reopen(known)
                    self._streams.forget()

        try:
            call, replies = await self._server.patiently(once)
        except StaleBatch as error:
            raise ServerUnreachable(
                "the append was overtaken by a later one of this client after a lost connection", stored=None
            ) from error
        return await self._answer(groups, call, replies)

    def _call(self, groups: list[_Group]) -> tuple[ScriptCall, list[Argument]]:
        call = ScriptCall(self._server.keys, self._producer, self._streams)
        prepared = _events_of(groups)
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
            if group.writes:
                writes += [write.shifted(before) for write in group.writes]
            before += len(group.events)
        written = call.writes(writes)
        head = (self._server.namespace.epoch, self._batch, BATCH_MEMORY_MS)
        return call, [*head, *call.streams_args(), *events, dedupe_count, *dedupes, *written]

    async def _answer(self, groups: list[_Group], call: ScriptCall, replies: list[Any]) -> _Answer:
        first_text, ts_text, skipped, registered = replies[0].decode().split(" ")
        call.learn(registered)
        prepared = _events_of(groups)
        originals = {} if skipped == "-" else await self._originals(prepared, skipped)
        first, count = int(first_text), len(prepared)
        self._server.highest_seen = max(self._server.highest_seen, first + count - len(originals) - 1)
        return _Answer(
            groups, count, first, from_ms(int(ts_text)), originals, unconfirmed(groups[0].durability, replies[1:])
        )

    async def _originals(self, prepared: Sequence[Prepared], skipped: str) -> dict[int, Event[Any] | int | SpineError]:
        """Return, by place, what is stored under the dedupe keys that the script knew.

        `skipped` holds ``place=seq:stream:ts`` for an event of an earlier call, ``place=@place`` for one of this call.
        """
        found: dict[int, Event[Any] | int | SpineError] = {}
        for pair in skipped.split(","):
            place, reference = pair.split("=")
            if reference.startswith("@"):
                found[int(place)] = int(reference[1:])
                continue
            try:
                found[int(place)] = await self._original(prepared[int(place) - 1], reference)
            except SpineError as error:
                error.stored = True
                found[int(place)] = error
        return found

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
        return prepared.stored(int(seq), from_ms(int(ts_ms)))


def _events_of(groups: list[_Group]) -> Sequence[Prepared]:
    return groups[0].events if len(groups) == 1 else [event for group in groups for event in group.events]


def _tell(answer: _Answer) -> None:
    """Hand the stored events to the callers that wait for them."""
    if answer.undurable is not None:
        _fail(answer.groups, answer.undurable)
        return
    if answer.originals:
        _tell_of_originals(answer)
        return
    seq, ts = answer.first, answer.ts
    for group in answer.groups:
        future = group.future
        if group.alone:
            if not future.done():
                future.set_result(group.events[0].stored(seq, ts))
            seq += 1
        else:
            if not future.done():
                future.set_result([event.stored(at, ts) for at, event in enumerate(group.events, seq)])
            seq += len(group.events)


def _tell_of_originals(answer: _Answer) -> None:
    """The same where some events were not stored, because their dedupe key stands for another."""
    stored: list[Event[Any] | SpineError] = []
    seq = answer.first
    for group in answer.groups:
        start = len(stored)
        for event in group.events:
            original = answer.originals.get(len(stored) + 1)
            if original is None:
                stored.append(event.stored(seq, answer.ts))
                seq += 1
            else:
                stored.append(stored[original - 1] if isinstance(original, int) else original)
        of_group = stored[start:]
        error = next((found for found in of_group if isinstance(found, SpineError)), None)
        if error is not None:
            _fail([group], error)
        elif not group.future.done():
            group.future.set_result(of_group[0] if group.alone else of_group)


def _fail(groups: Iterable[_Group], error: BaseException) -> None:
    """Raise `error` in each caller: an exception of its own, because raising one writes into it."""
    for group in groups:
        if not group.future.done():
            own = copy(error)
            own.__cause__ = error.__cause__
            group.future.set_exception(own)
