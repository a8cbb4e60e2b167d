"""Emitting: type validated, data formatted, event stored; and waiting for the response."""

from __future__ import annotations

from typing import Any

from spine.bus.shared import Data, Shared, child_context, handled, key_of
from spine.bus.subscribers import Subscribers
from spine.bus.waiting import Failures
from spine.errors import InvalidInput, RequestFailed, RequestTimeout, StateConflict
from spine.events import Context, Draft, Event, Priority
from spine.keys import partition_of
from spine.log.drafts import Completed, Prepared
from spine.names import check_key


class Emitter:
    """Stores the events of one bus."""

    def __init__(self, shared: Shared, subscribers: Subscribers) -> None:
        self._shared = shared
        self._spine = shared.spine
        self._subscribers = subscribers

    def prepare(
        self,
        name: str,
        data: Data | None,
        agent_type: str | None,
        key: str | None,
        context: Context | None,
        priority: Priority | None,
        completed: Completed | None = None,
        expect: int | None = None,
    ) -> Prepared:
        """Return an event ready to store. Raises `InvalidInput` naming what is not right."""
        try:
            source = self._shared.agent_type if agent_type is None else check_key(agent_type, "agent type")
            key = key or key_of(data)
            cause = handled.get()
            if context is None and cause is not None:
                context = child_context(cause, source)
                key = key or cause.key
            if expect is not None:
                self._check_expectation(key)
            draft = Draft(name, data if data is not None else {}, key, context, priority)
            return self._shared.drafts.prepare(draft, source=source, completed=completed)
        except InvalidInput as error:
            raise self._shared.failed("invalid_event", name, None, error) from None

    def _check_expectation(self, key: str | None) -> None:
        if key is None:
            raise InvalidInput("expect= needs a key: give key=, or data with a conversation_id or session_id")
        if self._spine.durability != "memory":
            raise InvalidInput(
                "expect= is acknowledged when the server has the event in memory, which is less than this client's "
                f"durability={self._spine.durability!r}"
            )

    async def store(self, prepared: Prepared, expect: int | None) -> Event[Any]:
        """Store an event, if its key is still where the caller expects it."""
        if expect is None:
            stored = await self._spine.publisher.append([prepared], self._spine.durability)
        else:
            index = self._shared.drafts.keys.by_key(prepared.partition, prepared.envelope.key)
            try:
                stored = await self._spine.committer.commit(expected=((index, expect),), events=[prepared])
            except StateConflict:
                raise await self._conflict(prepared, expect) from None
        self._shared.recorder.emitted[stored[0].type] += 1
        return stored[0]

    async def _conflict(self, prepared: Prepared, expect: int) -> StateConflict:
        key = prepared.envelope.key
        conflict = StateConflict(
            f"key {key!r} has moved on: its last event is {await self.last_seq(key)}, not {expect}. Nothing was stored."
        )
        return self._shared.failed("state_conflict", prepared.envelope.type, None, conflict)

    async def last_seq(self, key: str) -> int:
        """Return the seq of the last event of `key`; 0 when it has none."""
        drafts = self._shared.drafts
        index = drafts.keys.by_key(partition_of(check_key(key), drafts.partitions), key)
        last = await self._spine.server.command("LINDEX", index, -1)
        return 0 if last is None else int(last.partition(b":")[0])

    async def somebody_answers(self, name: str) -> bool:
        """Tell whether anybody is subscribed to a type, or any agent handles it."""
        return await self._subscribers.any_of(name) or bool(await self._spine.requests.handlers_of(name))

    async def ask(self, prepared: Prepared, timeout: float, expect: int | None) -> tuple[str, Event[Any]]:
        """Store an event, wait for the response, and return the event's id and the response."""
        name = prepared.envelope.type
        stored: list[Event[Any]] = []

        async def append(ready: Prepared) -> Event[Any]:
            stored.append(await self.store(ready, expect))
            return stored[0]

        requests = self._spine.requests
        failures = Failures(lambda: self._subscribers.of(name), requests.handlers_of, name)
        waiting = requests.send(append, prepared, timeout_s=timeout, parts=failures, anybody=True)
        try:
            found = await failures.unless_all_failed(waiting)
        except RequestTimeout as error:
            event_id = str(stored[0].seq) if stored else None
            late = RequestTimeout(f"no response to {name!r} (event {event_id}) within {timeout:g} s{failures}")
            late.stored = True if stored else error.stored
            raise self._shared.failed("time_out", name, event_id, late) from None
        except RequestFailed as error:
            if not failures.failed or not failures.failed <= self._subscribers.mine:
                self._shared.failed("callback", name, str(stored[0].seq), error)  # else it was counted where it ran
            raise
        return str(stored[0].seq), found
