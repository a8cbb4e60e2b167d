"""Events as a worker holds them, for tests of what is in hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from spine.delivery.hand import Taken
from spine.events import Context, Event, Priority

URGENT, NORMAL, BACKGROUND = (int(priority) for priority in Priority)
EVERYTHING = [10**9] * 3


def taken(seq: int, key: str = "k", lane: int = NORMAL, *, partition: int = 0, **more: Any) -> Taken:
    """Return event `seq` of `key` as it comes to hand."""
    event = Event(
        seq=seq,
        id=f"e{seq}",
        type="a.b",
        topic="a.b",
        key=key,
        source="test",
        payload={},
        context=Context(),
        ts=datetime(2026, 1, 1, tzinfo=UTC),
    )
    given = {"order_key": key, "order": seq, "stream": "s", "number": 1} | more
    return Taken(event=event, partition=partition, lane=lane, **given)
