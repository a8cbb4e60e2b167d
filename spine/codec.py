"""The wire format of an event, and its limits.

The value of a stream entry is four bytes of CRC-32 (big-endian) over the rest, then one MessagePack array: format
version, id, type, key, source, payload (a map), context (an array, see `spine.events.Context`), type version. The
entry's id holds the seq, its field name the server's time in milliseconds, and the stream's key the topic.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from spine.errors import DecodeError, InvalidContext, InvalidPayload, TooLarge, UnknownVersion
from spine.events import Context, Event, Map, from_ms
from spine.payloads import as_dict

FORMAT = 1
MAX_DEPTH = 32
DEFAULT_MAX_BYTES = 256 * 1024
HARD_MAX_BYTES = 1024 * 1024

_SCALARS = frozenset({str, int, float, bool, type(None), bytes})


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is stored of an event, in the order of the wire."""

    format: int
    id: str
    type: str
    key: str
    source: str
    payload: Map
    context: Context
    type_version: int = 1


def _loosened(struct: type[msgspec.Struct], **replaced: Any) -> type[msgspec.Struct]:
    """Return `struct` with maps that may hold anything, to any depth."""
    loose = {Map: dict[str, Any], Map | None: dict[str, Any] | None}
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(struct):
        kind = replaced.get(field.name) or next((to for of, to in loose.items() if of == field.type), field.type)
        if field.required:
            fields.append((field.name, kind))
        elif field.default is not msgspec.NODEFAULT:
            fields.append((field.name, kind, field.default))
        else:
            fields.append((field.name, kind, msgspec.field(default_factory=field.default_factory)))
    return msgspec.defstruct(f"Loose{struct.__name__}", fields, array_like=True, frozen=True)


class _UpToPayload(msgspec.Struct, array_like=True, gc=False):
    format: int
    id: str
    type: str
    key: str
    source: str
    payload: dict[str, Any]


class _FormatOnly(msgspec.Struct, array_like=True, gc=False):
    format: int


def _no_extension(code: int, data: memoryview) -> Any:
    raise ValueError(f"extension type {code} is not part of the format")


_LooseContext: Any = _loosened(Context)
_LooseEnvelope: Any = _loosened(Envelope, context=_LooseContext)

_ITSELF: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: bytes.__bytes__,
}


def _plain(value: Any) -> Any:
    """Return the text or number itself of one that is of a subclass (a template's safe string, a number of numpy)."""
    for kind, itself in _ITSELF.items():
        if isinstance(value, kind):
            return itself(value)
    raise TypeError(f"a {type(value).__name__} cannot be stored")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode = msgspec.msgpack.Decoder(Envelope, ext_hook=_no_extension).decode
_decode_loose = msgspec.msgpack.Decoder(_LooseEnvelope, ext_hook=_no_extension).decode
_decode_up_to_payload = msgspec.msgpack.Decoder(_UpToPayload, ext_hook=_no_extension).decode
_decode_format = msgspec.msgpack.Decoder(_FormatOnly).decode
_decode_payload = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_no_extension).decode
_decode_context = msgspec.msgpack.Decoder(_LooseContext, ext_hook=_no_extension).decode

_BY_PLACE = re.compile(r"`\$\[(\d+)\]([^`]*)`")
_REFUSALS = (OverflowError, UnicodeEncodeError, msgspec.MsgspecError, ValueError, TypeError, AttributeError)


def seal(envelope: Envelope, limit: int = DEFAULT_MAX_BYTES) -> tuple[Envelope, bytes]:
    """Return `envelope` exactly as a reader of the log will see it, and the bytes to store.

    Nothing in the result is shared with what was given. Raises `InvalidPayload`, `InvalidContext` or `TooLarge`.
    """
    try:
        body = _encode(envelope)
        if len(body) > limit:
            raise _too_large(envelope, body, limit)
        seen = _decode(body)
        if seen.payload == envelope.payload and seen.context == envelope.context:
            return seen, zlib.crc32(body).to_bytes(4, "big") + body
    except (*_REFUSALS, RecursionError) as error:
        if isinstance(error, TooLarge):
            raise
    return _seal_carefully(envelope, limit)


def _seal_carefully(envelope: Envelope, limit: int) -> tuple[Envelope, bytes]:
    """For what is deep, holds tuples or bytes, or is to be refused by the name of its field."""
    payload, context = normalise_payload(envelope.payload), check_context(envelope.context)
    seen = msgspec.structs.replace(envelope, payload=payload, context=context)
    return seen, encode(seen, limit)


def normalise_payload(payload: Any) -> dict[str, Any]:
    """Return a copy of `payload` exactly as a reader of the log will see it.

    Takes a mapping or a pydantic model. Raises `InvalidPayload` naming the field that cannot be stored.
    """
    payload = as_dict(payload)
    _check_value(payload, "payload", 1)
    try:
        return _decode_payload(_encode(payload))
    except _REFUSALS as error:
        where = _unstorable(payload, "payload") or "the payload"
        raise InvalidPayload(f"{where} cannot be stored: {error}. Nothing was stored.") from error


def check_context(context: Context) -> Context:
    """Return a copy of `context` as a reader of the log will see it, or raise `InvalidContext`."""
    if not isinstance(context, Context):
        raise InvalidContext(f"the context must be a Context, not {type(context).__name__}. Nothing was stored.")
    if isinstance(context.deadline, datetime) and context.deadline.tzinfo is None:
        raise InvalidContext("context.deadline must be an aware datetime. Nothing was stored.")
    try:
        _check_value(context.session, "context.session", 1)
        _check_value(context.constraints, "context.constraints", 1)
        _check_value(context.request, "context.request", 1)
        loose = _decode_context(_encode(context))
    except InvalidPayload as error:
        raise InvalidContext(str(error)) from error
    except _REFUSALS as error:
        fields = {name: getattr(context, name) for name in context.__struct_fields__}
        where = _unstorable(fields, "context") or "the context"
        reason = _BY_PLACE.sub(_context_field, str(error))
        raise InvalidContext(f"{where} cannot be stored: {reason}. Nothing was stored.") from error
    return _tightened(loose)


def _context_field(place: re.Match[str]) -> str:
    """Return the name of a field that msgspec names by its place."""
    return f"context.{Context.__struct_fields__[int(place[1])]}{place[2]}"


def _tightened(loose: Any) -> Context:
    return Context(**{name: getattr(loose, name) for name in Context.__struct_fields__})


def _check_value(value: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidPayload(f"{path} is nested deeper than {MAX_DEPTH} levels. Nothing was stored.")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise InvalidPayload(f"{path}: the name {name!r} is not a string. Nothing was stored.")
            if type(item) not in _SCALARS:
                _check_value(item, f"{path}.{name}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if type(item) not in _SCALARS:
                _check_value(item, f"{path}[{index}]", depth + 1)
    elif not isinstance(value, str | int | float | bytes) and value is not None:
        raise InvalidPayload(
            f"{path} is a {type(value).__name__}, which cannot be stored: use text, numbers, lists and dicts, or "
            "make the whole payload a pydantic model. Nothing was stored."
        )


def _unstorable(value: Any, path: str) -> str | None:
    """Return where in `value`, checked before, there is text or a number that cannot be stored."""
    if isinstance(value, dict):
        named = ((f"{path}.{name}", item) for name, item in value.items())
        text: Any = next((f"the name {name!r} in {path}" for name in value if not _is_storable(name)), None)
    elif isinstance(value, list | tuple):
        named, text = ((f"{path}[{index}]", item) for index, item in enumerate(value)), None
    else:
        return None if _is_storable(value) else path
    return text or next((found for where, item in named if (found := _unstorable(item, where))), None)


def _is_storable(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def encode(envelope: Envelope, limit: int = DEFAULT_MAX_BYTES) -> bytes:
    """Return the bytes stored for `envelope`. Raises `TooLarge` beyond `limit` bytes."""
    body = _encode(envelope)
    if len(body) > limit:
        raise _too_large(envelope, body, limit)
    return zlib.crc32(body).to_bytes(4, "big") + body


def encode_event(event: Event[Any]) -> bytes:
    """Return an event of the log as it stands there, whatever its size."""
    envelope = Envelope(
        FORMAT, event.id, event.type, event.key, event.source, event.payload, event.context, event.type_version
    )
    return encode(envelope, HARD_MAX_BYTES)


def _too_large(envelope: Envelope, body: bytes, limit: int) -> TooLarge:
    return TooLarge(
        f"the event {envelope.type!r} has {len(body):,} bytes; the limit is {limit:,}. Store large content "
        "elsewhere and publish a reference to it. Nothing was stored."
    )


def unsealed(raw: bytes, limit: int = HARD_MAX_BYTES) -> Envelope:
    """Return what `seal` wrote as `raw`. Raises `DecodeError` for anything else; its message lacks the subject.

    The size is checked before anything is unpacked.
    """
    if len(raw) > limit + 4:
        raise DecodeError(f"has {len(raw):,} bytes, over the limit of {limit:,}")
    body = memoryview(raw)[4:]
    if zlib.crc32(body) != int.from_bytes(raw[:4], "big"):
        raise DecodeError("has a wrong checksum: it is damaged or was not written by spine")
    try:
        envelope = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        envelope = _decode_carefully(body)
    if envelope.format != FORMAT:
        raise UnknownVersion(f"has format {envelope.format}; this version reads {FORMAT}")
    return envelope


def payload_of(raw: bytes) -> dict[str, Any]:
    """Return the payload of an event that `decode` has read before, anew."""
    return _decode_up_to_payload(memoryview(raw)[4:]).payload


def decode(seq: int, topic: str, ts: datetime, raw: bytes, limit: int = HARD_MAX_BYTES) -> Event[Any]:
    """Return the event stored as `raw`. Raises `DecodeError` for anything that `encode` did not write."""
    try:
        envelope = unsealed(raw, limit)
    except DecodeError as error:
        raise type(error)(f"entry {seq} of {topic} {error}") from error.__cause__
    return Event(
        seq=seq,
        id=envelope.id,
        type=envelope.type,
        topic=topic,
        key=envelope.key,
        source=envelope.source,
        payload=envelope.payload,
        context=envelope.context,
        ts=ts,
        type_version=envelope.type_version,
    )


def _decode_carefully(body: memoryview) -> Envelope:
    """For what is deep or holds bytes, and what is not an event."""
    try:
        loose = _decode_loose(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _undecodable(body, error) from error
    try:
        for value in (loose.payload, loose.context.session, loose.context.constraints, loose.context.request):
            _check_value(value, "a map", 1)
    except InvalidPayload as error:
        raise DecodeError(f"holds what spine does not write: {error}") from error
    fields = {name: getattr(loose, name) for name in Envelope.__struct_fields__}
    return Envelope(**(fields | {"context": _tightened(loose.context)}))


def _undecodable(body: memoryview, error: Exception) -> DecodeError:
    try:
        found = _decode_format(body).format
    except (msgspec.MsgspecError, ValueError, RecursionError):
        found = FORMAT
    if found != FORMAT:
        return UnknownVersion(f"has format {found}; this version reads {FORMAT}")
    return DecodeError(f"cannot be read: {error}")


def decode_entry(topic: str, entry: list[Any], limit: int = HARD_MAX_BYTES) -> Event[Any]:
    """Return the event of one stream entry as the server gives it: ``[id, [ts, bytes]]``."""
    raw_id, fields = entry
    if raw_id[-2:] != b"-0":
        raise DecodeError(f"entry {raw_id.decode()} of {topic} is a stray: spine's own ids end in -0")
    return decode_fields(int(raw_id[:-2]), topic, fields, limit)


def decode_fields(seq: int, topic: str, fields: list[bytes], limit: int = HARD_MAX_BYTES) -> Event[Any]:
    """Return the event of one stream entry, its number read already."""
    try:
        ts_raw, raw = fields
        ts = _moment(ts_raw)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise DecodeError(f"entry {seq} of {topic} does not have one field named by its time in ms") from error
    return decode(seq, topic, ts, raw, limit)


_last_moment: tuple[bytes, datetime] = (b"0", from_ms(0))


def _moment(raw: bytes) -> datetime:
    """Entries of one batch share their time: the last one is remembered."""
    global _last_moment
    last, moment = _last_moment
    if raw != last:
        moment = from_ms(int(raw))
        _last_moment = (raw, moment)
    return moment
