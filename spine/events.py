"""The values that travel: `Event`, the `Context` it carries, and `Draft`, an event not yet published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import msgspec
from pydantic import BaseModel

from spine.catalog.types import EventType
from spine.errors import InvalidInput

PayloadT = TypeVar("PayloadT")
Payload = Mapping[str, Any] | BaseModel
AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]
if TYPE_CHECKING:
    Map = dict[str, Any]
else:
    # Spelled out a few levels deep, so that the decoder checks names and depth by itself; what is nested deeper is read
    # another way (see `spine.codec`).
    _Value = None | bool | int | float | str
    for _ in range(4):
        _Value = None | bool | int | float | str | list[_Value] | dict[str, _Value]
    Map = dict[str, _Value]
Durability = Literal["memory", "disk", "replicas"]
PATH_KEPT = 64
_EPOCH = datetime.fromtimestamp(0, UTC)


class Priority(IntEnum):
    """The lane of an event: a more urgent one is a stream of its own and is read first."""

    URGENT = 0
    NORMAL = 1
    BACKGROUND = 2


class ReplyTo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where the answer to a request goes.

    Attributes:
        request: id of the request, 128 random bits in hex.
        inbox: id of the client that waits.
        partition: partition of the request's key; the reply stream lives beside it.
        place: which question of a gather; `request` is the gather then. ``None`` for a plain request.
    """

    request: str
    inbox: str
    partition: int
    place: int | None = None


class Hop(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One handoff: work that passed from one agent to another.

    Attributes:
        source: the agent that handed it over.
        to: the agent that got it; empty where a sequence ended.
        type: of the event that it came as.
        reason: why, in the words of the one who handed it over.
        work: digest of what was handed over, by which a loop is seen; empty for a step of a sequence.
    """

    source: str
    to: str
    type: str
    reason: str = ""
    work: str = ""


class Itinerary(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What is left of a sequence (see `spine.Sequence`).

    Attributes:
        left: the agents still to come.
        then: type of the event that tells its end; ``None`` for none.
    """

    left: tuple[str, ...] = ()
    then: str | None = None


class Context(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What every event carries, so that whoever handles it has the whole picture at once.

    What a handler publishes inherits the context of the event it handles.

    Attributes:
        correlation: one id for everything that follows from one request; made when left empty.
        request: the originating request: ``{"seq", "type", "payload"}`` of the first event.
        session_id: the session; the default key of an event.
        session: the session's state when the event was written.
        session_seq: seq of the last change of the session; 0 when it never changed.
        constraints: what whoever acts has to respect, in the user's own words.
        deadline: after this time (aware, by the server's clock) the event is not handled any more.
        priority: the lane.
        path: the agents that the work has passed through so far.
        causation: seq of the event that caused this one.
        traceparent: W3C trace context.
        reply_to: where an answer goes; set by ``request``.
        waiting: which agents wait on which keys for this request; set by ``request``.
        handoffs: the hands that this very work went through, oldest first; what is published on the way starts anew.
        sequence: the sequence that this work is in; ``ctx.done`` moves it on.
    """

    correlation: str = ""
    request: Map | None = None
    session_id: str | None = None
    session: Map = {}
    session_seq: int = 0
    constraints: Map = {}
    deadline: AwareTime | None = None
    priority: Priority = Priority.NORMAL
    path: tuple[str, ...] = ()
    causation: int | None = None
    traceparent: str | None = None
    reply_to: ReplyTo | None = None
    waiting: tuple[str, ...] = ()
    handoffs: tuple[Hop, ...] = ()
    sequence: Itinerary | None = None

    def replace(self, **changes: Any) -> Context:
        """Return a copy with `changes`."""
        return msgspec.structs.replace(self, **changes)


class Event(msgspec.Struct, Generic[PayloadT], frozen=True, kw_only=True, gc=False):
    """One immutable fact of the log.

    Attributes:
        seq: its number, unique and increasing over the whole namespace.
        id: unique id given by the publisher.
        type: the schema of the payload.
        topic: where it is stored and who gets it; the type, or ``@agent`` for an agent's inbox.
        key: unit of order and of state.
        source: name of the agent or client that published it.
        payload: a dict, or a validated model where the handler asks for ``Event[Model]``.
        context: what it carries along.
        ts: when it was stored, by the server's clock (aware, UTC, milliseconds); never decreasing with `seq`.
    """

    seq: int
    id: str
    type: str
    topic: str
    key: str
    source: str
    payload: PayloadT
    context: Context
    ts: datetime
    type_version: int = 1

    def __hash__(self) -> int:
        return hash((self.seq, self.id))

    @property
    def ts_ms(self) -> int:
        """`ts` in milliseconds since the epoch."""
        return round(self.ts.timestamp() * 1000)

    def with_payload(self, payload: Any, *, version: int | None = None) -> Event[Any]:
        """Return the event with another payload (a validated model for the dict; that of another type version)."""
        return msgspec.structs.replace(self, payload=payload, type_version=version or self.type_version)

    def to_dict(self) -> dict[str, Any]:
        """Return the event as plain JSON-ready values (``ts`` in ISO 8601)."""
        value: dict[str, Any] = msgspec.to_builtins(
            {name: getattr(self, name) for name in self.__struct_fields__ if name not in {"context", "payload"}}
        )
        payload = self.payload
        value["payload"] = (
            payload.model_dump(mode="json") if isinstance(payload, BaseModel) else msgspec.to_builtins(payload)
        )
        value["context"] = context_to_dict(self.context)
        return value


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event that is not published yet; see ``Spine.publish`` for what each field means."""

    type: str | EventType
    payload: Payload = {}
    key: str | None = msgspec.field(default=None)
    context: Context | None = None
    priority: Priority | None = None
    to: str | None = None
    dedupe_key: str | None = None

    @property
    def name(self) -> str:
        """The type's name."""
        return self.type if isinstance(self.type, str) else self.type.event_type


def caused_by(
    event: Event[Any],
    agent: str | None,
    *,
    context: Context | None = None,
    priority: Priority | None = None,
    payload: Map | None = None,
) -> Context:
    """Return the context of what `agent` publishes while it handles `event`.

    Where an answer goes, who waits for it, and what was handed over stay with `event`. `context` is that of the event
    as its handler sees it, with the newest session, `payload` what it is stored with where its handler may have changed
    that. Spelled out, because it is made for each event that is handled:
    `msgspec.structs.replace` takes three times as long.
    """
    seen = context or event.context
    return Context(
        correlation=seen.correlation,
        request=seen.request
        or {"seq": event.seq, "type": event.type, "payload": event.payload if payload is None else payload},
        session_id=seen.session_id,
        session=seen.session,
        session_seq=seen.session_seq,
        constraints=seen.constraints,
        deadline=seen.deadline,
        priority=seen.priority if priority is None else priority,
        path=(*seen.path[-PATH_KEPT:], agent) if agent else seen.path,
        causation=event.seq,
        traceparent=seen.traceparent,
    )


def context_to_dict(context: Context) -> dict[str, Any]:
    """Return the fields of `context` that are set, as JSON-ready values."""
    empty = Context()
    fields = {name: getattr(context, name) for name in context.__struct_fields__}
    shown = {name: value for name, value in fields.items() if value != getattr(empty, name)}
    if context.reply_to is not None:
        shown["reply_to"] = True  # that an answer is awaited; who knows the id could read it
    builtins: dict[str, Any] = msgspec.to_builtins(shown)
    return builtins


@lru_cache(maxsize=64)
def from_ms(ms: int) -> datetime:
    """Return the aware UTC time of `ms` milliseconds since the epoch."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def to_ms(moment: datetime) -> int:
    """Return the millisecond since the epoch that `moment` is in; a naive time is local. Raises `InvalidInput`."""
    try:
        return (moment.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError, OSError):  # the first and the last day there is, in another zone
        raise InvalidInput(f"{moment!r} is beyond the times that there are. Nothing was stored.") from None
