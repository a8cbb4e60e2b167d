"""What is written down about the handling of an event: the done record, and the dead letter."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from spine.keys import Keys
from spine.log.drafts import Write

Outcome = Literal["done", "folded", "dead", "expired", "cancelled", "stale", "damaged"]


class Done(msgspec.Struct, frozen=True, gc=False):
    """How the handling of an event by an agent ended.

    Attributes:
        worker: which worker.
        version: of the agent.
        start_ms: when the last attempt began, by the server's clock.
        duration_ms: how long it took.
        attempt: its number.
        outcome: ``done``, ``folded`` (state only), ``dead``, ``expired``, ``cancelled``, ``stale`` or ``damaged``.
        events: how many events it stored; the last of these has the number `position`.
        position: the last number given when this was committed: the place in the log's history of the commit.
    """

    worker: str
    version: str
    start_ms: int
    duration_ms: float
    attempt: int
    outcome: Outcome
    events: int = 0
    position: int = 0

    @classmethod
    def decode(cls, raw: bytes) -> Done:
        """Return the record stored as `raw`."""
        worker, version, start, duration, attempt, outcome, events, position = raw.decode().split("\t")
        return cls(
            worker, version, int(start), float(duration), int(attempt), outcome, int(events), int(position)  # type: ignore[arg-type]
        )  # fmt: skip

    def kept(self, keys: Keys, agent: str, partition: int, seq: int) -> tuple[str, str]:
        """Return the key and the text that a commit keeps of this record; it knows the last two fields."""
        text = (
            f"{self.worker}\t{self.version}\t{self.start_ms}\t{self.duration_ms:.3g}\t{self.attempt}\t{self.outcome}\t"
        )
        return keys.done(agent, partition, seq), text


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that an agent gave up.

    Attributes:
        agent: which agent.
        seq: of the event.
        type: of the event; empty when it could not be decoded.
        topic: where it stands.
        key: of the event.
        correlation: of the event.
        partition: where it stands.
        stream: number of its stream.
        error_type: class of the error.
        error: its message.
        traceback: its traceback.
        attempts: how often it was tried.
        worker: the last worker.
        ts_ms: when it was given up, by the server's clock.
        parked: its key is held until it is redriven or discarded.
        order_key: what order is kept by: its key, or its own seq where the agent keeps no order.
        entry_id: id of an entry that is no event of ours; it cannot be redriven.
    """

    agent: str
    seq: int
    type: str
    topic: str
    key: str
    correlation: str
    partition: int
    stream: int
    error_type: str
    error: str
    traceback: str
    attempts: int
    worker: str
    ts_ms: int
    parked: bool = False
    order_key: str = ""
    entry_id: str = ""

    @property
    def field(self) -> str:
        """What it goes by among the dead letters: its seq, or for a damaged entry its id and stream."""
        return f"{self.entry_id}@{self.partition}.{self.stream}" if self.entry_id else str(self.seq)

    def write(self, keys: Keys) -> Write:
        """Return the write that keeps this letter."""
        return Write("HSET", keys.dead(self.agent), "hash", (self.field, _encode(self)))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DeadLetter).decode


def decode_dead(raw: bytes) -> DeadLetter:
    """Return the dead letter stored as `raw`."""
    return _decode(raw)
