"""The session: a built-in projection per key, changed by events, carried along by every event of the session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from spine.codec import normalise_payload
from spine.connection import Argument, Server
from spine.errors import InvalidPayload
from spine.events import Context
from spine.keys import partition_of
from spine.log.drafts import Drafts, Prepared, Write
from spine.log.streams import SESSIONS

UPDATED = "spine.session.updated"
_SEQ = ""
_CAUSE = "\0cause"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class SessionState(msgspec.Struct, frozen=True):
    """A session as it stands.

    Attributes:
        values: its fields.
        seq: seq of its last change; 0 when it never changed.
        cause: causation of that change.
    """

    values: dict[str, Any] = {}
    seq: int = 0
    cause: int = 0


async def load_raw_sessions(server: Server, session_ids: list[str]) -> dict[str, list[bytes]]:
    """Return the sessions as they are stored (see `session_state`), in one round trip."""
    commands: list[tuple[Argument, ...]] = [
        ("HGETALL", server.keys.session(partition_of(session_id, server.partitions), session_id))
        for session_id in session_ids
    ]
    replies = await server.commands(*commands)
    return dict(zip(session_ids, replies, strict=True))


def session_state(raw: list[bytes]) -> SessionState:
    """Return the session stored as `raw`: fields and values of its hash in turn."""
    values: dict[str, Any] = {}
    seq = cause = 0
    for i in range(0, len(raw), 2):
        name = raw[i].decode()
        if name == _SEQ:
            seq = int(raw[i + 1])
        elif name == _CAUSE:
            cause = int(raw[i + 1])
        else:
            values[name] = _decode(raw[i + 1])
    return SessionState(values, seq, cause)


def session_update(
    drafts: Drafts, session_id: str, changes: Mapping[str, Any], context: Context, source: str | None = None
) -> tuple[Prepared, tuple[Write, ...]]:
    """Return the event and the write that change a session; ``None`` as a value removes the field.

    The write's `seq_of` is 1: the event must be the first of its call, or the write be shifted.
    """
    checked = normalise_payload(changes)
    if any(name.startswith("\0") or not name for name in checked):
        raise InvalidPayload("a field of a session needs a name, and none that begins with \\0. Nothing was stored.")
    prepared = drafts.assemble(UPDATED, {"changes": checked}, context, key=session_id, topic=SESSIONS, source=source)
    key = drafts.keys.session(partition_of(session_id, drafts.partitions), session_id)
    sets, removed = _stored(checked, context.causation)
    write = Write("HSET", key, "hash", tuple(sets), seq_of=1)
    return prepared, (write, Write("HDEL", key, "hash", tuple(removed))) if removed else (write,)


def stored_changes(
    changes: Mapping[str, Any], seq: int, causation: int | None
) -> tuple[list[Argument], list[Argument]]:
    """Return (fields to set with their values, fields to remove) of the hash of a session that an event changed."""
    sets, removed = _stored(changes, causation)
    return [*sets, seq], removed


def _stored(changes: Mapping[str, Any], causation: int | None) -> tuple[list[Argument], list[Argument]]:
    """Return what `stored_changes` does; the value of the last field set, the event's seq, is still to follow."""
    sets: list[Argument] = []
    for name, value in changes.items():
        if value is not None:
            sets += (name, _encode(value))
    removed: list[Argument] = [name for name, value in changes.items() if value is None]
    return [*sets, _CAUSE, causation or 0, _SEQ], removed


class Session(Mapping[str, Any]):
    """The session of the handled event, with the changes made here: read it like a dict, change it with `update`."""

    def __init__(self, state: SessionState, change: Any) -> None:
        self._state = state
        self._values = state.values
        self._change = change

    @property
    def seq(self) -> int:
        """Seq of the last change stored."""
        return self._state.seq

    def update(self, changes: Mapping[str, Any] | None = None, /, **fields: Any) -> Any:
        """Change fields of the session (``None`` removes one); stored by the commit as an event. May be awaited."""
        merged = {**(changes or {}), **fields}
        done = self._change(merged)
        values = {**self._values, **merged}
        self._values = {name: value for name, value in values.items() if value is not None}
        return done

    def as_dict(self) -> dict[str, Any]:
        """Return its fields."""
        return dict(self._values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
