"""A run is done when everything was handled and answered, and its figures are those of its own events."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agents.progress import Progress, percentile
from spine import Context, Event

START = datetime(2026, 6, 1, tzinfo=UTC)


def event(type: str, payload: dict[str, Any], *, key: str = "7:c", seconds: float = 0.0) -> Event[dict[str, Any]]:
    return Event(
        seq=1,
        id="e",
        type=type,
        topic=type,
        key=key,
        source="test",
        payload={"conversation": "c", "turn": 2, **payload},
        context=Context(),
        ts=START + timedelta(seconds=seconds),
    )


def test_a_run_is_done_once_every_booking_has_been_answered() -> None:
    progress = Progress(run=7, conversations=1)
    seen = []
    for one in (
        event("conversation.opened", {}),
        event("turn.user", {}),
        event("requirements.gathered", {"bookings": 1}),
        event("booking.requested", {}),
        event("booking.confirmed", {}),
        event("customer.answered", {}, seconds=0.25),
    ):
        progress.see(one)
        seen.append(progress.done)
    assert seen == [False] * 5 + [True]
    assert (progress.opened, progress.requested, progress.confirmed, progress.failed) == (1, 1, 1, 0)
    assert progress.latencies_s == [0.25]
    assert progress.events_per_second == pytest.approx(6 / 0.25)


def test_an_answer_alone_does_not_end_a_run_whose_turns_are_still_open() -> None:
    progress = Progress(run=7, conversations=2)
    for type in ("requirements.gathered", "customer.answered"):
        progress.see(event(type, {"bookings": 1}))
    assert not progress.done


@pytest.mark.parametrize("key", ["8:c", "77:c", "7"])
def test_other_runs_do_not_count(key: str) -> None:
    progress = Progress(run=7, conversations=1)
    progress.see(event("requirements.gathered", {"bookings": 0}, key=key))
    assert (progress.events, progress.done) == (0, False)


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_percentile_is_the_value_that_so_many_do_not_exceed(percent: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value


def test_percentile_of_nothing_is_none() -> None:
    assert percentile([], 50) is None
