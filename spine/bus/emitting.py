"""Emitting: type validated, data formatted, event stored; and waiting for the response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from spine.bus.messages import EventId, seq_of
from spine.bus.shared import Shared, handled, key_of
from spine.bus.subscribers import Subscribers
from spine.bus.types import Data, EventTypeName, typed
from spine.bus.waiting import Failures
from spine.catalog.types import EventType
from spine.durations import Duration, in_seconds
from spine.errors import InvalidInput, RequestFailed, RequestTimeout, StateConflict
from spine.events import Context, Draft, Event, Priority, caused_by
from spine.keys import partition_of
from spine.log.drafts import Completed, Prepared
from spine.names import check_key, plain
from spine.requests import new_request_id


class Emission(msgspec.Struct, frozen=True):
    """What a caller wants to emit, as it was handed over; see `AgentEventBus.emit`."""

    event_type: EventTypeName | EventType
    data: Data | None
    agent_type: str | None
    key: str | None
    context: Context | None
    priority: Priority | None
    expect: EventId | None


class Ready(msgspec.Struct, frozen=True):
    """An event that may be stored.

    Attributes:
        prepared: the event.
        expect: seq up to which its key may have come; ``None`` where that does not matter.
        timeout_s: how long its response is waited for; 0 for an event that awaits none.
    """

    prepared: Prepared
    expect: int | None
    timeout_s: float = 0.0


class Emitter:
    """Stores the events of one bus."""

    def __init__(self, shared: Shared, subscribers: Subscribers) -> None:
        self._shared = shared
        self._spine = shared.spine
        self._subscribers = subscribers

    def prepare(self, emission: Emission) -> Ready:
        """Return an event ready to store. Raises `InvalidInput` naming what is not right."""
        return self._checked(emission, lambda expect: Ready(self._prepared(emission), expect))

    def prepare_question(self, emission: Emission, timeout: Duration) -> Ready:
        """Return an event that awaits a response, ready to store. Raises `InvalidInput` naming what is not right."""

        def prepared(expect: int | None) -> Ready:
            timeout_s = in_seconds(timeout, "timeout")
            completed = self._spine.requests.completing(new_request_id(), timeout_s)
            return Ready(self._prepared(emission, completed), expect, timeout_s)

        return self._checked(emission, prepared)

    def _checked(self, emission: Emission, prepare: Callable[[int | None], Ready]) -> Ready:
        try:
            return prepare(None if emission.expect is None else seq_of(emission.expect))
        except InvalidInput as error:
            name = str(getattr(emission.event_type, "event_type", emission.event_type))
            raise self._shared.failed("invalid_event", name, None, error) from None

    def _prepared(self, emission: Emission, completed: Completed | None = None) -> Prepared:
        name, data = typed(emission.event_type, emission.data)
        agent_type, context = emission.agent_type, emission.context
        source = self._shared.agent_type if agent_type is None else plain(check_key(agent_type, "agent type"))
        key = emission.key or key_of(data)
        cause = handled.get()
        if context is None and cause is not None:
            context = caused_by(cause, source)
            key = key or cause.key
        if emission.expect is not None:
            self._check_expectation(key)
        draft = Draft(name, data, key, context, emission.priority)
        return self._shared.drafts.prepare(draft, source=source, completed=completed)

    def _check_expectation(self, key: str | None) -> None:
        if key is None:
            raise InvalidInput("expect= needs a key: give key=, or data with a conversation_id or session_id")
        if self._spine.durability != "memory":
            raise InvalidInput(
                "expect= is acknowledged when the server has the event in memory, which is less than this client's "
                f"durability={self._spine.durability!r}"
            )

    async def store(self, ready: Ready) -> Event[Any]:
        """Store an event, if its key is still where the caller expects it."""
        if ready.expect is None:
            stored = await self._spine.publisher.append([ready.prepared], self._spine.durability)
        else:
            stored = [await self._store_expecting(ready.prepared, ready.expect)]
        self._shared.recorder.emitted[stored[0].type] += 1
        return stored[0]

    async def _store_expecting(self, prepared: Prepared, expect: int) -> Event[Any]:
        key = prepared.envelope.key
        last = await self.last_seq(key)
        if expect <= last:
            index = self._shared.drafts.keys.by_key(prepared.partition, key)
            try:
                return (await self._spine.committer.commit(expected=((index, expect),), events=[prepared]))[0]
            except StateConflict:
                last = await self.last_seq(key)
        conflict = StateConflict(
            f"key {key!r} is not where it was expected: its last event is {last}, not {expect}. Nothing was stored."
        )
        raise self._shared.failed("state_conflict", prepared.envelope.type, None, conflict)

    async def last_seq(self, key: str) -> int:
        """Return the seq of the last event of `key`; 0 when it has none."""
        drafts = self._shared.drafts
        index = drafts.keys.by_key(partition_of(check_key(key), drafts.partitions), key)
        last = await self._spine.server.command("LINDEX", index, -1)
        return 0 if last is None else int(last.partition(b":")[0])

    async def somebody_answers(self, name: str) -> bool:
        """Tell whether anybody is subscribed to a type, or any agent handles it."""
        return await self._subscribers.any_of(name) or bool(await self._spine.requests.handlers_of(name))

    async def ask(self, ready: Ready) -> tuple[str, Event[Any]]:
        """Store an event, wait for the response, and return the event's id and the response."""
        name, timeout_s = ready.prepared.envelope.type, ready.timeout_s
        stored: list[Event[Any]] = []

        async def append(_: Prepared) -> Event[Any]:
            stored.append(await self.store(ready))
            return stored[0]

        requests = self._spine.requests
        failures = Failures(lambda: self._subscribers.of(name), requests.handlers_of, name)
        waiting = requests.send(append, ready.prepared, timeout_s=timeout_s, parts=failures, anybody=True)
        try:
            found = await failures.unless_all_failed(waiting)
        except RequestTimeout:
            event_id = str(stored[0].seq) if stored else None
            which = f"event {event_id}" if stored else "whether the event is stored is not known"
            late = RequestTimeout(
                f"no response to {name!r} ({which}) within {timeout_s:g} s{failures}", stored=True if stored else None
            )
            raise self._shared.failed("time_out", name, event_id, late) from None
        except RequestFailed as error:
            if not failures.failed or not failures.failed <= self._subscribers.mine:
                self._shared.failed("callback", name, str(stored[0].seq), error)  # else it was counted where it ran
            raise
        return str(stored[0].seq), found
