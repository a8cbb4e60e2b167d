"""Subscriptions: callbacks in this process that cannot hurt each other."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from spine import Draft, Event, Spine
from spine.log import feed, subscriptions
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until


async def test_plain_and_async_callbacks_get_every_event_in_order(spine: Spine) -> None:
    plain: list[Event[Any]] = []
    awaited: list[Event[Any]] = []

    async def later(event: Event[Any]) -> None:
        await asyncio.sleep(0)
        awaited.append(event)

    await spine.subscribe("order.*", plain.append)
    await spine.subscribe(["order.placed", "x.y"], later)
    stored = await spine.publish_many(
        [Draft(("order.placed", "order.paid", "x.y", "z.z")[i % 4], {"i": i}, key=f"k-{i}") for i in range(100)]
    )
    await wait_until(lambda: len(plain) == 50 and len(awaited) == 50)
    assert plain == [event for event in stored if event.type.startswith("order.")]
    assert awaited == [event for event in stored if event.type in ("order.placed", "x.y")]


async def test_a_failing_one_is_reported_without_the_payload_and_hurts_no_other(
    spine: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    handed: list[int] = []

    def fail(event: Event[Any]) -> None:
        handed.append(event.seq)
        raise RuntimeError("broken subscriber")

    with caplog.at_level(logging.ERROR, "spine"):
        failing = await spine.subscribe("a.*", fail)
        await spine.subscribe("a.*", lambda event: seen.append(event.seq))
        stored = [await spine.publish("a.b", {"secret": "payload"}, key="k") for _ in range(10)]
        await wait_until(lambda: len(seen) == len(handed) == 10)
    assert seen == handed == [event.seq for event in stored]
    assert failing.errors == 10
    assert "broken subscriber" in caplog.text
    assert "a.b" in caplog.text
    assert "payload" not in caplog.text


async def test_a_slow_one_holds_up_no_other(spine: Spine) -> None:
    seen: list[int] = []
    go_on = asyncio.Event()

    async def slow(event: Event[Any]) -> None:
        await go_on.wait()

    held = await spine.subscribe("a.b", slow)
    await spine.subscribe("a.b", lambda event: seen.append(event.seq))
    await spine.publish_many([Draft("a.b", {"i": i}, key=f"k-{i}") for i in range(100)])
    await wait_until(lambda: len(seen) == 100)
    assert held.lag == 100
    go_on.set()
    await wait_until(lambda: held.lag == 0)
    assert held.position == 100


async def test_one_that_falls_far_behind_is_told(
    spine: Spine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LAG_WARNING", 50)
    go_on = asyncio.Event()
    calls: list[Event[Any]] = []

    async def slow(event: Event[Any]) -> None:
        calls.append(event)
        await go_on.wait()

    subscription = await spine.subscribe("a.b", slow)
    await spine.publish("a.b", key="k")
    await wait_until(lambda: calls)
    await spine.publish_many([Draft("a.b", {"i": i}, key=f"k-{i}") for i in range(200)])
    with caplog.at_level(logging.WARNING, "spine"):
        go_on.set()
        await wait_until(lambda: subscription.lag == 0)
    assert "a reader of a.b is 200 events behind" in caplog.text


async def test_after_a_stop_no_callback_starts(spine: Spine) -> None:
    seen: list[int] = []
    subscription = await spine.subscribe("a.b", lambda event: seen.append(event.seq))
    await spine.publish("a.b", key="k")
    await wait_until(lambda: seen == [1])
    await subscription.stop()
    other: list[int] = []
    await spine.subscribe("a.b", lambda event: other.append(event.seq))
    await spine.publish("a.b", key="k")
    await wait_until(lambda: other == [2])
    assert seen == [1]
    await subscription.stop()


async def test_a_callback_may_stop_its_own_subscription(spine: Spine) -> None:
    seen: list[int] = []

    async def once(event: Event[Any]) -> None:
        seen.append(event.seq)
        await subscription.stop()
        seen.append(-event.seq)

    subscription = await spine.subscribe("a.b", once)
    await spine.publish_many([Draft("a.b", key="k") for _ in range(5)])
    await wait_until(lambda: subscription._task.done())
    assert seen == [1, -1]


async def test_one_from_the_past_on(spine: Spine) -> None:
    stored = [await spine.publish("a.b", {"i": i}, key="k") for i in range(10)]
    seen: list[Event[Any]] = []
    await spine.subscribe("a.b", seen.append, after=4)
    stored.append(await spine.publish("a.b", {"i": 10}, key="k"))
    await wait_until(lambda: len(seen) == 7)
    assert seen == stored[4:]


async def test_it_outlives_a_server_that_is_away_longer_than_the_patience(
    tmp_path: Path, connect: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "PAUSE_S", 0.05)
    with RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as server:
        spine, publisher = await connect(server.url, patience_s=0.1), await connect(server.url, patience_s=30)
        seen: list[Event[Any]] = []
        await spine.subscribe("a.b", seen.append)
        stored = [await publisher.publish("a.b", {"i": 0}, key="k")]
        await wait_until(lambda: len(seen) == 1)
        with caplog.at_level(logging.WARNING, "spine"):
            await asyncio.to_thread(server.kill)
            await wait_until(lambda: "waits for the server" in caplog.text)
        await asyncio.to_thread(server.restart)
        stored += [await publisher.publish("a.b", {"i": i}, key="k") for i in range(1, 5)]
        await wait_until(lambda: len(seen) == 5)
        assert seen == stored
        for client in (spine, publisher):
            await client.close()


async def test_closing_the_client_ends_it(connect: Any) -> None:
    spine = await connect()
    subscription = await spine.subscribe("a.b", lambda event: None)
    await spine.close()
    assert subscription._task.done()


async def test_what_has_ended_is_forgotten(spine: Spine) -> None:
    kept = await spine.subscribe("order.*", print)
    for _ in range(20):
        await (await spine.subscribe("order.*", print)).stop()
    last = await spine.subscribe("order.*", print)
    assert spine._subscriptions == [kept, last]
    assert kept.running
