"""Events as lines of JSON, and back, without any loss.

JSON has no bytes and no numbers that are not finite: those are objects with one name, ``$bytes`` or ``$float``. Such an
object in a payload becomes the value of ``$dict``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_type_hints

import msgspec

from spine.codec import FORMAT, HARD_MAX_BYTES, Envelope, encode
from spine.errors import InvalidInput
from spine.events import Context, Event, ReplyTo, to_ms
from spine.names import check_key, check_name

_CONTEXT_TYPES = get_type_hints(Context)
_MAPS = ("request", "session", "constraints")
_EMPTY = Context()
_MARKS = frozenset({"$bytes", "$float", "$dict"})


class Line(msgspec.Struct, frozen=True, gc=False):
    """An event of a line, ready to be stored as it was.

    Attributes:
        seq: its number.
        ts_ms: when it was stored.
        topic: where.
        envelope: what it is.
        data: that, as it stands in the log.
    """

    seq: int
    ts_ms: int
    topic: str
    envelope: Envelope
    data: bytes


def to_line(event: Event[Any]) -> bytes:
    """Return `event` as one line of JSON, without the line's end."""
    return msgspec.json.encode(
        {
            "seq": event.seq,
            "id": event.id,
            "type": event.type,
            "topic": event.topic,
            "key": event.key,
            "source": event.source,
            "ts": event.ts,
            "type_version": event.type_version,
            "payload": plain(event.payload),
            "context": _context_out(event.context),
        }
    )


def from_value(value: Mapping[str, Any]) -> Line:
    """Return the event that a decoded line holds. Raises `InvalidInput`."""
    try:
        payload, seq = _payload(value["payload"]), _seq(int(value["seq"]))
        context = _context_in(value.get("context") or {})
        envelope = Envelope(
            FORMAT,
            str(value["id"]),
            check_name(value["type"]),
            check_key(value["key"]),
            str(value["source"]),
            payload,
            context,
            int(value.get("type_version", 1)),
        )
        check_key(context.correlation, "correlation")
        topic, ts = check_name(value["topic"], "topic"), datetime.fromisoformat(value["ts"])
        return Line(seq, to_ms(ts), topic, envelope, encode(envelope, HARD_MAX_BYTES))
    except KeyError as error:
        raise InvalidInput(f"an exported event has {error}") from error
    except InvalidInput:
        raise
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise InvalidInput(f"not an exported event: {error}") from error


def _payload(value: Any) -> dict[str, Any]:
    payload = whole(value)
    if not isinstance(payload, dict):
        raise InvalidInput(f"the payload is no object: {value!r}")
    return payload


def _seq(seq: int) -> int:
    if not 0 < seq < 2**53:
        raise InvalidInput(f"{seq} is not a seq")
    return seq


def _context_out(context: Context) -> dict[str, Any]:
    fields = {name: getattr(context, name) for name in context.__struct_fields__}
    shown = {name: value for name, value in fields.items() if value != getattr(_EMPTY, name)}
    for name in _MAPS:
        if shown.get(name) is not None:
            shown[name] = plain(shown[name])
    if context.reply_to is not None:
        shown["reply_to"] = msgspec.structs.asdict(context.reply_to)
    out: dict[str, Any] = msgspec.to_builtins(shown)
    return out


def _context_in(fields: Mapping[str, Any]) -> Context:
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _MAPS:
            values[name] = None if value is None else whole(value)
        elif name == "reply_to":
            values[name] = ReplyTo(**value)
        else:
            values[name] = msgspec.convert(value, _CONTEXT_TYPES[name])
    return Context(**values)


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it."""
    if isinstance(value, dict):
        out = {name: plain(item) for name, item in value.items()}
        return {"$dict": out} if len(out) == 1 and _MARKS & out.keys() else out
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    return value


def whole(value: Any) -> Any:
    """Return what `plain` was given."""
    if isinstance(value, list):
        return [whole(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        if name == "$bytes":
            return base64.b64decode(inner, validate=True)
        if name == "$float":
            return float(inner)
        if name == "$dict":
            return {name: whole(item) for name, item in inner.items()}
    return {name: whole(item) for name, item in value.items()}
