"""A customer takes a booking back: the word overtakes what waits, and what was made already is undone, once."""

import asyncio

from agents.calendar import Calendar
from agents.events import Answer, Booking, Requirement
from agents.feeder import cancel
from agents.provider import Provider
from agents.scheduling import Scheduling
from spine import Agent, Draft, Event, Handling, Spine, Worker, on
from spine.testing import wait_until

WAITING = 8
MADE = ["booking.requested", "booking.confirmed"]
UNDONE = [*MADE, "provider.cancel", "booking.cancelled"]


def booking(number: int) -> Booking:
    return Booking(conversation=f"c{number}", turn=2, service="Taxi_1", intent="CallTaxi", parameters={})


def routed(one: Booking) -> Draft:
    return Draft(
        "requirement.routed", Requirement(booking=one, confidence=1.0), one.key(one.conversation), to="scheduling"
    )


async def became(spine: Spine, one: Booking) -> list[str]:
    """Return what happened to a booking."""
    types = ("booking.*", "provider.cancel")
    return [event.type async for event in spine.replay(types=types, key=one.key(one.conversation))]


async def all_is_handled(spine: Spine) -> bool:
    return sum(one.total for one in await spine.lag()) == 0


async def test_a_cancellation_overtakes_the_bookings_that_wait(spine: Spine) -> None:
    async with Worker(spine, Scheduling):
        pass  # it is known from now on: what is sent to it waits for it
    bookings = [booking(number) for number in range(WAITING)]
    await spine.publish_many([routed(one) for one in bookings])
    await cancel(spine, bookings[-1].conversation, bookings[-1])
    async with Worker(spine, Scheduling, Calendar, Provider):
        await wait_until(lambda: all_is_handled(spine))
    assert [await became(spine, one) for one in bookings] == [MADE] * (WAITING - 1) + [["booking.cancelled"]]


async def test_what_was_made_already_is_undone_once(spine: Spine) -> None:
    async with Worker(spine, Scheduling, Calendar, Provider):
        await spine.publish_many([routed(booking(1)), routed(booking(2))])
        await wait_until(lambda: all_is_handled(spine))
        for _ in range(2):  # a customer in a hurry
            await cancel(spine, "c1", booking(1))
            await wait_until(lambda: all_is_handled(spine))
    assert (await became(spine, booking(1)), await became(spine, booking(2))) == (UNDONE, MADE)


async def test_what_is_being_made_is_made_and_undone(spine: Spine) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow(Agent[None]):
        name = "provider"

        @on("provider.book")
        async def book(self, event: Event[Booking], ctx: Handling) -> None:
            asked.set()
            await answer.wait()
            await ctx.reply(Answer(booked=True))

        @on("provider.cancel")
        async def cancel(self, event: Event[Booking], ctx: Handling) -> None:
            await ctx.reply(Answer(booked=False))

    async with Worker(spine, Scheduling, Calendar, Slow):
        await spine.publish_many([routed(booking(1))])
        await asked.wait()
        await cancel(spine, "c1", booking(1))
        answer.set()
        await wait_until(lambda: all_is_handled(spine))
    assert await became(spine, booking(1)) == UNDONE


async def test_what_could_not_be_made_needs_no_undoing(spine: Spine) -> None:
    class Full(Agent[None]):
        name = "provider"

        @on("provider.book")
        async def book(self, event: Event[Booking], ctx: Handling) -> None:
            await ctx.reply(Answer(booked=False))

    async with Worker(spine, Scheduling, Calendar, Full):
        await spine.publish_many([routed(booking(1))])
        await wait_until(lambda: all_is_handled(spine))
        await cancel(spine, "c1", booking(1))
        await wait_until(lambda: all_is_handled(spine))
    assert await became(spine, booking(1)) == ["booking.requested", "booking.failed"]
