"""Gates: a handler that runs once when all that it waits for has come for a key, in any order.

What has come stands in a hash of the agent, the gate and the key, written by the commit of each arrival: whoever dies
in between, nothing is forgotten and nothing counts twice. The order per key makes reading it and writing it safe.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

import msgspec
from pydantic import BaseModel

from spine.catalog.types import EventType
from spine.codec import decode, encode_event
from spine.declarations import check_patterns, marked
from spine.delivery.retry import OnDead, Retry
from spine.durations import Duration, in_seconds
from spine.errors import InvalidInput
from spine.events import Event, Priority, from_ms
from spine.keys import partition_of
from spine.log.drafts import Write
from spine.names import check_name
from spine.payloads import as_model
from spine.timers import schedule_writes, unschedule_writes

if TYPE_CHECKING:
    from spine.agent import Agent
    from spine.handling import Handling

TIME_OUT = "spine.gate."
_ROUND = ""  # the field beside the arrivals, each named by its type

Function = TypeVar("Function", bound=Callable[..., Any])
Verdict = Literal["begin", "join", "open", "late", "over", "nothing"]


class MissingOptions(TypedDict, total=False):
    """What `on_missing` takes of what `on` takes."""

    retry: Retry | None
    on_dead: OnDead
    timeout_s: float | None
    preemptible: bool


class GateOptions(MissingOptions, total=False):
    """What `on_all` takes of what `on` takes."""

    stale: Literal["refresh", "handle", "drop"]


def on_all(
    *types: str | type[EventType],
    within: Duration | None = None,
    models: Mapping[str, type[BaseModel]] | None = None,
    **options: Unpack[GateOptions],
) -> Callable[[Function], Function]:
    """Declare an ``async def`` of an agent to run once when an event of each of `types` has come for a key.

    It takes what came, a dict of type → event, and, if it wants one, a `Handling` (that of the event that came last).
    While it waits, the latest event of a type counts; the first one after it ran begins a new round.

    Args:
        types: two or more, without ``*``; an `EventType` brings its model.
        within: seconds or timedelta after the first of a round; what comes later belongs to the next round, and the
            method marked ``@on_missing`` runs instead. Without it the gate waits for as long as it takes.
        models: types → model that the payload is validated as when it comes; a dict where there is none.
        options: as for `on`.
    """
    conditions = check_patterns(types)
    if any("*" in condition for condition in conditions):
        raise InvalidInput(f"a gate waits for types, not for patterns: {', '.join(conditions)}")
    if len(conditions) < 2 or len(set(conditions)) < len(conditions):
        raise InvalidInput(f"a gate waits for two or more types, each named once, not for {', '.join(conditions)}")
    known = {found.event_type: found for found in types if not isinstance(found, str)} | dict(models or {})
    if not known.keys() <= set(conditions):
        raise InvalidInput(f"models= names what the gate does not wait for: {sorted(known.keys() - set(conditions))}")
    seconds = None if within is None else in_seconds(within, "within")
    if seconds is not None and seconds <= 0:
        raise InvalidInput(f"within= is a time greater than zero, not {within!r}")

    def mark(function: Function) -> Function:
        _check_async(function, "on_all")
        function.__spine_gate__ = (conditions, seconds, known, options)  # type: ignore[attr-defined]
        return function

    return mark


def on_missing(gate: str, **options: Unpack[MissingOptions]) -> Callable[[Function], Function]:
    """Declare an ``async def`` to run once when the time of a gate is over and not everything has come.

    It takes what came (type → event), the types that are missing (a tuple) and, if it wants one, a `Handling`.

    Args:
        gate: name of the method that ``@on_all(..., within=...)`` marks.
        options: as for `on`.
    """

    def mark(function: Function) -> Function:
        _check_async(function, "on_missing")
        function.__spine_missing__ = (gate, options)  # type: ignore[attr-defined]
        return function

    return mark


def _check_async(function: Callable[..., Any], mark: str) -> None:
    if not inspect.iscoroutinefunction(function):
        raise InvalidInput(f"@{mark}: {function.__qualname__} must be an async def")


class Round(msgspec.Struct, frozen=True):
    """What one gate knows about one key.

    Attributes:
        arrived: type → its latest event.
        until_ms: time up to which an event counts, by when it was stored; ``None`` for no limit.
        time_out: id of the scheduled event that ends the round; empty for none.
    """

    arrived: dict[str, Event[Any]] = {}
    until_ms: int | None = None
    time_out: str = ""


def decide(conditions: tuple[str, ...], round: Round, event: Event[Any]) -> Verdict:
    """Return what `event` means to a gate: an arrival, or a time-out where its type is no condition.

    An arrival ``begin``s a round, ``join``s it, ``open``s the gate, or comes too ``late`` and ends the round before it
    begins the next. A time-out finds its round still waiting and so ``over``, or ``nothing`` to do.
    """
    if event.type not in conditions:
        return "over" if event.id == round.time_out else "nothing"
    if not round.arrived:
        return "begin"
    if round.until_ms is not None and event.ts_ms > round.until_ms:
        return "late"
    return "join" if missing(conditions, {**round.arrived, event.type: event}) else "open"


def missing(conditions: tuple[str, ...], arrived: Mapping[str, Event[Any]]) -> tuple[str, ...]:
    """Return the conditions that nothing came for yet, in the order of their declaration."""
    return tuple(condition for condition in conditions if condition not in arrived)


def with_arrival(arrived: Mapping[str, Event[Any]], event: Event[Any]) -> dict[str, Event[Any]]:
    """Return the arrivals with `event` among them; one of its type with a higher seq stays (the lanes overtake)."""
    known = arrived.get(event.type)
    return {**arrived, event.type: event if known is None or known.seq < event.seq else known}


class Gate:
    """One declared gate; called as the handler of its conditions and of its own time-out.

    Attributes:
        conditions: the types that it waits for.
        within_s: for how long after the first of a round; ``None`` for as long as it takes.
    """

    def __init__(self, function: Any, on_missing: Any | None) -> None:
        self.conditions: tuple[str, ...]
        self.conditions, self.within_s, self._models, options = function.__spine_gate__
        self.options = _chosen(options)
        self.missing_options = {} if on_missing is None else _chosen(on_missing.__spine_missing__[1])
        self.__name__ = check_name(function.__name__, "gate")
        self.time_out_type = TIME_OUT + self.__name__
        self._function = function
        self._on_missing = on_missing

    async def __call__(self, agent: Any, event: Event[Any], handling: Handling) -> None:
        """Take in an arrival or a time-out; what it changes is stored by the commit."""
        event = handling.received
        self._validated(event)
        stored = await self._read(handling)
        round = msgspec.structs.replace(stored, arrived=_still_wanted(stored.arrived, handling))
        match decide(self.conditions, round, event):
            case "begin":
                self._end(stored, handling)
                self._begin(handling)
            case "join":
                if with_arrival(round.arrived, event) != round.arrived:
                    handling.writes.append(self._arrival(event, handling))
            case "open":
                handling.if_given_up += self._without_limit(stored, handling)
                await self._run(self._function, handling, agent, self._shown(with_arrival(round.arrived, event)))
                self._end(stored, handling)
            case "late":
                await self._miss(agent, round, handling)
                self._end(stored, handling)
                self._begin(handling)
            case "over":
                if round.arrived:
                    handling.inherit_priority(min(arrival.context.priority for arrival in round.arrived.values()))
                    await self._miss(agent, round, handling)
                self._end(stored, handling)

    async def _miss(self, agent: Any, round: Round, handling: Handling) -> None:
        if self._on_missing is not None:
            shown = self._shown(round.arrived)
            await self._run(self._on_missing, handling, agent, shown, missing(self.conditions, round.arrived))

    async def _run(self, function: Callable[..., Any], handling: Handling, *args: Any) -> None:
        wants_context = len(inspect.signature(function).parameters) > len(args)
        await function(*args, *((handling,) if wants_context else ()))

    def _shown(self, arrived: Mapping[str, Event[Any]]) -> dict[str, Event[Any]]:
        """Return what the handler sees: the conditions that came, in their order, with validated payloads."""
        return {condition: self._validated(arrived[condition]) for condition in self.conditions if condition in arrived}

    def _validated(self, event: Event[Any]) -> Event[Any]:
        model = self._models.get(event.type)
        return event if model is None else event.with_payload(as_model(model, event.payload))

    # --- the hash ---

    def _key(self, handling: Handling) -> str:
        server, key = handling.spine.server, handling.received.key
        return server.keys.gate(handling.agent, partition_of(key, server.partitions), self.__name__, key)

    async def _read(self, handling: Handling) -> Round:
        fields = await handling.spine.server.hash(self._key(handling))
        time_out, until_ms = _decode_round(fields.pop(_ROUND)) if _ROUND in fields else ("", None)
        return Round({name: _unpack(value) for name, value in fields.items()}, until_ms, time_out)

    def _arrival(self, event: Event[Any], handling: Handling) -> Write:
        return Write("HSET", self._key(handling), "hash", (event.type, _pack(event)))

    def _begin(self, handling: Handling) -> None:
        event = handling.received
        handling.writes.append(self._arrival(event, handling))
        if self.within_s is None:
            return
        until_ms = event.ts_ms + round(self.within_s * 1000)
        # In the slowest lane, so that nothing of the key that is stored before it is reported as missing. Without the
        # deadline: it has to come whatever becomes of the work.
        drafts = handling.spine.drafts
        time_out = drafts.assemble(
            self.time_out_type,
            {"gate": self.__name__, "type": event.type, "seq": event.seq},
            handling.child_context.replace(deadline=None),
            key=event.key,
            priority=Priority.BACKGROUND,
            topic=f"@{handling.agent}",
            source=handling.agent,
        )
        stored = _encode((time_out.envelope.id, until_ms))
        handling.writes.append(Write("HSET", self._key(handling), "hash", (_ROUND, stored)))
        handling.writes += schedule_writes(drafts, time_out, until_ms)

    def _without_limit(self, stored: Round, handling: Handling) -> list[Write]:
        """Return what lets a round wait for as long as it takes: all has come, and nothing is to be called missing."""
        if not stored.time_out:
            return []
        forget = Write("HDEL", self._key(handling), "hash", (_ROUND,))
        return [forget, *unschedule_writes(handling.spine.server.keys, stored.time_out)]

    def _end(self, stored: Round, handling: Handling) -> None:
        if stored.arrived:
            handling.writes.append(Write("DEL", self._key(handling), "hash"))
        if stored.time_out:
            handling.writes += unschedule_writes(handling.spine.server.keys, stored.time_out)


def gates_of(cls: type[Agent[Any]]) -> list[Gate]:
    """Return the gates that an agent declares. Raises `InvalidInput` for those that cannot be."""
    watches: dict[str, Any] = {}
    for function in marked(cls, "__spine_missing__"):
        name = function.__spine_missing__[0]
        if name in watches:
            raise InvalidInput(
                f"{cls.__name__}: two methods wait for what is missing of {name!r}: {watches[name].__name__} and "
                f"{function.__name__}"
            )
        watches[name] = function
    gates = []
    for function in marked(cls, "__spine_gate__"):
        watch = watches.pop(function.__name__, None)
        if watch is not None and function.__spine_gate__[1] is None:
            raise InvalidInput(f"{cls.__name__}.{watch.__name__} would never run: {function.__name__} has no within=")
        gates.append(Gate(function, watch))
    for name, function in watches.items():
        raise InvalidInput(f"{cls.__name__}.{function.__name__}: {name!r} is no method marked with @on_all")
    if gates and cls.ordering == "none":
        raise InvalidInput(f'{cls.__name__}: a gate needs the order per key; leave out ordering = "none"')
    return gates


def _chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _still_wanted(arrived: Mapping[str, Event[Any]], handling: Handling) -> dict[str, Event[Any]]:
    return {name: event for name, event in arrived.items() if not handling.is_cancelled(event)}


class _Stored(msgspec.Struct, array_like=True, gc=False):
    """A whole event: the log may be trimmed while the gate waits."""

    seq: int
    topic: str
    ts_ms: int
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode_stored = msgspec.msgpack.Decoder(_Stored).decode
_decode_round = msgspec.msgpack.Decoder(tuple[str, int]).decode


def _pack(event: Event[Any]) -> bytes:
    return _encode(_Stored(event.seq, event.topic, event.ts_ms, encode_event(event)))


def _unpack(raw: bytes) -> Event[Any]:
    stored = _decode_stored(raw)
    return decode(stored.seq, stored.topic, from_ms(stored.ts_ms), stored.data)
