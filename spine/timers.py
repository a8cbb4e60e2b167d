"""Scheduled events: kept in a timetable, appended by any living client when they are due."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator
from datetime import datetime, timedelta
from typing import Any

import msgspec
from redis.exceptions import RedisError

from spine import clock
from spine.codec import Envelope, unsealed
from spine.connection import Server, is_passing
from spine.delivery.commits import Committer, Held, NoLongerPending
from spine.durations import LONGEST_S, in_seconds
from spine.errors import DecodeError, InvalidInput, SpineError
from spine.events import Event, from_ms, to_ms
from spine.keys import Keys
from spine.log.drafts import Drafts, Prepared, Write
from spine.log.listener import Entries, Listener

logger = logging.getLogger("spine")

LOOK_EVERY_S = 1.0
TRY_AGAIN_S = 1.0
DUE_AT_ONCE = 256
PAGE = 500


class Scheduled:
    """An event that is to be published later.

    Attributes:
        id: its id in the timetable, and the id of the event.
        due: when, by the server's clock. The seq comes when it is due.
    """

    def __init__(self, id: str, due: datetime, timers: Timers | None) -> None:
        self.id = id
        self.due = due
        self._timers = timers

    def __repr__(self) -> str:
        return f"Scheduled(id={self.id!r}, due={self.due.isoformat()})"

    def __await__(self) -> Generator[None, None, Scheduled]:
        """``await ctx.schedule(…)`` in a handler, as ``await spine.schedule(…)`` elsewhere: it is done already."""
        return self
        yield

    async def cancel(self) -> bool:
        """Take it out of the timetable; return whether it was still there."""
        if self._timers is None:
            raise InvalidInput("this was scheduled within a handler and is stored by its commit: cancel it by its id")
        return await self._timers.cancel(self.id)


class _Stored(msgspec.Struct, array_like=True, gc=False):
    """What the timetable keeps of an event: all that appending takes, and since when it is there (0: not known)."""

    topic: str
    lane: int
    partition: int
    data: bytes
    since_ms: int = 0


Maker = Callable[[str, bytes], Awaitable[tuple[list[Prepared], list[Write]]]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


def due_ms(now_ms: int, delay: timedelta | float | None, at: datetime | None) -> int:
    """Return the due time in ms from either a delay (timedelta or seconds) or a time."""
    if (delay is None) == (at is None):
        raise InvalidInput("give either delay= or at=. Nothing was stored.")
    if at is None:
        return now_ms + round(in_seconds(delay or 0.0, "delay") * 1000)
    if not isinstance(at, datetime):
        raise InvalidInput(f"at is a datetime, not {at!r}. Nothing was stored.")
    due = to_ms(at)
    if due - now_ms > LONGEST_S * 1000:
        raise InvalidInput(f"at is {at!r}, more than thirty years from now. Nothing was stored.")
    return due


def encode_scheduled(topic: str, lane: int, partition: int, data: bytes, since_ms: int = 0) -> bytes:
    """Return what the timetable keeps of an event, by the fields of `Prepared`."""
    return _encode(_Stored(topic, lane, partition, data, since_ms))


def read_scheduled(raw: bytes) -> tuple[Envelope, int] | None:
    """Return the event that the timetable keeps as `raw`, and since when (ms); ``None`` for anything else."""
    try:
        stored = _decode(raw)
        return unsealed(stored.data), stored.since_ms
    except (msgspec.MsgspecError, DecodeError):
        return None


def schedule_writes(drafts: Drafts, prepared: Prepared, due: int, since_ms: int = 0) -> tuple[Write, ...]:
    """Return the writes that put an event into the timetable; `since_ms` where no handling tells since when."""
    stored = encode_scheduled(prepared.topic, prepared.lane, prepared.partition, prepared.data, since_ms)
    return timetable_writes(drafts.keys, prepared.envelope.id, stored, due)


def timetable_writes(keys: Keys, name: str, stored: bytes, due: int) -> tuple[Write, ...]:
    """Return the writes that put an entry into the timetable, and tell every client of it."""
    return (
        Write("HSET", keys.scheduled, "hash", (name, stored)),
        Write("ZADD", keys.due, "zset", (due, name)),
        Write("XADD", keys.control, "stream", ("MAXLEN", "~", 100, "*", "due", due)),
    )


def unschedule_writes(keys: Keys, scheduled_id: str) -> tuple[Write, ...]:
    """Return the writes that take an event out of the timetable, if it is still there."""
    return (
        Write("ZREM", keys.due, "zset", (scheduled_id,)),
        Write("HDEL", keys.scheduled, "hash", (scheduled_id,)),
    )


class Timers:
    """The timetable of one namespace, as one client serves it.

    Every client looks after it: at the time of the next due event, when a notice tells of an earlier one, and once a
    second. Two that find the same event due append it once.
    """

    def __init__(self, server: Server, committer: Committer, listener: Listener, drafts: Drafts) -> None:
        self._server = server
        self._committer = committer
        self._listener = listener
        self._drafts = drafts
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        clock.after_move(self._look)
        self._makers: dict[str, Maker] = {}
        self._not_before: dict[str, float] = {}

    def serve(self, kind: str, make: Maker) -> None:
        """Let `make` say what follows when an entry called ``kind:…`` is due."""
        self._makers[kind] = make

    async def start(self) -> None:
        """Begin to append what is due."""
        await self._listener.watch(self._server.keys.control, self._hear)
        self._task = asyncio.create_task(self._run(), name="spine-timers")

    async def close(self) -> None:
        """Stop; others go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def schedule(self, prepared: Prepared, due: int) -> Scheduled:
        """Put an event into the timetable."""
        await self._committer.commit(writes=schedule_writes(self._drafts, prepared, due, self._server.now_ms()))
        self._changed.set()
        return Scheduled(prepared.envelope.id, from_ms(due), self)

    async def cancel(self, scheduled_id: str) -> bool:
        """Take an event out of the timetable; return whether it was still there."""
        keys = self._server.keys
        try:
            await self._committer.commit(
                held=Held("due", keys.due, scheduled_id),
                writes=(Write("HDEL", keys.scheduled, "hash", (scheduled_id,)),),
            )
        except NoLongerPending:
            return False
        return True

    async def cancel_correlation(self, correlation: str) -> None:
        """Take the events of a correlation out of the timetable."""
        cursor = "0"
        while True:
            raw_cursor, page = await self._server.command("HSCAN", self._server.keys.scheduled, cursor, "COUNT", PAGE)
            for name, raw in zip(page[::2], page[1::2], strict=True):
                found = read_scheduled(raw)
                if found is not None and found[0].context.correlation == correlation:
                    await self.cancel(name.decode())
            cursor = raw_cursor.decode()
            if cursor == "0":
                return

    def _look(self) -> None:
        self._changed.set()

    def _hear(self, entries: Entries | None) -> None:
        if entries is None or any(fields[0] == b"due" for _, fields in entries):
            self._changed.set()

    async def _run(self) -> None:
        while True:
            pause = LOOK_EVERY_S
            try:
                pause = min(pause, await self._append_due())
            except (SpineError, RedisError, OSError) as error:
                logger.debug("timetable: %s", error)
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()

    async def _append_due(self) -> float:
        """Append what is due; return the seconds until the next. What fails is tried again later; others go on."""
        keys = self._server.keys
        passed_over = 0
        self._not_before = {name: at for name, at in self._not_before.items() if at > time.monotonic()}
        while True:
            found = await self._server.command(
                "ZRANGEBYSCORE", keys.due, "-inf", "+inf", "WITHSCORES", "LIMIT", passed_over, DUE_AT_ONCE
            )
            now = self._server.now_ms()
            ready = [found[i].decode() for i in range(0, len(found), 2) if float(found[i + 1]) <= now]
            tried = [name for name in ready if name not in self._not_before]
            passed_over += len(ready) - len(tried) + await self._append_all(tried)
            if len(ready) < DUE_AT_ONCE:
                waiting = found[2 * len(ready) + 1 :: 2]
                return max(0.001, (float(waiting[0]) - now) / 1000) if waiting else LOOK_EVERY_S

    async def _append_all(self, names: list[str]) -> int:
        """Append the entries called `names`; return how many failed."""
        if not names:
            return 0
        raws = await self._server.command("HMGET", self._server.keys.scheduled, *names)
        done = await asyncio.gather(*(self._append_one(name, raw) for name, raw in zip(names, raws, strict=True)))
        return done.count(False)

    async def _append_one(self, name: str, raw: bytes | None) -> bool:
        """Append one entry; return whether that went well."""
        try:
            await self._append(name, raw)
        except Exception as error:
            log = logger.debug if is_passing(error) else logger.error
            log("what is due as %s cannot be appended: %s: %s", name, type(error).__name__, error)
            self._not_before[name] = time.monotonic() + TRY_AGAIN_S
            return False
        return True

    async def _append(self, name: str, raw: bytes | None) -> list[Event[Any]]:
        keys = self._server.keys
        events: list[Prepared] = []
        writes: list[Write] = []
        make = self._makers.get(name.partition(":")[0])
        if raw is not None and make is not None:
            events, writes = await make(name, raw)
        elif raw is not None:
            events += _stored(name, raw)
        try:
            stored = await self._committer.commit(
                held=Held("due", keys.due, name),
                events=events,
                writes=(Write("HDEL", keys.scheduled, "hash", (name,)), *writes),
            )
        except NoLongerPending:  # another client was quicker
            return []
        if raw is None:
            logger.warning("scheduled event %s has no content and is dropped", name)
        return stored


def _stored(name: str, raw: bytes) -> list[Prepared]:
    """Return the event that the timetable keeps as `raw`; none, and a report, where that is damaged."""
    try:
        stored = _decode(raw)
        envelope = unsealed(stored.data)
    except (msgspec.MsgspecError, DecodeError) as error:
        logger.warning("scheduled event %s is damaged and dropped: %s", name, error)
        return []
    return [Prepared(envelope, stored.topic, stored.lane, stored.partition, stored.data)]
