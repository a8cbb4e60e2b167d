"""Held keys: one mechanism for retries, for parking and for waiting.

The events of a held key stand in its waiting list (references only), outside of any worker's budget, so that other
keys go on. Releasing a hold works through the list first, in its order.
"""

from __future__ import annotations

import msgspec

from spine.keys import Keys
from spine.log.drafts import Write

FOREVER = 2**53
REDRIVEN = "r"
PASSING = "p"


class Hold(msgspec.Struct, omit_defaults=True):
    """Why a key is held.

    Attributes:
        until_ms: server time at which the head of the waiting list runs; `FOREVER` for parked keys.
        reason: ``retry``, ``parked``, ``reducer`` or ``backlog`` (released, and not worked off yet).
        attempts: seq → failed attempts.
        by: seq of the event that is the reason; 0 for none. It tells a hold from another one of the same kind.
        error: the last error, for people.
        version: of the agent, where a reducer of it raised.
    """

    until_ms: int = 0
    reason: str = "backlog"
    attempts: dict[int, int] = {}
    by: int = 0
    error: str = ""
    version: str = ""


class Listed(msgspec.Struct, frozen=True):
    """How a waiting list names an event.

    That is ``seq:stream``; ``seq:stream:r`` when it was redriven; ``seq:stream:p:due:attempts`` when it passed the hold
    and failed: it stands at the front and runs at a time of its own, and the hold stays as it is.

    Attributes:
        seq: of the event.
        stream: number of its stream.
        redriven: it comes back from the dead letters.
        due_ms: server time at which one that passed the hold runs again; ``None`` for all others.
        attempts: of one that passed the hold, how many failed.
    """

    seq: int
    stream: int
    redriven: bool = False
    due_ms: int | None = None
    attempts: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Listed:
        """Return what `raw` names."""
        seq, stream, *more = raw.decode().split(":")
        if more[:1] == [PASSING]:
            return cls(int(seq), int(stream), due_ms=int(more[1]), attempts=int(more[2]))
        return cls(int(seq), int(stream), more == [REDRIVEN])

    def __str__(self) -> str:
        name = f"{self.seq}:{self.stream}"
        if self.due_ms is not None:
            return f"{name}:{PASSING}:{self.due_ms}:{self.attempts}"
        return f"{name}:{REDRIVEN}" if self.redriven else name


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Hold).decode


def encode_hold(hold: Hold) -> bytes:
    """Return what is stored of `hold`: whether the key is parked, for scripts to see, and all of it as msgpack."""
    return (b"1" if hold.reason == "parked" else b"0") + _encode(hold)


def decode_hold(raw: bytes) -> Hold:
    """Return the hold stored as `raw`."""
    return _decode(raw[1:])


BACKLOG = encode_hold(Hold())


class HoldWrites:
    """The writes that hold and release a key of one agent in one partition."""

    def __init__(self, keys: Keys, agent: str, partition: int) -> None:
        self._keys = keys
        self._agent = agent
        self._partition = partition
        self._holds = keys.holds(agent, partition)

    def waiting(self, key: str) -> str:
        """Return the Redis key of the waiting list of `key`."""
        return self._keys.waiting(self._agent, self._partition, key)

    def set(self, key: str, hold: Hold) -> Write:
        """Hold `key`."""
        return Write("HSET", self._holds, "hash", (key, encode_hold(hold)))

    def to_front(self, key: str, reference: str) -> Write:
        """Put an event first into the waiting list."""
        return Write("LPUSH", self.waiting(key), "list", (reference,))

    def pass_to_front(self, key: str, listed: Listed) -> tuple[Write, Write]:
        """Put an event that passed the hold first into the waiting list; the key is held, if it is not by now."""
        return self.to_front(key, str(listed)), Write("HSETNX", self._holds, "hash", (key, BACKLOG))

    def to_back(self, key: str, reference: str) -> tuple[Write, Write]:
        """Put an event last into the waiting list; the key is held from now on, if it was not."""
        return (
            Write("RPUSH", self.waiting(key), "list", (reference,)),
            Write("HSETNX", self._holds, "hash", (key, BACKLOG)),
        )

    def release(self, key: str) -> Write:
        """End the hold if the waiting list is empty; a key that is parked stays so."""
        return Write("unhold", self._holds, "hash", (key,), other_keys=(self.waiting(key),))
