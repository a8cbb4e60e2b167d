"""The bus, from its description: subscribe, unsubscribe, emit, emit and wait, respond, history, metrics."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from spine import Agent, Catalog, Event, EventType, Handling, InvalidInput, Priority, Spine, Worker, on
from spine.bus import (
    AgentEventBus,
    AgentEventType,
    ContextRequested,
    ConversationCreated,
    EventData,
    ResponseData,
)
from spine.catalog.listing import list_types
from spine.catalog.stored import load
from spine.testing.waiting import wait_until


class Invoice(EventType, name="invoice.sent"):
    number: int


PREDEFINED = {
    "CONVERSATION_CREATED": "conversation.created",
    "CONVERSATION_UPDATED": "conversation.updated",
    "CONTEXT_REQUESTED": "context.requested",
    "SESSION_CREATED": "session.created",
    "SESSION_UPDATED": "session.updated",
    "MESSAGE_RECEIVED": "message.received",
    "MESSAGE_PROCESSED": "message.processed",
    "LANGUAGE_NORMALIZED": "language.normalized",
    "TRANSCRIPTION_COMPLETED": "transcription.completed",
    "FOLDER_STRUCTURE_DETERMINED": "folder.structure.determined",
    "ORION_STATE_CHANGED": "orion.state.changed",
    "UPGRADE_REQUESTED": "upgrade.requested",
    "UPGRADE_COMPLETED": "upgrade.completed",
}


async def test_the_predefined_types_are_there_each_with_a_model(bus: AgentEventBus, spine: Spine) -> None:
    assert {member.name: member.value for member in AgentEventType} == PREDEFINED
    assert {entry.type for entry in bus.catalog} == set(PREDEFINED.values())
    assert all(entry.model.model_fields for entry in bus.catalog)
    listed = {found.type: found for found in await list_types(spine)}
    assert set(listed) == set(PREDEFINED.values())
    assert [field.name for field in listed["session.created"].fields] == ["session_id", "user_id"]


async def test_an_event_reaches_its_subscribers_as_it_is_stored(bus: AgentEventBus) -> None:
    heard: asyncio.Queue[EventData] = asyncio.Queue()
    await bus.subscribe(AgentEventType.CONVERSATION_CREATED, heard.put_nowait)
    before = datetime.now(UTC) - timedelta(seconds=1)
    sent = await bus.emit("conversation.created", {"conversation_id": "c-1", "topic": "taxes"}, agent_type="Concierge")
    got = await asyncio.wait_for(heard.get(), 5)
    assert got == sent
    assert (got.type, got.agent_type, got.key) == ("conversation.created", "Concierge", "c-1")
    assert got.data["topic"] == "taxes"
    assert got.as_model(ConversationCreated).conversation_id == "c-1"
    assert before < got.timestamp < datetime.now(UTC) + timedelta(seconds=1)
    dumped = got.model_dump()
    assert {"type", "data", "agent_type", "timestamp"} <= dumped.keys()


async def test_a_type_may_be_named_as_constant_string_name_or_class(bus: AgentEventBus) -> None:
    for name in (AgentEventType.SESSION_CREATED, "SESSION_CREATED", "session.created"):
        assert (await bus.emit(name, {"session_id": "s"})).type == "session.created"
    assert (await bus.emit(ConversationCreated, ConversationCreated(conversation_id="c"))).data[
        "conversation_id"
    ] == "c"


async def test_own_types_are_open_and_checked_once_registered(bus: AgentEventBus, spine: Spine) -> None:
    assert (await bus.emit("anything.else", {"free": 1}, agent_type=None)).agent_type is None
    bus.register(Invoice)
    assert (await bus.emit(Invoice, {"number": "7"})).data == {"number": 7}
    assert "invoice.sent" in await load(spine.server)
    with pytest.raises(InvalidInput, match="number"):
        await bus.emit("invoice.sent", {"number": "x"})


async def test_patterns_and_unsubscribing(bus: AgentEventBus) -> None:
    all_heard, some = [], []

    async def hear_all(event: EventData) -> None:
        all_heard.append(event.type)

    everything = await bus.subscribe("*", hear_all)
    await bus.subscribe("session.*", lambda event: some.append(event.type))
    await bus.emit("session.created", {"session_id": "s"})
    await bus.emit("message.received", {"message_id": "m"})
    await wait_until(lambda: len(all_heard) == 2 and len(some) == 1)
    assert await bus.unsubscribe(everything) == 1
    assert await bus.unsubscribe(everything) == 0
    await bus.emit("session.updated", {"session_id": "s"})
    await wait_until(lambda: len(some) == 2)
    assert all_heard == ["session.created", "message.received"]
    assert await bus.unsubscribe("session.*") == 1
    again = await bus.subscribe("session.created", hear_all)
    assert await bus.unsubscribe("session.created", some.append) == 0
    assert await bus.unsubscribe(event_type="session.created", callback=hear_all) == 1
    assert again.event_type == "session.created"
    assert await bus.subscribers() == []


async def test_one_subscription_keeps_several_types_in_order(bus: AgentEventBus) -> None:
    heard: list[int] = []

    async def hear(event: EventData) -> None:
        await asyncio.sleep(0.001 * (event.data["n"] % 3))
        heard.append(event.data["n"])

    subscription = await bus.subscribe(("step.one", "step.two", "other.*"), hear)
    for n in range(30):
        await bus.emit(("step.one", "step.two", "other.three")[n % 3], {"n": n}, key="k")
    await wait_until(lambda: len(heard) == 30)
    assert heard == list(range(30))
    assert [found.id for found in await bus.subscribers("step.two")] == [subscription.id]
    assert await bus.subscribers("step.three") == []


async def test_emit_and_wait_returns_what_is_responded(bus: AgentEventBus) -> None:
    async def answer(event: EventData) -> None:
        assert event.awaits_response
        await bus.respond(event.event_id, {"history": [event.data["conversation_id"]]})

    await bus.subscribe("context.requested", answer)
    got = await bus.emit_and_wait(ContextRequested, {"conversation_id": "c-1"}, timeout=10)
    assert isinstance(got, ResponseData)
    assert got.response == {"history": ["c-1"]}
    (event,) = await bus.history("context.requested")
    assert got.event_id == event.event_id
    assert got.timestamp >= event.timestamp
    assert await bus.response(event) == got


async def test_what_a_callback_returns_is_the_response(bus: AgentEventBus) -> None:
    class Context(BaseModel):
        text: str

    await bus.subscribe("context.requested", lambda event: Context(text="hello"))
    got = await bus.emit_and_wait("context.requested", {"conversation_id": "c"}, timeout=10)
    assert got.as_model(Context).text == "hello"


async def test_a_response_may_come_later_from_anywhere(bus: AgentEventBus, bus_url: str, namespace: str) -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()
    await bus.subscribe("context.requested", lambda event: asked.put_nowait(event.event_id))
    waiting = asyncio.create_task(bus.emit_and_wait("context.requested", {"conversation_id": "c"}, timeout=10))
    event_id = await asyncio.wait_for(asked.get(), 5)
    async with Spine(bus_url, namespace=namespace) as other, AgentEventBus(other) as elsewhere:
        assert await elsewhere.respond(event_id, {"from": "elsewhere"}) is not None
    assert (await waiting).response == {"from": "elsewhere"}


async def test_an_agent_may_answer_what_the_bus_asks(bus: AgentEventBus, spine: Spine) -> None:
    class Librarian(Agent):
        name = "librarian"

        @on("context.requested")
        async def context(self, event: Event[ContextRequested], ctx: Handling) -> None:
            await ctx.reply({"found": event.payload.conversation_id})

    async with Worker(spine, Librarian):
        got = await bus.emit_and_wait("context.requested", {"conversation_id": "c-9"}, timeout=10)
    assert got.response == {"found": "c-9"}


async def test_a_subscriber_may_answer_what_a_request_asks(bus: AgentEventBus, spine: Spine) -> None:
    class Never(Agent):
        name = "never"

        @on("context.requested")
        async def context(self, event: Event) -> None: ...

    async with Worker(spine, Never):
        pass  # an agent that declared the type makes `request` go out
    await bus.subscribe("context.requested", lambda event: {"by": "the bus"})
    reply = await spine.request("context.requested", {"conversation_id": "c"}, timeout=10)
    assert reply.payload == {"by": "the bus"}


async def test_the_events_of_a_key_come_in_order_and_others_side_by_side(bus: AgentEventBus) -> None:
    running: set[str] = set()
    most = 0
    order: dict[str, list[int]] = {"a": [], "b": [], "c": []}

    async def slow(event: EventData) -> None:
        nonlocal most
        assert event.key not in running
        running.add(event.key)
        most = max(most, len(running))
        await asyncio.sleep(0.002)
        running.remove(event.key)
        order[event.key].append(event.data["n"])

    await bus.subscribe("step", slow)
    for n in range(20):
        for key in order:
            await bus.emit("step", {"n": n}, key=key)
    await wait_until(lambda: all(len(found) == 20 for found in order.values()))
    assert all(found == list(range(20)) for found in order.values())
    assert most > 1


async def test_what_a_callback_emits_belongs_to_what_it_handles(bus: AgentEventBus, spine: Spine) -> None:
    async def process(event: EventData) -> None:
        await bus.emit("message.processed", {"message_id": event.data["message_id"]}, agent_type="Processor")

    await bus.subscribe("message.received", process)
    first = await bus.emit("message.received", {"message_id": "m-1", "conversation_id": "c-1"})

    async def processed() -> list[Event]:
        return await spine.history(types="message.processed")

    (event,) = await wait_until(processed)
    assert (event.key, event.context.causation, event.context.correlation) == ("c-1", first.seq, first.correlation)
    assert event.context.path == ("Processor",)
    assert event.context.reply_to is None


async def test_history(bus: AgentEventBus) -> None:
    sent = [
        await bus.emit("session.updated", {"session_id": f"s-{n % 2}", "n": n}, priority=Priority(n % 3))
        for n in range(10)
    ]
    other = await bus.emit("message.received", {"message_id": "m"})
    await bus.subscribe("context.requested", lambda event: {})
    asked = await bus.emit_and_wait("context.requested", {"conversation_id": "c"}, timeout=10)
    assert [e.event_id for e in await bus.history(limit=2)] == [asked.event_id, other.event_id]
    assert await bus.history("session.*") == sent[::-1]
    assert await bus.history("session.updated", since=sent[6].event_id) == sent[:6:-1]
    assert await bus.history("session.updated", since=sent[0].timestamp, limit=1) == sent[-1:]
    assert await bus.history("session.updated", until=sent[1].seq) == [sent[1], sent[0]]
    assert await bus.history(key="s-1") == sent[9:0:-2]
    for limit in (0, 100_001):
        with pytest.raises(InvalidInput, match="limit"):
            await bus.history(limit=limit)


async def test_a_history_outlives_the_bus(bus: AgentEventBus, spine: Spine) -> None:
    sent = await bus.emit("session.created", {"session_id": "s"})
    await bus.close()
    assert await AgentEventBus(spine).history() == [sent]


async def test_metrics(bus: AgentEventBus) -> None:
    await bus.subscribe("session.*", lambda event: None)
    await bus.subscribe("session.*", lambda event: None)
    await bus.subscribe("context.requested", lambda event: {"ok": True})
    for _ in range(3):
        await bus.emit("session.created", {"session_id": "s"})
    for _ in range(20):
        await bus.emit_and_wait("context.requested", {"conversation_id": "c"}, timeout=10)
    with pytest.raises(InvalidInput):
        await bus.emit("session.created", {"session_id": 7})
    # A caller may have its response before the callback that gave it has ended.
    await wait_until(lambda: bus.metrics().handled == {"session.created": 6, "context.requested": 20})
    found = bus.metrics()
    assert found.emitted == {"session.created": 3, "context.requested": 20}
    assert found.responses.count == 20
    assert 0 < found.responses.p50_ms <= found.responses.p99_ms <= found.responses.max_ms < 10_000
    assert found.waiting == 0
    assert found.subscribers == {"session.*": 2, "context.requested": 1}
    assert found.errors == {"invalid_event": 1}
    assert [(e.kind, e.event_type, e.event_id) for e in found.error_log] == [("invalid_event", "session.created", None)]
    assert "session_id" in found.error_log[0].message


async def test_the_log_of_errors_is_bounded(spine: Spine) -> None:
    async with AgentEventBus(spine, errors_kept=5) as bus:
        for n in range(12):
            with pytest.raises(InvalidInput):
                await bus.emit("session.created", {"session_id": n})
        assert bus.metrics().errors == {"invalid_event": 12}
        assert len(bus.metrics().error_log) == 5


async def test_the_clients_catalogue_goes_before(bus_url: str, namespace: str) -> None:
    class Mine(EventType, name="session.created"):
        token: str

    catalog = Catalog(Mine, strictness="strict")
    async with Spine(bus_url, namespace=namespace, catalog=catalog) as spine, AgentEventBus(spine) as bus:
        assert (await bus.emit("session.created", {"token": "t"})).data == {"token": "t"}
        assert (await spine.publish("session.updated", {"session_id": "s"})).seq == 2
        with pytest.raises(InvalidInput, match="not in the catalogue"):
            await bus.emit("other.type")
        with pytest.raises(InvalidInput, match="not in the catalogue"):
            await bus.subscribe("other.type", print)


async def test_subscribers_of_all_processes_are_seen(bus: AgentEventBus, bus_url: str, namespace: str) -> None:
    await bus.subscribe("session.*", print)
    async with Spine(bus_url, namespace=namespace) as other, AgentEventBus(other) as elsewhere:
        await elsewhere.subscribe("session.created", print)
        assert {found.event_type for found in await bus.subscribers()} == {"session.*", "session.created"}
        assert len(await bus.subscribers("session.updated")) == 1
    assert len(await bus.subscribers()) == 1


async def test_a_predefined_event_is_stored_as_it_was_given(bus: AgentEventBus) -> None:
    for data in ({}, {"text": "hi"}, {"message_id": "m", "channel": {"name": "web"}}):
        assert (await bus.emit(AgentEventType.MESSAGE_RECEIVED, data)).data == data
    assert [event.data for event in await bus.history(AgentEventType.MESSAGE_RECEIVED, limit=2)] == [
        {"message_id": "m", "channel": {"name": "web"}},
        {"text": "hi"},
    ]
