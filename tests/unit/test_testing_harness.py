"""The harness runs one agent as in production and shows what it emits, replies and becomes."""

import asyncio
import logging

import pytest
from pydantic import BaseModel

from agents.events import Answer, Booking, Requirement
from agents.scheduling import Scheduling
from spine import Agent, Catalog, Draft, Event, EventType, Handling, InvalidInput, InvalidPayload, Retry, on, reduces
from spine.clock import moved_ms
from spine.testing import AgentHarness, HandlerFailed, wait_until

BOOKING = Booking(conversation="c", turn=4, service="Taxi_1", intent="CallTaxi", parameters={"where": "Old Mill"})


class Total(BaseModel):
    sum: int = 0


class Paid(EventType, name="paid"):
    amount: int


class Till(Agent[Total]):
    """Adds up; says when a customer has paid enough, and once more when asked."""

    name = "till"

    @reduces(Paid)
    def add(self, state: Total, event: Event[Paid]) -> Total:
        if event.payload.amount < 0:
            raise ValueError("no refunds")
        return Total(sum=state.sum + event.payload.amount)

    @on(Paid)
    async def paid(self, event: Event[Paid], ctx: Handling) -> None:
        if event.payload.amount == 13:
            raise ValueError("unlucky")
        if ctx.state.sum >= 100:
            await ctx.publish("enough", {"sum": ctx.state.sum})
        await ctx.reply({"sum": ctx.state.sum})

    @on("enough")
    async def enough(self, event: Event, ctx: Handling) -> None:
        await ctx.publish("thanks", {"seq": event.seq})

    @on("bad", retry=Retry(attempts=1))
    async def bad(self, event: Event) -> None:
        raise KeyError("missing")


async def test_state_emitted_events_and_replies() -> None:
    async with AgentHarness(Till) as till:
        got = await till.given(
            ("paid", {"amount": 60}, "k"), Draft(Paid(amount=50), key="k"), ("paid", {"amount": 1}, "x")
        )
        assert got.outcomes == ["done", "done", "done"]
        assert [reply.payload["sum"] for reply in got.replies] == [60, 110, 1]
        assert got.said == [("enough", {"sum": 110}), ("thanks", {"seq": got.emitted[0].seq})]
        assert got.emitted[0].context.causation == got.events[1].seq
        assert got.state == Total(sum=1)
        assert await till.state("k") == Total(sum=110)
        again = await till.given(("paid", {"amount": 1}, "k"))
        assert again.reply == {"sum": 111}
        assert again.state == Total(sum=111)


async def test_what_was_before_is_in_the_state_and_not_handled() -> None:
    async with AgentHarness(Till, before=(("paid", {"amount": 99}, "k"),)) as till:
        got = await till.given(("paid", {"amount": 2}, "k"))
        assert got.state == Total(sum=101)
        assert [event.type for event in got.emitted] == ["enough", "thanks"]


async def test_a_handler_that_raises_fails_the_test_at_once() -> None:
    async with AgentHarness(Till) as till:
        with pytest.raises(HandlerFailed, match="unlucky"):
            await till.given(("paid", {"amount": 13}, "k"))
    async with AgentHarness(Till) as till:
        with pytest.raises(HandlerFailed, match=r"(?s)gave up event 1 \(bad\).*Traceback.*KeyError: 'missing'"):
            await till.given(("bad", {}))


async def test_failing_may_be_what_is_tested(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with AgentHarness(Till) as till:
        got = await till.given(
            ("bad", {}, "a"), ("paid", {"amount": 13}, "b"), ("paid", {"amount": 1}, "c"), may_fail=True
        )
        assert got.outcomes == ["dead", "failed", "done"]
        assert len(got.errors) == 2


async def test_a_reducer_that_raises_fails_the_test_at_once() -> None:
    async with AgentHarness(Till) as till:
        with pytest.raises(HandlerFailed, match="no refunds"):
            await till.given(("paid", {"amount": -1}, "k"))


@pytest.mark.parametrize("payload", [{"amount": -1}, {"amount": "much"}])
async def test_a_reducer_may_be_what_fails(caplog: pytest.LogCaptureFixture, payload: dict) -> None:
    caplog.set_level(logging.CRITICAL)
    async with AgentHarness(Till) as till:
        got = await till.given(("paid", payload, "k"), may_fail=True)
    assert (got.state, len(got.errors)) == (None, 1)
    assert "amount" in got.errors[0] or "no refunds" in got.errors[0]


async def test_requests_are_answered_by_stand_ins() -> None:
    async with AgentHarness(Scheduling) as scheduling:
        await scheduling.answers("calendar.find_slot", lambda request: {**request.payload, "fit": 1.0})
        await scheduling.answers(
            "provider.book", lambda request: Answer(booked=request.payload["turn"] < 5, booking=request.payload)
        )
        later = BOOKING.model_copy(update={"turn": 6})
        got = await scheduling.given(
            Draft("requirement.routed", Requirement(booking=BOOKING, confidence=1.0), key="c", to="scheduling"),
            Draft("requirement.routed", Requirement(booking=later, confidence=1.0), key="c", to="scheduling"),
        )
        assert [event.type for event in got.emitted if event.type.startswith("booking.")] == [
            "booking.requested",
            "booking.confirmed",
            "booking.requested",
            "booking.failed",
        ]
        assert got.state.taken_back is False


async def test_what_the_agent_does_not_listen_to_is_refused() -> None:
    async with AgentHarness(Till) as till:
        with pytest.raises(InvalidInput, match="till has no handler or reducer for 'payed'"):
            await till.given(("payed", {}))


async def test_a_catalogue_is_respected() -> None:
    async with AgentHarness(Till, catalog=Catalog(Paid)) as till:
        with pytest.raises(InvalidPayload, match="amount"):
            await till.given(("paid", {"amount": "x"}))


class Waiting(Agent):
    name = "waiting"

    @on("wait")
    async def wait(self, event: Event) -> None:
        await asyncio.Event().wait()

    @on("ask")
    async def ask(self, event: Event, ctx: Handling) -> None:
        await ctx.request("never.answered", timeout=60)


async def test_an_agent_that_does_not_finish_is_named() -> None:
    async with AgentHarness(Waiting, timeout=0.2) as waiting:
        with pytest.raises(AssertionError, match=r"waiting's handling did not come true within 0\.2 s"):
            await waiting.given(("wait", {}))


async def test_a_request_that_nobody_stands_in_for_fails_the_test() -> None:
    async with AgentHarness(Waiting) as waiting:
        with pytest.raises(HandlerFailed, match="NoHandler"):
            await waiting.given(("ask", {}))


class Reminding(Agent):
    name = "reminding"

    @on("visit.booked")
    async def booked(self, event: Event, ctx: Handling) -> None:
        ctx.schedule("visit.due", event.payload, delay=3600)

    @on("visit.due")
    async def due(self, event: Event, ctx: Handling) -> None:
        await ctx.handoff("desk", type="visit.reminded", reason="somebody has to call")


async def test_time_is_moved_for_the_agent_and_put_right_at_the_end() -> None:
    async with AgentHarness(Reminding) as reminding:
        await reminding.answers("visit.reminded", {}, agent="desk")
        assert (await reminding.given(("visit.booked", {"room": "Ada"}, "k"))).said == []
        await reminding.clock.advance(3600)

        async def reminded() -> list[Event]:
            return await reminding.spine.history(types="visit.reminded")

        (event,) = await wait_until(reminded)
        assert (event.topic, event.key) == ("@desk", "k")
        assert moved_ms() == 3_600_000
    assert moved_ms() == 0
