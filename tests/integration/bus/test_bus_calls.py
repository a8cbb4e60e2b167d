"""What callers hand over to the bus: every sensible form of it is taken, and the rest is refused at once, by name."""

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from spine import (
    Agent,
    Event,
    EventType,
    InvalidInput,
    InvalidName,
    InvalidPayload,
    LateResponse,
    RequestTimeout,
    Spine,
    Worker,
    on,
)
from spine import bus as bus_module
from spine.bus import (
    SESSION_CREATED,
    AgentEventBus,
    AgentEventType,
    ConversationCreated,
    EventData,
    ResponseData,
    SessionCreated,
)
from spine.testing import RedisServer
from spine.testing.waiting import wait_until


class Silent(Agent):
    name = "silent"

    @on("wish")
    async def wish(self, event: Event) -> None: ...


class OwnType(str, Enum):  # noqa: UP042  # the older form, whose members are other text than their value
    ASKED = "own.asked"


class OwnAgent(str, Enum):  # noqa: UP042
    CLERK = "Clerk"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "spine")


async def test_each_constant_may_be_imported_by_its_name() -> None:
    for constant in AgentEventType:
        assert getattr(bus_module, constant.name) is constant
        assert constant.name in bus_module.__all__


async def test_event_and_response_are_models() -> None:
    now = datetime.now(UTC)
    event = EventData(type="step", data={"n": 1}, agent_type="Concierge", timestamp=now)
    assert EventData.model_validate_json(event.model_dump_json()) == event
    response = ResponseData(event_id="7", response={"n": 1}, timestamp=now)
    assert response.model_dump() == {"event_id": "7", "response": {"n": 1}, "timestamp": now}
    for model, wrong in (
        (EventData, {"type": "step", "data": [], "timestamp": now}),
        (ResponseData, {"event_id": "7"}),
    ):
        with pytest.raises(ValidationError):
            model(**wrong)


async def test_an_instance_is_type_and_data_in_one(bus: AgentEventBus) -> None:
    sent = await bus.emit(ConversationCreated(conversation_id="c-1"), agent_type="Concierge")
    assert (sent.type, sent.data, sent.key) == ("conversation.created", {"conversation_id": "c-1"}, "c-1")
    await bus.subscribe(SESSION_CREATED, lambda event: event.data)
    got = await bus.emit_and_wait(SessionCreated(session_id="s-1"), timeout=10)
    assert got.response == {"session_id": "s-1"}
    with pytest.raises(InvalidPayload, match="the data already"):
        await bus.emit(SessionCreated(session_id="s-1"), {"session_id": "s-2"})


async def test_types_and_agents_may_be_enumerated(bus: AgentEventBus, spine: Spine) -> None:
    bus.register(OwnType.ASKED, SessionCreated)
    await bus.subscribe(OwnType.ASKED, lambda event: {"type": event.type, "by": event.agent_type})
    got = await bus.emit_and_wait(OwnType.ASKED, {"session_id": "s"}, 10, OwnAgent.CLERK)
    assert got.response == {"type": "own.asked", "by": "Clerk"}
    (found,) = await bus.history(OwnType.ASKED)
    assert (f"{found.type}", f"{found.agent_type}") == ("own.asked", "Clerk")
    emitted = await bus.emit(OwnType.ASKED, {}, OwnAgent.CLERK)
    assert (f"{emitted.type}", f"{emitted.agent_type}") == ("own.asked", "Clerk")
    assert list(bus.metrics().emitted) == ["own.asked"]
    assert await bus.unsubscribe(OwnType.ASKED) == 1

    class Own(EventType, name=OwnType.ASKED): ...

    assert f"{Own.event_type}" == "own.asked"
    assert AgentEventBus(spine, agent_type=OwnAgent.CLERK)._agent_type == "Clerk"


async def test_the_data_of_one_type_is_not_taken_for_that_of_another(bus: AgentEventBus) -> None:
    with pytest.raises(InvalidPayload, match=r"a SessionCreated is the payload of 'session\.created'"):
        await bus.emit("conversation.created", SessionCreated(session_id="s"))
    assert await bus.history() == []


@pytest.mark.parametrize("wrong", [None, 5, object, dict, EventType])
async def test_what_is_no_type_is_refused_everywhere(bus: AgentEventBus, wrong: Any) -> None:
    for call in (
        bus.emit(wrong, {}),
        bus.emit_and_wait(wrong, {}, 5),
        bus.subscribe(wrong, print),
        bus.unsubscribe(wrong),
        bus.history(wrong or 7),
    ):
        with pytest.raises(InvalidName, match="is not a type"):
            await call
    assert bus.metrics().errors == {"invalid_event": 2}


async def test_the_message_names_the_type_as_it_is_stored(bus: AgentEventBus) -> None:
    with pytest.raises(InvalidPayload, match=r"payload of 'conversation\.created' is not a ConversationCreated"):
        await bus.emit(AgentEventType.CONVERSATION_CREATED, {"conversation_id": 7})


async def test_subscribing_takes_a_function_and_at_least_one_type(bus: AgentEventBus) -> None:
    with pytest.raises(InvalidInput, match="the callback is a function"):
        await bus.subscribe("step", None)
    with pytest.raises(InvalidInput, match="at least one type"):
        await bus.subscribe([], print)
    with pytest.raises(InvalidInput, match="concurrency is at least 1"):
        await bus.subscribe("step", print, concurrency=0)
    assert await bus.subscribers() == []
    for several in (["a", "b"], ("a", "b"), iter(["a", "b", "a"])):
        await bus.subscribe(several, print)
    assert len(await bus.subscribers("b")) == 3
    assert await bus.unsubscribe(["a", "b"], print) == 3


async def test_an_event_is_known_by_id_number_or_as_such(bus: AgentEventBus, spine: Spine) -> None:
    heard: asyncio.Queue[Event[Any]] = asyncio.Queue()
    await spine.subscribe("step", heard.put_nowait)
    await bus.subscribe("step", lambda event: None)
    for form in (lambda e: e, lambda e: e.seq, lambda e: str(e.seq), EventData.of):
        waiting = asyncio.create_task(bus.emit_and_wait("step", {}, 10, key="k"))
        event = await asyncio.wait_for(heard.get(), 5)
        assert isinstance(await bus.respond(form(event), {"seq": event.seq}), ResponseData)
        assert (await waiting).response == {"seq": event.seq}
        assert (await bus.response(form(event))).response == {"seq": event.seq}
        assert await bus.history("step", since=form(event)) == []
        assert [one.seq for one in await bus.history("step", until=form(event), limit=1)] == [event.seq]
        last = await bus.last_seq("k")
        assert (await bus.emit("other", {}, key="k", expect=last)).seq == last + 1
    first = await bus.emit("other", {}, key="new", expect=0)
    assert (await bus.emit("other", {}, key="new", expect=first)).seq == first.seq + 1
    for wrong in (None, True, -1, 1.5, "1.5", "x", ""):
        with pytest.raises(InvalidInput, match="is not the id"):
            await bus.respond(wrong, {})


async def test_history_since(bus: AgentEventBus) -> None:
    first = await bus.emit("step", {"n": 1})
    await asyncio.sleep(0.01)
    middle = time.time()
    await asyncio.sleep(0.01)
    second = await bus.emit("step", {"n": 2})
    for since, found in (
        (None, [second, first]),
        (0, [second, first]),
        (middle, [second]),
        (datetime.fromtimestamp(middle, UTC), [second]),
        (datetime.fromtimestamp(middle), [second]),  # a naive time is local
        (first.timestamp, [second, first]),
        (first, [second]),
        (timedelta(minutes=5), [second, first]),
        (timedelta(0), []),
        (time.time() + 60, []),
    ):
        assert await bus.history("step", since) == found
        assert await bus.history(["step", "other.*"], since, 10) == found
    for wrong in (-1, "yesterday", float("nan"), float("inf"), {}):
        with pytest.raises(InvalidInput, match="is not the id of an event, nor a time"):
            await bus.history("step", since=wrong)
    for wrong in (None, "5", 1.5, 0, -1, 1_000_000):
        with pytest.raises(InvalidInput, match="limit is between"):
            await bus.history("step", limit=wrong)


async def test_a_timeout_is_seconds_or_a_timedelta(bus: AgentEventBus) -> None:
    await bus.subscribe("step", lambda event: None)
    for timeout in (0.02, timedelta(milliseconds=20), 0, -1):
        with pytest.raises(RequestTimeout):
            await asyncio.wait_for(bus.emit_and_wait("step", {}, timeout), 5)
    await wait_until(lambda: bus.metrics().handled == {"step": 4}, what="each event, stored and delivered")
    for wrong in (None, "1", float("inf"), float("nan")):
        with pytest.raises(InvalidInput, match="timeout is a number of seconds"):
            await bus.emit_and_wait("step", {}, wrong)
    assert len(await bus.history("step")) == 4


async def test_of_many_who_respond_at_once_one_does(bus: AgentEventBus, bus_url: str, namespace: str) -> None:
    asked: asyncio.Queue[EventData] = asyncio.Queue()
    await bus.subscribe("step", asked.put_nowait)
    async with Spine(bus_url, namespace=namespace) as other, AgentEventBus(other) as elsewhere:
        for _ in range(5):
            waiting = asyncio.create_task(bus.emit_and_wait("step", {}, 10))
            event = await asyncio.wait_for(asked.get(), 5)
            results = await asyncio.gather(
                *(one.respond(event.event_id, {"n": n}) for n, one in enumerate((bus, elsewhere) * 10)),
                return_exceptions=True,
            )
            (given,) = [result for result in results if isinstance(result, ResponseData)]
            assert sum(isinstance(result, LateResponse) for result in results) == 19
            assert (await waiting) == given == await bus.response(event)
        assert len(await other.history(types="step.reply")) == 5
        assert sum(one.metrics().errors["late_response"] for one in (bus, elsewhere)) == 5 * 19


async def test_a_callback_that_returns_no_response_is_told_so(bus: AgentEventBus) -> None:
    await bus.subscribe("step", lambda event: "text")
    with pytest.raises(RequestTimeout):
        await bus.emit_and_wait("step", {}, 0.2)
    assert bus.metrics().errors == {"invalid_response": 1, "time_out": 1}
    assert "a callback returned a str" in bus.metrics().error_log[0].message
    await bus.emit("step", {})
    await wait_until(lambda: bus.metrics().handled == {"step": 2})
    assert bus.metrics().errors["invalid_response"] == 1


async def test_a_late_response_is_no_failure_of_the_callback(bus: AgentEventBus, spine: Spine) -> None:
    async def respond(event: EventData) -> None:
        await bus.respond(event, {"by": "respond"})

    await bus.subscribe("step", lambda event: {"by": "return"})
    await bus.subscribe("step", lambda event: {"by": "return"})
    await bus.subscribe("step", respond)
    for _ in range(10):
        assert (await bus.emit_and_wait("step", {}, 10)).response["by"] in ("return", "respond")
    await wait_until(lambda: bus.metrics().errors == {"late_response": 20})
    assert len(await spine.history(types="step.reply")) == 10


async def test_a_long_error_is_kept_shortened(bus: AgentEventBus) -> None:
    def failing(event: EventData) -> None:
        raise ValueError("x" * 1_000_000)

    await bus.subscribe("step", failing)
    await bus.emit("step", {})
    await wait_until(lambda: bus.metrics().errors)
    assert len(bus.metrics().error_log[0].message) == 1_000


async def test_what_became_of_the_event_is_not_claimed_while_the_server_is_away(tmp_path: Path, namespace: str) -> None:
    with RedisServer.start(tmp_path) as server:
        async with Spine(server.url, namespace=namespace) as spine, AgentEventBus(spine) as bus:
            await bus.subscribe("step", lambda event: {})
            await bus.emit_and_wait("step", {}, 10)
            async with Worker(spine, Silent):
                with pytest.raises(RequestTimeout, match="is in the log") as told:
                    await spine.request("wish", {}, timeout=0.3)
            assert told.value.stored is True
            server.pause()
            try:
                with pytest.raises(RequestTimeout, match="not known") as emitted:
                    await bus.emit_and_wait("step", {}, 0.3)
                with pytest.raises(RequestTimeout, match="may be in the log or not") as requested:
                    await spine.request("wish", {}, timeout=0.3)
            finally:
                server.cont()
            assert emitted.value.stored is requested.value.stored is None


async def test_a_callback_may_end_its_own_subscription_and_close_its_bus(bus: AgentEventBus, spine: Spine) -> None:
    heard: list[int] = []
    closed = asyncio.Event()

    async def once(event: EventData) -> None:
        heard.append(event.data["n"])
        await bus.unsubscribe("step", once)

    async def close(event: EventData) -> None:
        await bus.close()
        closed.set()

    await bus.subscribe("step", once)
    for n in range(5):
        await bus.emit("step", {"n": n}, key="k")
    await bus.subscribe("end", close)
    await bus.emit("end", {})
    await asyncio.wait_for(closed.wait(), 3)
    assert heard == [0]
    assert await AgentEventBus(spine).subscribers() == []


async def test_a_caller_that_is_cancelled_waits_no_more(bus: AgentEventBus) -> None:
    await bus.subscribe("step", lambda event: None)
    waiting = asyncio.create_task(bus.emit_and_wait("step", {}, 60))
    await wait_until(lambda: bus.metrics().handled)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert bus.metrics().waiting == 0
    assert len(await bus.history("step")) == 1


async def test_a_subscription_is_shown_when_it_misses_nothing_any_more(
    bus: AgentEventBus, spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    begin = spine.subscribe

    async def watched(*args: Any) -> Any:
        shown.append(len(await bus.subscribers()))
        return await begin(*args)

    monkeypatch.setattr(spine, "subscribe", watched)
    await bus.subscribe("step", print)
    assert shown == [0]
    assert len(await bus.subscribers()) == 1


async def test_a_response_that_is_kept_takes_little_more_than_what_is_in_it(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine, AgentEventBus(spine) as bus:
        await bus.subscribe("step", lambda event: {"text": "x" * 500})
        for n in range(20):
            await bus.emit_and_wait("step", {}, 10, key=f"k-{n}")
        kept = [key for p in range(8) for key in await spine.server.command("KEYS", spine.server.keys.reply(p, "*"))]
        sizes = [await spine.server.command("MEMORY", "USAGE", key) for key in kept]
        assert len(sizes) == 20
        assert max(sizes) < 1_500
        assert await spine.server.command("EXISTS", spine.server.keys.scratch) == 0
