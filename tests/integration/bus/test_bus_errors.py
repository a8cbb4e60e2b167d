"""Each kind of error of the bus has one outcome, for the one who caused it and for the one who waits."""

import asyncio
import logging

import pytest
from pydantic import BaseModel

from spine import (
    InvalidInput,
    InvalidPayload,
    LateResponse,
    MissingResponse,
    RequestFailed,
    RequestTimeout,
    Spine,
    StateConflict,
)
from spine.bus import AgentEventBus, EventData
from spine.testing.waiting import wait_until

ASK = {"conversation_id": "c-1"}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "spine")


async def test_a_failing_callback_hurts_no_other(bus: AgentEventBus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "spine")
    heard = []

    async def failing(event: EventData) -> None:
        raise ValueError(f"no {event.data['n']}")

    await bus.subscribe("step", failing)
    await bus.subscribe("step", lambda event: heard.append(event.data["n"]))
    for n in range(3):
        await bus.emit("step", {"n": n}, key="k")
    await wait_until(lambda: heard == [0, 1, 2] and bus.metrics().errors.get("callback") == 3)
    assert [error.message for error in bus.metrics().error_log] == [
        "ValueError: no 0",
        "ValueError: no 1",
        "ValueError: no 2",
    ]
    assert bus.metrics().handled == {"step": 3}
    assert "callback of step failed on event 1" in caplog.text


async def test_a_caller_is_told_at_once_when_everybody_failed(bus: AgentEventBus) -> None:
    def failing(event: EventData) -> None:
        raise ValueError("no context")

    await bus.subscribe("context.requested", failing)
    await bus.subscribe("context.*", failing)
    with pytest.raises(RequestFailed, match="ValueError: no context"):
        await asyncio.wait_for(bus.emit_and_wait("context.requested", ASK, timeout=60), 10)
    assert len(await bus.history("context.requested")) == 1
    assert bus.metrics().errors == {"callback": 2}


async def test_a_caller_elsewhere_is_told_and_counts_it(bus: AgentEventBus, bus_url: str, namespace: str) -> None:
    def failing(event: EventData) -> None:
        raise ValueError("no context")

    async with Spine(bus_url, namespace=namespace) as other, AgentEventBus(other) as elsewhere:
        await elsewhere.subscribe("context.requested", failing)
        with pytest.raises(RequestFailed, match="ValueError: no context"):
            await bus.emit_and_wait("context.requested", ASK, timeout=60)
        assert elsewhere.metrics().errors == bus.metrics().errors == {"callback": 1}


async def test_a_caller_waits_for_those_who_did_not_fail(bus: AgentEventBus) -> None:
    ready = asyncio.Event()

    async def failing(event: EventData) -> None:
        ready.set()
        raise ValueError("no")

    async def answering(event: EventData) -> dict[str, bool]:
        await ready.wait()
        await wait_until(lambda: bus.metrics().errors.get("callback"))
        return {"ok": True}

    await bus.subscribe("context.requested", failing)
    await bus.subscribe("context.requested", answering)
    assert (await bus.emit_and_wait("context.requested", ASK, timeout=10)).response == {"ok": True}


async def test_time_out(bus: AgentEventBus) -> None:
    await bus.subscribe("context.requested", lambda event: None)
    with pytest.raises(TimeoutError, match=r"no response to 'context.requested' \(event 1\) within 0\.1 s") as caught:
        await bus.emit_and_wait("context.requested", ASK, timeout=0.1)
    assert isinstance(caught.value, RequestTimeout)
    assert caught.value.stored is True
    assert [event.event_id for event in await bus.history()] == ["1"]
    assert bus.metrics().errors == {"time_out": 1}
    assert bus.metrics().waiting == 0


async def test_an_invalid_event_is_refused_and_nothing_stored(bus: AgentEventBus) -> None:
    for event_type, data, named in (
        ("session.created", {"session_id": ["s"]}, "session_id"),
        ("conversation.created", {"conversation_id": 7}, "conversation_id"),
        ("Not A Type", {}, "Not A Type"),
        ("spine.own", {}, "reserved"),
        ("step", {"object": object()}, "object"),
        ("step", [1], "dict"),
    ):
        with pytest.raises(InvalidInput, match=named) as caught:
            await bus.emit(event_type, data)
        assert caught.value.stored is False
        with pytest.raises(InvalidInput, match=named):
            await bus.emit_and_wait(event_type, data, timeout=5)
    with pytest.raises(InvalidInput):
        await bus.subscribe("Not A Type", print)
    assert await bus.history() == []
    assert bus.metrics().errors == {"invalid_event": 12}


async def test_state_conflict(bus: AgentEventBus) -> None:
    first = await bus.emit("step", {"n": 1}, key="k", expect=0)
    assert await bus.last_seq("k") == first.seq
    second = await bus.emit("step", {"n": 2}, key="k", expect=first.seq)
    with pytest.raises(StateConflict, match=f"'k' is not where .* its last event is {second.seq}, not {first.seq}"):
        await bus.emit("step", {"n": 3}, key="k", expect=first.seq)
    with pytest.raises(StateConflict):
        await bus.emit_and_wait("step", {"n": 3}, 5, key="k", expect=0)
    assert [event.data["n"] for event in await bus.history()] == [2, 1]
    for never_its_last in (second.seq, second.seq + 100):
        with pytest.raises(StateConflict, match="its last event is 0"):
            await bus.emit("step", {"n": 1}, key="other", expect=never_its_last)
    await bus.subscribe("step", lambda event: {"n": event.data["n"]})
    assert (await bus.emit_and_wait("step", {"n": 9}, 10, key="k", expect=second.seq)).response == {"n": 9}
    with pytest.raises(StateConflict):
        await bus.emit_and_wait("step", {"n": 9}, 10, key="k", expect=second.seq)


async def test_expecting_needs_a_key_and_promises_no_more_than_memory(bus_url: str, namespace: str) -> None:
    async with Spine(bus_url, namespace=namespace, durability="disk") as spine, AgentEventBus(spine) as bus:
        with pytest.raises(InvalidInput, match="needs a key"):
            await bus.emit("step", {"n": 1}, expect=0)
        with pytest.raises(InvalidInput, match="durability='disk'"):
            await bus.emit("step", {"n": 1}, key="k", expect=0)


async def test_of_many_who_expect_the_same_one_wins(bus: AgentEventBus) -> None:
    for _ in range(5):
        seen = await bus.last_seq("k")
        results = await asyncio.gather(
            *(bus.emit("step", {"n": n}, key="k", expect=seen) for n in range(20)), return_exceptions=True
        )
        assert sum(isinstance(result, EventData) for result in results) == 1
        assert sum(isinstance(result, StateConflict) for result in results) == 19
    assert len(await bus.history()) == 5


async def test_missing_response_when_nobody_is_subscribed(bus: AgentEventBus) -> None:
    with pytest.raises(MissingResponse, match=r"nobody is subscribed to 'context\.requested'") as caught:
        await bus.emit_and_wait("context.requested", ASK, timeout=60)
    assert caught.value.stored is True
    assert len(await bus.history()) == 1
    assert bus.metrics().errors == {"missing_response": 1}
    subscription = await bus.subscribe("context.requested", lambda event: {})
    assert await bus.emit_and_wait("context.requested", ASK, timeout=10)
    await bus.unsubscribe(subscription)
    with pytest.raises(MissingResponse):
        await bus.emit_and_wait("context.requested", ASK, timeout=60)


async def test_an_invalid_response_is_refused_and_the_caller_goes_on_waiting(bus: AgentEventBus) -> None:
    class Found(BaseModel):
        text: str

    bus.register("context.requested", response=Found)
    refused = []

    async def answer(event: EventData) -> None:
        for response in ({"text": 7}, {"txet": "typo"}, {"text": object()}):
            with pytest.raises(InvalidPayload, match=r"text|txet") as caught:
                await bus.respond(event.event_id, response)
            refused.append(caught.value.stored)
        await bus.respond(event.event_id, Found(text="right"))

    await bus.subscribe("context.requested", answer)
    assert (await bus.emit_and_wait("context.requested", ASK, timeout=10)).response == {"text": "right"}
    assert refused == [False, False, False]
    assert bus.metrics().errors == {"invalid_response": 3}


async def test_a_response_that_cannot_be_stored_is_refused(bus: AgentEventBus) -> None:
    await bus.subscribe("context.requested", lambda event: {"value": object()})
    with pytest.raises(RequestFailed, match="InvalidPayload"):
        await bus.emit_and_wait("context.requested", ASK, timeout=10)


async def test_a_late_response_is_refused(bus: AgentEventBus, spine: Spine) -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()
    await bus.subscribe("context.requested", lambda event: asked.put_nowait(event.event_id))
    with pytest.raises(RequestTimeout):
        await bus.emit_and_wait("context.requested", ASK, timeout=0.05)
    event_id = await asked.get()
    with pytest.raises(LateResponse, match="the caller waited until") as caught:
        await bus.respond(event_id, {"too": "late"})
    assert caught.value.stored is False
    assert await bus.response(event_id) is None
    assert bus.metrics().errors == {"time_out": 1, "late_response": 1}
    assert len([event async for event in spine.replay()]) == 1


async def test_the_first_response_wins_and_a_second_is_late(bus: AgentEventBus) -> None:
    second: asyncio.Queue[str] = asyncio.Queue()

    async def answer_twice(event: EventData) -> None:
        await bus.respond(event.event_id, {"n": 1})
        with pytest.raises(LateResponse, match="has its response") as caught:
            await bus.respond(event.event_id, {"n": 2})
        second.put_nowait(str(caught.value))

    await bus.subscribe("context.requested", answer_twice)
    assert (await bus.emit_and_wait("context.requested", ASK, timeout=10)).response == {"n": 1}
    assert "Nothing was stored" in await asyncio.wait_for(second.get(), 5)


async def test_responding_to_what_nobody_asked(bus: AgentEventBus) -> None:
    event = await bus.emit("step", {"n": 1})
    assert await bus.respond(event.event_id, {"ok": True}) is None
    assert await bus.respond(event, {"ok": True}) is None
    for unknown in ("99", "x", "", "-1"):
        with pytest.raises(InvalidInput, match=r"no event|not the id"):
            await bus.respond(unknown, {})
    assert await bus.response(event) is None
