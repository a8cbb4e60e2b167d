"""Fan-outs in numbers: a thousand at once, a wait that ends with the quorum, and nothing left over but the log."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from seen_events import events_of
from worker_processes import Serve

from spine import Agent, Context, Event, Handling, Spine, on
from spine.keys import partition_of
from spine.testing.waiting import wait_until

ASKED, QUORUM = 20, 15
LATE_S = 0.4


class Dealer(Agent):
    """Answers at once; some only after `LATE_S`, where that is wanted."""

    name = "dealer"

    @on("quote.wanted")
    async def quote(self, event: Event[Any], ctx: Handling) -> None:
        if event.payload["n"] >= event.payload.get("late_from", ASKED):
            await asyncio.sleep(LATE_S)
        await ctx.reply({"n": event.payload["n"]})


def items(**more: Any) -> list[dict[str, Any]]:
    return [{"n": n, **more} for n in range(ASKED)]


class Spread(Agent):
    name = "spread"

    @on("load.wanted")
    async def ask(self, event: Event[Any], ctx: Handling) -> None:
        answers = await ctx.fan_out("quote.wanted", items(), timeout=event.payload["timeout"])
        await ctx.reply({"answers": len(answers), "partial": answers.partial})


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.soak)])
async def test_many_fan_outs_at_once(spine: Spine, serve: Serve, count: int) -> None:
    await serve(Dealer)
    await serve(Spread)
    began = time.monotonic()
    replies = await asyncio.gather(*(spine.request("load.wanted", {"timeout": 90}, timeout=100) for _ in range(count)))
    print(f"{count} fan-outs of {ASKED} at once: {time.monotonic() - began:.2f} s")
    assert [reply.payload for reply in replies] == [{"answers": ASKED, "partial": False}] * count
    assert len(await events_of(spine, "quote.wanted")) == ASKED * count


@pytest.mark.parametrize("count", [3, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
async def test_the_wait_for_a_quorum_ends_with_its_last_answer(spine: Spine, serve: Serve, count: int) -> None:
    await serve(Dealer)
    waits_ms = []
    for _ in range(count):
        answers = await spine.fan_out("quote.wanted", items(late_from=QUORUM), quorum=QUORUM, timeout=30)
        ended_ms = spine.server.now_ms()
        assert [answer.place for answer in answers.answers] == list(range(QUORUM))
        last = max(answer.seq for answer in answers.answers)
        (event,) = [event async for event in spine.replay(after=last - 1, until=last)]
        waits_ms.append(ended_ms - event.ts_ms)
        await asyncio.sleep(LATE_S)
    waits_ms.sort()
    p50, most = waits_ms[count // 2], waits_ms[-1]
    print(f"quorum of {QUORUM} of {ASKED}: ended p50 {p50} ms, at most {most} ms after answer {QUORUM} was stored")
    assert most < LATE_S * 1000


async def megabytes(raw: Any) -> int:
    """Return how much memory the server uses."""
    return int((await raw.info("memory"))["used_memory"]) // 1_000_000


def keys_of_the_log(events: list[Event[Any]], partitions: int, handlers: dict[str, str]) -> set[str]:
    """Return the keys of a log of `events`, with its indexes and done records; `handlers` are type → agent."""
    keys = set()
    for event in events:
        partition = partition_of(event.key, partitions)
        keys |= {
            f"log:{partition}:{event.context.priority.value}:{event.topic}",
            f"key:{partition}:{event.key}",
            f"corr:{event.context.correlation}",
        }
        if event.type in handlers:
            keys.add(f"done:{handlers[event.type]}:{partition}:{event.seq >> 9}")
    return keys


@pytest.mark.parametrize(
    ("count", "ttl_ms"), [(50, 500), pytest.param(10_000, None, marks=[pytest.mark.soak, pytest.mark.timeout(1500)])]
)
async def test_nothing_stays_but_the_log(
    spine: Spine, serve: Serve, raw: Any, monkeypatch: pytest.MonkeyPatch, count: int, ttl_ms: int | None
) -> None:
    if ttl_ms is not None:
        monkeypatch.setattr("spine.requests.REPLY_TTL_MS", ttl_ms)
    await serve(Dealer)
    await serve(Spread)
    prefix, partitions = spine.server.keys.prefix, spine.server.partitions

    async def one(place: int) -> None:
        context = Context(session_id=f"s-{place}")
        reply = await spine.request("load.wanted", {"timeout": 5}, timeout=10, context=context)
        assert reply.payload == {"answers": ASKED, "partial": False}

    async def beside_the_log() -> set[str]:
        """Return every key but those of the log, after checking that these are what the events call for."""
        keys = {key.decode().removeprefix(prefix) async for key in raw.scan_iter(match=f"{prefix}*", count=10_000)}
        log = {key for key in keys if key.startswith(("log:", "key:", "corr:", "done:"))}
        handlers = {"quote.wanted": "dealer", "load.wanted": "spread"}
        assert log == keys_of_the_log(await events_of(spine), partitions, handlers)
        return keys - log

    async def all_expired() -> bool:
        for passing in ("reply:*", "dedupe:*"):
            if [key async for key in raw.scan_iter(match=prefix + passing, count=10_000)]:
                return False
        return True

    for place in range(partitions):
        await one(-place)
    clients_only = {key for key in await beside_the_log() if not key.startswith(("reply:", "dedupe:", "inbox:"))}
    began = time.monotonic()
    for place in range(1, count + 1):
        await one(place)
    took_s, most = time.monotonic() - began, await megabytes(raw)
    await wait_until(all_expired, 400, "the replies' end")
    left = await beside_the_log()
    print(f"{count} fan-outs in a row: {took_s:.1f} s; {most} MB, {await megabytes(raw)} MB after the replies' TTL")
    assert {key for key in left if not key.startswith("inbox:")} == clients_only
    assert sum(key.startswith("inbox:") for key in left) <= 2  # one a client, for as long as it lives
