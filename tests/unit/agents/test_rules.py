"""When a booking is agreed: on small made-up turns, on the shipped conversations, on the sample."""

from pathlib import Path
from typing import Any

import pytest

from agents import rules
from agents.dialogue import Act, Dialogue, Frame, Intent, Service, Turn, Wish
from agents.events import Booking, Requirement
from agents.outcomes import load_outcomes
from agents.reading import load_dialogues, load_schema

TAXI = Service(
    service_name="Taxi_1",
    intents=(
        Intent(name="FindTaxi", is_transactional=False, required_slots=("where",)),
        Intent(name="CallTaxi", is_transactional=True, required_slots=("where", "when"), optional_slots={"seats": "4"}),
    ),
)
SCHEMA = {"Taxi_1": TAXI, "Ferries_1": Service(service_name="Ferries_1")}
KNOWN = {"where": ("the mill",), "when": ("at noon",)}


def user(*acts: str, intent: str = "CallTaxi", known: dict[str, tuple[str, ...]] = KNOWN) -> Turn:
    state = Wish(active_intent=intent, slot_values=known)
    return Turn(
        speaker="USER", frames=(Frame(service="Taxi_1", actions=tuple(Act(act=act) for act in acts), state=state),)
    )


def system(*acts: str | tuple[str, str, str, str], service: str = "Taxi_1") -> Turn:
    return Turn(speaker="SYSTEM", frames=(Frame(service=service, actions=tuple(map(act, acts))),))


def act(spec: str | tuple[str, str, str, str]) -> Act:
    if isinstance(spec, str):
        return Act(act=spec)
    kind, slot, value, canonical = spec
    return Act(act=kind, slot=slot, values=(value,), canonical_values=(canonical,))


def requirements(*turns: Turn) -> tuple[Requirement, ...]:
    return rules.requirements(Dialogue(dialogue_id="d", services=("Taxi_1",), turns=turns), SCHEMA)


def bookings(*turns: Turn) -> tuple[Booking, ...]:
    return tuple(requirement.booking for requirement in requirements(*turns))


CONFIRM = (("CONFIRM", "where", "the mill", "Old Mill"), ("CONFIRM", "when", "at noon", "12:00"))


def test_a_yes_to_a_confirmation_agrees() -> None:
    (booking,) = bookings(user("INFORM"), system(*CONFIRM), user("AFFIRM"))
    assert booking == Booking(
        conversation="d", turn=2, service="Taxi_1", intent="CallTaxi", parameters={"where": "Old Mill", "when": "12:00"}
    )


def test_knowing_every_slot_is_not_an_agreement() -> None:
    assert bookings(user("INFORM"), system(*CONFIRM), user("NEGATE")) == ()
    assert bookings(user("INFORM"), system(*CONFIRM), user("REQUEST")) == ()
    assert bookings(user("INFORM")) == ()


def test_a_yes_to_an_offer_is_not_an_agreement() -> None:
    assert bookings(user("INFORM"), system(("OFFER", "where", "the mill", "Old Mill")), user("AFFIRM")) == ()


def test_a_yes_counts_right_after_the_confirmation_only() -> None:
    assert bookings(system(*CONFIRM), user("REQUEST"), system("INFORM"), user("AFFIRM")) == ()
    assert bookings(system(*CONFIRM), user("REQUEST"), user("AFFIRM")) == ()


def test_a_yes_to_another_service_is_not_an_agreement() -> None:
    assert bookings(system(*CONFIRM, service="Ferries_1"), user("AFFIRM")) == ()


def test_a_search_is_never_a_booking() -> None:
    assert bookings(system(*CONFIRM), user("AFFIRM", intent="FindTaxi")) == ()


@pytest.mark.parametrize("known", [{"where": ("the mill",)}, {"where": ("the mill",), "when": ()}])
def test_an_incomplete_requirement_is_not_agreed(known: dict[str, tuple[str, ...]]) -> None:
    assert bookings(system(*CONFIRM), user("AFFIRM", known=known)) == ()


def test_a_failed_booking_can_be_offered_again() -> None:
    again = ("NOTIFY_FAILURE", ("OFFER", "when", "at one", "13:00"))
    first, second = bookings(
        system(*CONFIRM), user("AFFIRM"), system(*again), user("AFFIRM", known={**KNOWN, "when": ("at one",)})
    )
    assert (first.turn, first.parameters["when"]) == (1, "12:00")
    assert (second.turn, second.parameters["when"]) == (3, "13:00")


def test_the_newest_meaning_of_the_users_words_counts() -> None:
    (booking,) = bookings(
        system(("OFFER", "when", "at noon", "00:00")), user("NEGATE"), system(*CONFIRM), user("AFFIRM")
    )
    assert booking.parameters["when"] == "12:00"


def test_a_value_offered_but_not_taken_is_left_out() -> None:
    (booking,) = bookings(
        system(*CONFIRM),
        user("NEGATE"),
        system(("OFFER", "when", "at one", "13:00"), ("CONFIRM", "where", "the mill", "Old Mill")),
        user("AFFIRM"),
    )
    assert booking.parameters["when"] == "12:00"


def test_an_offer_of_several_values_gives_each_its_own_meaning() -> None:
    several = Act(act="OFFER", slot="when", values=("at one", "at noon"), canonical_values=("13:00", "12:00"))
    offer = Turn(speaker="SYSTEM", frames=(Frame(service="Taxi_1", actions=(several, act(CONFIRM[0]))),))
    (booking,) = bookings(offer, user("AFFIRM"))
    assert booking.parameters["when"] == "12:00"


def test_optional_slots_are_taken_where_the_system_has_put_them_to_the_user() -> None:
    with_seats = (*CONFIRM, ("CONFIRM", "seats", "six", "6"))
    (asked,) = bookings(system(*with_seats), user("AFFIRM", known={**KNOWN, "seats": ("six",)}))
    (careless,) = bookings(system(*with_seats), user("AFFIRM", known={**KNOWN, "seats": ("dontcare",)}))
    assert asked.parameters["seats"] == "6"
    assert "seats" not in careless.parameters


def test_a_required_value_is_never_lost() -> None:
    (last_word,) = bookings(system(*CONFIRM), user("AFFIRM", known={**KNOWN, "when": ("midday",)}))
    (never_said,) = bookings(system(CONFIRM[0]), user("AFFIRM", known={**KNOWN, "when": ("midday",)}))
    assert last_word.parameters["when"] == "12:00"
    assert never_said.parameters["when"] == "midday"


@pytest.mark.parametrize(
    ("just_before", "confidence"), [(CONFIRM, 1.0), (CONFIRM[:1], 0.5), ((("CONFIRM", "seats", "six", "6"),), 0.0)]
)
def test_what_was_read_back_just_before_the_yes_is_certain(just_before: tuple[Any, ...], confidence: float) -> None:
    (requirement,) = requirements(system(*CONFIRM), user("INFORM"), system(*just_before), user("AFFIRM"))
    assert requirement.booking.parameters["where"] == "Old Mill"
    assert requirement.booking.parameters["when"] == "12:00"
    assert requirement.confidence == confidence


def test_another_value_read_back_makes_nothing_certain() -> None:
    (requirement,) = requirements(
        system(*CONFIRM), user("INFORM"), system(("CONFIRM", "when", "at one", "13:00")), user("AFFIRM")
    )
    assert (requirement.booking.parameters["when"], requirement.confidence) == ("12:00", 0.0)


def test_a_booking_that_requires_nothing_is_certain() -> None:
    schema = {
        "Taxi_1": TAXI.model_copy(update={"intents": (Intent(name="CallTaxi", is_transactional=True),)}),
    }
    dialogue = Dialogue(dialogue_id="d", services=("Taxi_1",), turns=(system("CONFIRM"), user("AFFIRM")))
    (requirement,) = rules.requirements(dialogue, schema)
    assert requirement.confidence == 1.0


def test_a_service_that_the_conversation_does_not_name_beforehand_can_be_booked() -> None:
    dialogue = Dialogue(dialogue_id="d", turns=(system(*CONFIRM), user("AFFIRM")))
    assert [requirement.booking.turn for requirement in rules.requirements(dialogue, SCHEMA)] == [1]


def test_what_has_no_other_meaning_stands_for_itself() -> None:
    bare = Frame(service="Taxi_1", actions=tuple(Act(act="CONFIRM", slot=slot, values=KNOWN[slot]) for slot in KNOWN))
    (booking,) = bookings(system("OFFER"), user(), Turn(speaker="SYSTEM", frames=(bare,)), user("AFFIRM"))
    assert booking.parameters == {"where": "the mill", "when": "at noon"}


def test_the_rule_gives_exactly_the_bookings_of_the_shipped_conversations(shipped: Path) -> None:
    assert _by_rule(shipped) == (recorded := _recorded(shipped))
    assert len(recorded) == 19


@pytest.mark.data
def test_the_rule_gives_exactly_the_bookings_of_the_sample(sample: Path) -> None:
    assert _by_rule(sample) == (recorded := _recorded(sample))
    assert len(recorded) == 164


def _by_rule(directory: Path) -> list[Booking]:
    schema = load_schema(directory)
    agreed = [one for dialogue in load_dialogues(directory) for one in rules.requirements(dialogue, schema)]
    return [requirement.booking for requirement in agreed]


def _recorded(directory: Path) -> list[Booking]:
    outcomes = load_outcomes(directory, load_schema(directory)).values()
    return [outcome.booking for known in outcomes for outcome in known]
