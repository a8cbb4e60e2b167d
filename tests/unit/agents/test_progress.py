"""A run is done when everything was handled and answered, and its figures are those of its own events."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agents.progress import Progress, percentile
from spine import Context, Event

START = datetime(2026, 6, 1, tzinfo=UTC)


def event(
    type: str, payload: dict[str, Any], *, key: str = "7:c", seconds: float = 0.0, topic: str = "", source: str = "test"
) -> Event[dict[str, Any]]:
    return Event(
        seq=1,
        id="e",
        type=type,
        topic=topic or type,
        key=key,
        source=source,
        payload={"conversation": "c", "turn": 2, "service": "S", "intent": "Book", **payload},
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


def test_a_run_is_not_done_before_what_was_taken_back_is_cancelled() -> None:
    progress = Progress(run=7, conversations=1)
    seen = []
    for type in (
        "requirements.gathered",
        "booking.confirmed",
        "customer.answered",
        "customer.cancelled",
        "booking.cancelled",
        "customer.answered",
    ):
        progress.see(event(type, {"bookings": 1}))
        seen.append(progress.done)
    assert seen == [False, False, True, False, False, True]
    assert (progress.cancelled, progress.undone) == (1, 1)


def test_a_booking_that_failed_or_was_never_made_needs_no_undoing() -> None:
    for end in ("booking.failed", "booking.cancelled"):
        progress = Progress(run=7, conversations=1)
        for type in ("requirements.gathered", "customer.cancelled", end, "customer.answered"):
            assert not progress.done
            progress.see(event(type, {"bookings": 1}))
        assert (progress.done, progress.undone) == (True, 0)


def test_what_the_concierge_routed_is_counted_where_it_went_first() -> None:
    progress = Progress(run=7, conversations=1)
    for topic, source in (("@review", "concierge"), ("@desk", "review"), ("@desk", "concierge")):
        progress.see(event("requirement.routed", {}, topic=topic, source=source))
    assert progress.routed == {"review": 1, "desk": 1}


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
