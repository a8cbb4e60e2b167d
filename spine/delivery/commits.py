"""Committing: what a handler did is written in one script with its acknowledgement, all or nothing.

Commits of many handlers share a call while another is on its way; each is refused alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from redis.exceptions import RedisError

from spine.connection import Argument, NamespaceChanged, Server, StaleBatch
from spine.delivery.calls import CommitCall
from spine.errors import LeaseLost, ServerUnreachable, SpineError, StateConflict, StreamBlocked
from spine.events import Event, from_ms
from spine.faults import fault
from spine.link import ClientClosed
from spine.log.calls import ScriptCall
from spine.log.drafts import Prepared, Write
from spine.log.streams import Streams

logger = logging.getLogger("spine")

MAX_UNITS_A_CALL = 256
MAX_EVENTS_A_CALL = 1_024
BATCH_MEMORY_MS = 3_600_000

Resolve = Callable[["Unit", BaseException | None], None]


class Held(msgspec.Struct, frozen=True, gc=False):
    """How the handled event is held, and so what is checked and given up by the commit.

    Attributes:
        kind: ``pending`` in a consumer group, or ``carried`` by a ring and taken by the commit; at the head of a
            ``waiting`` list (which it leaves, or with ``head`` stays at), ``due`` in the timetable, or ``none``.
        source: key of the stream, list or timetable.
        reference: entry id, reference in the list, or member of the timetable.
        group: consumer group, for ``pending`` and ``carried``.
        consumer: in whose name that group reads it.
    """

    kind: Literal["pending", "carried", "waiting", "head", "due", "none"] = "none"
    source: str = ""
    reference: str = ""
    group: str = ""
    consumer: str = ""


class Unit(msgspec.Struct, gc=False, kw_only=True):
    """What is committed together.

    Attributes:
        resolve: called with this unit when it is stored, or with the error that refused it.
        tag: whatever `resolve` needs to know.
        lease: key of the lease that must still be of `generation`; empty for none.
        generation: fencing token.
        held: the handled event.
        done: key and text of its done record; its field is the number that the reference of `held` begins with.
        expected: (index list, seq): the list's last event must not be later.
        events: what is appended.
        writes: what else is written.
        first: number of its first event, once it is stored.
        ts_ms: time of its events.
    """

    resolve: Resolve
    tag: Any = None
    lease: str = ""
    generation: int = 0
    held: Held = Held()
    done: tuple[str, str] | None = None
    expected: tuple[tuple[str, int], ...] = ()
    events: Sequence[Prepared] = ()
    writes: Sequence[Write] = ()
    first: int = 0
    ts_ms: int = 0

    def stored(self) -> list[Event[Any]]:
        """Return its events as they stand in the log."""
        ts = from_ms(self.ts_ms)
        return [prepared.stored(seq, ts) for seq, prepared in enumerate(self.events, self.first)]


class NoLongerPending(SpineError):
    """The event is not held any more: it was committed before, or somebody acknowledged it by hand."""


class Committer:
    """Commits units in the order they are handed over; one call in flight."""

    def __init__(self, server: Server, streams: Streams, producer: str) -> None:
        self._server = server
        self._streams = streams
        self._producer = producer
        self._batch = 0
        self._waiting: deque[Unit] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.patience_s: float | None = None
        self.after_call: Callable[[], None] = lambda: None

    def submit(self, unit: Unit) -> None:
        """Hand over a unit; its `resolve` is called when it is stored or refused."""
        if self._closed:
            _tell(unit, ClientClosed("the client is closed. Nothing was stored."))
            return
        self._waiting.append(unit)
        if self._task is None:
            self._task = asyncio.create_task(self._flush(), name="spine-committer")

    async def commit(
        self,
        *,
        lease: str = "",
        generation: int = 0,
        held: Held | None = None,
        expected: tuple[tuple[str, int], ...] = (),
        events: Sequence[Prepared] = (),
        writes: Sequence[Write] = (),
    ) -> list[Event[Any]]:
        """Commit one unit and return its events as stored; raises the error that refused it."""
        future: asyncio.Future[list[Event[Any]]] = asyncio.get_running_loop().create_future()

        def resolve(unit: Unit, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(unit.stored())

        self.submit(
            Unit(
                resolve=resolve,
                lease=lease,
                generation=generation,
                held=held or Held(),
                expected=expected,
                events=events,
                writes=writes,
            )
        )
        return await future

    async def drain(self) -> None:
        """Wait until everything handed over is stored or refused."""
        while self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def finish(self) -> None:
        """Refuse what comes from now on; return when all else is stored or refused."""
        self._closed = True
        await self.drain()

    async def close(self, patience_s: float) -> None:
        """Wait until everything handed over is stored or refused; give up what is not after `patience_s`."""
        task = self._task
        if task is not None:
            await asyncio.wait({task}, timeout=patience_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _flush(self) -> None:
        units: list[Unit] = []
        try:
            while self._waiting:
                units = self._gather()
                try:
                    await self._store(units)
                except StreamBlocked as error:
                    await self._store_apart(units, error)
                except (SpineError, RedisError, OSError) as error:
                    _refuse(units, error)
                self.after_call()
        except BaseException as error:
            left = [*units, *self._waiting]
            self._waiting.clear()
            _refuse(left, error)
            raise
        finally:
            self._task = None

    def _gather(self) -> list[Unit]:
        units: list[Unit] = []
        events = 0
        while self._waiting and len(units) < MAX_UNITS_A_CALL:
            events += len(self._waiting[0].events)
            if units and events > MAX_EVENTS_A_CALL:
                break
            units.append(self._waiting.popleft())
        return units

    async def _store_apart(self, units: list[Unit], blocked: StreamBlocked) -> None:
        """One blocked stream refuses a whole call: each unit is tried alone, so that only the culprits fail."""
        if len(units) == 1:
            _refuse(units, blocked)
            return
        for unit in units:
            try:
                await self._store([unit])
            except (SpineError, RedisError, OSError) as error:
                _refuse([unit], error)

    async def _store(self, units: list[Unit]) -> None:
        self._batch += 1

        async def once() -> tuple[ScriptCall, Any]:
            while True:
                known = self._server.namespace
                try:
                    call, args = self._call(units)
                    fault("commit.before")
                    replies = await self._server.evaluate(self._server.writer, "commit", call.keys, args)
                    fault("commit.after")
                    return call, replies[0]
                except NamespaceChanged:
                    await self._server.reopen(known)
                    self._streams.forget()

        try:
            call, reply = await self._server.patiently(once, self.patience_s)
        except StaleBatch as error:
            raise ServerUnreachable("the commit was overtaken after a lost connection", stored=None) from error
        self._resolve(units, call, reply)

    def _call(self, units: list[Unit]) -> tuple[ScriptCall, list[Argument]]:
        call = CommitCall(self._server.keys, self._producer, self._streams)
        return call, [self._server.namespace.epoch, self._batch, BATCH_MEMORY_MS, *call.units(units)]

    def _resolve(self, units: list[Unit], call: ScriptCall, reply: bytes) -> None:
        first_text, ts_text, outcomes, registered = reply.decode().split(" ")
        call.learn(registered)
        seq, ts_ms = int(first_text), int(ts_text)
        for unit, outcome in zip(units, outcomes, strict=True):
            if outcome != "y":
                _tell(unit, _REFUSALS[outcome](unit))
                continue
            unit.first, unit.ts_ms = seq, ts_ms
            seq += len(unit.events)
            _tell(unit, None)
        self._server.highest_seen = max(self._server.highest_seen, seq - 1)


_REFUSALS: dict[str, Callable[[Unit], SpineError]] = {
    "l": lambda unit: LeaseLost(f"lease {unit.lease} is not of generation {unit.generation} any more"),
    "p": lambda unit: NoLongerPending(f"{unit.held.reference} in {unit.held.source} is not held any more"),
    "c": lambda unit: StateConflict("the key has moved on since the expected seq. Nothing was stored."),
    "t": lambda unit: StreamBlocked("a key that the commit writes holds another type. Nothing was stored."),
}


def _tell(unit: Unit, error: BaseException | None) -> None:
    try:
        unit.resolve(unit, error)
    except Exception:
        logger.exception("after a commit")


def _refuse(units: Sequence[Unit], error: BaseException) -> None:
    for unit in units:
        _tell(unit, error)
