"""Durations as callers give them: a `timedelta`, or a number of seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from spine.errors import InvalidInput

LONGEST_S = 1e9  # some thirty years: what is added to the present must remain a time

Duration = timedelta | float


def in_seconds(duration: Duration, what: str) -> float:
    """Return `duration` in seconds; one below zero is over already. Raises `InvalidInput`, naming `what`."""
    seconds: Any = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not abs(seconds) <= LONGEST_S:
        raise InvalidInput(f"{what} is a number of seconds or a timedelta, not {duration!r}. Nothing was stored.")
    return float(seconds)
