"""Every fault of a team is found, and nothing else is."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from agents.dialogue import Intent, Service
from agents.events import Booking, Notice
from agents.outcomes import Outcome
from agents.verification import Record, Verdict, judge
from spine import Context, Event

SCHEMA = {"S": Service(service_name="S", intents=(Intent(name="Book", is_transactional=True, required_slots=("a",)),))}
GOOD = Booking(conversation="c", turn=2, service="S", intent="Book", parameters={"a": "1"})
BAD = Booking(conversation="c", turn=6, service="S", intent="Book", parameters={"a": "2"})
OUTCOMES = [Outcome(booking=GOOD, booked=True), Outcome(booking=BAD, booked=False)]
CANCELLED, TAKEN_BACK, ANSWERED = "booking.cancelled", "customer.cancelled", "customer.answered"
Log = list[tuple[str, dict[str, Any]]]


def turn(index: int) -> tuple[str, dict[str, Any]]:
    return "turn.user", {"conversation": "c", "turn": index}


def fact(type: str, booking: Booking) -> tuple[str, dict[str, Any]]:
    payload = Notice.about(booking, text="text") if type in ("document.ready", "customer.answered") else booking
    return type, payload.model_dump()


def right() -> Log:
    return [
        turn(2),
        fact("booking.requested", GOOD),
        fact("booking.confirmed", GOOD),
        turn(6),
        fact("document.ready", GOOD),
        fact("booking.requested", BAD),
        fact("booking.failed", BAD),
        fact("customer.answered", GOOD),
        fact("customer.answered", BAD),
    ]


def verdict(log: Log) -> Verdict:
    record = Record()
    for seq, (type, payload) in enumerate(log, start=1):
        record.add(
            Event(
                seq=seq,
                id=str(seq),
                type=type,
                topic=type,
                key="1:c",
                source="test",
                payload=payload,
                context=Context(),
                ts=datetime(2026, 6, 1, tzinfo=UTC),
            )
        )
    return judge(record, OUTCOMES, SCHEMA)


def test_a_run_as_the_data_says_has_no_faults() -> None:
    assert (verdict(right()).faults, verdict(right()).requested) == ({}, 2)


def other_value(log: Log) -> None:
    log[1] = fact("booking.requested", GOOD.model_copy(update={"parameters": {"a": "9"}}))


def other_turn(log: Log) -> None:
    log.append(fact("booking.requested", GOOD.model_copy(update={"turn": 4})))


def without_an_end(log: Log) -> None:
    del log[8], log[6]


@pytest.mark.parametrize(
    ("spoil", "faults"),
    [
        (lambda log: log.pop(5), {"missing": [BAD.place]}),
        (lambda log: log.append(log[5]), {"double": [BAD.place]}),
        (other_value, {"wrong": [GOOD.place]}),
        (lambda log: log.insert(0, log.pop(1)), {"early": [GOOD.place]}),
        (other_turn, {"early": [("c", 4, "S", "Book")]}),
        (lambda log: log.pop(4), {"undocumented": [GOOD.place]}),
        (lambda log: log.append(log[4]), {"undocumented": [GOOD.place]}),
        (lambda log: log.append(fact("document.ready", BAD)), {"undocumented": [BAD.place]}),
        (without_an_end, {"contrary": [BAD.place]}),
        (lambda log: log.extend([fact("booking.failed", GOOD), fact(ANSWERED, GOOD)]), {"contrary": [GOOD.place]}),
        (lambda log: log.pop(7), {"unanswered": [GOOD.place]}),
        (lambda log: log.append(fact(ANSWERED, BAD)), {"unanswered": [BAD.place]}),
    ],
)
def test_a_fault_is_named(spoil: Callable[[Log], object], faults: dict[str, list[Any]]) -> None:
    log = right()
    spoil(log)
    assert verdict(log).faults == faults


@pytest.mark.parametrize(
    "log",
    [
        [turn(2), fact(TAKEN_BACK, GOOD), fact(CANCELLED, GOOD), *right()[3:4], *right()[5:]],
        [*right(), fact(TAKEN_BACK, GOOD), fact(CANCELLED, GOOD), fact(ANSWERED, GOOD)],
        [*right(), fact(TAKEN_BACK, BAD)],
    ],
    ids=["before it was made", "afterwards", "what failed anyway"],
)
def test_a_booking_that_was_taken_back_is_not_missing(log: Log) -> None:
    assert verdict(log).faults == {}


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ([(TAKEN_BACK, GOOD)], GOOD.place),
        ([(TAKEN_BACK, GOOD), (CANCELLED, GOOD), (CANCELLED, GOOD)], GOOD.place),
        ([(CANCELLED, GOOD)], GOOD.place),
        ([(TAKEN_BACK, BAD), (CANCELLED, BAD)], BAD.place),
    ],
    ids=["not cancelled", "cancelled twice", "never taken back", "failed and cancelled"],
)
def test_what_is_taken_back_is_cancelled_once_and_nothing_else_is(more: list[tuple[str, Booking]], place: Any) -> None:
    answers = [fact(ANSWERED, booking) for type, booking in more if type == CANCELLED]
    assert verdict([*right(), *(fact(*one) for one in more), *answers]).faults == {"regretted": [place]}


def test_optional_parameters_are_not_judged() -> None:
    log = right()
    log[1] = fact("booking.requested", GOOD.model_copy(update={"parameters": {"a": "1", "b": "2"}}))
    assert verdict(log).faults == {}
