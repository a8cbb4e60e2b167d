"""A network that loses replies or delays requests never stores an event twice, and never loses one unnoticed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from faulty_proxy import FaultyProxy, faulty_proxy

import spine.link
from spine import Draft, Event, ServerUnreachable, Spine
from spine.log import publisher
from spine.testing.servers import RedisServer


async def everything(spine: Spine) -> list[Event[Any]]:
    return [event async for event in spine.replay()]


@pytest.mark.parametrize("times", [1, 3])
async def test_a_lost_reply_stores_once_and_returns_the_event(url: str, connect: Any, times: int) -> None:
    async with faulty_proxy(url) as proxy:
        spine, other = await connect(proxy.url), await connect()
        await spine.publish("a.b", key="k")
        proxy.lose_reply("lose-me", times)
        event = await spine.publish("a.b", {"text": "lose-me"}, key="k")
        assert proxy.lost == times
        assert (await everything(other))[1:] == [event]
        later = await spine.publish("a.b", {"text": "after"}, key="k")
        assert (await everything(other))[1:] == [event, later]
        await spine.close()


async def test_the_first_event_of_a_client_and_of_a_stream_may_lose_its_reply(url: str, connect: Any) -> None:
    async with faulty_proxy(url) as proxy:
        spine, other = await connect(proxy.url), await connect()
        proxy.lose_reply("lose-me")
        event = await spine.publish("new.topic", {"text": "lose-me"}, key="k")
        again = await spine.publish("new.topic", {"text": "known now"}, key="k")
        assert await everything(other) == [event, again]
        assert spine.streams.number(1, "new.topic") == 1
        await spine.close()


async def test_a_whole_batch_is_stored_once(url: str, connect: Any) -> None:
    async with faulty_proxy(url) as proxy:
        spine, other = await connect(proxy.url), await connect()
        proxy.lose_reply("lose-me", 2)
        drafts = [Draft(f"topic.{i % 3}", {"i": i, "text": "lose-me"}, key=f"k-{i}") for i in range(50)]
        events = await spine.publish_many(drafts)
        assert [event.seq for event in events] == list(range(1, 51))
        assert await everything(other) == events
        await spine.close()


async def test_a_dedupe_key_that_lost_its_reply_is_known_afterwards(url: str, connect: Any) -> None:
    async with faulty_proxy(url) as proxy:
        spine = await connect(proxy.url)
        proxy.lose_reply("lose-me")
        event = await spine.publish("a.b", {"text": "lose-me"}, key="k", dedupe_key="d")
        assert await spine.publish("a.b", {"text": "second"}, key="k", dedupe_key="d") == event
        assert await everything(spine) == [event]
        await spine.close()


async def test_hundreds_of_lost_replies_under_load_store_every_event_once(url: str, connect: Any) -> None:
    async with faulty_proxy(url) as proxy:
        spine, other = await connect(proxy.url, patience_s=30), await connect()
        for i in range(0, 2_000, 10):
            proxy.lose_reply(f"<{i}>")
        left = iter(range(2_000))

        async def publish() -> list[Event[Any]]:
            return [await spine.publish("a.b", {"text": f"<{i}>"}, key=f"k-{i % 50}") for i in left]

        stored = [event for part in await asyncio.gather(*(publish() for _ in range(20))) for event in part]
        assert proxy.lost >= 50
        found = await everything(other)
        assert Counter(event.payload["text"] for event in found) == {f"<{i}>": 1 for i in range(2_000)}
        assert sorted(stored, key=lambda event: event.seq) == found
        await spine.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls time out soon."""
    monkeypatch.setattr(spine.link, "COMMAND_TIMEOUT_S", 0.3)
    monkeypatch.setattr(publisher, "APPEND_TIMEOUT_S", 0.3)


async def release(proxy: FaultyProxy) -> None:
    proxy.released.set()
    async with asyncio.timeout(10):
        await proxy.replied.wait()


@pytest.mark.usefixtures("impatient")
async def test_a_delayed_request_that_arrives_after_its_repetition_stores_nothing(url: str, connect: Any) -> None:
    async with faulty_proxy(url) as proxy:
        spine, other = await connect(proxy.url), await connect()
        await spine.publish("a.b", {"text": "first"}, key="k")
        proxy.hold_request("hold-me")
        event = await spine.publish("a.b", {"text": "hold-me"}, key="k")
        assert proxy.held == 1
        before = await everything(other)
        await release(proxy)
        assert await everything(other) == before
        assert before[-1] == event
        await spine.close()


@pytest.mark.usefixtures("impatient")
async def test_a_delayed_request_that_arrives_after_later_ones_stores_nothing(url: str, connect: Any) -> None:
    async with faulty_proxy(url) as proxy:
        spine, other = await connect(proxy.url), await connect()
        await spine.publish("a.b", {"text": "first"}, key="k")
        proxy.hold_request("hold-me")
        await spine.publish("a.b", {"text": "hold-me"}, key="k")
        for i in range(3):
            await spine.publish("a.b", {"text": i}, key="k")
        before = await everything(other)
        await release(proxy)
        assert await everything(other) == before
        assert [event.payload["text"] for event in before] == ["first", "hold-me", 0, 1, 2]
        await spine.close()


async def test_a_call_given_up_says_that_nobody_knows_whether_it_was_stored(tmp_path: Any, connect: Any) -> None:
    with RedisServer.start(tmp_path) as server:
        async with faulty_proxy(server.url) as proxy:
            spine = await connect(proxy.url, patience_s=0.5)
            await spine.publish("a.b", key="k")
            proxy.lose_reply("lose-me", 1_000)
            with pytest.raises(ServerUnreachable) as error:
                await spine.publish("a.b", {"text": "lose-me"}, key="k")
            assert error.value.stored is None
            other = await connect(server.url)
            assert len(await everything(other)) == 2
            await spine.close()
            await other.close()


async def test_a_server_that_was_never_reached_stored_nothing(connect: Any, unused_tcp_port: int) -> None:
    with pytest.raises(ServerUnreachable, match="Nothing was stored") as error:
        await connect(f"redis://127.0.0.1:{unused_tcp_port}/0", patience_s=0.2)
    assert error.value.stored is False


async def test_every_caller_gets_an_error_of_its_own(tmp_path: Any, connect: Any) -> None:
    with RedisServer.start(tmp_path) as server:
        spine = await connect(server.url, patience_s=0.1)
        await spine.publish("a.b", key="k")
        server.kill()
        results = await asyncio.gather(*(spine.publish("a.b", key=f"k-{i}") for i in range(20)), return_exceptions=True)
        assert all(isinstance(result, ServerUnreachable) for result in results)
        assert len({id(result) for result in results}) == 20
        await spine.close()


async def test_reads_go_on_over_a_lost_reply(url: str, connect: Any) -> None:
    async with faulty_proxy(url) as proxy:
        spine, other = await connect(proxy.url), await connect()
        events = await other.publish_many([Draft("a.b", {"i": i}, key=f"k-{i % 5}") for i in range(500)])
        proxy.lose_reply("log:3:1:a.b", 2)
        assert await everything(spine) == events
        assert proxy.lost == 2
        await spine.close()
