"""What runs at once: a key holds up no other, who waits for a response makes way, and not too much is taken in hand."""

import asyncio

import pytest

from spine.bus import AgentEventBus, EventData
from spine.bus import dispatch as dispatching
from spine.testing.waiting import wait_until


async def test_a_slow_key_holds_up_no_other(bus: AgentEventBus) -> None:
    slow, heard = asyncio.Event(), []

    async def hear(event: EventData) -> None:
        if event.key == "slow":
            await slow.wait()
        heard.append((event.key, event.data["n"]))

    await bus.subscribe("step", hear, concurrency=2)
    for n in range(100):
        await bus.emit("step", {"n": n}, key="slow")
    await bus.emit("step", {"n": 0}, key="quick")
    await wait_until(lambda: heard)
    assert heard == [("quick", 0)]
    slow.set()
    await wait_until(lambda: len(heard) == 101)
    assert heard[1:] == [("slow", n) for n in range(100)]


async def test_no_more_callbacks_are_at_work_than_wanted(bus: AgentEventBus) -> None:
    working = most = done = 0

    async def work(event: EventData) -> dict[str, int]:
        nonlocal working, most, done
        working += 1
        most = max(most, working)
        await asyncio.sleep(0.002)
        working -= 1
        if event.type == "asked":
            await bus.emit_and_wait("answered", {}, 10, key=f"{event.key}-answer")
            working += 1
            most = max(most, working)
            await asyncio.sleep(0.002)
            working -= 1
        done += 1
        return {}

    await bus.subscribe(("asked", "answered"), work, concurrency=3)
    for n in range(30):
        await bus.emit("asked", {}, key=f"k-{n}")
    await wait_until(lambda: done == 60)
    assert most == 3


async def test_who_waits_for_a_response_makes_way_for_the_one_that_gives_it(bus: AgentEventBus) -> None:
    async def sum_up(event: EventData) -> dict[str, int]:
        if event.data["depth"] == 0:
            return {"sum": 1}
        asked = (
            bus.emit_and_wait("sum.asked", {"depth": event.data["depth"] - 1}, 10, key=f"{event.key}{side}")
            for side in "lr"
        )
        return {"sum": sum([answer.response["sum"] for answer in await asyncio.gather(*asked)])}

    await bus.subscribe("sum.asked", sum_up, concurrency=1)
    assert (await bus.emit_and_wait("sum.asked", {"depth": 4}, 10, key="k")).response == {"sum": 16}
    assert bus.metrics().errors == {}


async def test_what_is_left_to_run_when_a_callback_has_ended_takes_no_slot(bus: AgentEventBus) -> None:
    later: list[asyncio.Task] = []
    go = asyncio.Event()

    async def ask_later() -> None:
        await go.wait()
        await bus.emit_and_wait("asked", {}, 10)

    async def hear(event: EventData) -> dict[str, str]:
        if event.type == "begun":
            later.append(asyncio.create_task(ask_later()))
        return {}

    await bus.subscribe(("begun", "asked"), hear, concurrency=1)
    for _ in range(5):
        await bus.emit("begun")
    await wait_until(lambda: len(later) == 5)
    go.set()
    await asyncio.gather(*later)
    assert (await bus.emit_and_wait("asked", {}, 10)).response == {}


async def test_what_is_not_taken_in_hand_yet_waits_on_the_server(
    bus: AgentEventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "ADMITTED", 10)
    slow, heard = asyncio.Event(), []

    async def hear(event: EventData) -> None:
        await slow.wait()
        heard.append(event.data["n"])

    subscription = await bus.subscribe("step", hear, concurrency=2)
    for n in range(50):
        await bus.emit("step", {"n": n}, key="k")
    await wait_until(lambda: len(subscription.dispatch._running) == 10)
    assert subscription.lag >= 40
    slow.set()
    await wait_until(lambda: len(heard) == 50)
    assert heard == list(range(50))
