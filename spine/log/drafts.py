"""From what a user hands over to what is appended: names checked, context filled in, payload encoded."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from spine.catalog.types import Catalog, EventType
from spine.catalog.upcast import is_upcast, today
from spine.codec import DEFAULT_MAX_BYTES, FORMAT, HARD_MAX_BYTES, Envelope, check_context, seal
from spine.connection import Argument
from spine.errors import InvalidInput
from spine.events import Context, Draft, Event, Payload, Priority
from spine.keys import Keys, partition_of
from spine.names import check_agent_name, check_key, check_type
from spine.payloads import as_dict

DEDUPE_WINDOW_MS = 24 * 3_600_000


class Write(msgspec.Struct, frozen=True, gc=False):
    """A plain write that goes with an append or a commit: all or nothing with it.

    Attributes:
        command: the Redis command, or ``answer``, ``gather``, ``unhold`` (see ``_append.lua``).
        key: its key.
        holds: type that the key must have when it exists.
        args: its arguments after the key.
        seq_of: place (from 1) of the event whose seq becomes the last argument; 0 for none.
        other_keys: further keys; their places become the first arguments.
    """

    command: str
    key: str
    holds: str
    args: tuple[Argument, ...] = ()
    seq_of: int = 0
    other_keys: tuple[str, ...] = ()

    def shifted(self, count: int) -> Write:
        """Return the write for a call in which `count` events come before its own."""
        return self if not self.seq_of else msgspec.structs.replace(self, seq_of=self.seq_of + count)


Completed = Callable[[Context, int], Context]


class Prepared(msgspec.Struct, gc=False):
    """An event ready to be appended; only its seq and time are missing.

    Its `dedupe_key`, where it has one, is remembered for `dedupe_ms`.
    """

    envelope: Envelope
    topic: str
    lane: int
    partition: int
    data: bytes
    dedupe_key: str | None = None
    dedupe_ms: int = DEDUPE_WINDOW_MS

    def stored(self, seq: int, ts: datetime) -> Event[Any]:
        """Return the event as it stands in the log."""
        envelope = self.envelope
        return Event(
            seq=seq,
            id=envelope.id,
            type=envelope.type,
            topic=self.topic,
            key=envelope.key,
            source=envelope.source,
            payload=envelope.payload,
            context=envelope.context,
            ts=ts,
            type_version=envelope.type_version,
        )


class Drafts:
    """Turns drafts into what is appended.

    Args:
        keys: of the namespace.
        source: name of the agent or client that publishes.
        partitions: of the namespace.
        max_bytes: largest event accepted.
        catalog: checks types and payloads; ``None`` where there is none.
    """

    def __init__(
        self,
        keys: Keys,
        source: str,
        partitions: int,
        max_bytes: int = DEFAULT_MAX_BYTES,
        catalog: Catalog | None = None,
    ) -> None:
        self.keys = keys
        self.source = source
        self.partitions = partitions
        self.max_bytes = max_bytes
        self.catalog = catalog
        self.producer = secrets.token_hex(6)
        self._count = itertools.count(1)

    def new_id(self) -> str:
        """Return an id that no other event has."""
        return f"{self.producer}-{next(self._count):x}"

    def prepare(
        self,
        draft: Draft,
        inherited: Context | None = None,
        *,
        source: str | None = None,
        completed: Completed | None = None,
        key: str | None = None,
        shown: bool = True,
    ) -> Prepared:
        """Check `draft` and return it ready to append. Raises `InvalidInput` naming what to change.

        `inherited` and `key` are context and key where the draft brings no context, and no key either; `completed`
        returns the final context once the partition is known. The `envelope` of what nobody is `shown` when it is
        stored holds the values that were given, which may change later; its `data` does not.
        """
        event_type, payload, version, context = draft.type, draft.payload, 1, draft.context
        if type(event_type) is not str or self.catalog is not None:
            event_type, payload, version = self._typed(draft)
        elif is_upcast(event_type):
            version = today(event_type)
        check_type(event_type)
        if context is None:
            context = inherited or _EMPTY
        elif type(context) is not Context:
            check_context(context)
        return self._assemble(
            event_type,
            payload if type(payload) is dict else as_dict(payload),
            context,
            key if draft.key is None and draft.context is None else draft.key,
            draft.priority,
            event_type if draft.to is None else f"@{check_agent_name(draft.to)}",
            draft.dedupe_key,
            source or self.source,
            version,
            None,
            completed,
            shown,
        )

    def _typed(self, draft: Draft) -> tuple[str, Payload, int]:
        """Return type, payload and version of a draft that is an `EventType`, or that the catalogue checks."""
        if not isinstance(draft.type, str | EventType):
            check_type(draft.type)
        event_type, payload, version = draft.name, draft.payload, 1
        if isinstance(draft.type, EventType):
            payload, version = draft.type, draft.type.event_version
        if self.catalog is not None:
            payload, version = self.catalog.check(check_type(event_type), payload)
        if isinstance(draft.type, str):
            version = max(version, today(event_type))
        return event_type, payload, version

    def assemble(
        self,
        event_type: str,
        payload: dict[str, Any],
        context: Context,
        *,
        key: str | None = None,
        priority: Priority | None = None,
        topic: str | None = None,
        dedupe_key: str | None = None,
        source: str | None = None,
        type_version: int = 1,
        event_id: str | None = None,
        completed: Completed | None = None,
        shown: bool = True,
    ) -> Prepared:
        """Return an event ready to append; its type and topic are names that were checked before. See `prepare`."""
        return self._assemble(
            event_type,
            payload,
            context,
            key,
            priority,
            topic or event_type,
            dedupe_key,
            source or self.source,
            type_version,
            event_id,
            completed,
            shown,
        )

    def _assemble(  # by position, because this is half of what publishing costs
        self,
        event_type: str,
        payload: dict[str, Any],
        context: Context,
        key: str | None,
        priority: Priority | None,
        topic: str,
        dedupe_key: str | None,
        source: str,
        version: int,
        event_id: str | None,
        completed: Completed | None,
        shown: bool,
    ) -> Prepared:
        if event_id is None:
            event_id = f"{self.producer}-{next(self._count):x}"
        lane = context.priority if priority is None else as_priority(priority)
        if context is _EMPTY:
            context = Context(correlation=event_id, priority=lane)
        elif not context.correlation:
            context = context.replace(correlation=event_id, priority=lane)
        else:
            check_key(context.correlation, "correlation")
            if lane is not context.priority:
                context = context.replace(priority=lane)
        if context.session_id is not None:
            check_key(context.session_id, "session id")
        key = check_key((context.session_id or context.correlation) if key is None else key)
        if dedupe_key is not None:
            check_key(dedupe_key, "dedupe key")
        partition = partition_of(key, self.partitions)
        if completed is not None:
            context = completed(context, partition)
        given = Envelope(FORMAT, event_id, event_type, key, source, payload, context, version)
        seen, data = seal(given, self.max_bytes)
        # What many handlers emit waits for its commit: a copy of each, which nobody looks at, is memory that goes cold.
        return Prepared(seen if shown else given, topic, seen.context.priority, partition, data, dedupe_key)


def check_limit(max_bytes: int) -> int:
    """Return `max_bytes` when it may be the limit of an event. Raises `InvalidInput`."""
    if type(max_bytes) is not int or not 0 < max_bytes <= HARD_MAX_BYTES:
        raise InvalidInput(f"the limit of an event is between 1 and {HARD_MAX_BYTES:,} bytes, not {max_bytes!r}")
    return max_bytes


def as_priority(priority: int) -> Priority:
    """Return the lane that goes by a number. Raises `InvalidInput`."""
    try:
        return Priority(priority)
    except ValueError:
        raise InvalidInput(
            f"{priority!r} is not a priority: use Priority.URGENT, NORMAL or BACKGROUND. Nothing was stored."
        ) from None


_EMPTY = Context()
