"""The event that every arm stores: an envelope of about 330 bytes of msgpack, with its context."""

from __future__ import annotations

from typing import Any

TOPIC = "bench.requirement"
KEYS = 1_024
"""Distinct keys, used in turn."""


def key_of(number: int) -> str:
    """The key of event `number`."""
    return f"session-{number % KEYS:05d}"


def payload_of(number: int) -> dict[str, Any]:
    """What the event says: six fields."""
    return {
        "n": number,
        "service": "Restaurants_2",
        "intent": "ReserveRestaurant",
        "slots": {"restaurant_name": "Benissimo", "time": "19:30", "date": "2026-11-20"},
        "confidence": 0.93,
        "final": True,
    }


def context_of(number: int) -> dict[str, Any]:
    """What travels with it: correlation, session with its state, constraints."""
    return {
        "correlation": f"c-{number % KEYS:05d}",
        "session": key_of(number),
        "session_state": {"turn": 7, "language": "en", "tier": "gold"},
        "constraints": {"budget": 250, "party": 4},
    }


def envelope_of(number: int) -> dict[str, Any]:
    """The whole event as a user of a peer would write it."""
    return {
        "id": f"{number:016x}",
        "type": TOPIC,
        "key": key_of(number),
        "source": "inquiry",
        "payload": payload_of(number),
        "context": context_of(number),
    }


class Envelopes:
    """Envelopes made beforehand, so that no arm pays for making them: `envelopes[i]` for any i."""

    def __init__(self) -> None:
        self._made = [envelope_of(number) for number in range(KEYS)]

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._made[number % KEYS]
