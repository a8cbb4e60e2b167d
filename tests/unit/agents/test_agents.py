"""What each agent does by itself: given this, what does it say?"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agents import scheduling
from agents.calendar import CALENDARS, Calendar, fit
from agents.concierge import ROUTER, Concierge
from agents.desk import Desk
from agents.dialogue import Act, Frame
from agents.document import Document, confirmation
from agents.events import Answer, Booking, Notice, Requirement, Search, Slot, TurnTaken
from agents.inquiry import Inquiry
from agents.provider import Provider
from agents.review import Review
from agents.scheduling import Scheduling
from agents.workers import PROCESSES, TEAM
from spine import Agent, Context, Draft, Event, Handling, Worker, on
from spine.testing import AgentHarness

BOOKING = Booking(
    conversation="c", turn=4, service="Taxi_1", intent="CallTaxi", parameters={"where": "Old Mill", "pick_up": "12:00"}
)
REQUIREMENT = Requirement(booking=BOOKING, confidence=0.67)
KEY = BOOKING.key("c")
Alone = Callable[[type[Agent[Any]]], Awaitable[AgentHarness[Any]]]


def routed(to: str) -> Draft:
    return Draft("requirement.routed", REQUIREMENT, KEY, to=to)


def test_a_confirmation_names_everything_that_was_booked() -> None:
    details = "\n  pick up: 12:00\n  where: Old Mill"
    assert confirmation(BOOKING) == f"Confirmed: CallTaxi with Taxi_1{details}"


def test_a_booking_reads_as_a_sentence_would_have_it() -> None:
    assert str(BOOKING) == "CallTaxi with Taxi_1 (where Old Mill, pick up 12:00)"


def test_every_agent_goes_by_the_name_of_its_file_and_runs_in_one_process() -> None:
    for agent in (Inquiry, Concierge, Review, Desk, Scheduling, Calendar, Provider, Document):
        assert TEAM[agent.name] == f"agents.{agent.name}:{agent.__name__}"
    assert sorted(TEAM) == sorted(name for names in PROCESSES for name in names)


# --- concierge, review, desk ---


@pytest.mark.parametrize(
    ("confidence", "to"),
    [(1.0, "scheduling"), (0.85, "scheduling"), (0.84, "review"), (0.6, "review"), (0.59, "desk"), (0.0, "desk")],
)
def test_confidence_decides_who_takes_care_of_a_booking(confidence: float, to: str) -> None:
    assert ROUTER.decide(REQUIREMENT.model_copy(update={"confidence": confidence})).to == to


async def test_the_concierge_hands_over_with_its_reason(alone: Alone) -> None:
    concierge = await alone(Concierge)
    await concierge.answers("requirement.routed", {}, agent="review")
    (event,) = (await concierge.given(("requirement.complete", REQUIREMENT, KEY))).emitted
    assert (event.topic, event.key, event.payload) == ("@review", KEY, REQUIREMENT.model_dump())
    assert event.context.handoffs[-1].reason == "confidence >= 0.6 (confidence is 0.67)"


async def test_the_customer_hears_the_end_of_every_booking(alone: Alone) -> None:
    got = await (await alone(Concierge)).given(
        ("document.ready", Notice.about(BOOKING, text="Confirmed.")),
        ("booking.failed", BOOKING),
        ("booking.cancelled", BOOKING),
    )
    assert {event.type for event in got.emitted} == {"customer.answered"}
    assert [event.payload["text"] for event in got.emitted] == [
        "All set. Confirmed.",
        f"I am sorry, {BOOKING} did not work out. Would you like to try something else?",
        f"{BOOKING} is cancelled.",
    ]


def turn(number: int, **said: str) -> TurnTaken:
    acts = tuple(
        Act(act="CONFIRM", slot=slot, values=(value,), canonical_values=(value,)) for slot, value in said.items()
    )
    return TurnTaken(conversation="c", turn=number, utterance="", frames=(Frame(service="Taxi_1", actions=acts),))


async def test_review_hands_back_what_was_put_to_the_customer_and_leaves_the_rest_to_a_person(alone: Alone) -> None:
    said = "every value was put to the customer"
    cases = [
        ([turn(1, where="Old Mill"), turn(3, pick_up="12:00")], "@scheduling", said),
        ([turn(1, where="Old Mill")], "@desk", "never put to the customer: pick_up"),
        ([turn(3, where="Old Mill"), turn(5, pick_up="12:00")], "@desk", "never put to the customer: pick_up"),
        ([turn(3, where="Old Inn", pick_up="12:00")], "@desk", "never put to the customer: where"),
    ]
    review = await alone(Review)
    await review.answers("requirement.routed", {}, agent="scheduling")
    await review.answers("requirement.routed", {}, agent="desk")
    for number, (turns, to, reason) in enumerate(cases):
        await review.spine.publish_many([Draft("turn.system", one, f"c{number}") for one in turns])
        context = Context(session_id=f"c{number}")
        (event,) = (await review.given(Draft("requirement.routed", REQUIREMENT, KEY, context, to="review"))).emitted
        assert (event.topic, event.context.handoffs[-1].reason) == (to, reason)
        assert event.payload == REQUIREMENT.model_dump()


async def test_what_the_desk_approves_is_booked(alone: Alone) -> None:
    desk = await alone(Desk)
    await desk.answers("requirement.routed", {}, agent="scheduling")
    (event,) = (await desk.given(routed("desk"))).emitted
    assert (event.topic, event.payload) == ("@scheduling", REQUIREMENT.model_dump())


# --- scheduling and the world outside ---


class World(Agent[None]):
    """Two calendars that answer and one that does not, and a provider that books."""

    name = "world"

    @on("calendar.find_slot")
    async def find_slot(self, event: Event[Search], ctx: Handling) -> None:
        fit = {"east": 0.2, "north": 0.7}.get(event.payload.calendar)
        if fit is not None:
            await ctx.reply(Slot(calendar=event.payload.calendar, fit=fit))

    @on("provider.book", "provider.cancel")
    async def provider(self, event: Event[Booking], ctx: Handling) -> None:
        await ctx.reply(Answer(booked=True))


async def test_scheduling_takes_the_better_of_the_first_two_calendars_that_answer(alone: Alone) -> None:
    harness = await alone(Scheduling)
    async with Worker(harness.spine, World):
        said = (await harness.given(routed("scheduling"))).said
    placed = {**BOOKING.model_dump(), "calendar": "north"}
    assert sorted(payload["calendar"] for type, payload in said if type == "calendar.find_slot") == sorted(CALENDARS)
    assert ("provider.book", placed) in said
    assert said[-2:] == [("booking.requested", BOOKING.model_dump()), ("booking.confirmed", BOOKING.model_dump())]


async def test_where_no_calendar_answers_in_time_the_provider_chooses(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "CALENDAR_SECONDS", 0.02)
    monkeypatch.setattr(scheduling, "CALENDARS", ("west",))
    monkeypatch.setattr(scheduling, "ANSWERS_WANTED", 1)
    harness = await alone(Scheduling)
    async with Worker(harness.spine, World):
        said = (await harness.given(routed("scheduling"))).said
    assert said[-1] == ("booking.confirmed", BOOKING.model_dump())


def test_how_well_a_booking_fits_is_always_the_same_and_not_everywhere() -> None:
    fits = [fit(Search(calendar=calendar, booking=BOOKING)) for calendar in CALENDARS]
    assert fits == [fit(Search(calendar=calendar, booking=BOOKING)) for calendar in CALENDARS]
    assert len(set(fits)) == len(CALENDARS)
    assert all(0 <= one <= 1 for one in fits)


async def test_a_calendar_answers_what_it_is_asked(alone: Alone) -> None:
    search = Search(calendar="west", booking=BOOKING)
    got = await (await alone(Calendar)).given(("calendar.find_slot", search))
    assert got.reply == {"calendar": "west", "fit": fit(search)}


async def test_the_provider_refuses_what_failed_in_the_data_and_confirms_the_rest(
    alone: Alone, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = BOOKING.model_copy(
        update={"conversation": "1_00003", "turn": 2, "service": "Lessons_1", "intent": "BookLesson"}
    )
    monkeypatch.setenv("CONVERSATIONS", str(shipped))
    provider = await alone(Provider)
    assert (await provider.given(("provider.book", failed))).reply["booked"] is False
    got = await provider.given(("provider.book", BOOKING))
    assert got.reply == Answer(booked=True).model_dump()
    assert (await provider.given(("provider.cancel", BOOKING))).reply["booked"] is False


def test_a_provider_that_knows_no_outcomes_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVERSATIONS", raising=False)
    assert Provider().refused == set()
