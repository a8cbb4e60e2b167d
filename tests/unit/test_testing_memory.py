"""``memory://`` behaves like a server as far as a client can tell, and says what it cannot do."""

import asyncio
import os
import warnings

import pytest

from spine import (
    Agent,
    Context,
    Durability,
    Event,
    Handling,
    Misconfigured,
    NotDurable,
    Priority,
    Spine,
    Worker,
    on,
)
from spine.testing.memory import forget, memory_server
from spine.testing.waiting import wait_until


async def test_what_is_published_is_replayed(memory_url: str) -> None:
    async with Spine(memory_url) as spine:
        sent = [await spine.publish("order.placed", {"sku": n}, key=f"c-{n}") for n in range(20)]
        sent += await asyncio.gather(*(spine.publish("order.paid", {"n": n}, key="c-1") for n in range(50)))
        assert [event async for event in spine.replay()] == sorted(sent, key=lambda event: event.seq)
        assert [event.seq for event in sent] == list(range(1, 71))


async def test_history_by_key_and_by_correlation(memory_url: str) -> None:
    async with Spine(memory_url) as spine:
        first = await spine.publish("a.b", {}, context=Context(correlation="c-1", session_id="s-1"))
        await spine.publish("a.b", {}, key="s-2", priority=Priority.URGENT)
        assert await spine.history(key="s-1") == [first]
        assert await spine.history(correlation="c-1") == [first]
        assert len(await spine.history(types="a.*")) == 2


async def test_two_clients_share_the_server_they_name(memory_url: str) -> None:
    heard: asyncio.Queue[int] = asyncio.Queue()
    async with Spine(memory_url) as publisher, Spine(memory_url) as subscriber:
        await subscriber.subscribe("order.*", lambda event: heard.put_nowait(event.seq))
        sent = await publisher.publish("order.placed")
        assert await asyncio.wait_for(heard.get(), 5) == sent.seq
    async with Spine(memory_url) as later, Spine(memory_url + "-other") as stranger:
        assert len(await later.history()) == 1
        assert await stranger.history() == []
    forget(memory_url + "-other")


async def test_a_dedupe_key_stores_one_event(memory_url: str) -> None:
    async with Spine(memory_url) as spine:
        first = await spine.publish("a.b", {"n": 1}, dedupe_key="once")
        assert await spine.publish("a.b", {"n": 2}, dedupe_key="once") == first


async def test_a_lost_script_cache_is_taught_again(memory_url: str) -> None:
    async with Spine(memory_url) as spine:
        await spine.publish("a.b")
        await spine.server.command("SCRIPT", "FLUSH")
        assert (await spine.publish("a.b")).seq == 2


async def test_a_blocked_reader_wakes_at_once_and_leaves_no_task_behind(memory_url: str) -> None:
    before = asyncio.all_tasks()
    async with Spine(memory_url) as spine:
        tail = spine.tail(types="a.b")
        following = asyncio.create_task(anext(tail))
        await wait_until(lambda: any(socket._blocked for socket in memory_server(memory_url).sockets))
        sent = await spine.publish("a.b")
        assert await asyncio.wait_for(following, 1) == sent
        await tail.aclose()
    await wait_until(lambda: asyncio.all_tasks() == before, 1)
    assert memory_server(memory_url).sockets == []


class Echo(Agent):
    name = "echo"

    @on("echo")
    async def echo(self, event: Event, ctx: Handling) -> None:
        await ctx.publish("echoed", event.payload)
        await ctx.reply(event.payload)


async def test_agents_handle_publish_and_answer(memory_url: str) -> None:
    async with Spine(memory_url) as spine, Worker(spine, Echo):
        answers = await asyncio.gather(*(spine.request("echo", {"n": n}, timeout=10) for n in range(30)))
        assert [answer.payload["n"] for answer in answers] == list(range(30))
        assert len(await spine.history(types="echoed")) == 30


@pytest.mark.parametrize("durability", ["disk", "replicas"])
async def test_durability_is_refused_because_there_is_none(memory_url: str, durability: Durability) -> None:
    async with Spine(memory_url) as spine:
        with pytest.raises(NotDurable):
            await spine.publish("a.b", durability=durability)


async def test_a_url_it_cannot_mean_is_refused() -> None:
    with pytest.raises(Misconfigured, match="memory://name"):
        async with Spine("memory://name/3"):
            pass


def test_the_child_of_a_fork_is_told_that_it_has_but_a_copy(memory_url: str) -> None:
    memory_server(memory_url)

    def told() -> bool:
        with pytest.raises(Misconfigured, match=f"lives in process {os.getppid()}, before the fork"):
            memory_server(memory_url)
        return memory_server(memory_url + "-own").pid == os.getpid()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: other tests may have left threads
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if told() else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
