"""How a bus begins and ends: on a client that is open, on one that is not, or on one of its own."""

import asyncio
import time
from pathlib import Path

import pytest

from spine import InvalidInput, MissingResponse, NotOpen, Spine, Unavailable
from spine.bus import AgentEventBus, EventData
from spine.testing import RedisServer
from spine.testing.waiting import wait_until


async def ask_itself(bus: AgentEventBus) -> None:
    await bus.subscribe("sum.asked", lambda event: {"sum": event.data["a"] + 1})
    assert (await bus.emit_and_wait("sum.asked", {"a": 1}, 10)).response == {"sum": 2}


async def test_a_bus_may_be_made_with_a_url(bus_url: str, namespace: str) -> None:
    for bus in (
        AgentEventBus(bus_url, namespace=namespace),
        AgentEventBus(url=bus_url, namespace=namespace),
        AgentEventBus(Spine(bus_url, namespace=namespace)),
    ):
        async with bus:
            await ask_itself(bus)
        with pytest.raises(NotOpen, match=r"bus\.open"):
            await bus.emit("step")


async def test_without_a_url_it_finds_its_server_as_a_client_does(
    bus_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINE_URL", bus_url)
    monkeypatch.setenv("SPINE_NAMESPACE", namespace)
    async with AgentEventBus() as bus:
        event = await bus.emit("step")
    async with Spine(bus_url, namespace=namespace) as spine:
        assert [found.seq for found in await spine.history()] == [event.seq]


async def test_open_and_close_do_the_same_and_it_opens_again(bus_url: str, namespace: str) -> None:
    bus = AgentEventBus(bus_url, namespace=namespace)
    bus.register("step", EventData)
    with pytest.raises(NotOpen, match=r"async with AgentEventBus"):
        await bus.subscribe("step", print)
    for _ in range(2):
        assert await bus.open() is bus
        await ask_itself(bus)
        await bus.close()
    await bus.close()
    assert bus.metrics().emitted == {"sum.asked": 2}


async def test_a_client_that_was_open_stays_open(bus_url: str, namespace: str) -> None:
    async with Spine(bus_url, namespace=namespace) as spine:
        bus = AgentEventBus(spine)
        await ask_itself(bus)
        await bus.close()
        with pytest.raises(NotOpen):
            await bus.history()
        assert (await spine.publish("step")).seq


async def test_a_client_that_was_opened_meanwhile_stays_open(bus_url: str, namespace: str) -> None:
    spine = Spine(bus_url, namespace=namespace)
    bus = AgentEventBus(spine)
    async with spine:
        async with bus:
            await ask_itself(bus)
        assert (await spine.publish("step")).seq


async def test_what_it_cannot_be_made_with_is_refused(bus_url: str) -> None:
    for arguments in (
        {"spine": 7},
        {"spine": bus_url, "url": bus_url},
        {"spine": Spine(bus_url), "url": bus_url},
        {"spine": Spine(bus_url), "namespace": "other"},
    ):
        with pytest.raises(InvalidInput):
            AgentEventBus(**arguments)


async def test_a_server_that_is_not_there_is_told_and_nothing_left_behind(namespace: str) -> None:
    bus = AgentEventBus(Spine("redis://127.0.0.1:1", namespace=namespace, patience_s=0.1))
    before = asyncio.all_tasks()
    with pytest.raises(Unavailable):
        await bus.open()
    assert asyncio.all_tasks() == before


async def test_who_waits_when_the_client_is_closed_is_told_at_once(bus_url: str, namespace: str) -> None:
    async with Spine(bus_url, namespace=namespace) as spine, AgentEventBus(spine) as bus:
        await bus.subscribe("step", lambda event: None)
        waiting = asyncio.create_task(bus.emit_and_wait("step", {}, 60))
        await wait_until(lambda: bus.metrics().handled)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="closed") as told:
        await waiting
    assert told.value.stored
    assert time.monotonic() - began < 10


async def test_a_subscription_that_is_begun_while_the_bus_closes_does_not_stay(bus_url: str, namespace: str) -> None:
    async with Spine(bus_url, namespace=namespace) as spine:
        bus = AgentEventBus(spine)
        beginning = [asyncio.create_task(bus.subscribe("step", print)) for _ in range(20)]
        await asyncio.sleep(0)
        await bus.close()
        ended = await asyncio.gather(*beginning, return_exceptions=True)
        assert {type(one) for one in ended} == {NotOpen}
        assert await AgentEventBus(spine).subscribers() == []


async def test_the_history_goes_back_as_far_as_the_bus_is_told_to_keep_it(
    bus_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spine.bus.bus.TRIM_EVERY_S", 0.05)
    async with AgentEventBus(bus_url, namespace=namespace, keep=100) as bus:
        for batch in range(10):
            await asyncio.gather(*(bus.emit("step", {"n": n}, key=f"k-{batch}") for n in range(100)))

        async def trimmed() -> bool:
            return len(await bus.history(limit=1000)) <= 100

        await wait_until(trimmed)
        newest = await bus.emit("step", {"n": "newest"})
        assert (await bus.history(limit=1))[0] == newest


async def test_who_is_subscribed_is_found_again_when_the_server_comes_back_without_its_data(
    tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spine.bus.subscribers.FRESH_S", 0.0)
    with RedisServer.start(tmp_path) as server:
        async with (
            AgentEventBus(server.url, namespace=namespace) as subscriber,
            AgentEventBus(server.url, namespace=namespace) as caller,
        ):
            await subscriber.subscribe("asked", lambda event: {"by": "subscriber"})
            for _ in range(3):
                assert (await caller.emit_and_wait("asked", {}, 10)).response == {"by": "subscriber"}
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.restart)
            with pytest.raises(MissingResponse):
                await caller.emit_and_wait("other", {}, 10)


async def test_ending_subscriptions_while_the_bus_closes_leaves_none_behind(bus_url: str, namespace: str) -> None:
    async with Spine(bus_url, namespace=namespace) as spine:
        bus = await AgentEventBus(spine).open()
        for _ in range(5):
            await bus.subscribe("step", print)
        ended = await asyncio.gather(bus.unsubscribe("step"), bus.unsubscribe("step"), bus.close())
        assert ended == [5, 0, None]
        assert await AgentEventBus(spine).subscribers() == []
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("spine-subscription")]
