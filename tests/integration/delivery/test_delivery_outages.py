"""Lost connections, lost scripts, lost groups, lost data, a server that comes back: the worker goes on by itself."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis.asyncio
from faulty_proxy import faulty_proxy
from recording import Recorder, everything, pending
from tenacity import wait_fixed

from spine import Draft, Event, Handling, Priority, Retry, Spine, on
from spine.log.streams import stream_name
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until


class Emitting(Recorder):
    """Emits one event for each; what is in the log afterwards tells what was committed, and how often."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)

    @on("a.b")
    async def handle(self, event: Event[Any], ctx: Handling) -> None:
        await asyncio.sleep(0)
        ctx.publish("a.c", {"of": event.seq})
        self.note(event)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, which keeps its data."""
    with RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as running:
        yield running


@pytest.fixture
async def own_raw(own: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(own.url) as client:
        yield client


async def committed(spine: Spine, count: int) -> bool:
    return len(await everything(spine, types="a.c")) >= count


async def check_exactly_once(spine: Spine, sent: list[Event[Any]]) -> None:
    emitted = await everything(spine, types="a.c")
    assert sorted(event.payload["of"] for event in emitted) == sorted(event.seq for event in sent)
    by_key: dict[str, list[int]] = defaultdict(list)
    for event in emitted:
        by_key[event.key].append(event.payload["of"])
    assert all(seqs == sorted(seqs) for seqs in by_key.values())


async def publish(spine: Spine, count: int) -> list[Event[Any]]:
    return await spine.publish_many([Draft("a.b", {}, key=f"k{i % 7}") for i in range(count)])


async def test_every_connection_may_be_cut_again_and_again(
    own: RedisServer, own_raw: Any, connect: Any, serve: Any
) -> None:
    class Cut(Emitting):
        pass

    spine = await connect(own.url)
    await serve(Cut, to=own.url)
    await serve(Cut, to=own.url)
    sent: list[Event[Any]] = []
    for _ in range(15):
        sent += await publish(spine, 40)
        for client in await own_raw.client_list():
            if client["id"] != str(await own_raw.client_id()):
                await own_raw.client_kill_filter(_id=client["id"])
    await wait_until(lambda: committed(spine, len(sent)), timeout=30)
    await check_exactly_once(spine, sent)
    await wait_until(lambda: _none_pending(own_raw, spine))


async def test_a_server_that_forgot_its_scripts_is_taught_again(
    own: RedisServer, own_raw: Any, connect: Any, serve: Any
) -> None:
    class Taught(Emitting):
        pass

    spine = await connect(own.url)
    await serve(Taught, to=own.url, lease_s=1.0)
    sent: list[Event[Any]] = []
    for _ in range(5):
        await own_raw.script_flush()
        sent += await publish(spine, 20)
        await wait_until(partial(committed, spine, len(sent)))
    await check_exactly_once(spine, sent)


async def test_a_destroyed_group_is_made_again_and_nothing_is_handled_twice(
    own: RedisServer, own_raw: Any, connect: Any, serve: Any
) -> None:
    class Destroyed(Emitting):
        attempts: ClassVar[int] = 0

        @on("a.hold", retry=Retry(attempts=1000, wait=wait_fixed(0.05)))
        async def held(self, event: Event[Any], ctx: Handling) -> None:
            type(self).attempts += 1
            if not event.payload.get("fine") and self.attempts < 20:
                raise ValueError("not yet")
            ctx.publish("a.c", {"of": event.seq})

    spine = await connect(own.url)
    await serve(Destroyed, to=own.url)
    sent = await publish(spine, 100)
    for _ in range(2):
        sent.append(await spine.publish("a.hold", {}, key="held"))
    sent += await spine.publish_many([Draft("a.hold", {"fine": True}, key="held") for _ in range(5)])
    await wait_until(lambda: Destroyed.attempts > 2)
    for number in range(5):
        async for key in own_raw.scan_iter(match=spine.server.keys.own("log", "*")):
            await own_raw.xgroup_destroy(key, "recorder")
        sent += await publish(spine, 30)
        if number == 3:
            sent += await spine.publish_many([Draft("a.hold", {"fine": True}, key="held") for _ in range(5)])
    await wait_until(lambda: committed(spine, len(sent)), timeout=30)
    await check_exactly_once(spine, sent)
    await wait_until(lambda: _none_pending(own_raw, spine))


async def test_a_group_that_is_destroyed_while_events_are_in_hand_loses_none(
    own: RedisServer, own_raw: Any, connect: Any, serve: Any
) -> None:
    class InHand(Recorder):
        go: ClassVar[asyncio.Event]

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await self.go.wait()
            ctx.publish("a.c", {"of": event.seq})

    InHand.go = asyncio.Event()
    spine = await connect(own.url)
    await serve(InHand, to=own.url)
    sent = await publish(spine, 70)
    await wait_until(lambda: _pending_are(own_raw, spine, 70))
    async for key in own_raw.scan_iter(match=spine.server.keys.own("log", "*")):
        await own_raw.xgroup_destroy(key, "recorder")
    InHand.go.set()
    await wait_until(lambda: committed(spine, 70), timeout=20)
    await check_exactly_once(spine, sent)


async def test_all_data_may_vanish_and_the_worker_serves_what_comes_then(
    own: RedisServer, own_raw: Any, connect: Any, serve: Any
) -> None:
    class Flushed(Emitting):
        pass

    spine = await connect(own.url)
    await serve(Flushed, to=own.url)
    await serve(Flushed, to=own.url)
    await publish(spine, 50)
    await wait_until(lambda: committed(spine, 50))
    await own_raw.flushall()
    sent = await publish(spine, 50)
    await wait_until(lambda: committed(spine, 50), timeout=20)
    await check_exactly_once(spine, sent)
    reply = await spine.agents("recorder")
    await wait_until(lambda: _two_workers(spine))
    assert reply[0].handles == ("a.b",)


async def test_streams_that_go_by_other_numbers_after_the_data_vanished_are_told_apart(
    own: RedisServer, own_raw: Any, connect: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Renumbered(Recorder):
        types: ClassVar[list[str]] = []

        @on("a.b", "a.c")
        async def handle(self, event: Event[Any]) -> None:
            self.types.append(event.type)

    spine = await connect(own.url)
    worker = await serve(Renumbered, to=own.url)
    agency = worker._agencies["recorder"]
    for event_type in ("a.b", "a.c"):
        await spine.publish(event_type, {}, key="k")
    await wait_until(lambda: Renumbered.types == ["a.b", "a.c"])
    before = [partition.lease for partition in agency.partitions.values()]
    acquired = agency.intake.acquired

    def acquired_before_all_is_heard(lease: Any) -> Any:
        for number, topic in enumerate(("a.b", "a.c"), 1):
            agency.spine.streams.learn(stream_name(Priority.NORMAL, topic), number)
        return acquired(lease)

    monkeypatch.setattr(agency.intake, "acquired", acquired_before_all_is_heard)
    await own_raw.flushall()
    await wait_until(lambda: len(agency.partitions) == spine.server.partitions)
    await wait_until(lambda: not {id(one.lease) for one in agency.partitions.values()} & set(map(id, before)))
    await wait_until(lambda: all(one.opened and not one.unknown for one in agency.partitions.values()))
    for event_type in ("a.c", "a.b", "a.c", "a.b"):
        count = len(Renumbered.types)
        await spine.publish(event_type, {}, key="k")
        await wait_until(lambda count=count: len(Renumbered.types) > count)
    assert Renumbered.types[2:] == ["a.c", "a.b", "a.c", "a.b"]


async def test_a_new_client_after_the_data_vanished_is_served_as_well(
    own: RedisServer, own_raw: Any, connect: Any, serve: Any
) -> None:
    class Flushed(Emitting):
        pass

    spine = await connect(own.url)
    await serve(Flushed, to=own.url)
    await publish(spine, 50)
    await wait_until(lambda: committed(spine, 50))
    await own_raw.flushall()
    other = await connect(own.url)
    sent = await publish(other, 50)
    await wait_until(lambda: committed(other, 50), timeout=20)
    await check_exactly_once(other, sent)


async def test_a_server_that_comes_back_as_another_run_is_served_on(
    own: RedisServer, own_raw: Any, connect: Any, serve: Any
) -> None:
    class Restarted(Emitting):
        pass

    spine = await connect(own.url, patience_s=30.0)
    await serve(Restarted, to=own.url)
    await serve(Restarted, to=own.url)
    sent: list[Event[Any]] = []
    for _ in range(3):
        publishing = asyncio.create_task(_publish_slowly(spine, 20))
        half = len(sent) // 2
        await wait_until(partial(_counts, Restarted, half))
        await asyncio.to_thread(own.kill)
        await asyncio.to_thread(own.restart)
        sent += await publishing
    await wait_until(lambda: committed(spine, len(sent)), timeout=40)
    await check_exactly_once(spine, sent)
    await wait_until(lambda: _none_pending(own_raw, spine))


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, which keeps what it had when it was last told to save."""
    with RedisServer.start(tmp_path) as running:
        yield running


async def _save_and_lose(server: RedisServer, spine: Spine, between: Callable[[], Awaitable[None]]) -> None:
    await spine.server.command("SAVE")
    await between()
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart)


async def test_what_a_server_lost_is_reported_and_the_rest_served_on(
    forgetful: RedisServer, connect: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Rewound(Emitting):
        pass

    spine = await connect(forgetful.url, patience_s=30.0)
    worker = await serve(Rewound, to=forgetful.url)
    sent = await publish(spine, 20)
    await wait_until(lambda: committed(spine, 20))
    kept, lost = await spine.reader.head(), []

    async def more() -> None:
        lost.extend(await publish(spine, 20))
        await wait_until(lambda: committed(spine, 40))

    async def nothing() -> None:
        pass

    await _save_and_lose(forgetful, spine, more)
    await wait_until(lambda: f"ended at seq {kept}" in caplog.text, timeout=20)
    sent += await publish(spine, 20)
    await wait_until(lambda: committed(spine, 40), timeout=20)
    await check_exactly_once(spine, sent)
    assert sent[-20].seq > max(event.seq for event in lost)
    caplog.clear()
    await _save_and_lose(forgetful, spine, nothing)
    sent += await publish(spine, 5)
    await wait_until(lambda: committed(spine, 45), timeout=20)
    assert "ended at seq" not in caplog.text
    await worker.stop()
    worker.dead = True


async def test_an_outage_longer_than_the_lease_loses_and_repeats_nothing(
    own: RedisServer, own_raw: Any, connect: Any, serve: Any
) -> None:
    class Paused(Emitting):
        pass

    spine = await connect(own.url, patience_s=30.0)
    await serve(Paused, to=own.url, lease_s=0.6)
    await serve(Paused, to=own.url, lease_s=0.6)
    sent = await publish(spine, 100)
    await wait_until(lambda: Paused.count > 10)
    own.pause()
    await asyncio.sleep(1.5)
    own.cont()
    sent += await publish(spine, 100)
    await wait_until(lambda: committed(spine, 200), timeout=30)
    await check_exactly_once(spine, sent)


async def test_connections_that_fall_silent_are_given_up_and_made_anew(url: str, spine: Spine, serve: Any) -> None:
    class HalfOpen(Emitting):
        pass

    async with faulty_proxy(url) as proxy:
        worker = await serve(HalfOpen, to=proxy.url)
        sent = await publish(spine, 20)
        await wait_until(lambda: committed(spine, 20))
        assert proxy.fall_silent() >= 3
        sent += await publish(spine, 20)
        await wait_until(lambda: committed(spine, 40), timeout=20)
        await check_exactly_once(spine, sent)
        assert await worker.stop()
        worker.dead = True


async def test_a_worker_whose_server_is_gone_stops_all_the_same(own: RedisServer, connect: Any, serve: Any) -> None:
    class Orphan(Emitting):
        pass

    spine = await connect(own.url)
    worker = await serve(Orphan, to=own.url, shutdown_timeout_s=0.5)
    await publish(spine, 20)
    await wait_until(lambda: Orphan.count == 20)
    own.kill()
    worker.dead = True
    async with asyncio.timeout(25):
        await worker.stop()


def _counts(agent: type[Recorder], count: int) -> bool:
    return agent.count > count


async def _publish_slowly(spine: Spine, batches: int) -> list[Event[Any]]:
    sent: list[Event[Any]] = []
    for _ in range(batches):
        sent += await publish(spine, 10)
        await asyncio.sleep(0.01)
    return sent


async def _none_pending(raw: redis.asyncio.Redis, spine: Spine) -> bool:
    return await pending(raw, spine, "recorder") == 0


async def _pending_are(raw: redis.asyncio.Redis, spine: Spine, count: int) -> bool:
    return await pending(raw, spine, "recorder") == count


async def _two_workers(spine: Spine) -> bool:
    (status,) = await spine.agents("recorder")
    return sorted(len(serving.partitions) for serving in status.workers) == [4, 4]
