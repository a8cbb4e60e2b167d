"""What the bus counts: events, responses and their times, errors with their log, subscribers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from spine.failures import said, told

ErrorKind = Literal[
    "callback", "time_out", "invalid_event", "state_conflict", "missing_response", "invalid_response", "late_response"
]
TIMES_KEPT = 10_000
MESSAGE_KEPT = 1_000


class LoggedError(msgspec.Struct, frozen=True):
    """One error of the bus.

    Attributes:
        kind: which kind.
        event_type: of the event it happened with.
        event_id: of the event; ``None`` when it was never stored.
        message: what went wrong; its first thousand characters.
        ts: when, by the clock of this process.
    """

    kind: ErrorKind
    event_type: str
    event_id: str | None
    message: str
    ts: datetime


class ResponseTimes(msgspec.Struct, frozen=True):
    """How long callers waited for their response; over the newest 10,000.

    Attributes:
        count: responses since the bus began.
        p50_ms: half of them came within this time.
        p99_ms: all but one in a hundred.
        max_ms: the slowest.
    """

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Metrics(msgspec.Struct, frozen=True):
    """What happened on this bus, in this process, since it began.

    Attributes:
        emitted: events emitted, by type.
        handled: callbacks that ended without an error, by type of the event.
        responses: how long callers waited.
        waiting: callers that wait now.
        errors: how often each kind of error happened.
        error_log: the newest errors, oldest first.
        subscribers: callbacks subscribed, by type or pattern.
    """

    emitted: dict[str, int]
    handled: dict[str, int]
    responses: ResponseTimes
    waiting: int
    errors: dict[ErrorKind, int]
    error_log: tuple[LoggedError, ...]
    subscribers: dict[str, int]


class Recorder:
    """Counts, in bounded memory.

    Args:
        errors_kept: how many errors the log holds.
    """

    def __init__(self, errors_kept: int) -> None:
        self.emitted: Counter[str] = Counter()
        self.handled: Counter[str] = Counter()
        self.waiting = 0
        self._errors: Counter[ErrorKind] = Counter()
        self._log: deque[LoggedError] = deque(maxlen=errors_kept)
        self._times: deque[float] = deque(maxlen=TIMES_KEPT)
        self._responses = 0

    def responded(self, seconds: float) -> None:
        """Note how long a caller waited for its response."""
        self._responses += 1
        self._times.append(seconds * 1000)

    def failed(self, kind: ErrorKind, event_type: str, event_id: str | None, error: BaseException) -> None:
        """Note an error."""
        self._errors[kind] += 1
        message = told(error) if kind == "callback" else said(error) or type(error).__name__
        self._log.append(LoggedError(kind, event_type, event_id, message[:MESSAGE_KEPT], datetime.now(UTC)))

    def snapshot(self, subscribers: Mapping[str, int]) -> Metrics:
        """Return the numbers as they are now."""
        times = sorted(self._times)
        return Metrics(
            emitted=dict(self.emitted),
            handled=dict(self.handled),
            responses=ResponseTimes(
                self._responses, percentile(times, 0.5), percentile(times, 0.99), times[-1] if times else 0.0
            ),
            waiting=self.waiting,
            errors=dict(self._errors),
            error_log=tuple(self._log),
            subscribers=dict(subscribers),
        )


def percentile(ordered: list[float], share: float) -> float:
    """Return the value that `share` of `ordered` do not exceed; 0 when there is none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
