"""No event is lost or overtaken, at whatever moment between a ring and a take it is stored, its topic new or not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from spine import Agent, Draft, Event, Handling, Spine, Worker, on, reduces
from spine.delivery import partition
from spine.delivery.partition import Partition
from spine.keys import partition_of
from spine.log.streams import Streams

KEY = "k"
ELSEWHERE = next(key for key in map(str, range(100)) if partition_of(key, 8) != partition_of(KEY, 8))


class Heard(BaseModel):
    words: tuple[str, ...] = ()


class Listener(Agent[Heard]):
    name = "listener"

    @reduces("said.*")
    def hear(self, state: Heard, event: Event[dict[str, Any]]) -> Heard:
        return Heard(words=(*state.words, event.payload["word"]))

    @on("said.*")
    async def repeat(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        await ctx.publish("heard", {"word": event.payload["word"], "state": ctx.state.words})


@pytest.fixture(autouse=True)
def nothing_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event is taken, as large ones are: what comes with its ring is in test_delivery_carried.py."""
    monkeypatch.setattr(Partition, "carried", lambda self: None)


@pytest.fixture
async def spine(url: str, namespace: str) -> AsyncIterator[Spine]:
    async with Spine(url, namespace=namespace) as spine, Spine(url, namespace=namespace) as workers:
        await spine.publish("said.first", {"word": "known"}, key=KEY)
        async with Worker(workers, Listener):
            await spine.publish("said.first", {"word": "0"}, key=KEY)
            await heard(spine, 1)
            yield spine


async def heard(spine: Spine, count: int) -> list[dict[str, Any]]:
    """Return what the agent heard once it is `count`, in the order in which it was handled; less if it never is."""
    found: list[dict[str, Any]] = []
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_collect(spine, count, found), 5)
    return found


async def _collect(spine: Spine, count: int, found: list[dict[str, Any]]) -> None:
    async for event in spine.tail(types="heard", after=0):
        found.append(event.payload)
        if len(found) == count:
            return


async def test_an_event_waits_for_an_earlier_one_of_a_topic_learned_in_the_same_take(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The take finds the later event, and only the rings read with it tell of the topic of the earlier one."""
    batch = [Draft("said.second", {"word": "2"}, KEY), Draft("said.first", {"word": "3"}, KEY)]
    call = partition._call
    todo = [batch]

    async def late(*args: Any) -> Any:
        if todo:
            await spine.publish_many(todo.pop())
        return await call(*args)

    monkeypatch.setattr(partition, "_call", late)
    await spine.publish("said.first", {"word": "1"}, key=KEY)
    found = await heard(spine, 4)
    assert [one["word"] for one in found] == ["0", "1", "2", "3"]
    assert found[-1]["state"] == ["known", "0", "1", "2", "3"]


async def test_a_topic_born_while_the_list_is_being_read_is_not_forgotten(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only ring of the second topic comes, in a partition that is idle, before the answer is looked at."""
    rung = asyncio.Event()
    hear = Partition.hear

    def noting(self: Partition, rings: list[Any]) -> bool:
        news = hear(self, rings)
        if any(int(number) > 3 for _, fields in rings for number in fields[1].split(b",")):
            rung.set()
        return news

    async def bear() -> None:
        await spine.publish("said.third", {"word": "2"}, key=ELSEWHERE)
        await asyncio.wait_for(rung.wait(), 5)

    original = Streams.refresh
    todo = [bear]

    async def slow(self: Streams) -> None:
        if not todo or self is spine.streams:
            return await original(self)
        known = Streams(self._server)
        await original(known)
        await todo.pop()()
        for stream in known.all():
            self.learn(f"{stream.lane}/{stream.topic}", stream.number)
        return None

    monkeypatch.setattr(Partition, "hear", noting)
    monkeypatch.setattr(Streams, "refresh", slow)
    await spine.publish("said.second", {"word": "1"}, key=KEY)
    assert {one["word"] for one in await heard(spine, 3)} == {"0", "1", "2"}


async def test_an_event_stored_while_the_answer_of_a_take_is_on_its_way_is_not_forgotten(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ring is heard before the answer is looked at, which says that there is nothing more."""
    heard_it = asyncio.Event()
    late: list[int] = []
    hear, call = Partition.hear, partition._call

    def noting(self: Partition, rings: list[Any]) -> bool:
        news = hear(self, rings)
        if late and any(int(ring_id.partition(b"-")[0]) == late[0] for ring_id, _ in rings):
            heard_it.set()
        return news

    async def slow(*args: Any) -> Any:
        answers, head = await call(*args)
        if not late and any(entries for _, *streams in answers for _, _, entries in streams):
            late.append(head + 1)
            event = await spine.publish("said.first", {"word": "2"}, key=KEY)
            assert event.seq == late[0]
            await asyncio.wait_for(heard_it.wait(), 5)
        return answers, head

    monkeypatch.setattr(Partition, "hear", noting)
    monkeypatch.setattr(partition, "_call", slow)
    await spine.publish("said.first", {"word": "1"}, key=KEY)
    assert [one["word"] for one in await heard(spine, 3)] == ["0", "1", "2"]
