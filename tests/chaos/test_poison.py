"""Poison among many: given up with its traceback, unnoticed by the others, and taken back by a mended handler."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tenacity import wait_fixed

from spine import Agent, Draft, Event, Handling, Retry, Spine, Worker, on
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until

SCALE = float(os.environ.get("SPINE_CHAOS_SCALE", "1"))
EVENTS = round(100_000 * SCALE)
POISON = round(1_000 * SCALE)
KEYS = max(100, round(5_000 * SCALE))
SLICES = 10  # every other one without poison
A_SECOND = 1_000
BATCH = 20
SLACK_S = 0.02 if SCALE < 1 else 0.0  # in a few events a single hiccup of the machine is the p99
PATIENCE_S = 120 + 600 * SCALE

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240 + 1800 * SCALE)]


class Sensitive(Agent):
    """Fails on poison until it is mended; notes how long after its publication each event was handled."""

    name = "sensitive"
    mended: ClassVar[bool] = False
    handled: ClassVar[dict[str, list[int]]] = defaultdict(list)
    redriven: ClassVar[dict[str, list[int]]] = defaultdict(list)
    late_s: ClassVar[dict[int, float]] = {}

    @on("a.b", retry=Retry(attempts=3, wait=wait_fixed(0.05)))
    async def handle(self, event: Event[Any], ctx: Handling) -> None:
        if event.payload["poison"] and not self.mended:
            raise ValueError(f"poison {event.payload['n']}")
        (self.redriven if ctx.redriven else self.handled)[event.key].append(event.seq)
        self.late_s[event.seq] = time.time() - event.payload["at"]


def p99(values: list[float]) -> float:
    return sorted(values)[round(len(values) * 0.99) - 1]


async def publish_slice(spine: Spine, numbers: range, poison: set[int]) -> list[Event[Any]]:
    """Publish at a steady rate that a worker keeps up with: what waits, waits for others, not for its turn."""
    events: list[Event[Any]] = []
    began = time.monotonic()
    for start in range(numbers.start, numbers.stop, BATCH):
        drafts = [
            Draft("a.b", {"n": n, "poison": n in poison, "at": time.time()}, key=f"k{n % KEYS}")
            for n in range(start, min(numbers.stop, start + BATCH))
        ]
        events += await spine.publish_many(drafts)
        await asyncio.sleep(max(0.0, began + len(events) / A_SECOND - time.monotonic()))
    return events


async def test_poison_is_given_up_alone_and_comes_back_in_order(tmp_path: Path) -> None:
    size = EVENTS // SLICES
    chance = random.Random(7)
    with RedisServer.start(tmp_path) as server:
        async with (
            Spine(server.url, namespace="chaos") as spine,
            Spine(server.url, namespace="chaos") as serving,
            Worker(serving, Sensitive),
        ):
            events: list[Event[Any]] = []
            figures: dict[bool, list[float]] = {True: [], False: []}
            for number in range(SLICES):
                numbers = range(number * size, (number + 1) * size)
                poison = set(chance.sample(numbers, 2 * POISON // SLICES)) if number % 2 else set()
                published = await publish_slice(spine, numbers, poison)
                events += published
                fine = {event.seq for event in published if not event.payload["poison"]}
                await wait_until(lambda fine=fine: fine <= Sensitive.late_s.keys(), PATIENCE_S)
                sick = {event.key for event in published if event.payload["poison"]}
                late = [Sensitive.late_s[e.seq] for e in published if e.seq in fine and e.key not in sick]
                figures[bool(poison)].append(p99(late))
            bad = [event for event in events if event.payload["poison"]]
            letters = await wait_until(lambda: dead(spine, len(bad)), PATIENCE_S)
            assert [letter.seq for letter in letters] == [event.seq for event in bad]
            for letter, event in zip(letters, bad, strict=True):
                assert letter.error == f"poison {event.payload['n']}"
                assert "raise ValueError" in letter.traceback
                assert letter.attempts == 3
            without, with_poison = (sorted(figures[which])[len(figures[which]) // 2] for which in (False, True))
            print(f"{len(events)} events, {len(bad)} poison; p99 {without * 1000:.1f} ms without, "
                  f"{with_poison * 1000:.1f} ms with poison about")  # fmt: skip
            assert with_poison < 2 * without + SLACK_S

            Sensitive.mended = True
            assert len(await spine.redrive("sensitive")) == len(bad)
            await wait_until(lambda: sum(map(len, Sensitive.redriven.values())) == len(bad), PATIENCE_S)
            await wait_until(lambda: dead(spine, 0))
            for key in {event.key for event in events}:
                assert Sensitive.redriven[key] == [event.seq for event in bad if event.key == key]
                assert Sensitive.handled[key] == [
                    event.seq for event in events if event.key == key and not event.payload["poison"]
                ]


async def dead(spine: Spine, count: int) -> list[Any] | bool:
    found = await spine.dead_letters("sensitive")
    return len(found) == count and (found or True)
